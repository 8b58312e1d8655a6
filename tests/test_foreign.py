"""Files of other programs that are wrong or say too little: an error, never a wrong run."""

import h5py
import numpy as np
import pytest
from dumps import SYMBOLS, TRICLINIC, motion, write_dump
from test_h5md_layouts import M, Z, write_h5md

from trajcast_jax import io, reference
from trajcast_jax.config import ReferenceSettings
from trajcast_jax.io.recording import said_cell
from trajcast_jax.io.species import from_masses
from trajcast_jax.system import make_system

R, V = motion(20)
TIMES = 10.0 * np.arange(20)


def write_xyz(path, masses=None, change=lambda text: text):
    """Extended XYZ of the known motion; `change` rewrites its text."""
    io.write_extxyz(path, make_system(R, V, Z, cell=TRICLINIC, masses=masses), TIMES)
    path.write_text(change(path.read_text()))
    return path


def test_masses_are_held_against_elements(tmp_path):
    wrong = np.where(Z == 14, 28.085, 32.06)
    path = write_xyz(tmp_path / "run.extxyz", wrong)
    with pytest.raises(ValueError, match=r"O a mass of 32.06 Da, but O has 15.999"):
        io.read_trajectory(path)
    path = write_h5md(tmp_path / "text.h5", None, wrong)
    with h5py.File(path, "a") as file:
        file["particles/all/species"] = SYMBOLS.astype("S2")
    with pytest.raises(ValueError, match=r"O a mass of 32.06 Da, but O has 15.999"):
        io.read_trajectory(path)
    heavy = np.where(Z == 14, 28.085, 16.4)  # within the tolerance, and kept
    run, _ = io.read_trajectory(write_xyz(tmp_path / "heavy.extxyz", heavy))
    np.testing.assert_allclose(run.masses, heavy, rtol=1e-5)


def write_pair(tmp_path, pbc, time):
    """A pair of XYZ files with a word of periodicity and a clock."""
    lattice = " ".join(f"{x:g}" for x in TRICLINIC.ravel())
    paths = []
    for name, values, cell in (("pos", R, f'Lattice="{lattice}" {pbc}'), ("vel", V, "")):
        with open(tmp_path / f"{name}.xyz", "w") as file:
            for i, frame in enumerate(values):
                file.write(f"54\n{cell} {time(i)}\n")
                for symbol, row in zip(SYMBOLS, frame, strict=True):
                    file.write(f"{symbol} {row[0]:.9g} {row[1]:.9g} {row[2]:.9g}\n")
        paths.append(tmp_path / f"{name}.xyz")
    return paths


def test_pbc_and_times_of_pairs(tmp_path):
    def read(pbc, time=lambda i: f"Time={10 * i}", **more):
        r, v = write_pair(tmp_path, pbc, time)
        options = io.ReadOptions(velocities=v, velocity_unit="angstrom/fs", **more)
        return io.read_trajectory(r, options=options)

    for pbc in ("", 'pbc="T T T"', "pbc=[True, True, True]", 'pbc="true 1 t"', "PBC=T"):
        run, times = read(pbc)
        assert run.cell is not None
        np.testing.assert_allclose(times, TIMES)
    for pbc in ('pbc="F F F"', "pbc=[False, False, False]", 'pbc="0 0 0"'):
        with pytest.raises(ValueError, match="pbc is off"):
            read(pbc)
    with pytest.raises(ValueError, match="some directions only"):
        read('pbc="T T F"')
    with pytest.raises(ValueError, match='has pbc="maybe"'):
        read("pbc=maybe")
    with pytest.raises(ValueError, match=r"1 of 20 frames .* their time \(frame 3"):
        read("", lambda i: "" if i == 3 else f"time={10 * i}", time_step=10.0)
    _, times = read("", lambda i: f"Timestep={i}", md_step=10.0)
    np.testing.assert_allclose(times, TIMES)


