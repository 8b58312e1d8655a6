"""LAMMPS dumps: read as they are meant, or refused with a question."""

import numpy as np
import pytest
from dumps import SYMBOLS, TRICLINIC, write_dump

from trajcast_jax import io
from trajcast_jax.io import FileNote, ReadOptions

Z = np.where(SYMBOLS == "Si", 14, 8)
METAL = ReadOptions(units="metal", md_step=1.0)
VELOCITIES = "vx vy vz"


def assert_read(path, r, v, options=METAL, rows=slice(None)):
    """The file holds the known motion; positions may be shifted by whole cells and an origin."""
    run, times = io.read_trajectory(path, options=options)
    r, v = r[rows], v[rows]
    np.testing.assert_allclose(np.diff(run.positions, axis=0), np.diff(r, axis=0), atol=2e-5)
    apart = np.asarray(run.positions[0], float) - r[0]
    if run.cell is not None:
        shift = (apart - apart[0]) @ np.linalg.inv(np.asarray(run.cell, float))
        np.testing.assert_allclose(shift, np.round(shift), atol=1e-4)
    np.testing.assert_allclose(run.velocities, v, atol=1e-7)
    np.testing.assert_array_equal(run.species, Z)
    np.testing.assert_allclose(times - times[0], 10.0 * np.arange(len(r)))
    return run


@pytest.mark.parametrize("form", ["x y z", "x y z ix iy iz", "xs ys zs", "xu yu zu", "xsu ysu zsu"])
@pytest.mark.parametrize("shape", ["restricted", "general", "orthogonal"])
def test_all_forms_of_positions_and_boxes(tmp_path, form, shape):
    cell = np.diag([9.0, 9.5, 10.0]) if shape == "orthogonal" else TRICLINIC
    box = "general" if shape == "general" else "restricted"
    path, r, v = write_dump(
        tmp_path / "run.lammpstrj", f"id element {form} {VELOCITIES}", cell=cell, form=box,
        origin=(-1.0, 2.0, 0.5),
    )  # fmt: skip
    run = assert_read(path, r, v)
    np.testing.assert_allclose(run.cell, cell, atol=1e-5)
    last = io.read(path, options=METAL)
    np.testing.assert_allclose(last.velocities, v[-1], atol=1e-7)


def test_gzip_units_and_time_that_the_file_states(tmp_path):
    path, r, v = write_dump(tmp_path / "a.lammpstrj.gz", units="metal", time=True)
    assert_read(path, r, v, ReadOptions())
    path, r, v = write_dump(tmp_path / "b.dump", units="real", speed=1.0)
    assert_read(path, r, v, ReadOptions(time_step=10.0))
    path, r, v = write_dump(tmp_path / "c.si", units="si", speed=1e5, scale=1e-10)
    assert_read(path, r, v, ReadOptions(time_step=10.0))
    with pytest.raises(ValueError, match="is in units real, but metal was given"):
        io.read_trajectory(tmp_path / "b.dump", options=METAL)


def test_units_are_asked_for(tmp_path):
    path, _, _ = write_dump(tmp_path / "run.lammpstrj")
    with pytest.raises(ValueError, match=r"mean 2\d\d K in units metal .* in units real .* which"):
        io.read_trajectory(path, options=ReadOptions(md_step=1.0))
    with pytest.raises(ValueError, match="unit style of this dump by units") as caught:
        io.read(path, options=ReadOptions(units="real"))
    assert "extended XYZ" not in str(caught.value)
    with pytest.raises(ValueError, match="known are metal, real"):
        ReadOptions(units="imperial")
    with pytest.raises(ValueError, match="units lj have no Å"):
        ReadOptions(units="lj")
    io.read_trajectory(path, options=ReadOptions(velocity_unit="angstrom/ps", md_step=1.0))
    with pytest.raises(ValueError, match="whose velocities are not in angstrom/fs"):
        io.read(path, options=ReadOptions(units="metal", velocity_unit="angstrom/fs"))
    with pytest.raises(ValueError, match="in which of LAMMPS's units its lengths are"):
        io.read(path, options=ReadOptions(velocity_unit="m/s"))


def test_types_are_asked_for(tmp_path):
    columns = f"id type xs ys zs {VELOCITIES}"
    path, r, v = write_dump(tmp_path / "run.lammpstrj", columns)
    with pytest.raises(ValueError, match=r"types 1 \(18 atoms\), 2 \(36 atoms\).*--species Si O"):
        io.read_trajectory(path, options=METAL)
    for species in (("Si", "O"), ("1=Si", "2=O"), tuple(SYMBOLS)):
        options = ReadOptions(units="metal", md_step=1.0, species=species)
        assert_read(path, r, v, options)
    assert_read(path, r, v, ReadOptions(units="metal", md_step=1.0, species=("Si", "O", "H")))
    for species, message in (
        (("Si",), "2 types of atoms"),
        (("1=Si",), "does not tell what 2 is"),
        (("Si", "Qq"), "'Qq', which is no element"),
    ):
        with pytest.raises(ValueError, match=message):
            io.read(path, options=ReadOptions(units="metal", species=species))


