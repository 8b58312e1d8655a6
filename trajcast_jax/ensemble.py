"""Couplings: what acts on velocities between two forecasts, and so picks the ensemble.

A `Coupling` is a pair of pure functions, composed by `chain`. All that changes or
differs between replicas (target temperature, time constant) lives in its state, so
that a coupling built inside a vmapped function gives every replica its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from trajcast_jax.mechanics import degrees_of_freedom, kinetic_energy, rigid_velocities
from trajcast_jax.system import System
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV

Temperature = float | Float[Array, ""] | Callable[[Float[Array, ""]], Float[Array, ""]]
"""A temperature (K), or a schedule of it: K as a function of the time (fs) since the start."""


class Coupling(NamedTuple):
    """`init(key, system)` gives a state; `apply(state, system, key, time_step)` the next
    state and the system with new velocities, `time_step` fs after the last."""

    init: Callable[[PRNGKeyArray, System], PyTree]
    apply: Callable[[PyTree, System, PRNGKeyArray, Any], tuple[PyTree, System]]


def nve() -> Coupling:
    """No coupling: what the forecast says is what happens."""
    return Coupling(lambda key, system: (), lambda state, system, key, time_step: (state, system))


def linear_ramp(start: float, stop: float, duration: float) -> Partial:
    """A temperature that goes from `start` to `stop` (K) in `duration` (fs), then stays there."""
    return Partial(_ramp, start, stop, duration)


def _ramp(start, stop, duration, time):
    return start + (stop - start) * jnp.clip(time / duration, 0.0, 1.0)


def _constant(value, time):
    return value


def _schedule(temperature: Temperature, dtype) -> Partial:
    """Any temperature as a schedule whose numbers are leaves of a state."""
    if not callable(temperature):
        temperature = Partial(_constant, temperature)
    elif not isinstance(temperature, Partial):
        temperature = Partial(temperature)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), temperature)


@struct.dataclass
class ThermostatState:
    """State of a thermostat.

    Attributes:
      temperature: the schedule of the target temperature; its numbers are leaves.
      time_constant: fs.
      steps: number of times applied; integer, so that time does not drift.
      dof: number of degrees of freedom that the thermostat acts on.
    """

    temperature: Partial
    time_constant: Float[Array, "*replica"]
    steps: Int[Array, "*replica"]
    dof: Int[Array, "*replica"]


def _thermostat_state(temperature, time_constant, system: System, dof) -> ThermostatState:
    dtype = system.velocities.dtype
    return ThermostatState(
        temperature=_schedule(temperature, dtype),
        time_constant=jnp.asarray(time_constant, dtype),
        steps=jnp.zeros((), jnp.int32),
        dof=jnp.asarray(dof, jnp.int32),
    )


def _root(x: jax.Array) -> jax.Array:
    """√x, with a derivative of 0 at x = 0, where a temperature is 0 K."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


def _angular(angular: bool | None, system: System) -> bool:
    return system.cell is None if angular is None else angular


