"""Small trajectories, and files of them, for the tests of `io`."""

import ase.io
import ase.units
import numpy as np
from ase import Atoms

from trajcast_jax import io
from trajcast_jax.system import make_system

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
