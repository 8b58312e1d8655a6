"""Normal modes of a harmonic solid that is known: wavenumbers, vectors, temperatures."""

import numpy as np
import pytest
from ase import Atoms
from ase.data import atomic_masses

from trajcast_jax.analysis.modes import (
    internal_modes,
    lattice_translations,
    mode_temperatures,
    normal_modes,
)
from trajcast_jax.system import make_system
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV, WAVENUMBER_PER_INVERSE_FEMTOSECOND

ATOMS, FRAMES = 6, 60_000


@pytest.fixture(scope="module")
def solid():
    """Frames drawn from a harmonic solid with three free translations, and its true modes."""
    rng = np.random.default_rng(0)
    numbers = [14, 8, 8, 14, 8, 8]
    masses = np.where(np.array(numbers) == 14, 28.0, 16.0)
    weights = np.repeat(np.sqrt(masses), 3)
    rigid = np.linalg.qr(np.kron(np.sqrt(masses)[:, None], np.eye(3)))[0]
    basis, _ = np.linalg.qr(np.hstack([rigid, rng.normal(size=(3 * ATOMS, 3 * ATOMS - 3))]))
    vectors, wavenumbers = basis[:, 3:], np.linspace(100, 1200, 3 * ATOMS - 3)
    omega = 2 * np.pi * wavenumbers / WAVENUMBER_PER_INVERSE_FEMTOSECOND

    def frames(kelvins):
        thermal = np.sqrt(BOLTZMANN / KINETIC_TO_EV * np.asarray(kelvins))
        draw = rng.normal(size=(2, FRAMES, 3 * ATOMS - 3)) * thermal
        sites = 3.0 * np.arange(3 * ATOMS)
        positions = sites + (draw[0] / omega) @ vectors.T / weights
        velocities = draw[1] @ vectors.T / weights
        first = make_system(sites.reshape(-1, 3), np.zeros((ATOMS, 3)), numbers, masses=masses)
        shape = (FRAMES, ATOMS, 3)
        return first.replace(
            positions=positions.reshape(shape), velocities=velocities.reshape(shape)
        )

    return frames, wavenumbers, vectors


@pytest.mark.parametrize("shares", [1.0, np.linspace(0.4, 1.6, 3 * ATOMS - 3)[::-1]])
def test_modes_of_a_harmonic_solid_are_found_however_energies_are_shared(solid, shares):
    frames, wavenumbers, vectors = solid
    modes = normal_modes([frames(300.0 * shares)])
    np.testing.assert_allclose(modes.wavenumbers, wavenumbers, rtol=0.02)
    overlap = np.abs(np.sum(modes.vectors * vectors, axis=0))
    assert overlap.min() > 0.97


def test_centers_are_mean_positions_about_the_centre_of_mass(solid):
    run = solid[0](300.0)
    shift = np.random.default_rng(1).normal(size=(FRAMES, 1, 3))
    centers = normal_modes([run.replace(positions=run.positions + shift)]).centers
    sites, masses = 3.0 * np.arange(3 * ATOMS).reshape(-1, 3), np.asarray(run.masses, np.float64)
    np.testing.assert_allclose(centers, sites - masses @ sites / masses.sum(), atol=0.02)
    np.testing.assert_allclose(masses @ centers, 0, atol=1e-9)


def test_a_hot_mode_is_seen_where_the_mean_temperature_is_right(solid):
    frames, wavenumbers, _ = solid
    modes = normal_modes([frames(300.0)])
    kelvins = np.full(len(wavenumbers), 300.0)
    kelvins[2], kelvins[9] = 240.0, 360.0
    found = mode_temperatures(frames(kelvins), modes)
    np.testing.assert_allclose(found, kelvins, rtol=0.03)
    assert found.mean() == pytest.approx(300.0, rel=0.01)


def test_unit_cells_are_averaged_over():
    """A ring of 16 cells shows in few frames what takes 16 times as many otherwise."""
    rng, n = np.random.default_rng(3), 16
    moves = np.stack([(np.arange(2 * n) + 2 * k) % (2 * n) for k in range(n)])
    free = np.eye(6 * n) - np.tile(np.eye(3), (2 * n, 2 * n)) / (2 * n)  # all masses are the same
    spread = rng.normal(size=(6, 6 * n)) * np.exp(-np.abs(np.arange(6 * n) / 6 - 1))
    springs = np.zeros((6 * n, 6 * n))
    for k in range(n):
        springs[6 * k : 6 * k + 6] = np.roll(spread, 6 * k, axis=1)
    springs = free @ (springs.T @ springs + np.eye(6 * n)) @ free
    squares, vectors = (x[..., 3:] for x in np.linalg.eigh(springs))
    squares *= 0.02**2 / squares.mean()
    draw = 0.01 * rng.normal(size=(2, 4000, 6 * n - 3))
    sites = np.zeros((2 * n, 3))
    sites[:, 0] = 2.5 * np.arange(2 * n)
    sites[1::2, 1] = 0.7
    cell = np.diag([5.0 * n, 20.0, 20.0])
    start = make_system(sites, 0 * sites, [14, 8] * n, cell=cell, masses=np.full(2 * n, 1.0))
    run = start.replace(
        positions=sites + (draw[0] / np.sqrt(squares) @ vectors.T).reshape(4000, -1, 3),
        velocities=(draw[1] @ vectors.T).reshape(4000, -1, 3),
    )
    np.testing.assert_array_equal(lattice_translations(sites, cell, start.species), moves)
    expected = np.sqrt(squares) / (2 * np.pi) * WAVENUMBER_PER_INVERSE_FEMTOSECOND
    found, alone = (
        np.abs(normal_modes([some]).wavenumbers / expected - 1).max()
        for some in (run, run.replace(cell=None))
    )
    assert found < 0.05
    assert alone > 2 * found