def csvr(
    temperature: Temperature,
    time_constant: float | Float[Array, ""],
    angular: bool | None = None,
) -> Coupling:
    """Canonical sampling through velocity rescaling, for any time step, exactly.

    Bussi, Donadio, Parrinello, J. Chem. Phys. 126, 014101 (2007),
    doi:10.1063/1.2408420, eq. A7, after the sum of squares is completed:

        K' = (√(c K) + g √k)² + k S,   k = (1 − c) K̄/N_f,   c = exp(−Δt/τ)

    with K the kinetic energy (eV), K̄ = N_f k_B T/2, g normal and S χ² with N_f − 1
    degrees of freedom; velocities are multiplied by α = ±√(K'/K), which has the sign of
    the first bracket (eq. A8). A system at rest stays at rest.

    The motion as a whole is neither counted nor scaled, so that the thermostat cannot
    blow up a rounding error of the total momentum: N_f = 3N − 3, and 3N − 6 (5 for a
    line) when the angular momentum is constant too.

    Args:
      temperature: K, or a schedule of the time in fs.
      time_constant: τ, fs.
      angular: whether angular momentum is conserved; by default in isolated systems.
    """

    def init(key, system):
        dof = degrees_of_freedom(system, angular=_angular(angular, system))
        return _thermostat_state(temperature, time_constant, system, dof)

    def apply(state, system, key, time_step):
        steps = state.steps + 1
        target = state.temperature(steps * time_step)
        rigid = rigid_velocities(system, _angular(angular, system))
        inner = system.velocities - rigid
        energy = kinetic_energy(system.replace(velocities=inner))
        decay = jnp.exp(-time_step / state.time_constant)
        key_normal, key_chi2 = jax.random.split(key)
        g = jax.random.normal(key_normal, (), energy.dtype)
        # A sum of squares: unlike a gamma variate's rejection it compiles to no loop, which
        # an accelerator would have to wait for in every replica.
        squares = jax.random.normal(key_chi2, (inner.size,), energy.dtype) ** 2
        chi2 = jnp.sum(jnp.where(jnp.arange(inner.size) < state.dof - 1, squares, 0.0))
        quantum = -jnp.expm1(-time_step / state.time_constant) * BOLTZMANN * target / 2
        moving = energy > 0
        energy = jnp.where(moving, energy, 1.0)  # a square root of 0 has no finite derivative
        first = jnp.sqrt(decay * energy) + g * _root(quantum)
        size = jnp.sqrt((first**2 + quantum * chi2) / energy)
        alpha = jnp.where(first < 0, -size, size)
        alpha = jnp.where(moving & (state.dof > 0), alpha, 1.0)
        return state.replace(steps=steps), system.replace(velocities=rigid + alpha * inner)

    return Coupling(init, apply)


def langevin(temperature: Temperature, time_constant: float | Float[Array, ""]) -> Coupling:
    """Friction and noise on every atom: the exact Ornstein–Uhlenbeck step of velocities.

    v' = c v + √((1 − c²) k_B T/m) ξ, c = exp(−Δt/τ), ξ normal: the "O" of Leimkuhler and
    Matthews, doi:10.1093/amrx/abs010. It acts on all 3N degrees of freedom: momentum is
    not conserved. `temperature` in K or a schedule, `time_constant` τ = 1/γ in fs.
    """

    def init(key, system):
        dof = degrees_of_freedom(system, zero_momentum=False)
        return _thermostat_state(temperature, time_constant, system, dof)

    def apply(state, system, key, time_step):
        steps = state.steps + 1
        target = state.temperature(steps * time_step)
        ratio = time_step / state.time_constant
        mass = jnp.where(system.mask, system.masses, 1.0)
        variance = -jnp.expm1(-2 * ratio) * BOLTZMANN / KINETIC_TO_EV * target / mass
        width = _root(variance) * system.mask
        noise = jax.random.normal(key, system.velocities.shape, system.velocities.dtype)
        velocities = jnp.exp(-ratio) * system.velocities + width[:, None] * noise
        return state.replace(steps=steps), system.replace(velocities=velocities)

    return Coupling(init, apply)


def zero_momentum(every: int, angular: bool | None = None) -> Coupling:
    """Takes out the motion as a whole at each `every`-th step.

    The angular part (`angular`) by default in isolated systems only.
    """
    if every < 1:
        raise ValueError(
            f"zero_momentum(every={every}) is not a number of steps; give 1 or more, "
            "or leave the coupling out."
        )

    def init(key, system):
        return jnp.zeros((), jnp.int32)

    def apply(steps, system, key, time_step):
        steps = steps + 1
        rigid = rigid_velocities(system, _angular(angular, system))
        velocities = system.velocities - jnp.where(steps % every == 0, rigid, 0.0)
        return steps, system.replace(velocities=velocities)

    return Coupling(init, apply)


def chain(*couplings: Coupling) -> Coupling:
    """Couplings applied one after the other, each with a key of its own."""
    count = len(couplings)

    def init(key, system):
        keys = jax.random.split(key, count)
        return tuple(c.init(k, system) for c, k in zip(couplings, keys, strict=True))

    def apply(states, system, key, time_step):
        new = []
        for c, s, k in zip(couplings, states, jax.random.split(key, count), strict=True):
            s, system = c.apply(s, system, k, time_step)
            new.append(s)
        return tuple(new), system

    return Coupling(init, apply)
