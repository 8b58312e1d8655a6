"""One writer at a time: locks on files and folders that hold until they are released.

A lock is a small file beside (or in) what it guards, locked by `flock`. The guarded file itself is
never locked: HDF5 locks it too, so that readers of other programs would be shut out. POSIX's own
`lockf` would not do, because it is dropped as soon as the same process opens and closes the file
once more.
"""

import contextlib
import errno
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

FOLDER_LOCK = ".lock"
"""Name of the lock file in a folder."""
PATIENCE = 0.1
"""Seconds until a lock counts as taken: a reader that asks for it holds it for a moment."""
_TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
_held: set[str] = set()
"""Locks of this process. Network file systems let a process lock a file twice."""


def lock_path(path: str | Path) -> Path:
    """The lock file of a folder (in it), or of a file (beside it)."""
    path = Path(os.path.realpath(path))
    return path / FOLDER_LOCK if path.is_dir() else path.with_name(f".{path.name}.lock")


class Lock:
    """An exclusive lock on a file or folder, against other processes and within this one.

    Args:
      path: what is to be written. A folder must exist.
      sentence: the message of the error if somebody else has the lock.

    Raises:
      OSError: somebody else has the lock.
    """

    def __init__(self, path: str | Path, sentence: str):
        self._file = None
        self._path = lock_path(path)
        self._name = str(self._path)
        if self._name in _held:
            raise BlockingIOError(sentence)
        _held.add(self._name)
        self._owner = os.getpid()
        try:
            self._file = _take(self._path, sentence)
        except BaseException:
            _held.discard(self._name)
            raise

    def release(self) -> None:
        """Give the lock back; its file is removed."""
        if self._file is None:
            return
        if self._owner == os.getpid():  # a forked child has no lock to give back
            with contextlib.suppress(OSError):  # Windows keeps files that are open
                self._path.unlink()
            _held.discard(self._name)
        self._file.close()
        self._file = None

    def __del__(self):
        self.release()


@contextlib.contextmanager
def locked(path: str | Path, sentence: str) -> Iterator[None]:
    """Hold the `Lock` on a file or folder in a `with` block."""
    lock = Lock(path, sentence)
    try:
        yield
    finally:
        lock.release()


def is_locked(path: str | Path) -> bool:
    """Whether a process holds the lock on a file or folder; the lock of a dead one is free."""
    path = lock_path(path)
    if str(path) in _held:
        return True
    try:
        with open(path, "rb") as file:
            return not _try(file, exclusive=False)
    except FileNotFoundError:
        return False
    except OSError:  # no locks here, or it may not be read: somebody may be at work
        return True


def _take(path: Path, sentence: str):
    end = time.monotonic() + PATIENCE
    while True:
        file = open(path, "ab+")  # noqa: SIM115 (the lock lives as long as the file is open)
        try:
            if not _try(file):
                file.close()
                if time.monotonic() > end:
                    raise BlockingIOError(sentence)
                time.sleep(0.01)
                continue
        except BlockingIOError:
            raise
        except OSError as error:
            warnings.warn(
                f"The file system of {path} has no locks ({error}): make sure that no other "
                "process writes there.",
                stacklevel=4,
            )
            return file
        # Whoever had the lock before may have removed the file after it was opened here.
        if os.name == "nt" or (path.exists() and os.path.samestat(os.fstat(file.fileno()),
                                                                  path.stat())):  # fmt: skip
            return file
        file.close()


def _try(file, exclusive: bool = True) -> bool:
    """Whether the lock could be taken at once; raises OSError where there are no locks."""
    try:
        try:
            import fcntl
        except ImportError:  # Windows
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
            fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True
