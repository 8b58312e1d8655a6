"""Open an HDF5 file that is marked as being written as if it had been closed.

A file in SWMR mode has a flag in its superblock, and HDF5 opens it in a reader's SWMR mode only.
There, it reads a damaged part again and again, because a writer might be mending it just now, and
nothing bounds that. So the reader is shown the file with the flag cleared: damage is then an error
at once, and who reads decides how often to try again (`h5md.patient`).
"""

import io
from pathlib import Path

import h5py

SUPERBLOCK = 48
"""Bytes of a superblock of version 3 with addresses of 8 bytes."""
FLAGS = 11
END = slice(28, 36)
CHECKSUM = slice(44, 48)
_ALL = 0xFFFFFFFF


def open_closed(path: Path) -> h5py.File:
    """Open a file in SWMR mode for reading outside of it."""
    return h5py.File(_Closed(path), "r")


class _Closed(io.RawIOBase):
    """A file for reading, whose superblock says that it was closed."""

    def __init__(self, path: Path):
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed by `close`)
        head = bytearray(self._file.read(SUPERBLOCK))
        if len(head) == SUPERBLOCK and int.from_bytes(head[CHECKSUM], "little") == checksum(
            bytes(head[:44])
        ):  # else it is damaged, and HDF5 shall find it so
            head[FLAGS] = 0
            # What a writer appends in SWMR mode lies beyond the end that it last noted.
            size = self._file.seek(0, io.SEEK_END)
            head[END] = max(size, int.from_bytes(head[END], "little")).to_bytes(8, "little")
            head[CHECKSUM] = checksum(bytes(head[:44])).to_bytes(4, "little")
        self._head, self._at = bytes(head), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at}
        base = start[whence] if whence in start else self._file.seek(0, io.SEEK_END)
        self._at = base + offset
        return self._at

    def readinto(self, buffer) -> int:
        view = memoryview(buffer).cast("B")
        self._file.seek(self._at)
        count = self._file.readinto(view)
        start, stop = self._at, min(self._at + count, len(self._head))
        if start < stop:
            view[: stop - start] = self._head[start:stop]
        self._at += count
        return count

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def checksum(data: bytes) -> int:
    """HDF5's checksum of metadata: Bob Jenkins' lookup3 with start value 0."""
    a = b = c = (0xDEADBEEF + len(data)) & _ALL
    words = len(data[: max(0, len(data) - 1) // 12 * 12])
    for i in range(0, words, 12):
        a, b, c = (x + y & _ALL for x, y in zip((a, b, c), _words(data[i : i + 12]), strict=True))
        for turn in (4, 6, 8, 16, 19, 4):
            a = (a - c & _ALL) ^ _turned(c, turn)
            c = c + b & _ALL
            a, b, c = b, c, a
    if len(data) > words:
        a, b, c = (x + y & _ALL for x, y in zip((a, b, c), _words(data[words:]), strict=True))
        for turn in (14, 11, 25, 16, 4, 14, 24):
            c = (c ^ b) - _turned(b, turn) & _ALL
            a, b, c = b, c, a
        # Seven turns leave the last result, C, one place on.
        c = b
    return c


def _words(data: bytes) -> list[int]:
    data = data.ljust(12, b"\0")
    return [int.from_bytes(data[i : i + 4], "little") for i in (0, 4, 8)]


def _turned(x: int, by: int) -> int:
    return (x << by | x >> 32 - by) & _ALL
