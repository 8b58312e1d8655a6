"""Couplings: the distribution of the kinetic energy, its decay, what must stay untouched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from trajcast_jax.dynamics.ensemble import chain, csvr, langevin, linear_ramp, nve, zero_momentum
from trajcast_jax.mechanics import (
    angular_momentum,
    degrees_of_freedom,
    kinetic_energy,
    maxwell_boltzmann,
    momentum,
    rigid_velocities,
    temperature,
)
from trajcast_jax.system import make_system, pad
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV

KELVIN = 300.0


def gas(n_atoms, periodic=True, seed=0, speed=0.005):
    """Atoms somewhere; a coupling does not care about forces."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(0, 10, (n_atoms, 3))
    velocities = speed * rng.normal(size=(n_atoms, 3))
    species = rng.choice([1, 8, 14], n_atoms)
    return make_system(positions, velocities, species, cell=10 * np.eye(3) if periodic else None)


def at_energy(system, energy):
    """The system at rest as a whole, with a kinetic energy (eV)."""
    drift = momentum(system) / jnp.sum(system.masses)
    system = system.replace(velocities=system.velocities - drift)
    scale = jnp.sqrt(energy / kinetic_energy(system))
    return system.replace(velocities=scale * system.velocities)


def energies_after(coupling, system, time_step, steps, replicas, seed=0):
    """Kinetic energies (eV) of replicas that nothing but the coupling acts on."""

    def one(key):
        key, first = jax.random.split(key)
        state = coupling.init(first, system)

        def body(carry, key):
            state, system = coupling.apply(*carry, key, time_step)
            return (state, system), kinetic_energy(system)

        return jax.lax.scan(body, (state, system), jax.random.split(key, steps))[1]

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), replicas)))


@pytest.mark.parametrize(
    ("n_atoms", "periodic", "dof", "replicas"),
    [(3, True, 6, 20_000), (4, False, 6, 20_000), (20, True, 57, 10_000), (162, True, 483, 3_000)],
)
def test_csvr_mean_and_variance(n_atoms, periodic, dof, replicas):
    """K is Γ(N_f/2, k_B T) in the end, from any start: mean, variance and distribution.

    Independent replicas, 4 standard errors each; the thermostat starts from twice the
    temperature, of which 12 time constants leave 1e-5.
    """
    system = gas(n_atoms, periodic)
    assert degrees_of_freedom(system, angular=not periodic) == dof
    unit = BOLTZMANN * KELVIN
    start = at_energy(system, unit * dof)
    if not periodic:  # no rotation, which is neither counted nor scaled
        start = at_energy(jax.jit(without_rotation)(system), unit * dof)
    energies = energies_after(csvr(KELVIN, 75.0), start, 30.0, 30, replicas)[:, -1] / unit
    shape = dof / 2
    assert abs(energies.mean() - shape) < 4 * np.sqrt(shape / replicas)
    error = np.sqrt((2 + 6 / shape) / replicas)
    assert abs(energies.var() / shape - 1) < 4 * error
    assert scipy.stats.kstest(energies, "gamma", args=(shape,)).pvalue > 1e-4


def without_rotation(system):
    return system.replace(velocities=system.velocities - rigid_velocities(system, True))


def test_csvr_decays_with_its_time_constant():
    """⟨K(t)⟩ = K̄ + (K0 − K̄) exp(−t/τ), whatever the step; the variance has a closed form too."""
    dof, replicas, tau = 57, 20_000, 75.0
    unit = BOLTZMANN * KELVIN
    mean = dof / 2
    start = at_energy(gas(20), 3 * mean * unit)
    for time_step, steps in ((10.0, 9), (90.0, 1)):
        energies = energies_after(csvr(KELVIN, tau), start, time_step, steps, replicas)[:, -1]
        c = np.exp(-time_step * steps / tau)
        # K' = k·χ'²(N_f, λ): a noncentral chi-square, k = (1−c) k_B T/2 and λ = c K0/k.
        k = (1 - c) / 2
        expected = k * dof + c * 3 * mean
        variance = k**2 * 2 * (dof + 2 * c * 3 * mean / k)
        found = energies / unit
        assert abs(found.mean() - expected) < 4 * np.sqrt(variance / replicas)
        assert abs(found.var() / variance - 1) < 4 * np.sqrt(3 / replicas)


