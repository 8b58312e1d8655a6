"""Trajectories of any step function `state -> state`, independent of the network.

`rollout` scans steps; `ensemble` holds the thermostats; `failure` detects and describes failed
rollouts; `restart` saves and loads states; `gradients` estimates for how long derivatives of a
rollout are meaningful.
"""

from trajcast_jax.dynamics.ensemble import chain, csvr, langevin, linear_ramp, nve, zero_momentum
from trajcast_jax.dynamics.failure import RolloutError
from trajcast_jax.dynamics.gradients import describe_growth, gradient_horizon, lyapunov_exponent
from trajcast_jax.dynamics.restart import load_state, save_state
from trajcast_jax.dynamics.rollout import (
    Simulator,
    SimulatorState,
    replicate,
    rollout,
    simulate,
    simulator,
)

__all__ = [
    "RolloutError",
    "Simulator",
    "SimulatorState",
    "chain",
    "csvr",
    "describe_growth",
    "gradient_horizon",
    "langevin",
    "linear_ramp",
    "load_state",
    "lyapunov_exponent",
    "nve",
    "replicate",
    "rollout",
    "save_state",
    "simulate",
    "simulator",
    "zero_momentum",
]
