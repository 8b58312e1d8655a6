"""Read H5MD files.

H5MD (de Buyl, Colberg, Höfling, Comput. Phys. Commun. 185, 1546 (2014),
doi:10.1016/j.cpc.2014.01.018, https://www.nongnu.org/h5md/h5md.html) is an HDF5 layout
for molecular trajectories. Files that trajcast_jax writes have an additional group
`trajcast_jax` with the number of complete frames.
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from trajcast_jax.io.checks import Frames
from trajcast_jax.io.h5md_flag import open_closed
from trajcast_jax.io.locks import is_locked
from trajcast_jax.io.npz import ALWAYS
from trajcast_jax.reading import reads

OURS = "trajcast_jax"
N_FRAMES = f"{OURS}/n_frames"
PATIENCE = 2.0
"""Seconds for which a part that does not fit may be what a living writer is changing just now."""


def elements(file) -> list[str]:
    """Names of the time-dependent elements of a file that trajcast_jax wrote."""
    names = ["particles/all/position", "particles/all/velocity"]
    names += [f"observables/{name}" for name in file.get("observables", ())]
    return [name for name in names if name in file]


def series(file) -> list[str]:
    """Names of the datasets that grow with time in a file that trajcast_jax wrote, each once."""
    names = elements(file)
    clock = ["particles/all/position/step", "particles/all/position/time"] if names else []
    return clock + [f"{name}/value" for name in names]


def n_complete(file) -> int:
    """Number of frames that are completely on disk."""
    particles = _particles(file)
    elements = [f"{name}/value" for name in ("position", "velocity")]
    there = [len(particles[name]) for name in elements if name in particles]
    if N_FRAMES in file:
        count = int(file[N_FRAMES][()])
        if count > min(there, default=0):  # a writer may have added frames since it was opened
            for name in series(file):
                file[name].refresh()
            there = [len(particles[name]) for name in elements if name in particles]
        if not 0 <= count <= min(there, default=0):
            raise ValueError(
                f"it counts {count} frames, but {min(there, default=0)} are stored; it is damaged"
            )
        return count
    for name in elements:
        require_stored(particles[name])
    return min(there)


def patient(function: Callable) -> Callable:
    """Decorate what reads the file at a path: as long as that is being written, try again.

    HDF5's own mode for that, SWMR, tries for ever, so that a damaged file would never be an error.
    """

    @functools.wraps(function)
    def read(path, *arguments, **named):
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return function(path, *arguments, **named)
            except Exception:
                if time.monotonic() > end or not (is_being_written(path) and is_locked(path)):
                    raise
            time.sleep(0.02)

    return read


def open_h5md(path: Path) -> h5py.File:
    """Open a file for reading, also while it is written or after its writer was killed.

    What reads a file that may be being written is decorated by `patient`.

    Raises:
      ValueError: the file is truncated or not HDF5.
    """
    try:
        if not is_being_written(path):
            return h5py.File(path, "r", locking=False)
        _require_whole(path)
        file = open_closed(path)
        if _end_of_frames(file) <= path.stat().st_size:
            return file
        file.close()
        error = "its frames go beyond its end"
    except Exception as caught:  # of a damaged file, h5py raises many types of errors
        error = caught
    raise ValueError(f"{path} cannot be opened as HDF5 ({error}); it is truncated or no HDF5 file.")


def is_being_written(path: Path) -> bool:
    """Whether a writer has the file open or was killed, from a flag in its superblock (of v. 3)."""
    with open(path, "rb") as file:
        head = file.read(12)
    return head[:9] == b"\x89HDF\r\n\x1a\n\x03" and head[11] & 4 != 0


def _require_whole(path: Path) -> None:
    """Raise OSError if the file is shorter than its superblock states; HDF5 would hang on it."""
    with open(path, "rb") as file:
        head = file.read(36)
    end = int.from_bytes(head[28:36], "little")
    if len(head) < 36 or path.stat().st_size < end:
        raise OSError(f"it should have {end:,} bytes, and has {path.stat().st_size:,}")


def _end_of_frames(file) -> int:
    """Byte at which the complete frames end. In a truncated file, HDF5 would read zeros there."""
    if N_FRAMES not in file:
        return 0
    n_frames, ends = n_complete(file), [0]

    def add(chunk):
        if chunk.chunk_offset[0] < n_frames:
            ends.append(chunk.byte_offset + chunk.size)

    for name in series(file):
        file[name].id.chunk_iter(add)
    return max(ends)


@patient
def is_ours(path: Path) -> bool:
    """Whether trajcast_jax wrote the file."""
    with open_h5md(path) as file:
        return OURS in file


@reads
@patient
def h5md_length(path: Path) -> int:
    """Number of complete frames in the file."""
    with open_h5md(path) as file:
        if N_FRAMES not in file:
            _require_h5md(file, path)
        return n_complete(file)


@reads
@patient
def h5md_metadata(path: Path) -> dict[str, str]:
    """Read the texts that were given to the writer as `metadata`."""
    with open_h5md(path) as file:
        attributes = file[OURS].attrs if OURS in file else {}
        return {name: value for name, value in attributes.items() if isinstance(value, str)}


@reads
@patient
def read_h5md(path: Path, selection: slice) -> Frames:
    """Read the selected frames of a file that trajcast_jax wrote.

    Raises:
      ValueError: the file lacks data, or states other units than it was written in.
    """
    with open_h5md(path) as file:
        _require_h5md(file, path)
        particles = _particles(file)
        index = np.arange(n_complete(file))[selection]
        unit = "Angstrom fs-1"
        _require_unit(particles["position/value"], "Angstrom", path)
        _require_unit(particles["velocity/value"], unit, path)
        _require_unit(particles["position/time"], "fs", path)
        return Frames(
            positions=_rows(particles["position/value"], index),
            velocities=_rows(particles["velocity/value"], index),
            species=_whole(particles["species"]),
            masses=_whole(particles["mass"]),
            cell=read_cell(particles, path),
            times=np.asarray(_rows(particles["position/time"], index), float),
            index=index,
            velocity_unit=unit,
        )


@reads
@patient
def read_h5md_observables(path: Path, selection: slice) -> dict[str, np.ndarray]:
    """Read the scalar or array time series in the group `observables`, by name."""
    with open_h5md(path) as file:
        _require_h5md(file, path)
        index = np.arange(n_complete(file))[selection]
        series = file.get("observables", {})
        return {n: _rows(g["value"], index) for n, g in series.items() if "value" in g}


def require_stored(data: h5py.Dataset) -> None:
    """Raise ValueError if the dataset claims to be far larger than what is stored of it.

    HDF5 makes up the rest, and would ask for the memory. Deflate packs up to 1,032 bytes into one.
    """
    claimed, stored = data.size * data.dtype.itemsize, data.id.get_storage_size()
    if claimed > max(ALWAYS, (1100 if data.id.get_create_plist().get_nfilters() else 4) * stored):
        raise ValueError(
            f"{data.name} is to have {claimed:,} bytes, but {stored:,} are stored; the file is "
            "damaged or incomplete"
        )


def _whole(data: h5py.Dataset) -> np.ndarray:
    require_stored(data)
    return data[()]


def _rows(data: h5py.Dataset, index: np.ndarray) -> np.ndarray:
    """Read data[index] for evenly spaced rows in blocks, because HDF5's strided reads are slow."""
    require_stored(data)
    if len(index) and index.max() >= len(data):
        raise ValueError(f"{data.name} has {len(data)} rows, but row {index.max()} is asked for")
    if len(index) == 0:
        return np.empty((0, *data.shape[1:]), data.dtype)
    step = int(index[1] - index[0]) if len(index) > 1 else 1
    if step < 0:
        return _rows(data, index[::-1])[::-1]
    block = max(1, 1024 // step)
    parts = [index[i : i + block] for i in range(0, len(index), block)]
    return np.concatenate([data[p[0] : p[-1] + 1][::step] for p in parts])


def _particles(file) -> h5py.Group:
    return file["particles"][next(iter(file["particles"]))]


def _require_h5md(file, path: Path) -> None:
    groups = file.get("particles", {})
    groups = groups if isinstance(groups, h5py.Group) else {}
    found = groups[next(iter(groups))] if len(groups) else {}
    missing = [n for n in ("position/value", "velocity/value", "species", "box") if n not in found]
    if missing:
        what = "no velocities" if missing == ["velocity/value"] else f"no {missing[0]}"
        raise ValueError(
            f"{path} is an HDF5 file with {what} under 'particles'; give an H5MD trajectory with "
            "positions, velocities and species."
        )


def read_cell(particles, path: Path) -> np.ndarray | None:
    """Read the cell (3, 3) in Å; None for isolated atoms."""
    box = particles["box"]
    boundary = [b.decode() if isinstance(b, bytes) else str(b) for b in box.attrs["boundary"]]
    if set(boundary) == {"none"}:
        return None
    if set(boundary) != {"periodic"}:
        raise ValueError(
            f"{path} is periodic in some directions only ({', '.join(boundary)}), as trajcast_jax "
            "never writes it; restore the file, or make it anew."
        )
    _require_unit(box["edges"], "Angstrom", path)
    return _whole(box["edges"])


def _require_unit(data: h5py.Dataset, expected: str, path: Path) -> None:
    unit = data.attrs.get("unit", "nothing")
    unit = unit.decode() if isinstance(unit, bytes) else str(unit)
    if unit != expected:
        raise ValueError(
            f"{path} gives {data.name} in '{unit}', but trajcast_jax writes it in {expected}; "
            "restore the file, or make it anew."
        )
