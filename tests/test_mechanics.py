"""Momenta, inertia, degrees of freedom, temperatures, Maxwell–Boltzmann velocities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.cell import Cell

from trajcast_jax.learning.motions import motion_sums
from trajcast_jax.mechanics import (
    angular_momentum,
    angular_velocity,
    center_of_mass,
    degrees_of_freedom,
    inertia_tensor,
    kinetic_energy,
    maxwell_boltzmann,
    momentum,
    rigid_velocities,
    temperature,
)
from trajcast_jax.neighbors.graph import graph, neighbor_list
from trajcast_jax.network.conservation import conserve_angular, conserve_linear
from trajcast_jax.system import make_system, minimum_image, pad, transform, wrap
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV

WATER = np.array([[0.0, 0.0, 0.1], [0.76, 0.0, -0.48], [-0.76, 0.0, -0.48]])
AXIS = np.array([1.0, 2.0, -0.5]) / np.linalg.norm([1.0, 2.0, -0.5])
SHAPES = {
    "atom": ([18], np.array([[30.0, -20.0, 11.0]]), 0),
    "diatomic": ([7, 7], np.outer([0.0, 1.1], AXIS), 1),
    "linear": ([6, 8, 8], np.outer([0.0, 1.16, -1.16], AXIS) + 5.0, 4),
    "bent": ([8, 1, 1], WATER, 3),
    "cube": ([1] * 8, np.indices((2, 2, 2)).reshape(3, 8).T.astype(float), 18),
}


def molecule(name, extra=0, seed=0):
    species, positions, _ = SHAPES[name]
    velocities = 0.01 * np.random.default_rng(seed).normal(size=positions.shape)
    system = make_system(positions, velocities, species)
    return pad(system, len(species) + extra)


def test_values_by_hand():
    system = make_system(
        [[0.0, 0, 0], [2.0, 0, 0]], [[0, 0.01, 0], [0, -0.03, 0.02]], [1, 8], masses=[1.0, 3.0]
    )
    np.testing.assert_allclose(momentum(system), [0, -0.08, 0.06], rtol=1e-6)
    np.testing.assert_allclose(center_of_mass(system), [1.5, 0, 0], rtol=1e-6)
    # Σ m x v about x = 1.5: arms −1.5 and 0.5.
    expected = [0.0, -0.5 * 3 * 0.02, -1.5 * 1 * 0.01 + 0.5 * 3 * -0.03]
    np.testing.assert_allclose(angular_momentum(system), expected, rtol=1e-5)
    np.testing.assert_allclose(inertia_tensor(system), np.diag([0.0, 3.0, 3.0]), atol=1e-6)
    energy = 0.5 * (1e-4 + 3 * (9e-4 + 4e-4)) * KINETIC_TO_EV
    np.testing.assert_allclose(kinetic_energy(system), energy, rtol=1e-6)
    np.testing.assert_allclose(temperature(system, 3), 2 * energy / (3 * BOLTZMANN), rtol=1e-6)
    assert temperature(system, 0) == 0


@pytest.mark.parametrize("extra", [0, 3])
@pytest.mark.parametrize("name", SHAPES)
def test_degrees_of_freedom(name, extra):
    system = molecule(name, extra)
    n = len(SHAPES[name][0])
    assert degrees_of_freedom(system, zero_momentum=False) == 3 * n
    assert degrees_of_freedom(system) == 3 * n - 3
    assert degrees_of_freedom(system, angular=True) == SHAPES[name][2]


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("name", SHAPES)
def test_angular_velocity_is_the_pseudo_inverse(name, extra, x64):
    with jax.enable_x64(x64):
        system = molecule(name, extra)
        some = np.array([0.3, -0.2, 0.5])
        inertia = np.asarray(inertia_tensor(system), np.float64)
        if name == "atom":
            inertia = np.zeros((3, 3))
        expected = np.linalg.pinv(inertia, rcond=1e-5, hermitian=True) @ some
        found = angular_velocity(system, jnp.asarray(some))
        tolerance = 1e-12 if x64 else 1e-5
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SHAPES)
def test_rigid_velocities_hold_all_of_the_motion_as_a_whole(name):
    with jax.enable_x64(True):
        system = molecule(name, extra=1)
        inner = system.replace(velocities=system.velocities - rigid_velocities(system, True))
        np.testing.assert_allclose(momentum(inner), 0, atol=1e-15)
        np.testing.assert_allclose(angular_momentum(inner), 0, atol=1e-15)
        np.testing.assert_array_equal(inner.velocities[-1], 0)


def test_maxwell_boltzmann_by_species():
    """Each species has its own variance: H moves 4 times as fast as O, at one temperature."""
    n_draws, kelvin = 20_000, 300.0
    system = pad(make_system(np.zeros((3, 3)), np.zeros((3, 3)), [8, 1, 1]), 4)
    keys = jax.random.split(jax.random.key(0), n_draws)
    velocities = np.asarray(jax.vmap(lambda k: maxwell_boltzmann(k, system, kelvin))(keys))
    masses = np.asarray(system.masses, np.float64)
    np.testing.assert_allclose(np.einsum("i,nid->nd", masses, velocities), 0, atol=1e-6)
    np.testing.assert_array_equal(velocities[:, 3], 0)
    for atom in range(3):
        sample = velocities[:, atom].ravel()
        variance = BOLTZMANN * kelvin / (KINETIC_TO_EV * masses[atom])
        variance *= 1 - masses[atom] / masses.sum()
        # Five standard errors.
        assert abs(sample.mean()) < 5 * np.sqrt(variance / sample.size)
        assert abs(sample.var() / variance - 1) < 5 * np.sqrt(2 / sample.size)
    temperatures = jax.vmap(lambda v: temperature(system.replace(velocities=v), 6))(velocities)
    assert abs(float(temperatures.mean()) - kelvin) < 5 * kelvin * np.sqrt(2 / 6 / n_draws)


def test_molecules_at_rest_as_a_whole_are_drawn_at_the_temperature():
    system = molecule("cube")
    keys = jax.random.split(jax.random.key(0), 4_000)
    draw = jax.vmap(lambda k: maxwell_boltzmann(k, system, 300.0, angular=True))
    dof = degrees_of_freedom(system, angular=True)
    kelvin = jax.vmap(lambda v: temperature(system.replace(velocities=v), dof))(draw(keys))
    assert abs(float(kelvin.mean()) - 300) < 5 * 300 * np.sqrt(2 / int(dof) / len(keys))


def test_a_frame_at_a_time_maps_over_trajectories():
    system = molecule("bent")
    frames = jnp.stack([system.velocities, 2 * system.velocities])
    energies = jax.vmap(lambda v: kinetic_energy(system.replace(velocities=v)))(frames)
    np.testing.assert_allclose(energies[1], 4 * energies[0], rtol=1e-6)


def products_in(jaxpr):
    """All matrix products of a traced function, in its inner functions too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):
                yield from products_in(inner)
            elif hasattr(inner, "jaxpr"):
                yield from products_in(inner.jaxpr)


