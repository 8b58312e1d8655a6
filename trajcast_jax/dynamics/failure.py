"""Failures of rollouts: detected as data inside compiled scans, described in text outside."""

from typing import Any

import jax
import jax.numpy as jnp
from ase.data import chemical_symbols
from flax import struct
from jaxtyping import Array, Float, Int

from trajcast_jax.mechanics import degrees_of_freedom, temperature
from trajcast_jax.system import System

FINE, NOT_FINITE, TOO_HOT = 0, 1, 2
EARLY = 10
"""Failures within this number of strides may be due to the start frame."""


@struct.dataclass
class Failure:
    """Record of the first failure; all fields are 0 if there was none.

    Attributes:
      kind: FINE, NOT_FINITE or TOO_HOT.
      step: number of the failed step, counted from 1.
      atom: index of the first atom that is not finite, or of the one with most kinetic energy.
      temperature: K, of the failed frame.
    """

    kind: Int[Array, "*replica"]
    step: Int[Array, "*replica"]
    atom: Int[Array, "*replica"]
    temperature: Float[Array, "*replica"]


class RolloutError(RuntimeError):
    """A rollout failed: NaN, too high a temperature, or a neighbour list that cannot grow.

    Attributes:
      replica: index of the replica that failed; 0 without replicas.
    """

    def __init__(self, message: str, replica: int = 0):
        super().__init__(message)
        self.replica = replica


def watch(failure: Failure, system: System, step, max_temperature: float) -> Failure:
    """Update the failure record with a new frame; the first failure is kept.

    `max_temperature` is in K. The temperature counts 3N − 3 degrees of freedom, and 3 of a single
    atom. Derivatives treat the record as constant.
    """
    system = jax.lax.stop_gradient(system)
    finite = jnp.isfinite(system.positions) & jnp.isfinite(system.velocities)
    finite = jnp.all(finite, axis=-1) | ~system.mask
    # A single atom has no motion relative to its centre of mass, but it can be too fast.
    hot = temperature(system, jnp.maximum(degrees_of_freedom(system), 3))
    energies = system.masses * jnp.sum(system.velocities**2, axis=-1)
    broken = ~jnp.all(finite)
    kind = jnp.where(broken, NOT_FINITE, jnp.where(hot > max_temperature, TOO_HOT, FINE))
    atom = jnp.where(broken, jnp.argmin(finite), jnp.argmax(energies))
    new = Failure(kind, step, atom, hot)
    first = (failure.kind == FINE) & (kind != FINE)
    return jax.tree.map(lambda n, o: jnp.where(first, n, o).astype(o.dtype), new, failure)


def first_failed(state: Any) -> int:
    """Index of the replica that failed first; 0 if none did."""
    kinds, steps = jnp.atleast_1d(state.failure.kind), jnp.atleast_1d(state.failure.step)
    return int(jnp.argmin(jnp.where(kinds == FINE, jnp.iinfo(jnp.int32).max, steps)))


def describe_failure(state: Any) -> str:
    """Describe the failure of the replica that failed first; "" if none did."""
    kinds, first = jnp.atleast_1d(state.failure.kind), first_failed(state)
    steps = jnp.atleast_1d(state.failure.step)
    if kinds[first] == FINE:
        return ""
    atom = int(jnp.atleast_1d(state.failure.atom)[first])
    symbol = chemical_symbols[int(jnp.atleast_2d(state.system.species)[first, atom])]
    where = f"at step {int(steps[first])}"
    if state.failure.kind.ndim:
        where += f" of replica {first}"
    cure = (
        "The model has left the states that it was trained on: train it on states that its "
        "forecasts visit, or for longer. "
    )
    if int(steps[first]) <= EARLY:
        cure += "So early it may also be the start frame: look at its distances and velocities. "
    cure += "The frames before it are kept."
    if kinds[first] == NOT_FINITE:
        return (
            f"The model's forecast is no longer a finite number {where}, at atom {atom} "
            f"({symbol}). {cure}"
        )
    hot = float(jnp.atleast_1d(state.failure.temperature)[first])
    return (
        f"The model's forecast reached {hot:.0f} K {where}, which is above the limit; the most "
        f"energetic atom is {atom} ({symbol}). {cure} Raise the limit if such a temperature is "
        "meant."
    )
