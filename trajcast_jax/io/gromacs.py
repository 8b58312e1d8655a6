"""Read GROMACS's .gro files of one or many frames: manual.gromacs.org, file formats, gro."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trajcast_jax.io.options import ReadOptions, note
from trajcast_jax.io.recording import (
    Recording,
    decide_cell,
    select,
    without_cut,
    without_massless,
)
from trajcast_jax.io.species import from_names
from trajcast_jax.io.times import rounding
from trajcast_jax.units import VELOCITY_UNITS

NM = 10.0  # Å
PS = 1e3  # fs
TIME = re.compile(r"\bt=\s*([-+.\dEe]+)")
STEP = re.compile(r"\bstep=\s*(\d+)")
BOX_ORDER = ((0, 3, 4), (5, 1, 6), (7, 8, 2))
"""Where the vectors' components stand in a line of nine numbers."""


class _Frame(NamedTuple):
    title: str
    residues: list[str]
    names: list[str]
    values: np.ndarray  # (atom, 3 or 6) nm, nm/ps
    cell: np.ndarray  # (3, 3) Å, zeros of none


def read_gro(
    path: Path, selection: slice | int, options: ReadOptions, still: bool = False
) -> Recording:
    """Read the selected frames.

    Raises:
      IndexError: there is no such frame.
      ValueError: the file is damaged, has no velocities, or its atoms or cell change.
    """
    frames = _frames(path)
    index = np.array(select(range(len(frames)), selection, path))
    chosen = [frames[i] for i in index]
    first = chosen[0]
    for i, frame in zip(index, chosen, strict=True):
        if frame.names != first.names or not np.allclose(frame.cell, first.cell, atol=1e-3):
            raise ValueError(
                f"Frame {i} of {path} has other atoms or another cell than the first; only a "
                "trajectory of the same atoms at constant volume can be used."
            )
    moving = all(f.values.shape[1] == 6 for f in chosen)
    if not moving and not still:
        raise ValueError(
            f"{path} has no velocities; let GROMACS write them (gmx trjconv -vel, or a .trr with "
            "nstvout = nstxout)."
        )
    values = np.stack([f.values[:, : 6 if moving else 3] for f in chosen])
    factor = VELOCITY_UNITS["nm/ps"]
    elements = from_names(first.names, first.residues, options, path)
    found = [TIME.search(f.title) for f in chosen]
    times = np.array([float(m.group(1)) for m in found]) if all(found) else None
    steps = [STEP.search(f.title) for f in chosen]
    recording = Recording(
        positions=NM * values[..., :3],
        velocities=0 * values[..., :3] if still else factor * values[..., 3:],
        species=elements.species,
        masses=elements.masses,
        cell=decide_cell(first.cell, True if np.any(first.cell) else None, options, path),
        index=index,
        velocity_unit="" if still else "nm/ps",
        steps=np.array([int(m.group(1)) for m in steps]) if all(steps) else None,
        times=None if times is None else PS * times,
        rounding=0.0 if times is None else PS * rounding(times),
        factor=factor,
        unit_hint="check the file.",
    )
    return without_massless(recording, path)


def _frames(path: Path) -> list[_Frame]:
    """All frames; a last one that is cut short is left out, with a word."""
    text = path.read_text()
    lines, start, frames = text.splitlines(), 0, []
    while start < len(lines) and "".join(lines[start:]).strip():
        try:
            n = int(lines[start + 1])
            rows = lines[start + 2 : start + 2 + n]
            box = np.array(lines[start + 2 + n].split(), float)
            frames.append(_frame(lines[start], rows, box))
        except (ValueError, IndexError) as error:
            if frames:
                note(f"{path}: frame {len(frames)} is cut short and was left out.")
                break
            raise ValueError(f"{path} is no complete .gro file: {error}.") from error
        start += n + 3
    if not frames:
        raise ValueError(f"{path} has no frames.")
    if start == len(lines) and not text.endswith("\n"):  # of a cell that may have lost numbers
        without_cut(len(frames) - 1, path)
        frames.pop()
    return frames


def _frame(title: str, rows: list[str], box: np.ndarray) -> _Frame:
    dots = [i for i, letter in enumerate(rows[0]) if letter == "."]
    width = dots[1] - dots[0]  # all numbers of positions are as wide, and 5 more than decimals
    starts = [20 + k * width for k in range(3)]
    wide = width  # velocities have one decimal more and are as wide
    starts += [20 + 3 * width + k * wide for k in range(3)] if len(dots) >= 6 else []
    values = np.array([[float(row[s : s + width]) for s in starts] for row in rows])
    cell = np.diag(box[:3]) if len(box) == 3 else box[np.array(BOX_ORDER)]
    residues = [row[5:10].strip() for row in rows]
    names = [row[10:15].strip() for row in rows]
    return _Frame(title, residues, names, values, NM * cell)
