"""Files of CP2K, DFTB+, i-PI, GROMACS, AMBER, VASP and ASE: what they leave open is asked for."""

import ase.io
import ase.units
import numpy as np
import pytest
from ase import Atoms
from dumps import MASSES, SYMBOLS, TRICLINIC, motion, wrapped

from trajcast_jax import io
from trajcast_jax.io import FileNote, ReadOptions
from trajcast_jax.io.species import from_names
from trajcast_jax.system import make_system
from trajcast_jax.units import VELOCITY_UNITS

CELL = np.diag([9.0, 9.5, 10.0])
SIDES = (9.0, 9.5, 10.0)
Z = np.where(SYMBOLS == "Si", 14, 8)
N = 12
R, V = motion(N, CELL)


def assert_read(path, options, atol=2e-5, cell=CELL, **more):
    run, times = io.read_trajectory(path, options=options)
    np.testing.assert_array_equal(run.species, more.get("species", Z))
    np.testing.assert_allclose(
        np.diff(run.positions, axis=0), np.diff(more.get("r", R), axis=0), atol=2 * atol
    )
    np.testing.assert_allclose(run.velocities, more.get("v", V), atol=more.get("vtol", 1e-6))
    np.testing.assert_allclose(times - times[0], 10.0 * np.arange(N), rtol=1e-6)
    if cell is None:
        assert run.cell is None
    else:
        np.testing.assert_allclose(run.cell, cell, atol=1e-4)
    return run


def write_columns(path, comment, *tables):
    with open(path, "w") as file:
        for i in range(N):
            file.write(f"{len(Z)}\n{comment(i)}\n")
            for a, symbol in enumerate(SYMBOLS):
                numbers = " ".join(f"{x:.10f}" for t in tables for x in np.ravel(t[i][a]))
                file.write(f"{symbol} {numbers}\n")
    return path


def cp2k(i):
    return f" i = {20 * i:8d}, time = {10.0 * i:12.3f}, E = {-17.1:20.10f}"


def test_a_pair_of_files_of_cp2k(tmp_path):
    inside, _ = wrapped(R, CELL)
    path = write_columns(tmp_path / "water-pos-1.xyz", cp2k, inside)
    other = tmp_path / "water-vel-1.xyz"
    write_columns(other, cp2k, V / VELOCITY_UNITS["bohr/atu"])
    with pytest.raises(ValueError, match=r"no velocities; .*--velocities"):
        io.read_trajectory(path)
    with pytest.raises(ValueError, match=r"tell the cell.*--cell a b c.*--no-periodic"):
        io.read_trajectory(path, options=ReadOptions(velocities=other))
    with pytest.warns(FileNote, match="read in bohr/atu, as CP2K writes them"):
        assert_read(path, ReadOptions(velocities=other, cell=SIDES))
    write_columns(other, cp2k, V / VELOCITY_UNITS["angstrom/ps"])
    said = ReadOptions(velocities=other, cell=SIDES, velocity_unit="angstrom/ps")
    assert_read(path, said)
    with pytest.raises(ValueError, match=r"move by|mean a temperature"), pytest.warns(FileNote):
        io.read_trajectory(path, options=ReadOptions(velocities=other, cell=SIDES))
    write_columns(other, lambda i: cp2k(i + 1), V)
    with pytest.raises(ValueError, match=r"Frame 0 is at 0 in .*but at 20 in"):
        io.read_trajectory(path, options=said)


def test_dftb_and_ipi(tmp_path):
    charges = np.zeros((N, 54, 1))
    path = write_columns(
        tmp_path / "geo_end.xyz", lambda i: f"MD iter: {20 * i}", R, charges, 1e3 * V
    )
    with pytest.raises(ValueError, match="--md-timestep"):
        io.read_trajectory(path, options=ReadOptions(cell=SIDES))
    assert_read(path, ReadOptions(cell=SIDES, md_step=0.5))
    bohr = 0.529177210903

    def comment(name, unit):
        sides = " ".join(f"{x / bohr:.6f}" for x in SIDES)
        return lambda i: (f"# CELL(abcABC): {sides} 90.0 90.0 90.0 Step: {5 * i} Bead: 0 "
                          f"{name}{{{unit}}} cell{{atomic_unit}}")  # fmt: skip

    path = write_columns(tmp_path / "x.xyz", comment("positions", "angstrom"), R)
    other = tmp_path / "v.xyz"
    write_columns(other, comment("velocities", "atomic_unit"), V / VELOCITY_UNITS["bohr/atu"])
    assert_read(path, ReadOptions(velocities=other, md_step=2.0))
    with pytest.raises(ValueError, match="holds positions, not velocities"):
        io.read_trajectory(path, options=ReadOptions(velocities=path, md_step=2.0))


