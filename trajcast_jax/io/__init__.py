"""Read and write trajectory files.

Input: H5MD, LAMMPS dumps, extended XYZ and all formats that ASE reads; GROMACS, AMBER, CP2K, DFTB+
and i-PI by readers of their own. Output: H5MD and extended XYZ. Input is checked: what a file
leaves open (elements, units, times, boundaries) is asked for, never guessed, and missing or
non-finite velocities, implausible units, overlapping atoms, a changing composition and an uneven
clock raise errors.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from trajcast_jax.io.checks import Frames, check_frames
from trajcast_jax.io.extxyz import write_extxyz
from trajcast_jax.io.files import atomic_write, existing_file
from trajcast_jax.io.foreign import H5MD_SUFFIXES, read_frame, read_runs
from trajcast_jax.io.h5md import h5md_length, is_ours, read_h5md, read_h5md_observables
from trajcast_jax.io.h5md_writer import H5MDWriter
from trajcast_jax.io.locks import locked
from trajcast_jax.io.npz import read_npz
from trajcast_jax.io.options import FileNote, ReadOptions
from trajcast_jax.reading import reads
from trajcast_jax.system import System, make_system

__all__ = [
    "FileNote",
    "H5MDWriter",
    "ReadOptions",
    "atomic_write",
    "locked",
    "n_frames",
    "read",
    "read_npz",
    "read_observables",
    "read_trajectory",
    "runs_of_file",
    "write_extxyz",
]


@reads
def read(
    path: str | Path,
    index: int = -1,
    *,
    still: bool = False,
    options: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
) -> System:
    """Read one frame of a trajectory file, by default the last.

    With `still`, all velocities are set to 0; the file need not have any. `options` say what the
    file leaves open.

    Raises:
      IndexError: there is no such frame.
      ValueError: the frame fails a check (`io/checks.py`), or the file leaves something open.
    """
    path = existing_file(path)
    if not _is_ours(path):
        return _system(read_frame(path, index, options, still), 0)
    length = h5md_length(path)
    if not -length <= index < length:
        raise IndexError(f"Frame {index} is not in {path}, which has {length} frames.")
    start = index % length
    frames = read_h5md(path, slice(start, start + 1))
    if still:
        frames = frames._replace(velocities=0 * frames.velocities, velocity_unit="")
    return _system(check_frames(frames, path, trusted=True), 0)


@reads
def read_trajectory(
    path: str | Path,
    start: int = 0,
    stop: int | None = None,
    every: int = 1,
    *,
    time_step: float | None = None,
    options: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
) -> tuple[System, Float[np.ndarray, "time"]]:
    """Read the frames start, start + every, … below stop, and their times (time,) in fs.

    Positions are unwrapped. For files of other programs this requires that no atom moves by half
    a cell between two frames. `time_step` is the time (fs) between the frames of the file; it is
    needed only if the file stores no times. `options` say what else the file leaves open; their
    first, last and every are those of `start`, `stop` and `every`.

    Raises:
      ValueError: no frame is selected, a frame fails a check (`io/checks.py`), the file leaves
        something open, or frames are missing in it.
    """
    runs, gaps = _runs(path, start, stop, every, _with_time_step(options, time_step))
    if len(runs) > 1:
        raise ValueError(
            f"{path} is no trajectory of evenly spaced frames: a break is {gaps[0]}"
            f"{f', and {len(gaps) - 1} more' if len(gaps) > 1 else ''}; read the parts one by one "
            "(first, last), or let `generate --from` split it."
        )
    return runs[0]


@reads
def runs_of_file(
    path: str | Path,
    options: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
) -> tuple[list[tuple[System, Float[np.ndarray, "time"]]], list[str]]:
    """Read a file as one run, or as several where frames are missing.

    Returns the runs of two frames or more with their times (fs), and in words where and why the
    file is cut.

    Raises:
      ValueError: as `read_trajectory`, or no run is left.
    """
    runs, gaps = _runs(path, 0, None, 1, options)
    long = [run for run in runs if len(run[1]) > 1]
    if not long and len(runs) > 1:
        raise ValueError(f"{path} has no two frames that follow one another; {gaps[0]}.")
    return long or runs, gaps


def _runs(path, start: int, stop: int | None, every: int, options: ReadOptions):
    path = existing_file(path)
    selection = slice(start, stop, every)
    if options.frames != slice(0, None, 1):
        if selection != slice(0, None, 1):
            raise ValueError("Give the frames by start, stop, every or by options, not both.")
        selection = options.frames
    if _is_ours(path):
        frames = read_h5md(path, selection)
        found, gaps = [check_frames(frames, path, trusted=True)], []
        _require_spacing(frames.times, selection.step, options.time_step, path)
    else:
        found, gaps = read_runs(path, selection.start, selection.stop, selection.step, options)
    if len(found[0].positions) == 0:
        raise ValueError(
            f"{path} has no frames from {selection.start} to {selection.stop}; select frames that "
            "it has."
        )
    return [(_system(frames, slice(None)), frames.times) for frames in found], gaps


def _require_spacing(times, every: int, time_step: float | None, path: Path) -> None:
    """The times of our own file are those that a person says, if any."""
    if time_step is None or len(times) < 2:
        return
    spacing = abs((times[1] - times[0]) / every)
    if abs(spacing / time_step - 1) > 0.01:
        raise ValueError(
            f"{path} has frames every {spacing:g} fs, by its own times, but time_step "
            f"(--time-step) says {time_step:g} fs; leave it out."
        )


def _with_time_step(options: ReadOptions, time_step: float | None) -> ReadOptions:
    if time_step is None:
        return options
    return dataclasses.replace(options, time_step=float(time_step))


def _is_ours(path: Path) -> bool:
    """Whether trajcast_jax wrote the file."""
    return path.suffix in H5MD_SUFFIXES and is_ours(path)


@reads
def read_observables(
    path: str | Path, start: int = 0, stop: int | None = None, every: int = 1
) -> dict[str, np.ndarray]:
    """Read the observables of an H5MD file, by name; energies are in eV."""
    return read_h5md_observables(existing_file(path), slice(start, stop, every))


def n_frames(path: str | Path) -> int:
    """Number of complete frames in an H5MD file."""
    return h5md_length(existing_file(path))


def _system(frames: Frames, select: int | Sequence[int] | slice) -> System:
    return make_system(
        frames.positions[select],
        frames.velocities[select],
        frames.species,
        cell=frames.cell,
        masses=frames.masses,
    )
