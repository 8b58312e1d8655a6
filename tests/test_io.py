"""Trajectory files: what is written comes back."""

import os

import ase.io
import ase.units
import h5py
import numpy as np
import pytest
from trajectories import CELL, assert_same, make_trajectory, part, write, write_ase

from trajcast_jax import io


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