def write_gro(path, names, residues, r, v=None, box=SIDES):
    with open(path, "w") as file:
        for i in range(len(r)):
            file.write(f"Made by hand t= {0.01 * i:.5f} step= {20 * i}\n{len(names)}\n")
            for a, (name, residue) in enumerate(zip(names, residues, strict=True)):
                line = f"{a + 1:5d}{residue:<5}{name:>5}{a + 1:5d}"
                line += "".join(f"{x / 10:10.5f}" for x in r[i][a])
                if v is not None:
                    line += "".join(f"{100 * x:10.6f}" for x in v[i][a])
                file.write(line + "\n")
            file.write(" ".join(f"{x / 10:.5f}" for x in box) + "\n")
    return path


def test_names_and_residues_of_gro(tmp_path):
    names, residues = (["OW", "HW1", "HW2", "MW"] * 14)[:54], ["SOL"] * 54
    names[-2:], residues[-2:] = ["NA", "CL"], ["NA", "CL"]
    path = write_gro(tmp_path / "run.gro", names, residues, R, V)
    symbols = [{"OW": 8, "HW1": 1, "HW2": 1, "MW": 0, "NA": 11, "CL": 17}[n] for n in names]
    species = np.array(symbols)
    real = species > 0
    with pytest.warns(FileNote, match=r"elements were taken from names.*|13 sites without"):
        assert_read(
            path, ReadOptions(), atol=2e-4, vtol=2e-8, species=species[real],
            r=R[:, real], v=V[:, real],
        )  # fmt: skip
    with pytest.raises(ValueError, match="has no velocities; let GROMACS write"):
        io.read(write_gro(tmp_path / "still.gro", names, residues, R))
    with pytest.warns(FileNote):
        assert io.read(tmp_path / "still.gro", still=True).positions.shape[0] == real.sum()
    names = ["CA"] * 54
    path = write_gro(tmp_path / "ligand.gro", names, ["LIG"] * 54, R, V)
    with pytest.raises(ValueError, match="may mean several elements; say which: --species CA=C"):
        io.read(path)
    with pytest.warns(FileNote):
        assert set(np.asarray(io.read(path, options=ReadOptions(species=("CA=C",))).species)) == {6}


def test_names_by_their_residue(tmp_path):
    def of(name, residue):
        with pytest.warns(FileNote):
            return int(from_names([name], [residue], ReadOptions(), tmp_path).species[0])

    for name, residue, z in (
        ("CA", "ALA", 6), ("CA", "CA", 20), ("NA", "NA", 11), ("HG", "SER", 1), ("SG", "CYS", 16),
        ("OH2", "TIP3", 8), ("CLA", "CLA", 17), ("1HB", "ALA", 1), ("H12", "LIG", 1),
    ):  # fmt: skip
        assert of(name, residue) == z
    for name, residue in (("NA", "HEM"), ("CL1", "LIG"), ("QQ", "ALA"), ("12", "LIG")):
        with pytest.raises(ValueError, match="may mean several elements"):
            from_names([name], [residue], ReadOptions(), tmp_path)


