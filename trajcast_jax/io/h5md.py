"""Read H5MD files.

H5MD (de Buyl, Colberg, Höfling, Comput. Phys. Commun. 185, 1546 (2014),
doi:10.1016/j.cpc.2014.01.018, https://www.nongnu.org/h5md/h5md.html) is an HDF5 layout
for molecular trajectories. Files that trajcast_jax writes have an additional group
`trajcast_jax` with the number of complete frames.
"""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
from ase.data import atomic_masses

from trajcast_jax.io.checks import Frames, unwrap_positions
from trajcast_jax.io.h5md_dead import open_closed
from trajcast_jax.io.locks import is_locked
from trajcast_jax.io.npz import ALWAYS
from trajcast_jax.reading import reads

TO_ANGSTROM = {"Angstrom": 1.0, "nm": 10.0}
TO_ANGSTROM_PER_FS = {"Angstrom fs-1": 1.0, "Angstrom ps-1": 1e-3, "nm ps-1": 1e-2}
TO_FS = {"fs": 1.0, "ps": 1e3}
OURS = "trajcast_jax"
N_FRAMES = f"{OURS}/n_frames"


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
        if not 0 <= count <= min(there, default=0):
            raise ValueError(
                f"it counts {count} frames, but {min(there, default=0)} are stored; it is damaged"
            )
        return count
    for name in elements:
        require_stored(particles[name])
    return min(there)


def open_h5md(path: Path) -> h5py.File:
    """Open a file for reading, also while it is written or after its writer was killed.

    Raises:
      ValueError: the file is truncated or not HDF5.
    """
    try:
        if not is_being_written(path):
            return h5py.File(path, "r", locking=False)
        _require_whole(path)
        if is_locked(path):
            file = h5py.File(path, "r", swmr=True, locking=False)
        else:
            file = open_closed(path)
        if _end_of_frames(file) <= path.stat().st_size:
            return file
        file.close()
        error = "its frames go beyond its end"
    except Exception as caught:  # of a damaged file, h5py raises many types of errors
        error = caught
    raise ValueError(f"{path} cannot be opened as HDF5 ({error}); it is truncated or no HDF5 file.")


def is_being_written(path: Path) -> bool:
    """Whether a writer has the file open or was killed, from a flag in the superblock (version 3).

    Only files of a living writer are opened in SWMR mode, which waits for a part that does not fit
    to be mended. In other files, it is damage and must raise errors.
    """
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


@reads
def h5md_length(path: Path) -> int:
    """Number of complete frames in the file."""
    with open_h5md(path) as file:
        if N_FRAMES not in file:
            _require_h5md(file, path)
        return n_complete(file)


@reads
def h5md_metadata(path: Path) -> dict[str, str]:
    """Read the texts that were given to the writer as `metadata`."""
    with open_h5md(path) as file:
        attributes = file[OURS].attrs if OURS in file else {}
        return {name: value for name, value in attributes.items() if isinstance(value, str)}


@reads
def read_h5md(path: Path, selection: slice) -> tuple[Frames, bool]:
    """Read the selected frames; also return whether trajcast_jax wrote the file.

    In files of other programs, the first particle group is read, units must be stated, and
    positions are unwrapped.

    Raises:
      ValueError: the file lacks data or units, its cell changes, or it stores positions and
        velocities at different steps.
    """
    with open_h5md(path) as file:
        _require_h5md(file, path)
        particles, ours = _particles(file), OURS in file
        index = np.arange(n_complete(file))[selection]
        positions = _rows(particles["position/value"], index)
        velocities = _rows(particles["velocity/value"], index)
        position_factor, _ = _unit(particles["position/value"], TO_ANGSTROM, path)
        velocity_factor, unit = _unit(particles["velocity/value"], TO_ANGSTROM_PER_FS, path)
        cell = read_cell(particles, path)
        species = _whole(particles["species"])
        masses = _whole(particles["mass"]) if "mass" in particles else atomic_masses[species]
        times = _times(particles["position"], index, path)
        if not ours and not _at_once(particles, index, path):
            raise ValueError(
                f"{path} stores positions and velocities at different steps; give a file that has "
                "both of every frame."
            )
    if not ours:
        positions = unwrap_positions(position_factor * positions, cell)
        velocities = velocity_factor * velocities
    return Frames(positions, velocities, species, masses, cell, times, index, unit), ours


@reads
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


def _at_once(particles: h5py.Group, index: np.ndarray, path: Path) -> bool:
    """Whether positions and velocities have the same steps and times, as far as both have any."""
    both = particles["position"], particles["velocity"]
    clocks = {
        "step": lambda element: _clock(element["step"], index),
        "time": lambda element: _times(element, index, path),
    }
    told = {name: clock for name, clock in clocks.items() if all(name in e for e in both)}
    return all(np.allclose(*map(clock, both)) for clock in told.values())


def _particles(file) -> h5py.Group:
    return file["particles"][next(iter(file["particles"]))]


def _require_h5md(file, path: Path) -> None:
    groups = file.get("particles", {})
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
            f"{path} is periodic in some directions only ({', '.join(boundary)}); give atoms that "
            "are periodic in all three or in none."
        )
    edges = box["edges"]
    value = edges["value"] if isinstance(edges, h5py.Group) else edges
    cells = _whole(value) if isinstance(edges, h5py.Group) else _whole(value)[None]
    if not np.allclose(cells, cells[0], rtol=1e-5):
        raise ValueError(f"The cell changes along {path}; only constant volume can be used.")
    cell = np.diag(cells[0]) if cells[0].ndim == 1 else cells[0]
    return cell * _unit(value, TO_ANGSTROM, path)[0]


def _unit(data: h5py.Dataset, known: Mapping[str, float], path: Path) -> tuple[float, str]:
    unit = data.attrs.get("unit", "nothing")
    unit = unit.decode() if isinstance(unit, bytes) else str(unit)
    if unit not in known:
        raise ValueError(
            f"{path} gives {data.name} in '{unit}'; it must state one of {', '.join(known)}."
        )
    return known[unit], unit


def _times(position: h5py.Group, index: np.ndarray, path: Path) -> np.ndarray:
    """Read the times (time,) of frames, fs."""
    if "time" not in position:
        raise ValueError(f"{path} does not tell the times of its frames.")
    factor, _ = _unit(position["time"], TO_FS, path)
    return factor * _clock(position["time"], index)


def _clock(data: h5py.Dataset, index: np.ndarray) -> np.ndarray:
    """Read steps or times (time,) in their unit. H5MD also allows to store the spacing only."""
    if data.ndim == 0:
        return float(data.attrs.get("offset", 0.0)) + float(data[()]) * index
    return _rows(data, index)