@pytest.mark.parametrize("tau", [10.0, 30.0, 1e-3])
def test_csvr_turns_velocities_around_as_often_as_it_must(tau):
    """With one degree of freedom it is an Ornstein–Uhlenbeck process: ⟨α⟩ = √c, ⟨α²⟩ = 1.

    Without the sign rule ⟨α⟩ would be too large.
    """
    replicas, time_step = 20_000, 20.0
    axis = jnp.asarray([[0.0, 0, 0], [1.1, 0, 0]])
    pair = make_system(axis, 0.004 * axis, [7, 7])
    pair = at_energy(pair, BOLTZMANN * KELVIN / 2)
    assert degrees_of_freedom(pair, angular=True) == 1
    coupling = csvr(KELVIN, tau)
    state = coupling.init(jax.random.key(0), pair)
    keys = jax.random.split(jax.random.key(1), replicas)
    after = jax.jit(jax.vmap(lambda k: coupling.apply(state, pair, k, time_step)[1].velocities))(
        keys
    )
    alpha = np.asarray(after[:, 1, 0] / pair.velocities[1, 0])
    c = np.exp(-time_step / tau)
    assert abs(alpha.mean() - np.sqrt(c)) < 4 * np.sqrt((1 - c) / replicas)
    assert abs((alpha**2).mean() - 1) < 4 * np.sqrt(2 / replicas)


@pytest.mark.parametrize("periodic", [True, False])
def test_csvr_leaves_the_motion_as_a_whole(periodic):
    with jax.enable_x64(True):
        system = pad(gas(5, periodic), 7)
        coupling = csvr(KELVIN, 20.0)
        state = coupling.init(jax.random.key(0), system)
        after = system
        apply = jax.jit(coupling.apply)
        for key in jax.random.split(jax.random.key(1), 5):
            state, after = apply(state, after, key, 30.0)
        np.testing.assert_allclose(momentum(after), momentum(system), rtol=1e-12)
        if not periodic:
            np.testing.assert_allclose(
                angular_momentum(after), angular_momentum(system), rtol=1e-10
            )
        assert abs(kinetic_energy(after) / kinetic_energy(system) - 1) > 1e-3
        np.testing.assert_array_equal(after.velocities[-2:], 0)
        np.testing.assert_array_equal(after.positions, system.positions)


@pytest.mark.parametrize("name", ["at rest", "one atom", "padding only"])
def test_csvr_where_there_is_nothing_to_scale(name):
    system = gas(1 if name == "one atom" else 4, periodic=name != "one atom")
    if name == "at rest":
        system = system.replace(velocities=0 * system.velocities)
    if name == "padding only":
        system = system.replace(masses=0 * system.masses, mask=system.mask & False)
    coupling = csvr(KELVIN, 75.0)
    state = coupling.init(jax.random.key(0), system)
    _, after = jax.jit(coupling.apply)(state, system, jax.random.key(1), 30.0)
    np.testing.assert_allclose(after.velocities, system.velocities, rtol=1e-6)


def test_replicas_have_temperatures_of_their_own():
    system = gas(20)
    kelvins = jnp.asarray([50.0, 300.0, 1200.0])

    def mean_temperature(kelvin, key):
        coupling = csvr(kelvin, 20.0)
        start = system.replace(velocities=maxwell_boltzmann(key, system, kelvin))

        def body(carry, key):
            carry = coupling.apply(*carry, key, 20.0)
            return carry, temperature(carry[1], 57)

        keys = jax.random.split(key, 400)
        return jax.lax.scan(body, (coupling.init(key, start), start), keys)[1].mean()

    found = jax.jit(jax.vmap(mean_temperature))(kelvins, jax.random.split(jax.random.key(3), 3))
    # σ_T = T √(2/57), correlated by e⁻¹ from step to step: (1 + c)/(1 − c) = 2.2.
    np.testing.assert_allclose(found, kelvins, rtol=4 * np.sqrt(2 / 57 * 2.2 / 400))


def test_linear_ramp():
    ramp = linear_ramp(300.0, 180.0, 1000.0)
    found = [float(ramp(t)) for t in (0.0, 250.0, 1000.0, 5000.0)]
    np.testing.assert_allclose(found, [300.0, 270.0, 180.0, 180.0])


