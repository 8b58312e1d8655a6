"""Errors of readers as sentences that name the file.

Packages that read files raise many types of errors where a file is damaged, and few of them say
which file it is. Within `reading`, all become errors that do. Errors from elsewhere stay as they
are, so that a mistake in the code still shows where it is.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class UnreadableFileError(ValueError):
    """A file that is damaged, incomplete or of another kind; the message names it."""


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn every error in the `with` block into one whose message names the file.

    An error that names it already keeps its type.

    Raises:
      UnreadableFileError: the block raised an error that did not name the file.
    """
    try:
        yield
    except Exception as error:
        own = isinstance(error, OSError) and error.errno is None  # a sentence about another file,
        own = own and type(error) is not OSError  # but of h5py about this one
        if own or str(Path(path)) in str(error) or Path(path).name in str(error):
            error.of_file = True
            raise
        if type(error) is ValueError:
            raise UnreadableFileError(f"{path}: {error}") from error
        what = str(error).strip().split("\n")[0][:300]
        raise UnreadableFileError(
            f"{path} cannot be read ({type(error).__name__}: {what}); it is damaged, incomplete or "
            "of another kind than it should be: restore a backup or make it anew."
        ) from error


def reads(function: Callable) -> Callable:
    """Decorate a function whose first argument is the path of a file that it reads."""

    @functools.wraps(function)
    def read(path, *arguments, **named):
        with reading(path):
            return function(path, *arguments, **named)

    return read


def is_sentence(error: Exception) -> bool:
    """Whether an error came from a file and its message says so."""
    return isinstance(error, UnreadableFileError) or getattr(error, "of_file", False)


def load_json(path: str | Path, kind: type = dict) -> Any:
    """Read a JSON file that holds an object, or another `kind`.

    Raises:
      UnreadableFileError: it does not.
    """
    with reading(path):
        values = json.loads(Path(path).read_bytes())
        if not isinstance(values, kind):
            raise ValueError(f"it holds {type(values).__name__}, and must hold {kind.__name__}")
        return values