def test_a_system_takes_a_cell_of_ases_and_one_that_is_traced(quartz):
    parts = quartz.positions, quartz.velocities, quartz.species
    cell = np.asarray(quartz.cell, np.float64)
    np.testing.assert_array_equal(make_system(*parts, cell=Cell(cell)).cell, quartz.cell)
    volume = jax.grad(lambda c: jnp.linalg.det(make_system(*parts, cell=c).cell))(quartz.cell)
    cofactors = np.linalg.det(cell) * np.linalg.inv(cell).T
    np.testing.assert_allclose(volume, cofactors, rtol=1e-4, atol=1e-3)


def test_a_transformation_is_a_product_of_matrices(x64):
    rng = np.random.default_rng(0)
    vectors, matrix = rng.normal(size=(4, 5, 3)), rng.normal(size=(3, 3))
    np.testing.assert_allclose(transform(vectors, matrix), vectors @ matrix, rtol=1e-13)


def test_geometry_and_momenta_are_multiplied_in_full_precision(quartz, ethanol):
    """A GPU or TPU would round the factors to three digits, and nobody would see it on a CPU."""
    listed = neighbor_list(quartz.cell, 3.5, 0.5).allocate(quartz)

    def motions():
        v, index = quartz.velocities, (quartz.species == 14).astype(jnp.int32)
        edges = graph(quartz, listed, 3.5)
        return motion_sums(edges, index, quartz.masses, [(v, v)], 2, 3.5)

    functions = {
        "motions": motions,
        "graph": lambda: graph(quartz, listed, 3.5),
        "minimum image": lambda: minimum_image(quartz.positions, quartz.cell),
        "wrap": lambda: wrap(quartz.positions, quartz.cell),
        "linear": lambda: conserve_linear(quartz, quartz, 30.0),
        "angular": lambda: conserve_angular(ethanol, ethanol),
    }
    for name, function in functions.items():
        found = list(products_in(jax.make_jaxpr(function)().jaxpr))
        assert bool(found) == (name in ("motions", "linear", "angular")), name  # else sums
        for equation in found:
            precision = equation.params["precision"] or ()
            assert set(precision) == {jax.lax.Precision.HIGHEST}, f"{name}: {equation}"
