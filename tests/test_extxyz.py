"""Columns and units of extended XYZ that ASE does not use: masses, ids, LAMMPS's unit styles."""

import numpy as np
import pytest
from dumps import SYMBOLS, TRICLINIC, motion

from trajcast_jax import io
from trajcast_jax.io import FileNote, ReadOptions
from trajcast_jax.units import LAMMPS_UNITS

N = 12
R, V = motion(N)
Z = np.where(SYMBOLS == "Si", 14, 8)
STANDARD = np.where(SYMBOLS == "Si", 28.085, 15.999)
HEAVY = np.where(SYMBOLS == "Si", 28.085, 17.999)


def write_columns(path, columns, head="Time={time:.6f}", order=lambda i: range(len(Z)), **scale):
    """Extended XYZ with columns {Properties: values(frame) (atom, ...)}, one after the other."""
    s = {"length": 1.0, "time": 1.0} | scale
    lattice = " ".join(f"{x / s['length']:.12g}" for x in TRICLINIC.ravel())
    with open(path, "w") as file:
        for i in range(N):
            properties = "species:S:1:" + ":".join(columns)
            comment = head.format(time=10.0 * i / s["time"], step=10 * i)
            file.write(f'54\n{comment} Lattice="{lattice}" Properties={properties}\n')
            for a in order(i):
                values = np.concatenate([np.ravel(c(i)[a]) for c in columns.values()])
                file.write(f"{SYMBOLS[a]} " + " ".join(f"{x:.10g}" for x in values) + "\n")
    return path


POS, VEL = {"pos:R:3": lambda i: R[i]}, {"vel:R:3": lambda i: V[i]}


def assert_read(path, masses=STANDARD, options=ReadOptions()):  # noqa: B008 (frozen)
    run, times = io.read_trajectory(path, options=options)
    np.testing.assert_array_equal(run.species, Z)
    np.testing.assert_allclose(run.masses, masses, rtol=1e-4)
    np.testing.assert_allclose(run.positions - run.positions[0], R - R[0], atol=2e-5)
    np.testing.assert_allclose(run.velocities, V, atol=1e-7)
    np.testing.assert_allclose(np.diff(times), 10.0, rtol=1e-5)


@pytest.mark.parametrize("name", ["mass", "Mass", "masses"])
def test_masses_of_a_column_by_either_name(tmp_path, name):
    columns = {f"{name}:R:1": lambda i: HEAVY} | POS | VEL
    with pytest.warns(FileNote, match="O 17.999"):
        assert_read(write_columns(tmp_path / "heavy.xyz", columns), HEAVY)
    swapped = {f"{name}:R:1": lambda i: np.where(Z == 14, 15.999, 28.085)} | POS | VEL
    path = write_columns(tmp_path / "swapped.xyz", swapped)
    with pytest.raises(ValueError, match=r"Si a mass of 15.999 Da, but Si has 28.085.*--species"):
        io.read_trajectory(path)
    changing = {f"{name}:R:1": lambda i: STANDARD if i < 5 else HEAVY} | POS | VEL
    with pytest.raises(ValueError, match=r"masses in frame 5 of .*changing.xyz are not those"):
        io.read_trajectory(write_columns(tmp_path / "changing.xyz", changing))


def test_masses_that_are_none_or_stand_twice(tmp_path):
    both = {"mass:R:1": lambda i: HEAVY, "masses:R:1": lambda i: STANDARD} | POS | VEL
    with pytest.raises(ValueError, match=r"masses twice.*15.999 in the column 'masses', but 17.9"):
        io.read_trajectory(write_columns(tmp_path / "both.xyz", both))
    text = {"mass:S:1": lambda i: HEAVY} | POS | VEL
    path = write_columns(tmp_path / "text.xyz", text)
    path.write_text(path.read_text().replace("17.999", "heavy"))
    with pytest.raises(ValueError, match=r"column 'mass' in frame 0 of .*text.xyz is no number"):
        io.read_trajectory(path)


@pytest.mark.parametrize("n_frames", [2, N])
def test_rows_that_change_their_order_are_sorted_by_id(tmp_path, n_frames):
    def order(i):  # silicon stays with silicon, which no check of symbols would notice
        random, rows = np.random.default_rng(i), np.arange(54)
        for z in (8, 14):
            rows[z == Z] = random.permutation(rows[z == Z])
        return rows

    columns = {"mass:R:1": lambda i: STANDARD} | POS | VEL | {"id:I:1": lambda i: np.arange(1, 55)}
    path = write_columns(tmp_path / "run.xyz", columns, order=order)
    options = ReadOptions(last=n_frames - 1)
    run, _ = io.read_trajectory(path, options=options)
    np.testing.assert_allclose(run.positions - run.positions[0], (R - R[0])[:n_frames], atol=2e-5)
    np.testing.assert_allclose(run.velocities, V[:n_frames], atol=1e-7)
    np.testing.assert_allclose(io.read(path).velocities, V[-1], atol=1e-7)


def test_ids_that_number_something_else(tmp_path):
    same = {"id:I:1": lambda i: np.arange(54) // 3} | POS | VEL  # of molecules
    assert_read(write_columns(tmp_path / "same.xyz", same))
    for name, ids in (
        ("twice", lambda i: (np.arange(54) + i) // 3),
        ("new", lambda i: np.arange(54) + i),
    ):
        path = write_columns(tmp_path / f"{name}.xyz", {"id:I:1": ids} | POS | VEL)
        with pytest.raises(ValueError, match=r"'id' in frame 1 of .* does not number the same"):
            io.read_trajectory(path)


@pytest.mark.parametrize("style", ["metal", "real", "electron", "si"])
def test_extended_xyz_in_a_unit_style_of_lammps(tmp_path, style):
    length, time, speed, mass = LAMMPS_UNITS[style]
    columns = {
        "pos:R:3": lambda i: R[i] / length,
        "vel:R:3": lambda i: V[i] / speed,
        "mass:R:1": lambda i: STANDARD / mass,
    }
    head = 'Timestep={step} Time={time:.10g} pbc="T T T"'
    path = write_columns(tmp_path / "run.extxyz", columns, head, length=length, time=time)
    assert_read(path, options=ReadOptions(units=style))
    one = io.read(path, options=ReadOptions(units=style))
    np.testing.assert_allclose(one.velocities, V[-1], atol=1e-7)
    if style in ("metal", "si"):
        with pytest.raises(ValueError, match=r".+"):  # never read in Å and fs without a word
            io.read_trajectory(path)
    if style == "metal":
        with pytest.raises(ValueError, match=r"mean a temperature.*--units metal"):
            io.read_trajectory(path)
        with pytest.raises(ValueError, match=r"move by.*--units metal"):
            io.read_trajectory(path, options=ReadOptions(velocity_unit="angstrom/ps"))
        twice = ReadOptions(units="metal", velocity_unit="angstrom/ps")
        assert_read(path, options=twice)
        with pytest.raises(ValueError, match=r"in angstrom/fs, .* not those of units metal"):
            io.read(path, options=ReadOptions(units="metal", velocity_unit="angstrom/fs"))