def test_clocks_of_extended_xyz(tmp_path):
    capital = write_xyz(tmp_path / "a.extxyz", change=lambda t: t.replace(" time=", " Time="))
    np.testing.assert_allclose(io.read_trajectory(capital)[1], TIMES)
    some = write_xyz(tmp_path / "b.extxyz", change=lambda t: t.replace(" time=30", ""))
    with pytest.raises(ValueError, match=r"1 of 20 frames .* do not tell their time"):
        io.read_trajectory(some, time_step=10.0)
    steps = write_xyz(tmp_path / "c.extxyz", change=lambda t: t.replace(" time=", " Timestep="))
    _, times = io.read_trajectory(steps, options=io.ReadOptions(md_step=1.0))
    np.testing.assert_allclose(times, TIMES)


def test_names_in_capitals_are_a_question(tmp_path):
    names = np.where(SYMBOLS == "Si", "CA", "O")
    columns = "id element x y z vx vy vz"
    path, _, _ = write_dump(tmp_path / "a.lammpstrj", columns, symbols=names)
    said = {"units": "metal", "md_step": 1.0}
    with pytest.raises(ValueError, match=r"CA in capitals.*--species CA=Ca"):
        io.read_trajectory(path, options=io.ReadOptions(**said))
    run, _ = io.read_trajectory(path, options=io.ReadOptions(species=("CA=Si",), **said))
    np.testing.assert_array_equal(run.species, Z)
    path = write_h5md(tmp_path / "text.h5", None)
    with h5py.File(path, "a") as file:
        file["particles/all/species"] = np.where(SYMBOLS == "Si", "SI", "O").astype("S2")
    with pytest.raises(ValueError, match="SI in capitals"):
        io.read_trajectory(path)
    with h5py.File(path, "a") as file:
        file["particles/all/mass"] = M
    np.testing.assert_array_equal(io.read_trajectory(path)[0].species, Z)


@pytest.mark.parametrize(("mass", "sure"), [(15.9994, True), (16.043, False), (15.9, False)])
def test_a_mass_is_an_element_only_if_it_is_close(mass, sure):
    masses = np.array([mass, 28.086])
    if sure:
        with pytest.warns(io.FileNote, match="is O"):
            from_masses([1, 2], masses, io.ReadOptions(), "a.dump")
        return
    with pytest.raises(ValueError, match="does not tell their elements"):
        from_masses([1, 2], masses, io.ReadOptions(), "a.dump")


def test_elements_that_change_between_frames(tmp_path):
    columns = "id element x y z vx vy vz"
    path, _, _ = write_dump(tmp_path / "a.lammpstrj", columns)
    text = path.read_text()
    at = text.rindex(" Si ")
    path.write_text(text[:at] + " O " + text[at + 4 :])
    with pytest.raises(ValueError, match=r"in frame 29 of .* is O, but Si in the first"):
        io.read_trajectory(path, options=io.ReadOptions(units="metal", md_step=1.0))


def test_names_and_dummies_of_extended_xyz(tmp_path):
    def names(text):
        return text.replace("\nSi ", "\nSi1 ").replace("\nO ", "\nOW ").replace("momenta", "other")

    path = write_xyz(tmp_path / "a.extxyz", change=names)
    with pytest.raises(ValueError, match=r"calls atoms 'Si1'|calls atoms 'OW'"):
        io.read_trajectory(path)
    run, _ = io.read_trajectory(path, options=io.ReadOptions(species=("Si1=Si", "OW=O")))
    np.testing.assert_array_equal(run.species, Z)
    np.testing.assert_allclose(run.velocities, V, atol=1e-7)
    path, _, _ = write_dump(tmp_path / "b.dump", "id type mass x y z vx vy vz")
    path.write_text(path.read_text().replace(" 15.999 ", " 0.1 "))
    options = io.ReadOptions(species=("Si", "X"), units="metal", md_step=1.0)
    with pytest.warns(io.FileNote, match="36 sites without an element"):
        assert io.read_trajectory(path, options=options)[0].positions.shape[1] == 18