def test_gromacs_and_amber_by_mdanalysis(tmp_path):
    mda = pytest.importorskip("MDAnalysis")
    universe = mda.Universe.empty(54, trajectory=True, velocities=True)
    universe.add_TopologyAttr("names", [s.upper() for s in SYMBOLS])
    universe.add_TopologyAttr("resnames", ["SIO"])
    universe.add_TopologyAttr("elements", SYMBOLS)
    inside, _ = wrapped(R, CELL)
    universe.atoms.positions = inside[0]
    universe.dimensions = [*SIDES, 90, 90, 90]
    universe.atoms.write(tmp_path / "top.pdb")
    for suffix in ("trr", "ncdf", "xtc"):
        with mda.Writer(str(tmp_path / f"run.{suffix}"), 54, velocities=True) as writer:
            for i in range(N):
                universe.trajectory.ts.time, universe.trajectory.ts.frame = 0.01 * i, i
                universe.trajectory.ts.data["step"] = 20 * i
                universe.atoms.positions, universe.atoms.velocities = inside[i], 1e3 * V[i]
                writer.write(universe.atoms)
    said = ReadOptions(topology=tmp_path / "top.pdb")
    for suffix in ("trr", "ncdf"):
        path = tmp_path / f"run.{suffix}"
        with pytest.raises(ValueError, match="--topology FILE"):
            io.read_trajectory(path)
        assert_read(path, said, atol=1e-4)
        np.testing.assert_allclose(io.read(path, -1, options=said).velocities, V[-1], atol=1e-6)
    symbols = ReadOptions(species=tuple(SYMBOLS))
    assert_read(tmp_path / "run.trr", symbols, atol=1e-4)
    with pytest.raises(ValueError, match=r"no velocities, as no .xtc file has: .*\.trr"):
        io.read_trajectory(tmp_path / "run.xtc", options=said)
    with pytest.raises(ValueError, match="54 atoms, but species names 2"):
        io.read(tmp_path / "run.trr", options=ReadOptions(species=("Si", "O")))
    with pytest.raises(FileNotFoundError, match="no topology"):
        io.read(tmp_path / "run.trr", options=ReadOptions(topology=tmp_path / "none.gro"))


def frames(**change):
    return [Atoms(SYMBOLS, r, cell=CELL, pbc=True, **change) for r in R]


def test_two_columns_of_velocities_must_agree(tmp_path):
    path, stored = tmp_path / "run.extxyz", frames()
    for i, atoms in enumerate(stored):
        atoms.set_velocities(V[i] / ase.units.fs)
        atoms.arrays["velocities"] = V[i] / ase.units.fs
    ase.io.write(path, stored, write_results=False,
                 columns=["symbols", "positions", "momenta", "velocities"])  # fmt: skip
    with pytest.raises(ValueError, match=r"twice, and they disagree: .*28,?\d* K|twice"):
        io.read(path)
    assert_read(path, ReadOptions(velocity_unit="ase", time_step=10.0))


def test_a_hot_column_without_a_unit_is_a_question(tmp_path):
    path = tmp_path / "run.extxyz"
    run = make_system(R, V * 0.4 / ase.units.fs, Z, cell=CELL)
    io.write_extxyz(path, run)
    text = path.read_text().replace(' velocity_unit="angstrom/fs"', "")
    text = text.replace("momenta:R:3", "other:R:3")
    path.write_text(text)
    with pytest.raises(ValueError, match=r"angstrom/fs they mean .* K, in ASE's unit \d+.*K; say"):
        io.read(path)
    np.testing.assert_allclose(
        io.read(path, options=ReadOptions(velocity_unit="ase")).velocities, 0.4 * V[-1], atol=1e-6
    )


def test_cells_that_say_nothing(tmp_path):
    path = tmp_path / "run.extxyz"
    io.write_extxyz(path, make_system(R, V, Z, cell=CELL), 10.0 * np.arange(N))
    text = path.read_text()
    path.write_text(text.replace('pbc="T T T"', 'pbc="F F F"'))
    with pytest.raises(ValueError, match=r"its pbc is off.*--periodic or --no-periodic"):
        io.read_trajectory(path)
    assert_read(path, ReadOptions(periodic=True))
    assert_read(path, ReadOptions(periodic=False), cell=None)
    lattice = text[text.index("Lattice") : text.index(" Properties")]
    path.write_text(text.replace(lattice, 'Lattice="0 0 0 0 0 0 0 0 0"'))
    with pytest.raises(ValueError, match="has no cell, but its atoms should be periodic"):
        io.read(path)
    path.write_text(text.replace(lattice, 'Lattice="9 0 0 9 0 0 0 0 9"'))
    with pytest.raises(ValueError, match="has no volume"):
        io.read(path)
    path.write_text(text.replace(lattice, "").replace('pbc="T T T"', ""))
    assert io.read(path).cell is None
    assert_read(path, ReadOptions(cell=(9.0, 9.5, 10.0, 90.0, 90.0, 90.0)))
    with pytest.raises(ValueError, match="cell has 2 numbers"):
        ReadOptions(cell=(1.0, 2.0))