def test_elements_by_mass_and_what_lammps_writes_by_default(tmp_path):
    path, r, v = write_dump(tmp_path / "a.lammpstrj", f"id type mass x y z {VELOCITIES}")
    with pytest.warns(FileNote, match=r"taken from masses: .*28.085 Da is Si"):
        assert_read(path, r, v)
    wrong = ReadOptions(units="metal", species=("O", "Si"))
    with pytest.raises(ValueError, match=r"type 1 a mass of 28.085 Da, but O has 15.999"):
        io.read(path, options=wrong)
    path, r, v = write_dump(tmp_path / "b.lammpstrj", symbols=["C"] * 54)
    with pytest.raises(ValueError, match=r"calls all atoms C, .*--species Si O"):
        io.read_trajectory(path, options=METAL)
    dummies = np.where(np.arange(54) % 3 == 2, "X", SYMBOLS)
    path, r, v = write_dump(tmp_path / "c.lammpstrj", symbols=dummies)
    with pytest.warns(FileNote, match="18 sites without an element and mass were left out"):
        assert io.read(path, options=METAL).positions.shape == (36, 3)
    path, _, _ = write_dump(
        tmp_path / "d.lammpstrj", f"id mass element x y z {VELOCITIES}", symbols=dummies
    )
    with pytest.raises(ValueError, match=r"without an element .X. a mass"):
        io.read(path, options=METAL)
    heavy = np.where(SYMBOLS == "O", "D", "T")
    found = io.read(write_dump(tmp_path / "e.dump", symbols=heavy)[0], options=METAL)
    assert set(np.asarray(found.species)) == {1}
    np.testing.assert_allclose(found.masses, np.where(SYMBOLS == "O", 2.014, 3.016), rtol=1e-6)


def test_a_run_that_was_killed_loses_its_last_frame_only(tmp_path):
    path, r, v = write_dump(tmp_path / "run.lammpstrj")
    text = path.read_text()
    starts = [i for i in range(len(text)) if text.startswith("ITEM: TIMESTEP", i)]
    for stop in (starts[-1] + 16, starts[-1] + 60, len(text) - 200, len(text) - 3):
        path.write_text(text[:stop])
        with pytest.warns(FileNote, match=r"frame 29 is cut short"):
            assert_read(path, r, v, rows=slice(0, 29))
    path.write_text(text[: starts[10]] + text[starts[10] : starts[11] - 300] + text[starts[11] :])
    with pytest.raises(ValueError, match="steps 90 and 110"), pytest.warns(FileNote):
        io.read_trajectory(path, options=METAL)


def test_boundaries_are_asked_for(tmp_path):
    path, r, v = write_dump(tmp_path / "a.lammpstrj", flags="")
    with pytest.raises(ValueError, match=r"no boundary flags .*--periodic or --no-periodic"):
        io.read(path, options=METAL)
    run = assert_read(path, r, v, ReadOptions(units="metal", md_step=1.0, periodic=True))
    assert run.cell is not None
    single = ReadOptions(units="metal", periodic=False)
    assert io.read(path, options=single).cell is None
    path, _, _ = write_dump(tmp_path / "b.lammpstrj", flags="pp pp ff")
    with pytest.raises(ValueError, match="periodic in some directions only"):
        io.read(path, options=METAL)
    path, _, _ = write_dump(tmp_path / "c.lammpstrj", flags="ff ss fm")
    assert io.read(path, options=METAL).cell is None
    with pytest.raises(ValueError, match="not periodic, but they should be"):
        io.read(path, options=ReadOptions(units="metal", periodic=True))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("id element x y z", "has no velocities .* dump 1 all custom"),
        (f"element x y z {VELOCITIES}", "no column 'id'"),
        (f"id x y z {VELOCITIES}", "neither elements nor types"),
        (f"id element {VELOCITIES}", "has no positions"),
    ],
)
def test_missing_columns_are_named(tmp_path, columns, message):
    path, _, _ = write_dump(tmp_path / "run.lammpstrj", columns)
    with pytest.raises(ValueError, match=message):
        io.read_trajectory(path, options=METAL)


def test_what_changes_along_the_run(tmp_path):
    path, _, _ = write_dump(tmp_path / "run.lammpstrj")
    text = path.read_text()
    starts = [i for i in range(len(text)) if text.startswith("ITEM: TIMESTEP", i)]
    head, tail = text[: starts[5]], text[starts[5] :]
    path.write_text(head + tail.replace(" 10\n", " 10.2\n", 1).replace("0 10 0.5", "0 10.2 0.5"))
    with pytest.raises(ValueError, match=r"The cell of frame 5 .* constant volume"):
        io.read_trajectory(path, options=METAL)
    lines = tail.splitlines(keepends=True)
    fewer = [line.replace("54", "53") if k == 3 else line for k, line in enumerate(lines)]
    del fewer[10]
    path.write_text(head + "".join(fewer))
    with pytest.raises(ValueError, match=r"Frame 5 .* has 53 atoms, but the first has 54"):
        io.read_trajectory(path, options=METAL)
    with pytest.raises(IndexError, match="Frame -99 is not in"):
        io.read(write_dump(path)[0], -99, options=METAL)