def test_the_cell_is_that_of_the_structure(tmp_path):
    def take(name, structure, periodic=None):
        settings = ReferenceSettings(structure=structure)
        options = io.ReadOptions(periodic=periodic)
        out = tmp_path / name
        return reference.import_trajectories([path], out, 1, options=options, settings=settings)

    path = write_xyz(tmp_path / "run.extxyz")
    quartz = {"symbols": ["Si", "O"], "spacegroup": 154, "basis": [[0.47, 0, 0.6667],
              [0.41, 0.27, 0.79]], "cellpar": [5.3, 5.3, 5.85, 90, 90, 120]}  # fmt: skip
    assert len(take("right", quartz)) >= 1
    with pytest.raises(ValueError, match=r"15\.\d+ Å³ for each atom, but .* has 31.\d+ Å³"):
        take("wrong", quartz | {"cellpar": [5.3, 5.3, 11.7, 90, 90, 120]})
    path = tmp_path / "molecule.extxyz"
    order = np.argsort(Z)
    run = make_system(R[:, order][:, -2:], V[:, order][:, -2:], [14, 14], cell=TRICLINIC)
    io.write_extxyz(path, run, TIMES)
    with pytest.raises(ValueError, match=r"isolated molecule; say .*--no-periodic or --periodic"):
        take("molecule", {"name": "Si2"})
    assert take("molecule", {"name": "Si2"}, periodic=True)
    assert take("alone", {"name": "Si2"}, periodic=False)


@pytest.mark.parametrize("cell", [(14, 12, 10, 10, 170, 90), (-9, 9, 9), (9, 9, 9, 90, 90, 200)])
def test_cells_that_cannot_be(cell):
    with pytest.raises(ValueError, match=r"The cell .*--cell"):
        said_cell(io.ReadOptions(cell=cell))


def damage_h5md(tmp_path, kind):
    path = write_h5md(tmp_path / f"{kind}.h5", Z)
    with h5py.File(path, "a") as file:
        group = file["particles/all"]
        if kind == "time":
            times = group["position/time"][:5]
            del group["position/time"]
            group["position/time"] = times
        elif kind == "species":
            del group["species"]
            group.create_group("species")
        elif kind == "edges":
            del group["box/edges"]
            group["box"].create_group("edges")
        elif kind == "particles":
            del file["particles"]
            file["particles"] = np.zeros(3)
    return path


@pytest.mark.parametrize("kind", ["time", "species", "edges", "particles"])
def test_damaged_h5md_files_are_named(tmp_path, kind):
    path = damage_h5md(tmp_path, kind)
    with pytest.raises(ValueError, match=f"{kind}.h5[ :]"):
        io.read_trajectory(path)
    with pytest.raises(ValueError, match=f"{kind}.h5[ :]"):
        io.runs_of_file(path)


def test_files_without_frames_or_atoms_are_named(tmp_path):
    short, _, _ = write_dump(tmp_path / "short.dump", n_frames=1)
    short.write_text("".join(short.read_text().splitlines(keepends=True)[:30]))
    (tmp_path / "none.dump").write_text(
        "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n0\nITEM: BOX BOUNDS pp pp pp\n0 9\n0 9\n0 9\n"
        "ITEM: ATOMS id type element x y z vx vy vz\n"
    )
    (tmp_path / "none.extxyz").write_text('0\nProperties=species:S:1:pos:R:3 pbc="F F F"\n')
    (tmp_path / "empty.gro").write_text("title\n0\n1 1 1\n")
    for name in ("short.dump", "none.dump", "none.extxyz", "empty.gro"):
        options = io.ReadOptions(units="metal", md_step=1.0) if "dump" in name else io.ReadOptions()
        with pytest.raises(ValueError, match=name):
            io.read_trajectory(tmp_path / name, options=options)
        with pytest.raises(ValueError, match=name):
            io.read(tmp_path / name, options=options)
