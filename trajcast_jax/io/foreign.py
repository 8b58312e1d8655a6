"""Read trajectories of other programs: find the reader of a file, check its clock, split it."""

from pathlib import Path

import numpy as np

from trajcast_jax.io.checks import Frames, check_frames, unwrap_positions
from trajcast_jax.io.clock import split
from trajcast_jax.io.files import is_compressed, suffix
from trajcast_jax.io.formats import read_ase
from trajcast_jax.io.gromacs import read_gro
from trajcast_jax.io.h5md_layouts import read_layout
from trajcast_jax.io.lammps_dump import read_dump
from trajcast_jax.io.lammps_text import is_dump
from trajcast_jax.io.options import ReadOptions, note
from trajcast_jax.io.recording import Recording
from trajcast_jax.io.times import rounding
from trajcast_jax.io.topologies import TRAJECTORIES, read_with_topology
from trajcast_jax.io.unreadable import looks_like
from trajcast_jax.io.xyz import read_xyz, tells_more
from trajcast_jax.io.xyz_text import SUFFIXES

FAR = 1000.0
"""Å beyond which positions are moved by whole cells: single precision has 6e-5 Å there."""
COARSE = 0.02
"""Rounding of velocities, over their mean, that is worth a word."""
H5MD_SUFFIXES = (".h5", ".h5md", ".hdf5")


def record(
    path: Path, selection: slice | int, options: ReadOptions, still: bool = False
) -> Recording:
    """The selected frames of a file of any format, as they stand in it.

    Raises:
      IndexError: there is no such frame.
      ValueError: the file is damaged, leaves something open, or an option means nothing for it.
    """
    found = _read(path, selection, options, still)
    if len(found.positions) and found.positions.shape[1] == 0:
        raise ValueError(f"{path} has no atoms; give the file of a simulation.")
    return found


def _read(path: Path, selection: slice | int, options: ReadOptions, still: bool) -> Recording:
    """Read a file by the reader of its format."""
    ending = suffix(path)
    hdf5, dump, xyz = ending in H5MD_SUFFIXES, is_dump(path), ending in SUFFIXES
    if is_compressed(path) and (hdf5 or ending in (".gro", ".traj", *TRAJECTORIES)):
        raise ValueError(f"{path} is compressed; unpack it first (gunzip, unxz or bunzip2).")
    for name, useful in (
        ("units", hdf5 or dump or xyz),
        ("velocities", xyz),
        ("topology", not hdf5),
    ):
        if getattr(options, name) and not useful:
            raise ValueError(
                f"{path} is no file that '{name}' could say something of; leave --{name} out."
            )
    if hdf5:
        return read_layout(path, selection, options, still)
    if dump and options.topology is None:
        return read_dump(path, selection, options, still)
    if ending == ".gro" and options.topology is None:
        return read_gro(path, selection, options, still)
    if options.topology is not None or ending in TRAJECTORIES:
        return read_with_topology(path, selection, options, still)
    if options.velocities is not None or tells_more(path):
        return read_xyz(path, selection, options, still)
    return read_ase(path, selection, options, still)


def read_frame(path: Path, index: int, options: ReadOptions, still: bool = False) -> Frames:
    """One frame, at time 0 if the file does not tell.

    Raises:
      IndexError: there is no such frame.
      ValueError: the frame fails a check.
    """
    recording = _unwrapped(record(path, index, options, still), options, path)
    times = np.zeros(1) if recording.times is None else recording.times
    return _frames(recording, np.arange(1), times, path)


