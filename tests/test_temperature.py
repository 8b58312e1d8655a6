"""Temperatures by species and the canonical ensemble against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trajcast_jax.analysis import observables
from trajcast_jax.mechanics import angular_momentum, angular_velocity, arms, maxwell_boltzmann
from trajcast_jax.system import make_system, pad
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV


def frames_at(system, temperature, n, rotation=True):
    """A trajectory of n independent draws from Maxwell and Boltzmann."""

    def draw(key):
        v = system.replace(velocities=maxwell_boltzmann(key, system, temperature))
        omega = angular_velocity(v, angular_momentum(v))
        return v.velocities - (0 if rotation else jnp.cross(omega, arms(v)))

    velocities = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), n))
    return system.replace(
        positions=jnp.broadcast_to(system.positions, velocities.shape), velocities=velocities
    )


def water():
    positions = np.array([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])
    return make_system(positions, np.zeros((3, 3)), [8, 1, 1])


@pytest.mark.parametrize("angular", [False, True], ids=["3N-3", "3N-6"])
def test_species_of_a_molecule_in_equilibrium_have_one_temperature(angular):
    """3 atoms, where constraints take most: each species has its share of the freedom left."""
    system = water()
    trajectory = frames_at(pad(system, 5), 300.0, 20_000, rotation=not angular)
    share = observables.degrees_of_freedom_of_atoms(pad(system, 5), angular)
    np.testing.assert_allclose(jnp.sum(share), 3 if angular else 6, rtol=1e-5)
    np.testing.assert_allclose(share[3:], 0, atol=1e-6)
    series = observables.temperature_by_species(trajectory, angular)
    assert set(series) == {1, 8}
    for z, kelvin in series.items():
        freedom = float(jnp.sum(share[np.asarray(pad(system, 5).species) == z]))
        error = 300 * np.sqrt(2 / freedom / 20_000) if freedom > 0.5 else 10.0
        assert abs(float(kelvin.mean()) - 300) < 6 * error + 1, z


def test_linear_molecules_and_atoms_share_the_right_freedom():
    line = make_system([[0, 0, 0], [0, 0, 1.16], [0, 0, -1.16]], np.zeros((3, 3)), [6, 8, 8])
    assert np.isclose(jnp.sum(observables.degrees_of_freedom_of_atoms(line, True)), 4, atol=1e-4)
    atom = make_system([[0, 0, 0]], np.zeros((1, 3)), [18])
    assert np.isclose(jnp.sum(observables.degrees_of_freedom_of_atoms(atom, True)), 0, atol=1e-6)


def test_temperature_deviation_is_canonical():
    """The spread of temperatures of independent draws is T √(2/N_f), to its own error."""
    system = make_system(np.zeros((20, 3)), np.zeros((20, 3)), [18] * 20)
    series = observables.temperature_by_species(frames_at(system, 250.0, 5_000))[18]
    expected = observables.canonical_temperature_deviation(250.0, 57)
    assert np.isclose(float(series.std()), expected, rtol=5 / np.sqrt(2 * 5_000))


def test_speeds_follow_maxwell_and_boltzmann(rng):
    mass, kelvin = 16.0, 300.0
    sigma = (BOLTZMANN * kelvin / (mass * KINETIC_TO_EV)) ** 0.5
    velocities = jnp.asarray(sigma * rng.normal(size=(1000, 200, 3)))
    speeds, density = observables.speed_distribution(velocities, 6 * sigma, 50)
    expected = observables.maxwell_boltzmann_density(speeds, mass, kelvin)
    width = float(speeds[1] - speeds[0])
    assert np.isclose(jnp.sum(density) * width, 1, atol=1e-3)
    assert np.isclose(jnp.sum(expected) * width, 1, atol=1e-3)
    error = np.sqrt(expected / (velocities.shape[0] * velocities.shape[1] * width))
    assert np.all(abs(density - expected)[:40] < 5 * error[:40] + 0.005 * expected.max())
    # Three degrees of freedom: ⟨v²⟩ = 3 σ².
    assert np.isclose(jnp.sum(expected * speeds**2) * width, 3 * sigma**2, rtol=1e-3)
