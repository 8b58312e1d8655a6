"""Molecular dynamics without forces: an equivariant network forecasts the next frame, in JAX."""

from trajcast_jax.compiling import without_ynn
from trajcast_jax.imports import postponed

with postponed("scipy.signal"):  # an eighth of the import time, and never used here
    import e3nn_jax  # noqa: F401

from trajcast_jax.analysis.soft_observables import (
    diffusion_coefficient,
    dihedrals,
    peak_position,
    soft_radial_distribution_function,
    soft_speed_distribution,
)
from trajcast_jax.config import Experiment, load
from trajcast_jax.data.pairs import FramePairs, frame_pairs
from trajcast_jax.dynamics.ensemble import chain, csvr, langevin, linear_ramp, nve, zero_momentum
from trajcast_jax.dynamics.gradients import describe_growth, gradient_horizon, lyapunov_exponent
from trajcast_jax.dynamics.restart import load_state, save_state
from trajcast_jax.dynamics.rollout import replicate, rollout, simulate, simulator
from trajcast_jax.io import H5MDWriter, read, read_trajectory, write_extxyz
from trajcast_jax.mechanics import degrees_of_freedom, maxwell_boltzmann, temperature
from trajcast_jax.neighbors.graph import neighbor_list
from trajcast_jax.network.checkpoint import pretrained, restore, save
from trajcast_jax.network.compress import compress
from trajcast_jax.network.forecast import Forecaster, TrainedForecast
from trajcast_jax.system import System, make_system

without_ynn()

__all__ = [
    "Experiment",
    "Forecaster",
    "FramePairs",
    "H5MDWriter",
    "System",
    "TrainedForecast",
    "chain",
    "compress",
    "csvr",
    "degrees_of_freedom",
    "describe_growth",
    "diffusion_coefficient",
    "dihedrals",
    "frame_pairs",
    "gradient_horizon",
    "langevin",
    "linear_ramp",
    "load",
    "load_state",
    "lyapunov_exponent",
    "make_system",
    "maxwell_boltzmann",
    "neighbor_list",
    "nve",
    "peak_position",
    "pretrained",
    "read",
    "read_trajectory",
    "replicate",
    "restore",
    "rollout",
    "save",
    "save_state",
    "simulate",
    "simulator",
    "soft_radial_distribution_function",
    "soft_speed_distribution",
    "temperature",
    "write_extxyz",
    "zero_momentum",
]
