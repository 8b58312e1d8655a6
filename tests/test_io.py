"""Trajectory files: what is written comes back, nothing is lost, bad input is refused."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import ase.units
import h5py
import numpy as np
import pytest
from ase import Atoms

from trajcast_jax import io
from trajcast_jax.io import h5md_writer
from trajcast_jax.system import make_system

ROOT = Path(__file__).parent.parent
CELL = np.array([[6.0, 0.0, 0.0], [-3.0, 5.2, 0.0], [0.5, 0.3, 7.0]])
SPECIES = [18, 18, 8, 14]
SPEED = 3e-3  # Å/fs per component: some hundred kelvin


def make_trajectory(n_frames=20, cell=CELL, seed=0):
    """Atoms in uniform motion, far apart, that leave the cell."""
    random = np.random.default_rng(seed)
    start = np.array([[0.0, 0, 0], [2.5, 0, 0], [0, 2.5, 0], [0, 0, 3]])
    velocities = SPEED * random.normal(size=(4, 3))
    times = 10.0 * np.arange(n_frames)
    positions = start + times[:, None, None] * velocities
    velocities = np.broadcast_to(velocities, positions.shape)
    return make_system(positions, velocities, SPECIES, cell=cell), times


def part(trajectory, rows):
    return trajectory.replace(
        positions=trajectory.positions[rows], velocities=trajectory.velocities[rows]
    )


def write(path, trajectory, **observables):
    with io.H5MDWriter(path, trajectory, 10.0) as writer:
        writer.append(trajectory, observables)
    return path


def write_ase(path, **changes):
    """An extended XYZ file with ASE momenta; `changes` act on the atoms of one frame."""
    trajectory, _ = make_trajectory()
    frames = []
    for i in range(len(trajectory.positions)):
        atoms = Atoms(SPECIES, np.asarray(trajectory.positions[i]), cell=CELL, pbc=True)
        atoms.set_velocities(np.asarray(trajectory.velocities[i]) / ase.units.fs)
        atoms.info["time"] = 10.0 * i
        frames.append(atoms)
    if "edit" in changes:
        changes["edit"](frames)
    ase.io.write(path, frames)
    return path


def assert_same(found, expected, atol=0.0):
    np.testing.assert_allclose(found.positions, expected.positions, atol=atol, rtol=1e-6)
    np.testing.assert_allclose(found.velocities, expected.velocities, atol=atol, rtol=1e-6)
    np.testing.assert_array_equal(found.species, expected.species)
    np.testing.assert_allclose(found.masses, expected.masses, rtol=1e-6)
    if expected.cell is None:
        assert found.cell is None
    else:
        np.testing.assert_allclose(found.cell, expected.cell, rtol=1e-6)


# Round trips


@pytest.mark.parametrize("cell", [CELL, None])
def test_h5md_round_trip(tmp_path, cell):
    trajectory, times = make_trajectory(cell=cell)
    path = write(tmp_path / "run.h5", trajectory, potential_energy=times**2)
    found, found_times = io.read_trajectory(path)
    assert_same(found, trajectory)
    np.testing.assert_array_equal(found_times, times)
    np.testing.assert_array_equal(io.read_observables(path)["potential_energy"], times**2)
    assert_same(io.read(path), part(trajectory, -1))
    assert_same(io.read(path, 3), part(trajectory, 3))


@pytest.mark.parametrize("selection", [(0, None, 1), (3, 17, 4), (-5, None, 2), (0, -3, 7)])
@pytest.mark.parametrize("suffix", ["h5", "extxyz"])
def test_selection_is_that_of_a_slice(tmp_path, selection, suffix):
    trajectory, times = make_trajectory()
    path = tmp_path / f"run.{suffix}"
    if suffix == "h5":
        write(path, trajectory)
    else:
        io.write_extxyz(path, trajectory, times)
    found, found_times = io.read_trajectory(path, *selection)
    assert_same(found, part(trajectory, slice(*selection)), atol=1e-6)
    np.testing.assert_allclose(found_times, times[slice(*selection)])


def test_h5md_follows_the_specification(tmp_path):
    trajectory, _ = make_trajectory()
    path = write(tmp_path / "run.h5", trajectory, kinetic_energy=np.ones(20))
    with h5py.File(path) as file:
        assert file["h5md"].attrs["version"].tolist() == [1, 1]
        assert file["h5md/creator"].attrs["name"] == "trajcast_jax"
        assert file["particles/all/box"].attrs["dimension"] == 3
        assert file["particles/all/box"].attrs["boundary"].tolist() == ["periodic"] * 3
        for name in (
            "particles/all/position",
            "particles/all/velocity",
            "observables/kinetic_energy",
        ):
            assert len(file[name]["value"]) == len(file[name]["step"]) == len(file[name]["time"])
        assert file["particles/all/velocity/value"].attrs["unit"] == "Angstrom fs-1"
        assert file["observables/kinetic_energy/value"].attrs["unit"] == "eV"


@pytest.mark.parametrize("cell", [CELL, None])
def test_extxyz_round_trip_and_ase_reads_the_same_velocities(tmp_path, cell):
    trajectory, times = make_trajectory(cell=cell)
    trajectory = trajectory.replace(masses=trajectory.masses.at[1].set(36.0))  # an isotope
    path = tmp_path / "run.extxyz"
    io.write_extxyz(path, trajectory, times)
    found, found_times = io.read_trajectory(path)
    assert_same(found, trajectory, atol=1e-7)
    np.testing.assert_allclose(found_times, times)
    atoms = ase.io.read(path, -1)
    np.testing.assert_allclose(
        atoms.get_velocities() * ase.units.fs, trajectory.velocities[-1], rtol=1e-6
    )


@pytest.mark.parametrize("suffix", ["extxyz", "traj"])
def test_ase_momenta_are_converted(tmp_path, suffix):
    trajectory, times = make_trajectory()
    found, found_times = io.read_trajectory(write_ase(tmp_path / f"run.{suffix}"), time_step=10.0)
    assert_same(found, trajectory, atol=2e-7)
    np.testing.assert_allclose(found_times, times)


def test_wrapped_positions_are_unwrapped(tmp_path):
    trajectory, _ = make_trajectory(n_frames=300)
    path = write_ase(tmp_path / "run.extxyz", edit=lambda frames: [a.wrap() for a in frames])
    found, _ = io.read_trajectory(path)
    np.testing.assert_allclose(
        np.diff(found.positions, axis=0), np.diff(trajectory.positions[:20], axis=0), atol=2e-6
    )


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    io.atomic_write(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        io.atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


# Appending, and what a kill or a full disk leaves


def test_appended_chunks_make_one_trajectory(tmp_path):
    trajectory, times = make_trajectory()
    path = tmp_path / "run.h5"
    for rows in (slice(0, 7), slice(7, 8), slice(8, 20)):
        with io.H5MDWriter(path, trajectory, 10.0) as writer:
            assert writer.n_frames == rows.start
            writer.append(part(trajectory, rows), {"potential_energy": times[rows]})
            assert io.n_frames(path) == rows.stop  # also while the file is open
    found, found_times = io.read_trajectory(path)
    assert_same(found, trajectory)
    np.testing.assert_array_equal(found_times, times)
    np.testing.assert_array_equal(io.read_observables(path)["potential_energy"], times)


def test_reopening_can_go_back(tmp_path):
    trajectory, times = make_trajectory()
    path = write(tmp_path / "run.h5", trajectory, potential_energy=times)
    with io.H5MDWriter(path, trajectory, 10.0, n_frames=5) as writer:
        writer.append(part(trajectory, slice(5, 9)), {"potential_energy": times[5:9]})
    assert_same(io.read_trajectory(path)[0], part(trajectory, slice(0, 9)))
    with pytest.raises(ValueError, match="9 complete frames, but 12"):
        io.H5MDWriter(path, trajectory, 10.0, n_frames=12)


def test_file_can_be_opened_after_a_kill_at_any_moment(tmp_path):
    """HDF5 would refuse a file left open in its normal mode, before the first append too."""
    trajectory, _ = make_trajectory()
    path = tmp_path / "run.h5"
    for n_frames in (0, 20):
        writer = io.H5MDWriter(path, trajectory, 10.0)
        for complete in (n_frames, n_frames + 20):
            copy = tmp_path / f"killed_{n_frames}_{complete}.h5"
            copy.write_bytes(path.read_bytes())  # what a kill at this moment would leave
            assert io.n_frames(copy) == complete
            with io.H5MDWriter(copy, trajectory, 10.0) as again:
                again.append(trajectory)
            assert io.n_frames(copy) == complete + 20
            if complete == n_frames:
                writer.append(trajectory)
        writer.close()


def test_series_stay_the_same(tmp_path):
    trajectory, times = make_trajectory()
    path = write(tmp_path / "run.h5", trajectory, potential_energy=times)
    with io.H5MDWriter(path, trajectory, 10.0) as writer:
        with pytest.raises(ValueError, match="append the same in every call"):
            writer.append(trajectory)
        with pytest.raises(ValueError, match="differs in length"):
            writer.append(trajectory, {"potential_energy": times[:-1]})
        writer.append(trajectory, {"potential_energy": times})
    assert io.n_frames(path) == 40


def test_another_system_is_not_appended(tmp_path):
    trajectory, _ = make_trajectory()
    path = write(tmp_path / "run.h5", trajectory)
    other = trajectory.replace(species=trajectory.species[::-1])
    for system, time_step in (
        (other, 10.0),
        (trajectory.replace(cell=None), 10.0),
        (trajectory.replace(masses=1.5 * trajectory.masses), 10.0),
        (trajectory, 5.0),
    ):
        with pytest.raises(ValueError, match="another system or another time step"):
            io.H5MDWriter(path, system, time_step)


def test_full_disk_is_found_before_the_write(tmp_path, monkeypatch):
    trajectory, _ = make_trajectory()
    path = tmp_path / "run.h5"
    with io.H5MDWriter(path, trajectory, 10.0) as writer:
        writer.append(part(trajectory, slice(0, 10)))
        with monkeypatch.context() as patch:
            usage = h5md_writer.shutil.disk_usage(tmp_path)._replace(free=100)
            patch.setattr(h5md_writer.shutil, "disk_usage", lambda _: usage)
            with pytest.raises(
                OSError, match=r"disk is full .* The 10 frames before them are kept"
            ):
                writer.append(part(trajectory, slice(10, 20)))
        writer.append(part(trajectory, slice(10, 20)))
    assert_same(io.read_trajectory(path)[0], trajectory)


def test_failed_write_keeps_the_complete_chunks(tmp_path, monkeypatch):
    trajectory, _ = make_trajectory()
    path = tmp_path / "run.h5"
    writer = io.H5MDWriter(path, trajectory, 10.0)
    writer.append(part(trajectory, slice(0, 10)))
    write_series = writer._write

    def fail_at_velocities(name, value):
        if "velocity" in name:
            raise OSError("no space left on device")
        write_series(name, value)

    monkeypatch.setattr(writer, "_write", fail_at_velocities)
    with pytest.raises(OSError, match=r"Frames 10 to 19 .* 10 frames before them are kept"):
        writer.append(part(trajectory, slice(10, 20)))
    assert_same(io.read_trajectory(path)[0], part(trajectory, slice(0, 10)))
    monkeypatch.undo()
    with pytest.raises(OSError, match="must be opened anew"):
        writer.append(part(trajectory, slice(10, 20)))
    writer.close()
    with io.H5MDWriter(path, trajectory, 10.0) as writer:
        writer.append(part(trajectory, slice(10, 20)))
    assert_same(io.read_trajectory(path)[0], trajectory)


WRITE_FOREVER = """
import resource, sys
import numpy as np
from trajcast_jax import io
from trajcast_jax.system import System