@pytest.mark.parametrize("kind", [csvr, langevin])
def test_thermostats_follow_a_schedule(kind):
    """A ramp, or any function of time; τ is short, so that the end of the ramp is forgotten."""
    system = gas(162)
    schedules = [linear_ramp(400.0, 100.0, 300.0)]
    if kind is langevin:
        schedules.append(lambda t: 400.0 - jnp.minimum(t, 300.0))
    for schedule in schedules:
        coupling = kind(schedule, 2.0)
        start = system.replace(velocities=maxwell_boltzmann(jax.random.key(0), system, 400.0))
        state = coupling.init(jax.random.key(1), start)
        step = jax.jit(coupling.apply)
        for key in jax.random.split(jax.random.key(2), 40):
            state, start = step(state, start, key, 10.0)
        assert state.steps == 40
        assert abs(float(temperature(start, 483)) - 100.0) < 5 * 100 * np.sqrt(2 / 483)


def test_langevin_mean_and_variance_by_species():
    """Every component is normal with variance k_B T/m: light atoms are fast, none is hot."""
    replicas = 20_000
    system = pad(make_system(np.zeros((3, 3)), np.zeros((3, 3)) + 0.01, [1, 8, 14]), 4)
    coupling = langevin(KELVIN, 40.0)

    def one(key):
        state = coupling.init(key, system)
        body = lambda carry, k: (coupling.apply(*carry, k, 30.0), None)  # noqa: E731
        carry, _ = jax.lax.scan(body, (state, system), jax.random.split(key, 20))
        return carry[1].velocities

    velocities = np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(0), replicas)))
    np.testing.assert_array_equal(velocities[:, 3], 0)
    for atom in range(3):
        sample = velocities[:, atom].ravel()
        variance = BOLTZMANN * KELVIN / (KINETIC_TO_EV * float(system.masses[atom]))
        assert abs(sample.mean()) < 4 * np.sqrt(variance / sample.size)
        assert abs(sample.var() / variance - 1) < 4 * np.sqrt(2 / sample.size)


@pytest.mark.parametrize("thermostat", [csvr, langevin])
def test_derivatives_with_temperature_are_finite_at_0_kelvin(thermostat):
    system = gas(5)

    def last_speed(kelvin):
        coupling = thermostat(linear_ramp(kelvin, 0.0, 10.0), 30.0)
        state = coupling.init(jax.random.key(0), system)
        return coupling.apply(state, system, jax.random.key(0), 30.0)[1].velocities[0, 0]

    assert jax.grad(last_speed)(100.0) == 0.0


def test_zero_momentum_at_each_third_step():
    with jax.enable_x64(True):
        system = gas(5, periodic=False)
        coupling = zero_momentum(3)
        state = coupling.init(jax.random.key(0), system)
        for _ in range(2):
            state, system = coupling.apply(state, system, jax.random.key(0), 1.0)
            assert np.abs(momentum(system)).max() > 1e-3
        state, system = coupling.apply(state, system, jax.random.key(0), 1.0)
        np.testing.assert_allclose(momentum(system), 0, atol=1e-15)
        np.testing.assert_allclose(angular_momentum(system), 0, atol=1e-13)


def test_zero_momentum_refuses_no_number_of_steps():
    with pytest.raises(ValueError, match="leave the coupling out"):
        zero_momentum(0)


def test_chain_applies_in_order_with_keys_of_their_own():
    system = gas(5)
    both = chain(langevin(KELVIN, 30.0), nve(), langevin(KELVIN, 30.0), zero_momentum(1))
    key = jax.random.key(4)
    state, after = both.apply(both.init(key, system), system, key, 30.0)
    np.testing.assert_allclose(momentum(after), 0, atol=1e-6)
    assert len(state) == 4
    one = langevin(KELVIN, 30.0)
    keys = jax.random.split(key, 4)
    expected = system
    for k in (keys[0], keys[2]):
        _, expected = one.apply(one.init(key, system), expected, k, 30.0)
    drift = momentum(expected) / jnp.sum(expected.masses)
    np.testing.assert_allclose(after.velocities, expected.velocities - drift, atol=1e-8)
    _, same = chain().apply(chain().init(key, system), system, key, 30.0)
    np.testing.assert_array_equal(same.velocities, system.velocities)
