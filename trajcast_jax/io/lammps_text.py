"""The text of LAMMPS's dumps, frame by frame, complete or cut short: docs.lammps.org/dump.html."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trajcast_jax.io.files import DAMAGED, is_whole, open_text
from trajcast_jax.io.options import note
from trajcast_jax.io.recording import select as select_frames


class Frame(NamedTuple):
    """One frame as text."""

    number: int
    step: int
    time: float | None
    units: str
    flags: tuple[str, ...]  # of BOX BOUNDS
    box: np.ndarray  # (3, 2), (3, 3) or (3, 4)
    columns: tuple[str, ...]
    rows: list[str]


def is_dump(path: Path) -> bool:
    """Whether a file is a text dump, by how it begins."""
    try:
        with open_text(path) as file:
            return file.readline(200).startswith("ITEM:")
    except DAMAGED:
        return False


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file; one that was cut short just ends."""
    with open_text(path) as file:
        try:
            yield from file
        except DAMAGED as error:
            note(f"{path} is damaged or cut short ({error}); it was read up to there.")


def _frames(path: Path) -> Iterator[Frame]:
    """All complete frames. One that a killed run left incomplete is left out, with a word."""
    lines, number, units = _lines(path), 0, ""
    line = next(lines, "")
    while line:
        frame, line = _one(lines, line, number)
        if frame is not None:
            units = frame.units or units  # stands in the first frame only
            yield frame._replace(units=units)
        elif line or number:
            note(f"{path}: frame {number} is cut short (by a killed run?) and was left out.")
        number += 1


def _one(lines: Iterator[str], line: str, number: int):
    """The next frame, or None if it is cut short, and the line after it."""
    step, time, count, units, flags, box, columns = None, None, None, "", (), [], None
    while line.startswith("ITEM:"):
        name = line[5:].strip()
        if name in ("TIMESTEP", "TIME") and step is not None:
            return None, line
        if name.startswith("ATOMS"):
            columns = tuple(name.split()[1:])
            break
        line = next(lines, "")
        try:
            if name == "TIMESTEP":
                step = int(line)
            elif name == "TIME":
                time = float(line)
            elif name == "UNITS":
                units = line.strip()
            elif name == "NUMBER OF ATOMS":
                count = int(line)
            elif name.startswith("BOX BOUNDS"):
                flags = tuple(name.split()[2:])
                box = [[float(x) for x in line.split()]]
                box += [[float(x) for x in next(lines, "").split()] for _ in range(2)]
                box = np.array(box)
        except ValueError:
            return None, _next_frame(lines, line)
        line = next(lines, "")
    whole = None not in (step, count, columns) and np.ndim(box) == 2 and np.shape(box)[1] >= 2
    if not whole:
        return None, _next_frame(lines, line)
    rows, line = [], next(lines, "")
    while len(rows) < count and line and "ITEM:" not in line:
        rows.append(line)
        line = next(lines, "")
    line = line[max(0, line.find("ITEM:")) :]  # what was appended to a line that was cut short
    whole = len(rows) == count and all(len(r.split()) >= len(columns) for r in rows[-1:])
    whole = whole and is_whole(rows)
    if not whole:
        return None, _next_frame(lines, line)
    return Frame(number, step, time, units, flags, box, columns, rows), line


def _next_frame(lines: Iterator[str], line: str) -> str:
    """The line at which the next frame begins; "" at the end."""
    while line and not line.startswith(("ITEM: TIME", "ITEM: UNITS")):
        line = next(lines, "")
    return line


def select(path: Path, selection: slice | int) -> list[Frame]:
    """The selected complete frames.

    Raises:
      IndexError: there is no such frame.
      ValueError: no frame is selected, or none is complete.
    """
    asked = selection
    frames = list(_frames(path)) if not isinstance(selection, int) or selection < -1 else None
    if frames is None:  # one frame of a large file
        chosen = None
        for i, frame in enumerate(_frames(path)):
            if selection in (-1, i):
                chosen = frame
            if selection == i:
                break
        frames, selection = ([chosen] if chosen else []), 0
    if not frames:
        one = isinstance(asked, int) and asked != -1
        raise (IndexError if one else ValueError)(
            f"{path} has no such frame that is complete; one whose last line does not end may lack "
            "digits: if it is whole, end that line."
        )
    return select_frames(frames, selection, path)