def test_isotopes_dummies_numbers_and_names_of_files(tmp_path):
    path = tmp_path / "run@300K.extxyz"
    io.write_extxyz(path, make_system(R, V, Z, cell=CELL), 10.0 * np.arange(N))
    assert_read(path, ReadOptions())
    text = path.read_text()
    path.write_text(text.replace("\nO ", "\nD ").replace(":momenta:R:3", ":other:R:3"))
    found = io.read(path)
    np.testing.assert_allclose(found.masses[1], 2.014, rtol=1e-6)
    assert found.species[1] == 1
    path.write_text(text)
    assert_read(path, ReadOptions(species=("Si", "O")))  # no order of types, and names agree
    with pytest.raises(ValueError, match="does not number its atoms but names"):
        io.read(path, options=ReadOptions(species=("Si", "C")))
    path.write_text(text.replace("\nO ", "\nX ").replace(":momenta:R:3", ":other:R:3"))
    with pytest.warns(FileNote, match="36 sites without an element"):
        assert io.read(path).positions.shape == (18, 3)
    path.write_text(text.replace("\nO ", "\n2 ").replace("\nSi ", "\n1 "))
    with pytest.raises(ValueError, match="numbers its atoms"):
        io.read(path)
    assert_read(path, ReadOptions(species=("Si", "O")))
    with pytest.raises(ValueError, match="species 0, which is padding, but a mass of 1"):
        make_system(R[0], V[0], 0 * Z, masses=np.ones(54))
    assert not np.any(make_system(R[0], V[0], 0 * Z).masses)


def test_options_that_mean_nothing_are_refused(tmp_path):
    path = tmp_path / "run.extxyz"
    io.write_extxyz(path, make_system(R, V, Z, cell=CELL), 10.0 * np.arange(N))
    with pytest.raises(ValueError, match="leave --units out"):
        io.read(path, options=ReadOptions(units="metal"))
    stored = frames()
    stored[-1].set_velocities(V[-1])
    ase.io.write(tmp_path / "run.traj", stored)
    with pytest.raises(ValueError, match="momenta, whose unit is ASE's, but velocity_unit"):
        io.read(tmp_path / "run.traj", options=ReadOptions(velocity_unit="angstrom/fs"))
    text = path.read_text()
    pair = ReadOptions(velocities=tmp_path / "v.xyz", velocity_unit="angstrom/fs", time_step=10.0)
    write_columns(tmp_path / "v.xyz", lambda i: "", V)
    assert_read(path, pair)
    assert text == path.read_text()


def test_elements_of_pdb_files(tmp_path):
    line = "ATOM      1  CA  {}     1       1.000   1.000   1.000  1.00  0.00          {}\n"
    path = tmp_path / "start.pdb"
    for residue, element, z in (("ALA", "  ", 6), (" CA", "  ", 20), ("LIG", " C", 6)):
        path.write_text(line.format(residue, element) + "END\n")
        assert int(io.read(path, still=True).species[0]) == z
    path.write_text(line.format("LIG", "  ") + "END\n")
    with pytest.raises(ValueError, match="may mean several elements"):
        io.read(path, still=True)


def test_vasp_says_what_to_write(tmp_path):
    ase.io.write(tmp_path / "XDATCAR", frames(), format="vasp-xdatcar")
    with pytest.raises(ValueError, match="VASP writes none along a run"):
        io.read_trajectory(tmp_path / "XDATCAR")


def test_frozen_atoms_are_said(tmp_path):
    r, v = R.copy(), V.copy()
    r[:, :4], v[:, :4] = R[0, :4], 0
    path = tmp_path / "run.extxyz"
    io.write_extxyz(path, make_system(r, v, Z, cell=CELL), 10.0 * np.arange(N))
    with pytest.warns(FileNote, match=r"4 atoms never move \(0, 1, 2, 3\)"):
        io.read_trajectory(path)


def test_masses_are_those_of_the_elements():
    assert pytest.approx(MASSES["O"]) == 15.999
    assert TRICLINIC.shape == (3, 3)
