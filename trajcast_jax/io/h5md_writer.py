"""Write H5MD files frame by frame; a killed writer leaves a readable file.

Files are written in HDF5's single-writer-multiple-reader (SWMR) mode, which keeps them readable
at every instant. A counter of complete frames is increased only after the frames are on disk.
A killed writer, or a full disk, therefore loses at most the chunk being written, and a file can
be read while it grows. HDF5 cannot add datasets or remove frames in this mode; this is done on
a copy, which then replaces the file.
"""

import contextlib
import importlib.metadata
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Array

from trajcast_jax.io.h5md import (
    N_FRAMES,
    OURS,
    elements,
    is_being_written,
    n_complete,
    open_h5md,
    read_cell,
    series,
)
from trajcast_jax.io.locks import Lock
from trajcast_jax.system import System

_BYTES_PER_CHUNK = 2**19


class H5MDWriter:
    """Append frames to an H5MD file, which is created or, for the same system, continued.

    Frames are a System with a leading time axis; frame n is at time n·`time_step`. Opening an
    existing file removes incomplete frames, and all frames from `n_frames` on if it is given.

    Args:
      path: the file.
      system: its species, masses and cell are stored once.
      time_step: fs between frames.
      steps_per_frame: integration steps between frames, H5MD's `step`.
      creator: name of the program, stored in the file.
      metadata: texts stored as attributes of the group `trajcast_jax` of a new file.
      n_frames: number of frames to keep of an existing file; by default all complete ones.

    Raises:
      OSError: another process is writing the file.
      ValueError: the file holds another system or time step, or fewer than `n_frames` frames.
    """

    def __init__(
        self,
        path: str | Path,
        system: System,
        time_step: float,
        *,
        steps_per_frame: int = 1,
        creator: str = "trajcast_jax",
        metadata: Mapping[str, str] | None = None,
        n_frames: int | None = None,
    ):
        self.path = Path(path)
        self.time_step = float(time_step)
        self.steps_per_frame = steps_per_frame
        self._failed = False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        sentence = f"{path} is being written by another process; wait for it or write elsewhere."
        self._lock = Lock(self.path, sentence)  # raises before another writer's file is touched
        try:
            self._open(system, creator, metadata or {}, n_frames)
        except BaseException:
            self._lock.release()
            raise

    def _open(self, system: System, creator: str, metadata, n_frames: int | None) -> None:
        if self.path.exists():
            with open_h5md(self.path) as file:
                _check_same(file, self.path, system, self.time_step)
                complete = n_complete(file)
        else:
            with _replacing(self.path) as file:
                _write_header(file, system, creator, self.time_step, metadata)
            complete = 0
        self.n_frames = complete if n_frames is None else n_frames
        if self.n_frames > complete:
            raise ValueError(
                f"{self.path} has {complete} complete frames, but {self.n_frames} are needed to "
                "go on from; remove it to start it anew."
            )
        if self.n_frames < complete or is_being_written(self.path):
            _rewrite(self.path, self.n_frames)
        self._file = _open_to_append(self.path)

    def append(
        self, frames: System, observables: Mapping[str, Array | np.ndarray] | None = None
    ) -> None:
        """Append frames (time, atom, 3) and named observables (time, ...) in eV; all or nothing.

        Every call must give the observables of the first call.

        Raises:
          OSError: the write failed, or an earlier one did.
          ValueError: lengths differ, or names differ from those of the file.
        """
        if self._failed:  # HDF5 cannot continue after a failed write
            raise OSError(f"An earlier write to {self.path} has failed; it must be opened anew.")
        values = {
            "particles/all/position": np.asarray(frames.positions),
            "particles/all/velocity": np.asarray(frames.velocities),
        } | {f"observables/{name}": np.asarray(v) for name, v in (observables or {}).items()}
        lengths = {name: len(value) for name, value in values.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"What is appended to {self.path} differs in length: {lengths}.")
        stop = self.n_frames + len(frames.positions)
        index = np.arange(self.n_frames, stop)
        try:
            _require_space(self.path, sum(v.nbytes for v in values.values()))
            self._require_series(values)
            self._failed = True  # reset after success
            self._write("particles/all/position/step", index * self.steps_per_frame)
            self._write("particles/all/position/time", index * self.time_step)
            for name, value in values.items():
                self._write(f"{name}/value", value)
            self._file.flush()
            self._file[N_FRAMES][()] = stop
            self._file[N_FRAMES].flush()
            self._failed = False
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"Frames {self.n_frames} to {stop - 1} could not be written to {self.path}: "
                f"{error}. The {self.n_frames} frames before them are kept; make room and go on."
            ) from error
        self.n_frames = stop

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except RuntimeError:
            if not self._failed:  # else `append` has raised, and complete frames are safe
                raise
        finally:
            self._lock.release()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _require_series(self, values: Mapping[str, np.ndarray]) -> None:
        """Create the datasets of the first call; later, require the same names."""
        names = set(elements(self._file))
        if not names:
            self._failed = True  # reset after the file is open again
            self._file.close()
            _rewrite(self.path, 0, values)
            self._file = _open_to_append(self.path)
        elif names != values.keys():
            raise ValueError(
                f"{self.path} holds {', '.join(sorted(names))}, but what is appended is "
                f"{', '.join(sorted(values))}; append the same in every call."
            )

    def _write(self, name: str, value: np.ndarray) -> None:
        data = self._file[name]
        data.resize(self.n_frames + len(value), axis=0)
        data[self.n_frames :] = value


