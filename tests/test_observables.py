"""Observables of structure and dynamics against closed forms and independent implementations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal

from trajcast_jax.analysis import observables
from trajcast_jax.system import make_system, pad
from trajcast_jax.units import WAVENUMBER_PER_INVERSE_FEMTOSECOND


def trajectory_of(positions, species, velocities=None, cell=None, masses=None):
    """A trajectory of positions (time, atom, 3)."""
    velocities = np.zeros_like(positions) if velocities is None else velocities
    return make_system(positions, velocities, species, cell=cell, masses=masses)


# Structure


def quartz():
    return crystal(
        ["Si", "O"],
        basis=[[0.4697, 0, 2 / 3], [0.4135, 0.2669, 0.7858]],
        spacegroup=154,
        cellpar=[4.914, 4.914, 5.405, 90, 90, 120],
    )


def triclinic():
    cell = [[5.0, 0.0, 0.0], [2.1, 4.3, 0.0], [-1.7, 1.9, 3.9]]
    return Atoms("Si2O3", scaled_positions=np.random.default_rng(1).random((5, 3)), cell=cell)


@pytest.mark.parametrize(
    ("atoms", "r_max"),
    [
        (quartz(), 8.0),
        (quartz().repeat((3, 3, 2)), 8.0),
        (quartz().repeat((3, 3, 2)), 4.0),
        (triclinic(), 3.3),
        (triclinic(), 9.0),
        (bulk("Si"), 6.0),
    ],
    ids=["hexagonal", "162-atoms", "one-image", "triclinic", "triclinic-far", "two-atoms"],
)
def test_rdf_counts_the_neighbors_that_ase_counts(atoms, r_max, rng):
    """Perturbed crystals, wrapped at random, in cells smaller than r_max: every count is equal."""
    bins = 40
    atoms = atoms.copy()
    atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
    atoms.pbc = True
    shifts = rng.integers(-2, 3, size=(len(atoms), 3)) @ atoms.cell.array
    i, j, d = neighbor_list("ijd", atoms, r_max)
    edges = np.linspace(0, r_max, bins + 1)
    with jax.enable_x64(True):
        trajectory = trajectory_of(
            (atoms.positions + shifts)[None], atoms.numbers, cell=atoms.cell.array
        )
        species = sorted(set(atoms.numbers.tolist()))
        for a in species:
            for b in species[species.index(a) :]:
                _, g = observables.radial_distribution_function(trajectory, a, b, r_max, bins)
                chosen = (atoms.numbers[i] == a) & (atoms.numbers[j] == b)
                counts = np.histogram(d[chosen], edges)[0]
                shell = 4 * np.pi / 3 * np.diff(edges**3)
                density = np.sum(atoms.numbers == b) / atoms.get_volume()
                expected = counts / (np.sum(atoms.numbers == a) * density * shell)
                assert counts.sum() > 0
                np.testing.assert_allclose(g, expected, rtol=1e-9)


def test_rdf_of_an_ideal_gas_is_one(rng):
    """1 between species, 1 − 1/N within one, in a tilted cell with r_max beyond half its height."""
    cell = np.array([[7.0, 0, 0], [3.0, 6.0, 0], [1.0, 2.0, 6.5]])
    species = np.array([14] * 30 + [8] * 50)
    trajectory = trajectory_of(rng.random((400, 80, 3)) @ cell, species, cell=cell)
    r, g = observables.radial_distribution_function(trajectory, 14, 8, 4.5, 15)
    shell = 4 * np.pi * np.asarray(r) ** 2 * 0.3
    sigma = 1 / np.sqrt(400 * 30 * 50 * shell / np.linalg.det(cell))
    assert np.all(abs(g - 1) < 5 * sigma)
    assert abs(np.mean((g - 1) / sigma)) < 1
    _, g = observables.radial_distribution_function(trajectory, 8, 8, 4.5, 15)
    sigma = np.sqrt(2) / np.sqrt(400 * 50 * 50 * shell / np.linalg.det(cell))
    assert np.all(abs(g - (1 - 1 / 50)) < 5 * sigma)


def test_rdf_of_a_crystal_does_not_depend_on_its_cell():
    with jax.enable_x64(True):
        small, large = quartz(), quartz().repeat((2, 1, 3))
        g = [
            observables.radial_distribution_function(
                # Off the edges of bins.
                trajectory_of(
                    1.000123 * a.positions[None], a.numbers, cell=1.000123 * a.cell.array
                ),
                14,
                14,
                7.77,
                50,
            )[1]
            for a in (small, large)
        ]
        np.testing.assert_allclose(g[0], g[1], rtol=1e-9)


def test_rdf_averages_frames_and_ignores_padding(rng):
    positions = rng.random((6, 10, 3)) * 5
    system = trajectory_of(positions, [8] * 10, cell=5 * np.eye(3))
    frames = [observables.cut(system, slice(k, k + 1)) for k in range(6)]
    single = [observables.radial_distribution_function(f, 8, 8, 3.0, 10)[1] for f in frames]
    _, g = observables.radial_distribution_function(pad(system, 13), 8, 8, 3.0, 10)
    np.testing.assert_allclose(g, np.mean(single, axis=0), rtol=1e-5)


def test_rdf_of_a_molecule_is_the_density_of_its_pair_distances():
    """Two O–H of 1 Å and 1.5 Å in bins of 0.2 Å: each half of the integral 1."""
    positions = np.array([[[0, 0, 0], [1.01, 0, 0], [0, 1.51, 0]]])
    r, g = observables.radial_distribution_function(
        trajectory_of(positions, [8, 1, 1]), 8, 1, 4.0, 20
    )
    assert np.isclose(np.sum(g) * 0.2, 1)
    np.testing.assert_allclose(np.asarray(r)[np.asarray(g) > 0], [1.1, 1.5], rtol=1e-6)


def test_rdf_of_species_that_are_not_there_is_refused():
    run = trajectory_of(np.zeros((1, 1, 3)), [8], cell=np.eye(3))
    with pytest.raises(ValueError, match=r"no atom of species 1: .* holds, 8 \(O\)"):
        observables.radial_distribution_function(run, 8, 1, 1.0, 5)
    with pytest.raises(ValueError, match="no atom of species 50"):
        observables.mean_squared_displacement(run, 50)


# Dynamics


def brute_msd(positions):
    """⟨|r(t₀+t) − r(t₀)|²⟩ from its definition, positions (time, atom, 3)."""
    time = len(positions)
    moves = [positions[t:] - positions[: time - t] for t in range(time)]
    return np.array([np.mean(np.sum(move**2, axis=-1)) for move in moves])


def test_msd_is_its_definition(rng):
    """Against the double loop, per species, about the centre of mass, a common drift left out."""
    positions = np.cumsum(rng.normal(size=(50, 7, 3)), axis=0)
    species = np.array([14, 8, 8, 14, 8, 14, 8])
    with jax.enable_x64(True):
        trajectory = trajectory_of(positions, species, cell=np.eye(3))
        drifting = trajectory.replace(
            positions=trajectory.positions + jnp.arange(50)[:, None, None] * 3.0
        )
        mass = np.asarray(trajectory.masses)
        centers = np.einsum("i,tia->ta", mass, positions) / mass.sum()
        for z in (14, 8, None):
            chosen = np.ones(7, bool) if z is None else species == z
            expected = brute_msd((positions - centers[:, None])[:, chosen])
            for x in (trajectory, pad(drifting, 9)):
                msd = observables.mean_squared_displacement(x, z)
                np.testing.assert_allclose(msd, expected, rtol=1e-9, atol=1e-9)


def test_msd_of_ballistic_motion_is_quadratic():
    """Two equal atoms that part at ±0.01 Å/fs: 1e-4 t² Å²."""
    time = np.arange(200.0)
    positions = np.zeros((200, 2, 3))
    positions[:, 0, 0], positions[:, 1, 0] = 0.01 * time, -0.01 * time
    msd = observables.mean_squared_displacement(trajectory_of(positions, [18, 18]))
    np.testing.assert_allclose(msd, 1e-4 * time**2, rtol=1e-3, atol=1e-5)


def test_msd_of_a_random_walk_is_linear(rng):
    """⟨Δr²⟩ = 3 s² t (1 − 1/N) with the centre of mass of N walkers taken out."""
    positions = np.cumsum(0.1 * rng.normal(size=(2000, 100, 3)), axis=0)
    msd = observables.mean_squared_displacement(trajectory_of(positions, [18] * 100))
    lags = np.arange(1, 40)
    np.testing.assert_allclose(msd[1:40], 3 * 0.1**2 * lags * 0.99, rtol=0.04)


def test_velocity_autocorrelation_is_its_definition(rng):
    v = rng.normal(size=(40, 5, 3))
    masses = np.array([1.0, 16, 28, 12, 1])
    with jax.enable_x64(True):
        for weights in (None, masses):
            w = np.ones(5) if weights is None else weights
            expected = [
                np.einsum("i,tia,tia->", w, v[t:], v[: 40 - t]) / w.sum() / (40 - t)
                for t in range(40)
            ]
            c = observables.velocity_autocorrelation(jnp.asarray(v), weights)
            np.testing.assert_allclose(c, expected, rtol=1e-9, atol=1e-12)


def oscillator(wavenumber, time_step, frames):
    """Velocities (time, 1, 3) of an oscillator of a wavenumber (cm⁻¹)."""
    angle = 2 * np.pi * wavenumber / WAVENUMBER_PER_INVERSE_FEMTOSECOND
    v = np.zeros((frames, 1, 3))
    v[:, 0, 0] = -np.sin(angle * np.arange(frames) * time_step)
    return jnp.asarray(v)


@pytest.mark.parametrize(
    ("wavenumber", "time_step", "seen"),
    [(417.0, 5.0, 417.0), (417.0, 30.0, 417.0), (800.0, 30.0, 2 * 555.94 - 800.0)],
    ids=["5fs", "30fs", "folded"],
)
@pytest.mark.parametrize("segment", [None, 512])
def test_vdos_of_an_oscillator_peaks_at_its_wavenumber(wavenumber, time_step, seen, segment):
    """At its own wavenumber, or, above the Nyquist limit, folded at it."""
    velocities = oscillator(wavenumber, time_step, 2048)
    nu, density = observables.vibrational_density_of_states(velocities, time_step, segment=segment)
    assert np.isclose(nu[-1], observables.nyquist_wavenumber(time_step))
    assert abs(nu[jnp.argmax(density)] - seen) <= nu[1]
    assert np.isclose(np.trapezoid(density, nu), 1, rtol=1e-5)
    near = abs(nu - seen) < 4 * nu[1]
    assert np.sum(density[near]) * nu[1] > 0.99


def test_vdos_of_white_noise_is_flat_and_weights_count(rng):
    """The density of a flat spectrum is 1/Nyquist; an atom without weight does not count."""
    v = jnp.asarray(rng.normal(size=(20_000, 2, 3)))
    nu, density = observables.vibrational_density_of_states(v, 10.0, segment=100)
    np.testing.assert_allclose(density[1:-1], 1 / nu[-1], rtol=0.15)
    two = jnp.concatenate([oscillator(300.0, 10.0, 500), oscillator(900.0, 10.0, 500)], axis=1)
    nu, density = observables.vibrational_density_of_states(two, 10.0, jnp.array([1.0, 0.0]))
    assert np.sum(density[nu > 600]) < 1e-3 * np.sum(density)


def test_vdos_of_too_few_frames_is_refused():
    with pytest.raises(ValueError, match="at least 4 frames, but there are 3"):
        observables.vibrational_density_of_states(jnp.zeros((3, 1, 3)), 1.0)


def test_overlap_is_the_common_area():
    a, b = np.array([0.0, 2, 2, 0]), np.array([0.0, 0, 2, 2])
    assert observables.vdos_overlap(a, a) == 1
    assert observables.vdos_overlap(a, b) == 0.5
    assert observables.vdos_overlap(a, np.array([2.0, 0, 0, 2])) == 0
