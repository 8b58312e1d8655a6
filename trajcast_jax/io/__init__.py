"""Trajectory files: H5MD, extended XYZ and every ASE format in; H5MD and extended XYZ out.

What is read is checked: velocities that are missing, in another unit or not a number,
atoms on top of each other, a composition that changes. Each is an error of one sentence.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from trajcast_jax.io.checks import Frames, check_frames
from trajcast_jax.io.files import atomic_write, existing_file
from trajcast_jax.io.formats import read_ase, write_extxyz
from trajcast_jax.io.h5md import h5md_length, read_h5md, read_h5md_observables
from trajcast_jax.io.h5md_writer import H5MDWriter
from trajcast_jax.system import System, make_system

__all__ = [
    "H5MDWriter",
    "atomic_write",
    "n_frames",
    "read",
    "read_observables",
    "read_trajectory",
    "write_extxyz",
]

H5MD_SUFFIXES = (".h5", ".h5md", ".hdf5")


def read(path: str | Path, index: int = -1, *, still: bool = False) -> System:
    """One frame of a trajectory file, by default the last.

    `still`: its atoms at rest, whatever velocities the file has, or lacks.
    """
    path = existing_file(path)
    if path.suffix in H5MD_SUFFIXES:
        length = h5md_length(path)
        if not -length <= index < length:
            raise IndexError(f"Frame {index} is not in {path}, which has {length} frames.")
        start = index % length
        frames, ours = read_h5md(path, slice(start, start + 1))
        if still:
            frames = frames._replace(velocities=0 * frames.velocities, velocity_unit="")
    else:
        # ASE knows the end of a file by index -1 only, not by a slice.
        frames, ours = read_ase(path, index, 1.0, still), False
    return _system(check_frames(frames, path, trusted=ours), 0)


def read_trajectory(
    path: str | Path,
    start: int = 0,
    stop: int | None = None,
    every: int = 1,
    *,
    time_step: float | None = None,
) -> tuple[System, Float[np.ndarray, "time"]]:
    """Frames start, start + every, … below stop, and their times (time,) in fs.

    Positions come out unwrapped: those of other programs as long as no atom moves by half a cell
    between two frames that are read. `time_step`, fs between the frames of the file, is only
    needed where the file does not tell times.
    """
    path = existing_file(path)
    selection = slice(start, stop, every)
    if path.suffix in H5MD_SUFFIXES:
        frames, ours = read_h5md(path, selection)
    else:
        frames, ours = read_ase(path, selection, time_step), False
    if len(frames.positions) == 0:
        raise ValueError(f"{path} has no frames from {start} to {stop}; select frames that it has.")
    frames = check_frames(frames, path, trusted=ours)
    return _system(frames, slice(None)), frames.times


def read_observables(
    path: str | Path, start: int = 0, stop: int | None = None, every: int = 1
) -> dict[str, np.ndarray]:
    """What an H5MD file holds beside the particles, by name; energies are in eV."""
    return read_h5md_observables(existing_file(path), slice(start, stop, every))


def n_frames(path: str | Path) -> int:
    """Complete frames in an H5MD file."""
    return h5md_length(existing_file(path))


def _system(frames: Frames, select: int | Sequence[int] | slice) -> System:
    return make_system(
        frames.positions[select],
        frames.velocities[select],
        frames.species,
        cell=frames.cell,
        masses=frames.masses,
    )