path, limit = sys.argv[1], int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
atoms = 500
mask = np.ones(atoms, bool)
system = System(None, None, np.ones(atoms), np.full(atoms, 18), np.eye(3) * 50, mask)
writer = io.H5MDWriter(path, system, 10.0)
for i in range(writer.n_frames // 50, 4000):
    values = np.full((50, atoms, 3), i, np.float32)
    writer.append(system.replace(positions=values, velocities=-values), {"energy": values[:, 0, 0]})
    if i == 5:
        print("ready", flush=True)
"""


def start_writer(path, limit=0):
    command = [sys.executable, "-c", WRITE_FOREVER, str(path), str(limit)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def assert_whole(path):
    """Every complete chunk of the endless writer, and the number of their frames."""
    with h5py.File(path, "r", swmr=True, locking=False) as file:
        n = int(file["trajcast_jax/n_frames"][()])
        chunk = np.arange(n) // 50
        np.testing.assert_array_equal(file["particles/all/position/value"][:n, -1, -1], chunk)
        np.testing.assert_array_equal(file["particles/all/velocity/value"][:n, -1, -1], -chunk)
        np.testing.assert_array_equal(file["observables/energy/value"][:n], chunk)
    assert n % 50 == 0
    return n


def test_killed_writer_loses_nothing_complete(tmp_path):
    path = tmp_path / "run.h5"
    process = start_writer(path)
    assert process.stdout.readline() == "ready\n"
    system = make_system(np.zeros((500, 3)), np.zeros((500, 3)), [18] * 500, masses=np.ones(500))
    system = system.replace(cell=np.eye(3) * 50)
    with pytest.raises(OSError, match="being written by another process"):
        io.H5MDWriter(path, system, 10.0)
    before = assert_whole(path)  # while it is being written
    time.sleep(0.2)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    n_frames = assert_whole(path)
    assert n_frames >= max(before, 300)
    frames = np.full((1, 500, 3), -1, np.float32)
    with io.H5MDWriter(path, system, 10.0) as writer:
        assert writer.n_frames == n_frames
        writer.append(system.replace(positions=frames, velocities=frames), {"energy": -np.ones(1)})
    found, times = io.read_trajectory(path)
    assert len(found.positions) == n_frames + 1
    np.testing.assert_array_equal(found.positions[:-1, 0, 0], np.arange(n_frames) // 50)
    assert times[-1] == 10.0 * n_frames
    h5py.File(path, "r").close()  # mended: no longer marked as open


def test_disk_that_fills_in_a_write_loses_nothing_complete(tmp_path):
    path = tmp_path / "run.h5"
    process = start_writer(path, limit=9_000_000)
    _, errors = process.communicate()
    assert "could not be written to" in errors
    n_frames = assert_whole(path)
    assert f"The {n_frames} frames before them are kept" in errors
    assert n_frames >= 300


# Bad input


def edit_frame(number, change):
    return lambda frames: change(frames[number])


def without_velocities(frames):
    for atoms in frames:
        del atoms.arrays["momenta"]


def faster(factor):
    return lambda frames: [a.set_momenta(factor * a.get_momenta()) for a in frames]


def set_pbc(frames):
    for atoms in frames:
        atoms.pbc = [True, True, False]


def no_times(frames):
    for atoms in frames:
        del atoms.info["time"]


BAD = {
    "no velocities": (without_velocities, "has no velocities"),
    "wrong unit": (faster(1e3), r"read in ASE's unit .* temperature of \d.*e\+0\d K"),
    "at rest": (faster(0.0), "temperature of 0 K"),
    "NaN": (
        edit_frame(7, lambda a: a.positions.__setitem__((2, 1), np.nan)),
        "positions of atom 2 in frame 7 .* not finite",
    ),
    "contact": (
        edit_frame(0, lambda a: a.positions.__setitem__(2, a.positions[1] + CELL[0] + [0, 0.2, 0])),
        "Atoms Ar 1 and O 2 in frame 0 .* are 0.20 Å apart",
    ),
    "number": (edit_frame(4, lambda a: a.pop()), "Frame 4 .* has 3 atoms, but the first has 4"),
    "order": (
        edit_frame(4, lambda a: a.set_atomic_numbers(SPECIES[::-1])),
        "Atom 0 in frame 4 .* is Si, but Ar in the first",
    ),
    "cell": (
        edit_frame(4, lambda a: a.set_cell(CELL * 1.01)),
        "cell of frame 4 .* constant volume",
    ),
    "mixed pbc": (set_pbc, "periodic in some directions only"),
    "no times": (no_times, "does not tell the times"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_trajectory_is_one_clear_sentence(tmp_path, case):
    edit, message = BAD[case]
    path = write_ase(tmp_path / "run.extxyz", edit=edit)
    with pytest.raises(ValueError, match=message) as caught:
        io.read_trajectory(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def write_column(path, name, factor, comment=""):
    """A frame whose velocities are a plain column, `factor` times those in Å/fs."""
    trajectory, _ = make_trajectory(n_frames=1)
    lattice = " ".join(map(str, CELL.ravel()))
    lines = ["4", f'Lattice="{lattice}" Properties=species:S:1:pos:R:3:{name}:R:3 {comment}']
    for z, r, v in zip(
        SPECIES, trajectory.positions[0], factor * trajectory.velocities[0], strict=True
    ):
        symbol = Atoms([z]).get_chemical_formula()
        lines.append(" ".join([symbol, *(f"{x:.9g}" for x in (*r, *v))]))
    path.write_text("\n".join(lines) + "\n")
    return path, trajectory


@pytest.mark.parametrize(
    ("name", "factor", "comment"),
    [
        ("velocities", 1.0, ""),
        ("vel", 1.0, "velocity_unit=angstrom/fs"),
        ("velo", 1e3, "velocity_unit=angstrom/ps"),
        ("velocities", 1 / ase.units.fs, "velocity_unit=ase"),
    ],
)
def test_velocity_column_is_read_in_its_unit(tmp_path, name, factor, comment):
    path, trajectory = write_column(tmp_path / "run.extxyz", name, factor, comment)
    np.testing.assert_allclose(io.read(path).velocities, trajectory.velocities[0], rtol=1e-6)


def test_velocity_column_of_unknown_unit_is_refused(tmp_path):
    path, _ = write_column(tmp_path / "a.extxyz", "velocities", 1e3)
    with pytest.raises(
        ValueError, match=r"read in angstrom/fs, mean a temperature of \d.*e\+0\d K"
    ):
        io.read(path)
    path, _ = write_column(tmp_path / "b.extxyz", "velocities", 1.0, "velocity_unit=furlong")
    with pytest.raises(ValueError, match="in 'furlong'; known are angstrom/fs"):
        io.read(path)


def test_a_structure_alone_is_a_start_at_rest(tmp_path):
    trajectory, _ = make_trajectory()
    for path in (write(tmp_path / "run.h5", trajectory), tmp_path / "POSCAR"):
        if not path.exists():
            atoms = Atoms(SPECIES, np.asarray(trajectory.positions[-1]), cell=CELL, pbc=True)
            atoms.write(path, format="vasp")
            with pytest.raises(ValueError, match=r"no velocities; .* --thermalize"):
                io.read(path)
        found = io.read(path, still=True)
        np.testing.assert_array_equal(found.velocities, 0.0)
        assert np.asarray(found.positions).std() == pytest.approx(
            np.asarray(trajectory.positions[-1]).std(), rel=1e-4
        )


def test_missing_file_names_the_nearest(tmp_path):
    write_ase(tmp_path / "quartz.extxyz")
    with pytest.raises(FileNotFoundError, match=r"did you mean quartz\.extxyz"):
        io.read(tmp_path / "quarz.extxyz")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        io.read(tmp_path)


def test_unknown_format_and_missing_frame(tmp_path):
    path = tmp_path / "run.foo"
    path.write_text("hello")
    with pytest.raises(ValueError, match="no known trajectory format"):
        io.read(path)
    with pytest.raises(IndexError, match="Frame 20 is not in"):
        io.read(write_ase(tmp_path / "run.extxyz"), 20)
    with pytest.raises(ValueError, match="has no frames from 30"):
        io.read_trajectory(tmp_path / "run.extxyz", 30)
    trajectory, _ = make_trajectory()
    path = write(tmp_path / "run.h5", trajectory)
    with pytest.raises(IndexError, match="has 20 frames"):
        io.read(path, 20)
    with pytest.raises(ValueError, match="has no frames from 30"):
        io.read_trajectory(path, 30)


def test_truncated_and_foreign_hdf5(tmp_path):
    trajectory, _ = make_trajectory()
    path = write(tmp_path / "run.h5", trajectory)
    content = path.read_bytes()
    for share in (0.0005, 0.001, 0.003, 0.01, 0.1, 0.5, 0.99):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match="truncated or no HDF5 file"):
            io.read(path)
    # Of a file whose writer was killed, or is at work, HDF5 would look for the rest without end.
    with io.H5MDWriter(path.with_name("live.h5"), trajectory, 10.0) as writer:
        for _ in range(40):
            writer.append(trajectory)
        content = path.with_name("live.h5").read_bytes()
    for share in (0.001, 0.01, 0.1, 0.5, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match="truncated or no HDF5 file"):
            io.read(path)
    path.write_bytes(b"not HDF5 at all")
    with pytest.raises(ValueError, match="truncated or no HDF5 file"):
        io.read_trajectory(path)
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(ValueError, match="HDF5 file with no position/value"):
        io.read_trajectory(path)


def foreign_h5md(path, **changes):
    """What another program might write: other names, nm and ps, wrapped, time by its step only."""
    trajectory, _ = make_trajectory()
    cell = np.diag([6.0, 6.0, 7.0])
    positions = np.asarray(trajectory.positions, np.float64) % np.diag(cell)
    units = {"length": "nm", "velocity": "nm ps-1"} | changes
    with h5py.File(path, "w") as file:
        group = file.create_group("particles/solute")
        box = group.create_group("box")
        box.attrs["boundary"] = changes.get("boundary", ["periodic"] * 3)
        box["edges"] = np.diag(cell) / 10
        box["edges"].attrs["unit"] = units["length"]
        group["species"] = SPECIES
        for name, value, unit in (
            ("position", positions / 10, units["length"]),
            ("velocity", np.asarray(trajectory.velocities) * 100, units["velocity"]),
        ):
            if name == "velocity" and "no_velocity" in changes:
                continue
            group[f"{name}/value"] = value
            group[f"{name}/value"].attrs["unit"] = unit
            group[f"{name}/time"] = changes.get(f"{name}_time", 0.01)
            group[f"{name}/time"].attrs["unit"] = "ps"
    return path, trajectory


def test_foreign_h5md_is_converted(tmp_path):
    path, trajectory = foreign_h5md(tmp_path / "run.h5")
    found, times = io.read_trajectory(path)
    np.testing.assert_allclose(times, 10.0 * np.arange(20))
    np.testing.assert_allclose(found.velocities, trajectory.velocities, rtol=1e-5)
    np.testing.assert_allclose(found.cell, np.diag([6.0, 6.0, 7.0]), rtol=1e-6)
    np.testing.assert_allclose(
        np.diff(found.positions, axis=0), np.diff(trajectory.positions, axis=0), atol=2e-6
    )
    with pytest.raises(ValueError, match="not written by trajcast_jax"):
        io.H5MDWriter(path, trajectory, 10.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"no_velocity": True}, "no velocities"),
        ({"velocity_time": 0.05}, "positions and velocities at different steps"),
        ({"velocity_time": 0.02 * np.arange(20)}, "positions and velocities at different steps"),
        ({"velocity": "knots"}, "'knots'; it must state one of Angstrom fs-1"),
        ({"velocity": "Angstrom fs-1"}, r"mean a temperature of \d.*e\+0\d K"),
        ({"boundary": ["periodic", "periodic", "none"]}, "periodic in some directions only"),
    ],
)
def test_bad_foreign_h5md(tmp_path, change, message):
    path, _ = foreign_h5md(tmp_path / "run.h5", **change)
    with pytest.raises(ValueError, match=message):
        io.read_trajectory(path)


def test_a_forecast_gone_wild_remains_readable(tmp_path):
    trajectory, _ = make_trajectory()
    wild = trajectory.replace(velocities=1e3 * trajectory.velocities)
    path = write(tmp_path / "wild.h5", wild)
    assert_same(io.read_trajectory(path)[0], wild)
    broken = trajectory.replace(velocities=trajectory.velocities.at[12, 3, 0].set(np.nan))
    path = write(tmp_path / "broken.h5", broken)
    with pytest.raises(ValueError, match=r"velocities of atom 3 in frame 12 .*stop=12"):
        io.read_trajectory(path)
    assert_same(io.read_trajectory(path, stop=12)[0], part(trajectory, slice(0, 12)))
