"""Atomic replacement of files, text that may be compressed or cut, errors for missing files."""

import bz2
import difflib
import gzip
import lzma
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

_OPENERS = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open, b"BZh": bz2.open}
"""What opens a compressed file, by its first bytes."""
_UNKNOWN = {b"\x28\xb5\x2f\xfd": "zstd -d", b"\x04\x22\x4d\x18": "lz4 -d", b"PK\x03\x04": "unzip"}
"""What unpacks a compressed file that is not read here, by its first bytes."""
_ENDINGS = (".gz", ".xz", ".bz2")
DAMAGED = (EOFError, OSError, lzma.LZMAError, zlib.error, UnicodeDecodeError)
"""Errors at the place where a text file, compressed or not, is damaged or cut short."""


def suffix(path: Path) -> str:
    """The ending of a file's name, without that of its compression, in small letters."""
    name = path.with_suffix("") if path.suffix.lower() in _ENDINGS else path
    return name.suffix.lower()


def is_compressed(path: Path) -> bool:
    """Whether a file is compressed by gzip, xz or bzip2, as its first bytes say."""
    return _opener(path) is not open


def open_text(path: Path) -> IO[str]:
    """Open a text file that may be compressed by gzip, xz or bzip2.

    Raises:
      ValueError: it is compressed otherwise.
    """
    return _opener(path)(path, "rt")


def _opener(path: Path):
    with open(path, "rb") as file:
        head = file.read(8)
    for start, command in _UNKNOWN.items():
        if head.startswith(start):
            raise ValueError(f"{path} is compressed; unpack it first ({command} {path.name}).")
    return next((f for start, f in _OPENERS.items() if head.startswith(start)), open)


def ends_line(path: Path) -> bool:
    """Whether a text file ends with the end of a line, as a file that is whole does."""
    if is_compressed(path):
        with open_text(path) as file:
            last = ""
            for last in file:  # noqa: B007
                pass
        return last.endswith("\n")
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read() in (b"\n", b"\r")


def is_whole(rows: Sequence[str]) -> bool:
    """Whether the last of several rows of numbers is whole.

    It is if it ends its line. Otherwise its last number may have lost digits; it has not if each
    column has one number of decimals in all rows.
    """
    if rows[-1].endswith(("\n", "\r")):
        return True
    decimals = [[len(x.partition(".")[2]) for x in row.split()] for row in rows]
    return len(rows) > 1 and decimals[-1][-1:] > [0] and decimals.count(decimals[0]) == len(rows)


def atomic_write(path: str | Path, content: bytes) -> None:
    """Replace `path` by `content` atomically: a reader sees either the old or the new file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def existing_file(path: str | Path) -> Path:
    """Return the path of an existing file.

    Raises:
      FileNotFoundError: there is no such file. The message lists files with similar names.
      IsADirectoryError: the path is a folder.
    """
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give one of the trajectory files in it.")
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "check the path."
    raise FileNotFoundError(f"There is no file {path}: {hint}")
