"""Tuning on the temperatures of a model's own forecasts: gradients, estimators, and that it works.

The model is one of two weights: rotations of all momenta, which share the energy out evenly, and
a gain for each species, of which unequal ones make one species cold.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import as_system, forecaster, quartz_atoms

import experiments
from experiments.tune import Forecasts, Kinds, Settings, common_share, tune
from experiments.tune_report import mode_imbalance, reweighting_strides
from trajcast_jax.analysis.evaluation import Step
from trajcast_jax.analysis.modes import NormalModes, mode_temperatures
from trajcast_jax.analysis.observables import cut
from trajcast_jax.data.pairs import frame_pairs
from trajcast_jax.network.forecast import Forecaster
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV

ATOMS = 27
SYSTEM = as_system(quartz_atoms((3, 1, 1)))
BY_SPECIES = np.argsort(np.repeat(np.asarray(SYSTEM.species), 3) != 14, kind="stable")
"""Coordinates, those of silicon first."""
MODES = NormalModes(np.arange(3 * ATOMS), np.eye(3 * ATOMS), np.zeros((ATOMS, 3)))
"""Of single coordinates."""
KINDS = Kinds(MODES._replace(vectors=MODES.vectors[:, BY_SPECIES]), 3)
"""Silicon, and twice oxygen."""
COLD_SILICON = {"gains": jnp.array([0.02, -0.02])}
EXPERIMENT = experiments.load("quartz")
generator = np.random.default_rng(0).normal(size=(3 * ATOMS, 3 * ATOMS))
ROTATION = jax.scipy.linalg.expm(0.02 * jnp.asarray(generator - generator.T))


@dataclasses.dataclass(frozen=True)
class Rotations(Forecaster):
    """Atoms that stay where they are and pass their momenta on."""

    def changes(self, params, system, edges):
        roots = jnp.sqrt(system.masses)[:, None]
        turned = (ROTATION.astype(roots.dtype) @ (roots * system.velocities).ravel()).reshape(-1, 3)
        gain = 1 + params["gains"][self.species_index(system.species)]
        return jnp.zeros_like(system.positions), gain[:, None] * turned / roots

    def batch_changes(self, params, systems, edges):
        return jax.vmap(lambda system, edge: self.changes(params, system, edge))(systems, edges)


@pytest.fixture(scope="module")
def forecasts():
    made = forecaster()
    rotations = Rotations(made.settings, made.statistics, made.time_step)
    return Forecasts(rotations, SYSTEM, EXPERIMENT)


def cold(forecasts, params):
    """Temperature of silicon over that of oxygen in forecasts of eight seeds."""
    kelvins = []
    for seed in range(1, 9):
        _, frames = forecasts.run(params, forecasts.first(seed), 1_500)
        kelvins.append(KINDS.temperatures(cut(frames, slice(100, None))))
    kelvin = np.mean(kelvins, axis=0)
    return kelvin[0] / kelvin[1:].mean()


def test_kinds_are_means_of_modes(forecasts):
    _, frames = forecasts.run(COLD_SILICON, forecasts.first(0), 20)
    expected = mode_temperatures(frames, MODES)[BY_SPECIES].reshape(3, -1).mean(axis=1)
    np.testing.assert_allclose(KINDS.temperatures(frames), expected, rtol=1e-5)
    np.testing.assert_allclose(
        KINDS.imbalance(expected, 300.0) ** 2, np.mean((expected / 300 - 1) ** 2), rtol=1e-9
    )


@pytest.mark.slow
def test_gradients_are_those_of_differences(x64):
    """Through strides and thermostat, of the objective ½ Σ p (T/T₀ − 1)² of a window."""
    made = forecaster()
    system = jax.tree.map(
        lambda x: x.astype(float) if jnp.issubdtype(x.dtype, jnp.floating) else x, SYSTEM
    )
    rotations = Rotations(made.settings, made.statistics, made.time_step)
    forecasts = Forecasts(rotations, system, EXPERIMENT)
    state = forecasts.first(1)

    def temperatures(gains):
        return KINDS.temperatures(forecasts.run({"gains": gains}, state, 5)[1])

    def objective(gains):
        return 0.5 * jnp.sum(KINDS.shares * (temperatures(gains) / 300 - 1) ** 2)

    gains = COLD_SILICON["gains"].astype(float)
    pull = KINDS.pull(temperatures(gains), 300.0)
    gradient, kelvin, _ = forecasts.gradient({"gains": gains}, state, pull, 5, KINDS)
    np.testing.assert_allclose(kelvin, temperatures(gains), rtol=1e-12)
    for k, shift in enumerate(1e-5 * np.eye(2)):
        difference = (objective(gains + shift) - objective(gains - shift)) / 2e-5
        np.testing.assert_allclose(gradient["gains"][k], difference, rtol=1e-6)


@pytest.mark.slow
def test_tuning_warms_the_cold_species_of_held_out_seeds(forecasts):
    state, frames = forecasts.run({"gains": jnp.zeros(2)}, forecasts.first(3), 30)
    times = np.arange(30) * forecasts.forecaster.time_step
    pairs = frame_pairs([(frames, times)], 30.0, 3.5, 4)
    settings = Settings(
        updates=300, strides=4, learning_rate=2e-4, one_step=0.0, memory=1_500.0, kinds=3
    )
    average = KINDS.temperatures(frames)
    params, course = tune(
        forecasts, KINDS, COLD_SILICON, state, average, pairs, EXPERIMENT, settings
    )
    assert course.shape == (300, 2)
    # Equal gains, of any size, are what shares the energy out evenly.
    assert abs(np.diff(params["gains"])) < 0.2 * abs(np.diff(COLD_SILICON["gains"]))
    before, after = cold(forecasts, COLD_SILICON), cold(forecasts, params)
    assert abs(after - 1) < 0.3 * abs(before - 1)


def test_what_gradients_share_is_told_from_noise():
    rng = np.random.default_rng(0)
    signal, noise = rng.normal(size=200), rng.normal(size=(400, 200))
    share, error = common_share(signal + 2 * noise)
    expected = signal @ signal / (signal @ signal + 4 * 200)
    assert abs(share - expected) < 4 * error < 0.2 * expected
    share, error = common_share(noise)
    assert abs(share) < 4 * error


def test_noise_of_seeds_is_no_imbalance_of_modes():
    rng = np.random.default_rng(0)
    true = 300 * (1 + 0.2 * rng.normal(size=2_000))
    found = mode_imbalance(true + 150 * rng.normal(size=(3, 2_000)), 300.0)
    np.testing.assert_allclose(found, 0.2, rtol=0.1)
    assert mode_imbalance(300 + 150 * rng.normal(size=(3, 2_000)), 300.0) < 0.08


def test_reweighting_leaves_the_share_of_the_sample_that_it_says(forecasts):
    """Weights of strides with normal noise, drawn: (Σw)²/(n Σw²) is 1/e after so many strides."""
    _, frames = forecasts.run(COLD_SILICON, forecasts.first(0), 8)
    times = np.arange(8) * forecasts.forecaster.time_step
    pairs = frame_pairs([(frames, times)], 30.0, 3.5, 4)
    variance = BOLTZMANN / KINETIC_TO_EV * 300.0 / np.asarray(pairs.system.masses) * (1 - 0.6**2)
    shift = 0.05
    before = Step(pairs.displacements, pairs.velocities)
    after = Step(pairs.displacements, pairs.velocities + shift * np.sqrt(variance)[..., None])
    strides = reweighting_strides(before, after, pairs, 300.0, 0.6)
    draws = np.random.default_rng(0).normal(size=(200_000, 1))
    # The sum of all strides' log-weights is one normal number: of n strides and 3N components.
    distance = shift * np.sqrt(3 * ATOMS * strides)
    weights = np.exp(distance * draws - distance**2 / 2)
    np.testing.assert_allclose(weights.mean() ** 2 / (weights**2).mean(), np.exp(-1), rtol=0.03)
