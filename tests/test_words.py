"""A word or a cure where a file may be misread: no cell, few decimals, far away, other names."""

import h5py
import numpy as np
import pytest
from dumps import TRICLINIC, motion, write_dump
from test_clock import METAL
from test_foreign import V, write_xyz
from test_h5md_layouts import Z, write_h5md

from trajcast_jax import io
from trajcast_jax.io import FileNote, ReadOptions


def test_atoms_without_a_cell_are_isolated_with_a_word(tmp_path, recwarn):
    def without(text):
        lines = [line.split('" Properties')[-1] for line in text.splitlines()]
        lines = [f"Properties{x}" if "species" in x else x for x in lines]
        return "\n".join(x.replace(' pbc="T T T"', "") for x in lines) + "\n"

    path = write_xyz(tmp_path / "run.extxyz", change=without)
    with pytest.warns(FileNote, match=r"has no cell.*isolated.*--cell a b c.*--no-periodic"):
        assert io.read_trajectory(path)[0].cell is None
    box = write_h5md(tmp_path / "run.h5", np.where(Z == 14, "Si", "O").astype("S2"))
    with h5py.File(box, "a") as file:
        del file["particles/all/box"]
    with pytest.warns(FileNote, match=r"has no box.*isolated"):
        assert io.read(box).cell is None
    recwarn.clear()
    assert io.read_trajectory(path, options=ReadOptions(periodic=False))[0].cell is None
    said = write_xyz(
        tmp_path / "said.extxyz",
        change=lambda text: without(text).replace(" time=", ' pbc="F F F" time='),
    )
    assert io.read(said).cell is None
    assert not [w for w in recwarn if w.category is FileNote]


def test_positions_far_away_are_moved_by_whole_cells(tmp_path):
    r, v = motion(30)
    far = (4000 * np.ones(3)) @ TRICLINIC
    path, _, _ = write_dump(
        tmp_path / "run.dump", "id element xu yu zu vx vy vz", origin=tuple(far)
    )
    with pytest.warns(FileNote, match="were moved by whole cells"):
        run, _ = io.read_trajectory(path, options=METAL)
    assert np.abs(run.positions).max() < 100
    moved = np.asarray(run.positions - run.positions[0], float)
    np.testing.assert_allclose(moved, r - r[0], atol=2e-3)  # 8 digits are written
    np.testing.assert_allclose(run.velocities, v, atol=1e-7)


def test_velocities_of_few_decimals_get_a_word(tmp_path):
    def cut(text):
        rows = [line.split() for line in text.replace(":momenta:R:3", "").splitlines()]
        for row in rows:
            if len(row) == 10:
                row[4:] = [f"{float(x):.3f}" for x in row[4:7]]
        return "\n".join(" ".join(row) for row in rows) + "\n"

    path = write_xyz(tmp_path / "run.extxyz", change=cut)
    with pytest.warns(FileNote, match=r"velocities, 0.00\d+ angstrom/fs on average, to 0.001: too"):
        run, _ = io.read_trajectory(path)
    np.testing.assert_allclose(run.velocities, V, atol=6e-4)


def test_names_and_files_that_are_no_trajectories_get_a_cure(tmp_path):
    whole = write_xyz(tmp_path / "run.extxyz").read_text()
    (tmp_path / "run.xyz.1").write_text(whole)
    with pytest.raises(ValueError, match=r"looks like XYZ: let its name end in .xyz"):
        io.read(tmp_path / "run.xyz.1")
    (tmp_path / "empty.lammpstrj").write_text("")
    with pytest.raises(ValueError, match=r"empty.lammpstrj is of no known .*: it is empty"):
        io.read(tmp_path / "empty.lammpstrj")
    (tmp_path / "xyz.in").write_text("2 10 4.0 0 1 0\n1 1 1 9 9 9\n0 0 0 0 28 1 1 1\n")
    with pytest.raises(ValueError, match=r"xyz.in is GPUMD's old xyz.in.*dump_exyz"):
        io.read(tmp_path / "xyz.in")
    (tmp_path / "run.data").write_text("made by hand\n\n8 atoms\n2 atom types\n\n0 5 xlo xhi\n")
    with pytest.raises(ValueError, match=r"run.data .*LAMMPS data file.*one frame.*dump custom"):
        io.read(tmp_path / "run.data")
    (tmp_path / "HISTORY").write_text("salt\n 1 3 2 3 0\ntimestep 100 2 1 3 0.001 0.1\n8.0 0 0\n")
    with pytest.raises(ValueError, match=r"DL_POLY's HISTORY; convert it to extended XYZ"):
        io.read(tmp_path / "HISTORY")
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file["particles"] = np.zeros(3)
    with pytest.raises(ValueError, match="no position/value under 'particles'"):
        io.read(tmp_path / "run.h5")
    dump, _, _ = write_dump(tmp_path / "lj.dump", units="lj")
    with pytest.raises(ValueError, match=r"units lj.*σ, ε and mass"):
        io.read(dump)
    scalar = whole.replace("velocities:R:3:momenta:R:3", "vel:R:1:forces:R:5")
    (tmp_path / "scalar.extxyz").write_text(scalar)
    with pytest.raises(ValueError, match=r"column 'vel' of .* as vel:R:3"):
        io.read(tmp_path / "scalar.extxyz")


def test_a_group_of_particles_that_repeats_another_is_left_out(tmp_path):
    path = write_h5md(tmp_path / "run.h5", np.where(Z == 14, "Si", "O").astype("S2"))
    with h5py.File(path, "a") as file:
        every = file["particles/all"]
        file.copy(every, "particles/ions")
        ions = file["particles/ions"]
        for name in ("position", "velocity"):
            values = ions[f"{name}/value"][:, Z == 14]
            attributes = dict(ions[f"{name}/value"].attrs)
            del ions[f"{name}/value"]
            ions[f"{name}/value"] = values
            ions[f"{name}/value"].attrs.update(attributes)
        del ions["species"]
        ions["species"] = every["species"][()][Z == 14]
    with pytest.warns(FileNote, match="atoms of group 'ions' are also in 'all'"):
        assert len(io.read(path).species) == len(Z)
