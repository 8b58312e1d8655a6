"""Sensitivities of observables to temperature and mass, through rollouts: laws and differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import as_system, quartz_atoms
from test_rollout import ALONE, TIME_STEP, harmonic

from experiments.sensitivity import DIFFERENCES, compare, jackknife, with_slopes
from trajcast_jax.analysis.observables import vibrational_density_of_states
from trajcast_jax.analysis.soft_observables import (
    TAIL,
    peak_position,
    soft_radial_distribution_function,
)
from trajcast_jax.dynamics.ensemble import csvr, nve
from trajcast_jax.dynamics.rollout import rollout, simulator
from trajcast_jax.neighbors.multi_image import images_within
from trajcast_jax.system import make_system

# Only the compiler's work is less: these programs run for milliseconds.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

MASS, OMEGA = 16.0, 0.05
"""Da, and rad/fs: 265 cm⁻¹."""


def knowing(system, neighbors):
    """Oscillators of ω = √(k/m), moved exactly."""
    omega = OMEGA * jnp.sqrt(MASS / system.masses)[:, None]
    cos, sin = jnp.cos(omega * TIME_STEP), jnp.sin(omega * TIME_STEP)
    x, v = system.positions, system.velocities
    return system.replace(positions=cos * x + sin / omega * v, velocities=cos * v - omega * sin * x)


def peak(mass, forecast):
    """Where four oscillators of a mass have their spectrum's peak (cm⁻¹), from 4 ps."""
    x, v = np.random.default_rng(0).normal(size=(2, 4, 3))
    system = make_system(0.1 * x, 0.005 * v, [8] * 4).replace(masses=jnp.full(4, mass))
    sim = simulator(forecast, ALONE, nve(), TIME_STEP)
    _, frames = rollout(sim.step, 400)(sim.init(jax.random.key(0), system))
    spectrum = vibrational_density_of_states(frames.velocities, TIME_STEP)
    return peak_position(*spectrum, 150.0, 400.0)


def test_a_forecast_that_knows_its_masses_has_the_isotope_effect(x64):
    """dω/dm = −ω/2m, and what a central difference says."""
    bare = functools.partial(peak, forecast=knowing)
    position, slope = jit(bare), jit(jax.grad(bare))(MASS)
    numerical = (position(MASS + 1e-2) - position(MASS - 1e-2)) / 2e-2
    np.testing.assert_allclose(slope, numerical, rtol=1e-6)
    np.testing.assert_allclose(slope, -position(MASS) / (2 * MASS), rtol=0.01)


def test_a_forecast_that_does_not_has_none(x64):
    """What the mass of a learned forecast changes, thermostat and conservation change."""
    position = functools.partial(peak, forecast=harmonic(np.zeros(3), OMEGA))
    assert jit(jax.grad(position))(MASS) == 0


@pytest.mark.parametrize("name", ["temperature", "mass"])
def test_structure_answers_to_the_thermostat_as_differences_say(name, x64):
    """The soft g(r) of a crystal of oscillators under CSVR, forward mode and reverse mode."""
    system = as_system(quartz_atoms())
    oxygen = np.asarray(system.species) == 8
    images = images_within(system.cell, 2.0 + TAIL * 0.05)
    # Oscillators out of phase: together at rest they would leave the thermostat a division by 0.
    rng = np.random.default_rng(0)
    sites = system.positions + 0.05 * rng.normal(size=system.positions.shape)
    forecast = harmonic(sites, rng.uniform(0.015, 0.03, size=(9, 1)))

    def height(given):
        moved = system.replace(masses=jnp.where(oxygen, given["mass"], system.masses))
        coupling = csvr(given["temperature"], 50.0)
        sim = simulator(forecast, ALONE, coupling, TIME_STEP)
        _, frames = rollout(sim.step, 60, every=3)(sim.init(jax.random.key(1), moved))
        frames = system.replace(positions=frames.positions, velocities=frames.velocities)
        return soft_radial_distribution_function(frames, 14, 8, 2.0, 20, 0.05, images)[1][16]

    inputs = {"temperature": jnp.asarray(300.0), "mass": jnp.asarray(MASS)}
    size = {"temperature": 0.1, "mass": 0.01}[name]
    unit = {key: jnp.asarray(float(key == name)) for key in inputs}
    value = jit(height)
    up, down = (value(inputs | {name: inputs[name] + side * size}) for side in (1, -1))
    reverse = jit(jax.grad(height))(inputs)[name]
    forward = jit(lambda x: jax.jvp(height, (x,), (unit,))[1])(inputs)
    np.testing.assert_allclose(forward, reverse, rtol=1e-9)
    np.testing.assert_allclose(reverse, (up - down) / (2 * size), rtol=1e-6)
    assert abs(reverse) > 1e-4


def test_the_jackknife_gives_the_error_of_a_mean_and_carries_it_through_a_function():
    samples = {"x": np.random.default_rng(0).normal(5.0, 1.0, size=(400, 3))}
    mean, error = jackknife(lambda m: m["x"], samples)
    np.testing.assert_allclose(mean, samples["x"].mean(axis=0))
    np.testing.assert_allclose(error, samples["x"].std(axis=0, ddof=1) / 20, rtol=1e-9)
    _, squared = jackknife(lambda m: m["x"] ** 2, samples)
    np.testing.assert_allclose(squared, 2 * mean * error, rtol=0.01)


def test_gradients_and_differences_stand_beside_their_own_inputs(x64):
    """An observable that is linear in both inputs, with other slopes at every start."""
    inputs = {"temperature": jnp.asarray(300.0), "oxygen mass": jnp.asarray(16.0)}
    slopes = {"temperature": 2.0, "oxygen mass": -5.0}

    def sample(start):
        def observe(x):
            return {"g": sum((slopes[k] + start) * x[k] for k in slopes)[None]}, None

        values, tangents, _ = with_slopes(observe, inputs)
        shifted = {
            (name, side): observe(inputs | {name: inputs[name] + side * step})[0]
            for name, step in DIFFERENCES.items()
            for side in (1, -1)
        }
        return values, tangents, shifted

    samples = jax.tree.map(lambda *x: np.stack(x), *[sample(start) for start in (0.0, 1.0, 2.0)])
    found = compare(lambda means: means["g"], samples)
    for name, slope in slopes.items():
        for kind in ("gradient", "difference"):
            np.testing.assert_allclose(found[name][kind], [[slope + 1], [3**-0.5]], rtol=1e-9)
        np.testing.assert_allclose(found[name]["gradient - difference"], 0, atol=1e-9)
