"""A rock salt of known vibrations, and the settings to evaluate its trajectories with."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from trajcast_jax.analysis.evaluation import reference_observables
from trajcast_jax.config import EvaluationSettings, Experiment, RolloutSettings
from trajcast_jax.system import make_system
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV

SETTINGS = Experiment(
    name="salt",
    evaluation=EvaluationSettings(
        rdf_max=6.0, rdf_bins=60, rdf_frames=100, vdos_segment=2_000.0, msd_time=1_000.0, n_blocks=4
    ),
    rollout=RolloutSettings(temperature=300.0, max_temperature=2_000.0),
)
SETTINGS = dataclasses.replace(SETTINGS, data=dataclasses.replace(SETTINGS.data, time_step=20.0))

WHOLE = dataclasses.replace(
    SETTINGS, evaluation=dataclasses.replace(SETTINGS.evaluation, equilibration=0.0)
)
"""With nothing left out."""


def salt(seed, time_step, frames, kelvin=300.0, repeat=1):
    """A rock salt of independent oscillators, every mode at the mean energy, momentum 0."""
    rng = np.random.default_rng(seed)
    corners = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    basis = np.concatenate([corners, corners + 0.5])
    cells = np.stack(np.meshgrid(*[np.arange(repeat)] * 3), axis=-1).reshape(-1, 3)
    sites = 5.6 * (cells[:, None] + basis).reshape(-1, 3)
    species = np.tile([11] * 4 + [17] * 4, len(cells))
    system = make_system(sites, 0 * sites, species, cell=5.6 * repeat * np.eye(3))
    mass = np.asarray(system.masses)[:, None]
    omega = 2 * np.pi * rng.uniform(0.002, 0.02, size=sites.shape)  # rad/fs: 67 to 667 cm⁻¹
    amplitude = np.sqrt(2 * BOLTZMANN * kelvin / (KINETIC_TO_EV * mass)) / omega
    angle = omega * np.arange(frames)[:, None, None] * time_step
    angle = angle + 2 * np.pi * rng.random(sites.shape)
    velocities = -amplitude * omega * np.sin(angle)
    velocities -= np.sum(mass * velocities, axis=1, keepdims=True) / mass.sum()
    return system.replace(
        positions=jnp.asarray(sites + amplitude * np.cos(angle), jnp.float32),
        velocities=jnp.asarray(velocities, jnp.float32),
    )


def salt_reference():
    """Observables of two runs of 12 ps, a frame every 10 fs."""
    runs = [salt(seed, 10.0, 1_200) for seed in range(2)]
    return reference_observables(runs, 10.0, 20.0, SETTINGS)