def _require_space(path: Path, n_bytes: int) -> None:
    """Raise OSError if the disk is nearly full, before HDF5 fails in the middle of a write."""
    free = shutil.disk_usage(path.parent).free
    if free < 2 * n_bytes + 4 * _BYTES_PER_CHUNK:
        raise OSError(f"the disk is full ({free / 1e6:.1f} MB left)")


def _open_to_append(path: Path) -> h5py.File:
    """Open the file in SWMR mode from the start."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_file_locking(False, True)
    flags = h5py.h5f.ACC_RDWR | h5py.h5f.ACC_SWMR_WRITE
    return h5py.File(h5py.h5f.open(os.fsencode(path), flags, access))


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[h5py.File]:
    """Open a new file that replaces `path` when the `with` block ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w", libver=("v110", "v110"), locking=False) as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_header(file, system: System, creator: str, time_step: float, metadata) -> None:
    text = h5py.string_dtype()
    h5md = file.create_group("h5md")
    h5md.attrs["version"] = np.array([1, 1], np.int32)
    h5md.create_group("author").attrs.create("name", "unknown", dtype=text)
    h5md.create_group("creator").attrs.create("name", creator, dtype=text)
    h5md["creator"].attrs.create("version", _version(), dtype=text)
    particles = file.create_group("particles/all")
    box = particles.create_group("box")
    box.attrs["dimension"] = np.int32(3)
    boundary = "none" if system.cell is None else "periodic"
    box.attrs.create("boundary", [boundary] * 3, dtype=text)
    if system.cell is not None:
        box["edges"] = np.asarray(system.cell, np.float64)
        box["edges"].attrs["unit"] = "Angstrom"
    particles["species"] = np.asarray(system.species, np.int32)
    particles["mass"] = np.asarray(system.masses, np.float64)
    particles["mass"].attrs["unit"] = "u"
    file[N_FRAMES] = np.int64(0)
    file[OURS].attrs["time_step"] = time_step
    for name, value in metadata.items():
        file[OURS].attrs.create(name, value, dtype=text)


def _version() -> str:
    try:
        return importlib.metadata.version("trajcast_jax")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _create_series(file, name: str, frame: tuple[int, ...], dtype: np.dtype) -> None:
    """Create a time-dependent H5MD element that shares step and time with the positions."""
    group = file.require_group(name)
    bytes_per_frame = max(1, int(np.prod(frame))) * dtype.itemsize
    chunk = min(4096, max(1, _BYTES_PER_CHUNK // bytes_per_frame))
    data = group.create_dataset(
        "value", (0, *frame), dtype, maxshape=(None, *frame), chunks=(chunk, *frame)
    )
    units = {"position": "Angstrom", "velocity": "Angstrom fs-1"}
    data.attrs["unit"] = units.get(name.rsplit("/", 1)[-1], "eV")
    first = file.require_group("particles/all/position")
    if "step" not in first:
        first.create_dataset("step", (0,), np.int64, maxshape=(None,), chunks=(4096,))
        first.create_dataset("time", (0,), np.float64, maxshape=(None,), chunks=(4096,))
        first["time"].attrs["unit"] = "fs"
    if "step" not in group:
        group["step"], group["time"] = first["step"], first["time"]


def _rewrite(path: Path, n_frames: int, added: Mapping[str, np.ndarray] | None = None) -> None:
    """Copy the first `n_frames` frames into a new file with datasets for the `added` values.

    This also clears the flag of a killed writer, with which HDF5 would not open the file.
    """
    with open_h5md(path) as old, _replacing(path) as new:
        new.create_group("particles/all")
        for name in ("h5md", OURS, *(f"particles/all/{n}" for n in ("box", "species", "mass"))):
            old.copy(name, new, name)
        for name in elements(old):
            value = old[f"{name}/value"]
            _create_series(new, name, value.shape[1:], value.dtype)
        for name, value in (added or {}).items():
            _create_series(new, name, value.shape[1:], value.dtype)
        for name in series(old):
            new[name].resize(n_frames, axis=0)
            for start in range(0, n_frames, 1024):
                stop = min(start + 1024, n_frames)
                new[name][start:stop] = old[name][start:stop]
        new[N_FRAMES][()] = n_frames


def _check_same(file, path: Path, system: System, time_step: float) -> None:
    if OURS not in file:
        raise ValueError(f"{path} was not written by trajcast_jax; append to a file of your own.")
    cell = read_cell(file["particles/all"], path)
    same = np.array_equal(file["particles/all/species"], system.species)
    same = same and (cell is None) == (system.cell is None)
    mass = file["particles/all/mass"][()]
    same = same and np.allclose(mass, system.masses, rtol=1e-5, atol=0.0)
    if same and cell is not None:
        same = np.allclose(cell, system.cell, rtol=1e-6, atol=1e-6)
    if not same or not np.isclose(file[OURS].attrs["time_step"], time_step):
        raise ValueError(
            f"{path} holds another system or another time step than what is to be appended; "
            "write to another file or remove it."
        )
