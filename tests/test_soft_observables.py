"""Soft observables against the plain ones, and gradients of all against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import molecule
from ase.neighborlist import neighbor_list
from conftest import as_system, quartz_atoms
from scipy.stats import norm

from trajcast_jax.analysis import observables
from trajcast_jax.analysis.soft_observables import (
    TAIL,
    diffusion_coefficient,
    dihedrals,
    peak_position,
    soft_radial_distribution_function,
    soft_speed_distribution,
)
from trajcast_jax.mechanics import degrees_of_freedom, temperature
from trajcast_jax.neighbors.multi_image import images_within
from trajcast_jax.system import make_system


def wandering(system, frames=3, size=0.1):
    """A trajectory of frames about one."""
    rng = np.random.default_rng(0)
    shape = (frames, *system.positions.shape)
    return system.replace(
        positions=system.positions + size * rng.normal(size=shape),
        velocities=0.003 * rng.normal(size=shape),
    )


def assert_differentiable(function, x, size):
    """The gradient along a random direction is a fourth-order central difference."""
    direction = jnp.asarray(np.random.default_rng(3).normal(size=x.shape))
    slope = jnp.vdot(jax.jit(jax.grad(function))(x), direction)
    moved = x[None] + size * jnp.asarray([2, 1, -1, -2.0]).reshape(4, *[1] * x.ndim) * direction
    far, up, down, back = jax.jit(lambda xs: jax.lax.map(function, xs))(moved)
    numerical = (8 * (up - down) - (far - back)) / (12 * size)
    assert abs(slope) > 0
    np.testing.assert_allclose(slope, numerical, rtol=1e-6)


@pytest.mark.parametrize(
    ("periodic", "species"), [(True, (8, 8)), (False, (14, 8))], ids=["crystal", "molecule"]
)
def test_soft_rdf_is_the_plain_one_as_the_bin_softens_less(periodic, species, x64):
    atoms = quartz_atoms()
    atoms.pbc = periodic
    trajectory = wandering(as_system(atoms))
    given = (trajectory, *species, 4.0, 20)
    r, plain = observables.radial_distribution_function(*given)
    grid, narrow = soft_radial_distribution_function(*given, width=1e-6)
    np.testing.assert_allclose(grid, r, atol=1e-12)
    np.testing.assert_allclose(narrow, plain, atol=1e-8)
    errors = [
        abs(soft_radial_distribution_function(*given, width)[1] - plain).mean()
        for width in (0.1, 0.01, 0.001)
    ]
    assert errors[0] > errors[1] > errors[2] > 0


def test_soft_rdf_is_that_of_smeared_distances(x64):
    """Those that ASE finds in a crystal smaller than r_max, and beyond it by five widths."""
    atoms, width, edges = quartz_atoms(), 0.2, np.linspace(0, 6.0, 16)
    system = as_system(atoms)
    trajectory = system.replace(positions=system.positions[None])
    i, j, d = neighbor_list("ijd", atoms, 6.0 + TAIL * width)
    d = d[(atoms.numbers[i] == 8) & (atoms.numbers[j] == 8)]
    parts = norm.cdf((edges[1:, None] - d) / width) - norm.cdf((edges[:-1, None] - d) / width)
    shell = 4 * np.pi / 3 * np.diff(edges**3)
    expected = parts.sum(axis=1) / (6 * 6 / atoms.get_volume() * shell)
    _, found = soft_radial_distribution_function(trajectory, 8, 8, 6.0, 15, width)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_soft_speeds_are_the_plain_ones_as_the_bin_softens_less(x64):
    velocities = wandering(as_system(quartz_atoms())).velocities
    speeds, plain = observables.speed_distribution(velocities, 0.012, 12)
    grid, narrow = soft_speed_distribution(velocities, 0.012, 12, 1e-9)
    np.testing.assert_allclose(grid, speeds, rtol=1e-12)
    np.testing.assert_allclose(narrow, plain, atol=1e-6 * plain.max())
    weights = jnp.arange(12.0)
    assert_differentiable(
        lambda v: weights @ soft_speed_distribution(v, 0.012, 12, 5e-4)[1], velocities, 1e-6
    )


def test_gradient_of_soft_rdf_in_positions_and_cell(x64):
    trajectory = wandering(as_system(quartz_atoms()), frames=2)
    images = images_within(trajectory.cell, 4.0 + TAIL * 0.1)
    weights = jnp.sin(jnp.arange(20.0))

    def score(images=None, **changes):
        given = trajectory.replace(**changes)
        return weights @ soft_radial_distribution_function(given, 8, 8, 4.0, 20, 0.1, images)[1]

    assert_differentiable(lambda x: score(positions=x), trajectory.positions, 1e-3)
    assert_differentiable(lambda x: score(images, cell=x), trajectory.cell, 1e-4)


def chain(angle):
    """Four atoms whose rear bond is turned clockwise by `angle`, seen along the middle one.

    Who looks along +z with y up has −x at the right.
    """
    return [[0, 1, -0.3], [0, 0, 0], [0, 0, 1], [-np.sin(angle), np.cos(angle), 1.4]]


def test_dihedrals_have_the_sign_of_iupac_and_see_through_the_cell(x64):
    angles = np.deg2rad([-170, -60, 0, 30, 90, 180])
    frames = np.array([chain(angle) for angle in angles])
    cell = 5 * np.eye(3)
    shifts = np.random.default_rng(0).integers(-2, 3, size=frames.shape) @ cell
    for positions, box in ((frames, None), (frames + shifts, cell)):
        trajectory = make_system(positions, 0 * frames, [6] * 4, cell=box)
        found = dihedrals(trajectory, [[0, 1, 2, 3], [3, 2, 1, 0]])
        assert found.shape == (6, 2)
        np.testing.assert_allclose(abs(found), abs(np.stack([angles] * 2, axis=1)), atol=1e-9)
        np.testing.assert_allclose(found[1:-1, 0], angles[1:-1], atol=1e-9)
        np.testing.assert_allclose(found[1:-1, 1], angles[1:-1], atol=1e-9)


def test_dihedrals_against_ase(x64):
    ethanol = molecule("CH3CH2OH")
    chains = [[0, 1, 2, 3], [4, 0, 1, 2], [8, 1, 0, 7]]
    expected = np.array([ethanol.get_dihedral(*chain) for chain in chains])
    found = np.rad2deg(dihedrals(as_system(ethanol), chains)) % 360
    np.testing.assert_allclose(found, expected % 360, atol=1e-6)


@pytest.mark.parametrize("degrees", [-120.0, 0.0, 179.0])
def test_dihedrals_are_differentiable_where_arccos_is_not(degrees, x64):
    system = make_system(chain(np.deg2rad(degrees)), np.zeros((4, 3)), [6] * 4)
    assert_differentiable(
        lambda x: dihedrals(system.replace(positions=x), [[0, 1, 2, 3]])[0], system.positions, 1e-4
    )


def test_a_straight_chain_has_no_dihedral_and_no_gradient():
    positions = np.arange(4)[:, None] * np.array([1.0, 0, 0])
    system = make_system(positions, 0 * positions, [6] * 4)
    angle, slope = jax.jit(
        jax.value_and_grad(lambda x: dihedrals(system.replace(positions=x), [[0, 1, 2, 3]])[0])
    )(system.positions)
    assert angle == 0
    np.testing.assert_array_equal(slope, 0)


def test_diffusion_is_that_of_a_random_walk(x64):
    """Steps of variance σ² a component and Δt: D = σ²/(2Δt)."""
    sigma, time_step = 0.1, 5.0
    steps = sigma * np.random.default_rng(0).normal(size=(1000, 400, 3))
    walk = make_system(np.cumsum(steps, axis=0), 0 * steps, [18] * 400)
    lags = slice(10, 100)
    times = time_step * jnp.arange(1000.0)[lags]
    found = diffusion_coefficient(observables.mean_squared_displacement(walk)[lags], times)
    np.testing.assert_allclose(found, sigma**2 / (2 * time_step), rtol=0.03)


def test_a_peak_is_found_between_grid_points(x64):
    grid = jnp.linspace(0.0, 500.0, 101)
    density = jnp.exp(-(((grid - 203.7) / 12) ** 2)) + jnp.exp(-(((grid - 400) / 12) ** 2))
    np.testing.assert_allclose(peak_position(grid, density, 100.0, 300.0), 203.7, atol=1e-3)


def vibrating():
    """Velocities (time, atom, 3) of two modes with noise."""
    t = 5.0 * np.arange(64)[:, None, None]
    noise = np.random.default_rng(1).normal(size=(64, 3, 3))
    return jnp.asarray(np.cos(0.05 * t) + 0.5 * np.sin(0.17 * t) + 0.1 * noise)


OF_VELOCITIES = {
    "vacf": lambda v: observables.velocity_autocorrelation(v) @ jnp.cos(jnp.arange(64.0)),
    "vdos": lambda v: observables.vibrational_density_of_states(v, 5.0, segment=32)[1][4],
    "peak": lambda v: peak_position(
        *observables.vibrational_density_of_states(v, 5.0), 100.0, 600.0
    ),
}


@pytest.mark.parametrize("name", OF_VELOCITIES)
def test_what_has_no_bins_is_differentiable_in_velocities(name, x64):
    assert_differentiable(OF_VELOCITIES[name], vibrating(), 1e-3)


def test_temperatures_and_displacements_are_differentiable(x64):
    trajectory = wandering(as_system(quartz_atoms()), frames=8)
    dof = degrees_of_freedom(trajectory)

    def mean_kelvin(v):
        moving = trajectory.replace(velocities=v)
        kelvins = observables.over_time(lambda s: temperature(s, dof), moving)
        return kelvins.mean() + observables.temperature_by_species(moving)[8][0]

    def diffusion(x):
        curve = observables.mean_squared_displacement(trajectory.replace(positions=x), 8)
        return diffusion_coefficient(curve[2:], jnp.arange(2.0, 8.0))

    assert_differentiable(mean_kelvin, trajectory.velocities, 1e-5)
    assert_differentiable(diffusion, trajectory.positions, 1e-3)