WATER = (
    [8, 1, 1], [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]],
    [[0, 1], [2, 0]], [[0, 1], [0, 2], [1, 2]], [50.0, 50.0, 6.0],
)  # fmt: skip
"""Species, places (Å), bonds, coordinates, and force constants: eV/Å² or eV."""
FORMALDEHYDE = (
    [6, 8, 1, 1], [[0, 0, 0], [1.2, 0, 0], [-0.58, 0.94, 0], [-0.58, -0.94, 0]],
    [[0, 1], [0, 2], [0, 3]], [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [1, 0, 2, 3]],
    [80.0, 30.0, 31.0, 8.0, 10.0, 3.0],
)  # fmt: skip
TRANS = (
    [1, 7, 7, 1], [[-1.0, 0.95, 0.0], [-0.62, 0.0, 0.0], [0.62, 0.0, 0.0], [1.0, -0.95, 0.0]],
    [[0, 1], [1, 2], [2, 3]], [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3], [0, 1, 2, 3]],
    [35.0, 6.0, 70.0, 7.0, 36.0, 4.0],
)  # fmt: skip


def slopes_of(coordinates, numbers, sites):
    """Of distances (Å) and torsions (rad) by the places of atoms, from differences by ASE."""

    def at(positions):
        atoms = Atoms(numbers, positions)
        return np.array([
            atoms.get_distance(*c) if len(c) == 2 else np.radians(atoms.get_dihedral(*c))
            for c in coordinates
        ])  # fmt: skip

    rows, step = [], 1e-4
    for k in range(sites.size):
        shift = step * np.eye(sites.size)[k].reshape(sites.shape)
        rows.append((at(sites + shift) - at(sites - shift)) / (2 * step))
    return np.transpose(rows)


@pytest.mark.parametrize("molecule", [WATER, FORMALDEHYDE, TRANS])
@pytest.mark.parametrize("uneven", [False, True])
def test_bends_stretches_and_twists_are_found_in_a_molecule_that_tumbles(molecule, uneven):
    """Of known force constants, cold enough to be harmonic, however energies are shared."""
    numbers, sites, bonds, coordinates, constants = molecule
    sites, rng, frames = np.array(sites), np.random.default_rng(2), 40_000
    masses = atomic_masses[numbers]
    sites -= masses @ sites / masses.sum()
    slopes = slopes_of(coordinates, numbers, sites)
    weights = np.repeat(np.sqrt(masses), 3)
    forces = np.diag(constants) / KINETIC_TO_EV  # eV to Da Å²/fs²
    squares, vectors = np.linalg.eigh(slopes.T @ forces @ slopes / np.outer(weights, weights))
    squares, vectors = squares[6:], vectors[:, 6:]
    wavenumbers = np.sqrt(squares) / (2 * np.pi) * WAVENUMBER_PER_INVERSE_FEMTOSECOND

    n = len(squares)
    kelvins = 2.0 * (np.linspace(1.7, 0.3, n) if uneven else np.ones(n))
    draw = rng.normal(size=(2, frames, n)) * np.sqrt(BOLTZMANN / KINETIC_TO_EV * kelvins)
    moved = (draw[0] / np.sqrt(squares)) @ vectors.T / weights
    velocities = (draw[1] @ vectors.T / weights).reshape(frames, -1, 3)
    positions = sites + moved.reshape(frames, -1, 3)
    velocities += np.cross(0.02 * rng.normal(size=(frames, 1, 3)), positions)
    turns, _ = np.linalg.qr(rng.normal(size=(frames, 3, 3)))
    turns[:, 0] *= np.linalg.det(turns)[:, None]  # a mirror image has other torsions
    first = make_system(sites, np.zeros(sites.shape), numbers, masses=masses)
    run = first.replace(positions=positions @ turns + 7.0, velocities=velocities @ turns)

    modes = internal_modes([run], np.array(bonds))
    np.testing.assert_allclose(modes.wavenumbers, wavenumbers, rtol=0.02)
    np.testing.assert_allclose(mode_temperatures(run, modes), kelvins, rtol=0.05)
    assert not len(internal_modes([run], np.array(bonds), torsions=False).chains)


def test_torsions_about_bonds_that_turn_are_no_coordinates():
    """TRANS twists all the way round: it keeps its distances, but not its torsion."""
    numbers, sites, bonds, *_ = TRANS
    rng, frames = np.random.default_rng(0), 4000
    angles = rng.uniform(-np.pi, np.pi, frames)
    positions = np.tile(np.array(sites), (frames, 1, 1)) + 0.02 * rng.normal(size=(frames, 4, 3))
    positions[:, 3, 1:] = -0.95 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    velocities = 0.01 * rng.normal(size=(frames, 4, 3))
    run = make_system(np.array(sites), np.zeros((4, 3)), numbers)
    run = run.replace(positions=positions, velocities=velocities)
    modes = internal_modes([run], np.array(bonds))
    assert (len(modes.pairs), len(modes.chains), len(modes.wavenumbers)) == (5, 0, 5)
