"""Atomic replacement of files, and helpful errors for missing ones."""

import difflib
import os
from pathlib import Path


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
