"""What can go wrong in a rollout, as data inside a compiled scan and as a sentence outside."""

from typing import Any

import jax
import jax.numpy as jnp
from ase.data import chemical_symbols
from flax import struct
from jaxtyping import Array, Float, Int

from trajcast_jax.mechanics import degrees_of_freedom, temperature
from trajcast_jax.system import System

FINE, NOT_FINITE, TOO_HOT = 0, 1, 2


@struct.dataclass
class Failure:
    """The first thing that went wrong; all zero while nothing has.

    Attributes:
      kind: FINE, NOT_FINITE or TOO_HOT.
      step: number of the bad step, counted from 1.
      atom: index of the first atom that is not finite, or of the most energetic one.
      temperature: K, of the bad frame.
    """

    kind: Int[Array, "*replica"]
    step: Int[Array, "*replica"]
    atom: Int[Array, "*replica"]
    temperature: Float[Array, "*replica"]


class RolloutError(RuntimeError):
    """A rollout met NaN or a temperature above its limit; the message says where.

    Attributes:
      replica: which one did, 0 if there is but one.
    """

    def __init__(self, message: str, replica: int = 0):
        super().__init__(message)
        self.replica = replica


def watch(failure: Failure, system: System, step, max_temperature: float) -> Failure:
    """The failure record after a frame; the first failure stays. A constant to derivatives."""
    system = jax.lax.stop_gradient(system)
    finite = jnp.isfinite(system.positions) & jnp.isfinite(system.velocities)
    finite = jnp.all(finite, axis=-1) | ~system.mask
    hot = temperature(system, degrees_of_freedom(system))
    energies = system.masses * jnp.sum(system.velocities**2, axis=-1)
    broken = ~jnp.all(finite)
    kind = jnp.where(broken, NOT_FINITE, jnp.where(hot > max_temperature, TOO_HOT, FINE))
    atom = jnp.where(broken, jnp.argmin(finite), jnp.argmax(energies))
    new = Failure(kind, step, atom, hot)
    first = (failure.kind == FINE) & (kind != FINE)
    return jax.tree.map(lambda n, o: jnp.where(first, n, o).astype(o.dtype), new, failure)


def first_failed(state: Any) -> int:
    """The replica that failed first; 0 if none did."""
    kinds, steps = jnp.atleast_1d(state.failure.kind), jnp.atleast_1d(state.failure.step)
    return int(jnp.argmin(jnp.where(kinds == FINE, jnp.iinfo(jnp.int32).max, steps)))


def describe_failure(state: Any) -> str:
    """One sentence on what went wrong, in the replica where it did first; "" if nothing did."""
    kinds, first = jnp.atleast_1d(state.failure.kind), first_failed(state)
    steps = jnp.atleast_1d(state.failure.step)
    if kinds[first] == FINE:
        return ""
    atom = int(jnp.atleast_1d(state.failure.atom)[first])
    symbol = chemical_symbols[int(jnp.atleast_2d(state.system.species)[first, atom])]
    where = f"at step {int(steps[first])}"
    if state.failure.kind.ndim:
        where += f" of replica {first}"
    if kinds[first] == NOT_FINITE:
        return (
            f"The forecast is no longer a finite number {where}, at atom {atom} ({symbol}); "
            "the frames before it are kept. Check the start frame, or train the model for longer."
        )
    hot = float(jnp.atleast_1d(state.failure.temperature)[first])
    return (
        f"The temperature reached {hot:.0f} K {where}, which is above the limit; the most "
        f"energetic atom is {atom} ({symbol}), and the frames before it are kept. Check the start "
        "frame, or raise the limit if such a temperature is meant."
    )
