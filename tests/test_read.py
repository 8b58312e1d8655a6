"""Reading trajectories: bad and foreign input is converted, or refused in one clear sentence."""

import threading
import time

import ase.io
import ase.units
import h5py
import numpy as np
import pytest
from ase import Atoms
from trajectories import CELL, SPECIES, assert_same, make_trajectory, part, write, write_ase

from trajcast_jax import io
from trajcast_jax.io import h5md, locks


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


def test_a_damaged_file_of_a_dead_writer_is_an_error_at_once(tmp_path):
    """In a reader's SWMR mode, HDF5 would read a damaged part again and again."""
    trajectory, _ = make_trajectory()
    path = tmp_path / "live.h5"
    with io.H5MDWriter(path, trajectory, 10.0) as writer:
        for _ in range(3):
            writer.append(trajectory)
        content = path.read_bytes()
    path.write_bytes(content)
    assert io.n_frames(path) == 60
    for at in (291, 437, 1051, 1583, 1664, 1846):
        mutant = bytearray(content)
        mutant[at] ^= 4
        path.write_bytes(mutant)
        with pytest.raises(ValueError, match=r"live\.h5 cannot be (read|opened)"):
            io.read_trajectory(path)


def test_a_damaged_file_of_a_living_writer_is_an_error_after_a_while(tmp_path, monkeypatch):
    trajectory, _ = make_trajectory()
    path = tmp_path / "live.h5"
    with io.H5MDWriter(path, trajectory, 10.0) as writer:
        for _ in range(3):
            writer.append(trajectory)
        assert_same(io.read_trajectory(path, stop=20)[0], trajectory)
        content = path.read_bytes()
    monkeypatch.setattr(h5md, "PATIENCE", 0.3)
    with locks.locked(path, "is being written"):
        for at in (291, 437, 1051, 1846):
            mutant = bytearray(content)
            mutant[at] ^= 4
            path.write_bytes(mutant)
            start = time.monotonic()
            with pytest.raises(ValueError, match=r"live\.h5 cannot be (read|opened)"):
                io.read_trajectory(path)
            assert 0.2 < time.monotonic() - start < 5
        path.write_bytes(mutant)
        monkeypatch.setattr(h5md, "PATIENCE", 60.0)  # other processes may keep the timer waiting
        mend = threading.Timer(0.1, path.write_bytes, (content,))  # what was half written is whole
        mend.start()
        assert io.n_frames(path) == 60
        mend.join()


def test_a_file_that_claims_to_be_huge_is_refused(tmp_path):
    path, _ = foreign_h5md(tmp_path / "run.h5")
    with h5py.File(path, "a") as file:
        for name in ("position", "velocity"):
            group = file[f"particles/solute/{name}"]
            del group["value"]
            data = group.create_dataset("value", (10**9, 4, 3), "f8", chunks=(100, 4, 3))
            data.attrs["unit"] = {"position": "nm", "velocity": "nm ps-1"}[name]
    with pytest.raises(ValueError, match=r"run\.h5: .* is to have 96,000,000,000 bytes"):
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
