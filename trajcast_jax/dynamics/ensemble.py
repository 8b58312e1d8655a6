"""Couplings: change velocities between forecasts, and so select the ensemble.

A `Coupling` is a pair of pure functions; `chain` composes several. Quantities that change or
differ between replicas (target temperature, time constant) are stored in its state. A coupling
that is built inside a vmapped function therefore has separate values for every replica.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from trajcast_jax.mechanics import degrees_of_freedom, kinetic_energy, rigid_velocities
from trajcast_jax.system import System, known
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV

Temperature = float | Float[Array, ""] | Callable[[Float[Array, ""]], Float[Array, ""]]
"""A temperature (K), or a schedule: a function from the time (fs) since the start to K."""


class Coupling(NamedTuple):
    """A coupling, for instance a thermostat.

    Attributes:
      init: `init(key, system)` returns the initial state.
      apply: `apply(state, system, key, time_step)` returns the next state and the system with
        new velocities; `time_step` (fs) is the time since the last call.
    """

    init: Callable[[PRNGKeyArray, System], PyTree]
    apply: Callable[[PyTree, System, PRNGKeyArray, Any], tuple[PyTree, System]]


def nve() -> Coupling:
    """No coupling: velocities are those of the forecast."""
    return Coupling(lambda key, system: (), lambda state, system, key, time_step: (state, system))


def linear_ramp(start: float, stop: float, duration: float) -> Partial:
    """A temperature that goes from `start` to `stop` (K) in `duration` (fs), then stays there."""
    require_number("The start of a temperature ramp", start, "K", zero=True)
    require_number("The end of a temperature ramp", stop, "K", zero=True)
    require_number("The duration of a temperature ramp", duration, "fs")
    return Partial(_ramp, start, stop, duration)


def _ramp(start, stop, duration, time):
    return start + (stop - start) * jnp.clip(time / duration, 0.0, 1.0)


def require_number(name: str, value, unit: str, zero: bool = False, infinite: bool = False) -> None:
    """Raise ValueError if a number, or one of several, is out of range; traced ones pass.

    It must be above 0, or may be 0 if `zero`, and be finite unless `infinite`.
    """
    if not known(value):
        return
    array = np.asarray(value, float)
    good = (array >= 0 if zero else array > 0) & (np.isfinite(array) | infinite)
    if not np.all(good):
        least = "0 or above" if zero else "above 0"
        wanted = least if infinite else f"{least} and finite"
        raise ValueError(f"{name} must be {wanted}, but is {value} {unit}.")


def _require_thermostat(temperature: Temperature, time_constant) -> None:
    if not callable(temperature):
        require_number("The temperature of a thermostat", temperature, "K", zero=True)
    require_number("The time constant of a thermostat", time_constant, "fs")


def _constant(value, time):
    return value


def _schedule(temperature: Temperature, dtype) -> Partial:
    """Convert any temperature to a schedule whose numbers are leaves of a pytree."""
    if not callable(temperature):
        temperature = Partial(_constant, temperature)
    elif not isinstance(temperature, Partial):
        temperature = Partial(temperature)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), temperature)


@struct.dataclass
class ThermostatState:
    """State of a thermostat.

    Attributes:
      temperature: schedule of the target temperature (K); its numbers are leaves.
      time_constant: fs.
      steps: number of applications; an integer, so that the time has no rounding drift.
      dof: number of degrees of freedom that are thermostatted.
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
    """√x, with derivative 0 at x = 0 (a temperature of 0 K)."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


def _angular(angular: bool | None, system: System) -> bool:
    return system.cell is None if angular is None else angular


def csvr(
    temperature: Temperature,
    time_constant: float | Float[Array, ""],
    angular: bool | None = None,
) -> Coupling:
    """Canonical sampling through velocity rescaling (CSVR), exact for any time step.

    Bussi, Donadio, Parrinello, J. Chem. Phys. 126, 014101 (2007),
    doi:10.1063/1.2408420, eq. A7, after completing the square:

        K' = (√(c K) + g √k)² + k S,   k = (1 − c) K̄/N_f,   c = exp(−Δt/τ)

    with K the kinetic energy (eV), K̄ = N_f k_B T/2, g standard normal, and S χ²-distributed with
    N_f − 1 degrees of freedom. Velocities are multiplied by α = ±√(K'/K), with the sign of the
    first bracket (eq. A8). A system at rest stays at rest.

    The rigid-body motion is neither counted in K nor scaled, so that the thermostat cannot
    amplify rounding errors of the total momentum. N_f is 3N − 3, or 3N − 6 (3N − 5 for a linear
    molecule) if the angular momentum is conserved too.

    Args:
      temperature: K, or a schedule of it (`Temperature`).
      time_constant: τ, fs.
      angular: whether angular momentum is conserved; by default it is in isolated systems.
    """

    _require_thermostat(temperature, time_constant)

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
        # A sum of squares needs no loop. Rejection sampling of a gamma variate does, and on an
        # accelerator all replicas would wait for the longest one.
        squares = jax.random.normal(key_chi2, (inner.size,), energy.dtype) ** 2
        chi2 = jnp.sum(jnp.where(jnp.arange(inner.size) < state.dof - 1, squares, 0.0))
        quantum = -jnp.expm1(-time_step / state.time_constant) * BOLTZMANN * target / 2
        moving = energy > 0
        energy = jnp.where(moving, energy, 1.0)  # sqrt has no finite derivative at 0
        first = jnp.sqrt(decay * energy) + g * _root(quantum)
        size = jnp.sqrt((first**2 + quantum * chi2) / energy)
        alpha = jnp.where(first < 0, -size, size)
        alpha = jnp.where(moving & (state.dof > 0), alpha, 1.0)
        return state.replace(steps=steps), system.replace(velocities=rigid + alpha * inner)

    return Coupling(init, apply)


def langevin(temperature: Temperature, time_constant: float | Float[Array, ""]) -> Coupling:
    """Langevin thermostat: the exact Ornstein–Uhlenbeck step of all velocities.

    v' = c v + √((1 − c²) k_B T/m) ξ with c = exp(−Δt/τ) and ξ standard normal, which is step "O"
    of Leimkuhler and Matthews, doi:10.1093/amrx/abs010. It acts on all 3N degrees of freedom and
    does not conserve momentum.

    Args:
      temperature: K, or a schedule of it (`Temperature`).
      time_constant: τ = 1/γ, fs.
    """

    _require_thermostat(temperature, time_constant)

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
    """Remove the rigid-body motion at every `every`-th step.

    The rotation is removed if `angular`; by default it is in isolated systems only.

    Raises:
      ValueError: `every` is below 1.
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
    """Apply couplings one after the other, each with its own random key."""
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
