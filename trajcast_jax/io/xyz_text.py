"""The text of XYZ files, frame by frame, plain or compressed, whole or cut short."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols

from trajcast_jax.io.files import DAMAGED, ends_line, is_compressed, is_whole, open_text
from trajcast_jax.io.options import ReadOptions, note
from trajcast_jax.io.recording import select, without_cut
from trajcast_jax.io.species import ISOTOPES, from_labels, from_numbers, from_text

SUFFIXES = (".xyz", ".extxyz")


class Frame(NamedTuple):
    number: int
    comment: str
    symbols: list[str]
    values: np.ndarray  # (atom, column)


def readable(path: Path, options: ReadOptions):
    """What ASE can read of an XYZ file, and masses (atom,) of isotopes (0: default).

    D and T are written as H, numbers and names as their elements; the masses are None if no label
    had to be rewritten. A last frame that may be cut short is left out, with a word. The file
    itself is returned if nothing had to be changed.
    """
    source = path
    if is_compressed(path) or not ends_line(path):
        source = io.StringIO(_whole_text(path))
    labels, column = _first_labels(path)
    numbers = labels and all(label.isdigit() for label in labels)
    named = not set(labels) <= {*chemical_symbols, *ISOTOPES}
    if not numbers and not named and not set(labels) & set(ISOTOPES):
        return source, None
    if numbers:
        found = from_numbers([int(x) for x in labels], options, path)
    elif named and options.species:
        found = from_labels(labels, options, path, kind="name")
    else:
        found = from_text(labels, path)
    text = path.read_text() if source is path else source.getvalue()
    lines, n = text.splitlines(), len(labels)
    for start in range(0, len(lines), n + 2):
        for k, i in enumerate(range(start + 2, min(start + 2 + n, len(lines)))):
            words = lines[i].split()
            label = words[column] if column < len(words) else ""
            if label != labels[k]:
                raise ValueError(
                    f"Line {i + 1} of {path} has the label '{label}', but that atom is {labels[k]} "
                    "in the first frame; a trajectory must keep its atoms and their order."
                )
            words[column] = chemical_symbols[found.species[k]]
            lines[i] = " ".join(words)
    special = np.array([x in ISOTOPES for x in labels])
    return io.StringIO("\n".join(lines) + "\n"), np.where(special, found.masses, 0.0)


def _whole_text(path: Path) -> str:
    """The text of an XYZ file up to its last frame that is whole."""
    lines, start, frames = [], 0, 0
    with open_text(path) as file:
        try:
            lines.extend(file)
        except DAMAGED as error:
            note(f"{path} is damaged or cut short ({error}); it was read up to there.")
            lines.append("")
        else:
            if lines and not lines[-1].strip():
                lines.pop()
    if not lines or lines[-1].endswith("\n"):
        return "".join(lines)
    while True:
        try:
            stop = start + max(0, int(lines[start])) + 2
        except (ValueError, IndexError):
            stop = len(lines) + 1
        if stop >= len(lines):
            break
        start, frames = stop, frames + 1
    if stop == len(lines) and start + 2 < stop and is_whole(lines[start + 2 :]):
        return "".join(lines)
    without_cut(frames, path)
    return "".join(lines[:start])


def _first_labels(path: Path) -> tuple[list[str], int]:
    """The species of the first frame as they stand in it, and the column that has them."""
    try:
        with open_text(path) as file:
            n = int(file.readline())
            comment = file.readline()
            column = _species_column(comment)
            if column is None:
                return [], 0
            return [file.readline().split()[column] for _ in range(n)], column
    except (*DAMAGED, ValueError, IndexError):
        return [], 0


def _species_column(comment: str) -> int | None:
    """Number of the column of species by a comment line, 0 if it tells no columns."""
    told = re.search(r'Properties="?([\w:.-]+)', comment)
    if not told:
        return 0
    parts, column = told.group(1).split(":"), 0
    for name, count in zip(parts[::3], parts[2::3], strict=False):
        if name == "species":
            return column
        column += int(count)
    return None


def _frames(path: Path) -> Iterator[Frame]:
    """All complete frames; the last is left out, with a word, if it is cut short."""
    with io.StringIO(_whole_text(path)) as file:
        number = 0
        while (head := file.readline()).strip():
            try:
                n = int(head)
                comment = file.readline()
                rows = [file.readline().split() for _ in range(n)]
                values = np.array([[float(x) for x in row[1:]] for row in rows])
            except ValueError as error:
                if not file.read(1):
                    note(f"{path}: the last frame is cut short and was left out.")
                    return
                raise ValueError(f"Frame {number} of {path} cannot be read: {error}.") from error
            if values.ndim != 2 or values.shape[1] < 3:
                note(f"{path}: frame {number} is cut short and was left out.")
                return
            yield Frame(number, comment, [row[0] for row in rows], values)
            number += 1


def selected(path: Path, selection: slice | int) -> list[Frame]:
    """The selected complete frames, all of the same atoms.

    Raises:
      IndexError: there is no such frame.
      ValueError: no frame is selected, or atoms change.
    """
    chosen = select(list(_frames(path)), selection, path)
    for frame in chosen:
        if frame.symbols != chosen[0].symbols:
            raise ValueError(
                f"Frame {frame.number} of {path} has other atoms than the first; a trajectory must "
                "keep its atoms and their order."
            )
    return chosen