def read_runs(
    path: Path, start: int, stop: int | None, every: int, options: ReadOptions
) -> tuple[list[Frames], list[str]]:
    """The runs of a file, every `every`-th frame, and where and why it is cut.

    Raises:
      ValueError: no frame is selected, frames fail a check, or the clock is uneven.
    """
    whole = slice(start, stop) if every > 0 else slice(None)
    recording = record(path, whole, options)
    if len(recording.index) == 0:
        part = "" if (start, stop) == (0, None) else f" from {start} to {stop or 'its end'}"
        raise ValueError(
            f"{path} has no frames{part}{looks_like(path) or '; select frames that it has'}."
        )
    recording = _unwrapped(recording, options, path)
    everything = _frames(recording, np.arange(len(recording.index)), recording.index, path)
    _say_frozen(everything, path)
    _say_coarse(recording, path)
    found = split(recording, options, path)
    runs = []
    for rows in found.rows:
        rows = rows[::every] if every > 0 else rows[start:stop:every]
        runs.append(_frames(recording, rows, found.times[rows], None))
    return runs, found.gaps


def _unwrapped(recording: Recording, options: ReadOptions, path: Path) -> Recording:
    """The recording with unwrapped positions; without its cell if the options say so."""
    if not recording.unwrapped:
        recording = recording._replace(
            positions=unwrap_positions(recording.positions, recording.cell), unwrapped=True
        )
    recording = _recentred(recording, path)
    if options.periodic is False and recording.cell is not None:
        note(f"{path} says that its atoms are periodic; they are read as isolated, as was said.")
        recording = recording._replace(cell=None)
    return recording


def _recentred(recording: Recording, path: Path) -> Recording:
    """The recording moved by whole cells if it is so far away that single precision blurs it."""
    positions, cell = recording.positions, recording.cell
    if cell is None or not positions.size or not np.isfinite(positions).all():
        return recording
    if np.abs(positions).max() < FAR:
        return recording
    shift = np.round(positions.mean(axis=(0, 1)) @ np.linalg.inv(cell)) @ cell
    if np.any(shift):
        note(
            f"{path}: positions up to {np.abs(positions).max():,.0f} Å were moved by whole cells, "
            f"by {np.linalg.norm(shift):,.0f} Å, for single precision."
        )
    return recording._replace(positions=positions - shift)


def _say_coarse(recording: Recording, path: Path) -> None:
    """A word about velocities of so few decimals that they are blurred."""
    raw = np.round(recording.velocities[0].ravel() / recording.factor, 9)
    speed = float(np.sqrt(np.mean(raw**2))) if raw.size else 0.0
    error = rounding(raw)
    if recording.velocity_unit and np.isfinite(speed) and error > COARSE * speed > 0:
        note(
            f"{path} writes its velocities, {speed:.2g} {recording.velocity_unit} on average, to "
            f"{2 * error:.2g}: too few decimals; write more (LAMMPS: dump_modify 1 format float "
            "%.8g)."
        )


def _frames(recording: Recording, rows, times, path: Path | None) -> Frames:
    """Frames of some rows, checked if `path` is given."""
    frames = Frames(
        positions=recording.positions[rows],
        velocities=recording.velocities[rows],
        species=recording.species,
        masses=recording.masses,
        cell=recording.cell,
        times=np.asarray(times, float),
        index=recording.index[rows],
        velocity_unit=recording.velocity_unit,
        factor=recording.factor,
        unit_hint=recording.unit_hint,
    )
    return frames if path is None else check_frames(frames, path)


def _say_frozen(frames: Frames, path: Path) -> None:
    """A word about atoms that never move."""
    if len(frames.positions) < 3 or not frames.velocity_unit:
        return
    moves = np.ptp(frames.positions, axis=0).max(axis=-1)
    speeds = np.abs(frames.velocities).max(axis=(0, 2))
    frozen = np.flatnonzero((moves < 1e-6) & (speeds < 1e-9))
    if len(frozen):
        names = ", ".join(map(str, frozen[:8]))
        note(
            f"{path}: {len(frozen)} atoms never move ({names}{', …' if len(frozen) > 8 else ''}); "
            "a forecast moves all atoms and keeps the total momentum, so that they will move. Let "
            "them move in the reference too."
        )
