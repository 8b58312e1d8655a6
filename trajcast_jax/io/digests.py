"""Digests of files, by which runs know whether they come from the same ones."""

import hashlib
from pathlib import Path

WHOLE = 100_000_000
"""Bytes up to which a file is read as a whole."""
PART = 10_000_000
"""Bytes at either end that stand for a larger file, with its size and time of change."""


def digest(path: Path) -> str:
    """SHA-256 of a file; of its ends, size and time of change if it is large; "" of none."""
    if not path.is_file():
        return ""
    stat, found = path.stat(), hashlib.sha256()
    with open(path, "rb") as file:
        if stat.st_size <= WHOLE:
            while piece := file.read(PART):
                found.update(piece)
            return found.hexdigest()
        found.update(file.read(PART))
        file.seek(-PART, 2)
        found.update(file.read(PART))
    found.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    return found.hexdigest()
