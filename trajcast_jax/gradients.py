"""How far a gradient of a rollout reaches before it is noise.

Rollouts are differentiated by JAX itself (`rollout` has the memory in hand). What no program can
mend is chaos: where neighbouring trajectories part as exp(λt), so do derivatives grow, and with
them what rounding does to the trajectory that they are taken along.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from trajcast_jax.observables import block_average
from trajcast_jax.rollout import FINE, RolloutError, describe_failure, overflowed


@struct.dataclass
class Growth:
    """How fast perturbations of a frame grow along a rollout.

    Attributes:
      exponent: the largest Lyapunov exponent λ, 1/fs.
      error: its standard error from block means, 1/fs.
      logarithms: (stride,) ln of the growth in each stride, from the first on.
      time_step: Δt, fs.
    """

    exponent: Float[Array, ""]
    error: Float[Array, ""]
    logarithms: Float[Array, "stride"]
    time_step: float = struct.field(pytree_node=False)


def lyapunov_exponent(
    step, state, n: int, time_step: float, key: Key[Array, ""], blocks: int = 10
) -> Growth:
    """The largest Lyapunov exponent of the map `step`, from `n` strides after `state`.

    Benettin, Galgani, Strelcyn, Phys. Rev. A 14, 2338 (1976), doi:10.1103/PhysRevA.14.2338: a
    tangent vector of positions and velocities is carried along, by forward-mode derivatives, and
    scaled back to length 1 at every stride; λ is the mean logarithm of its growth over Δt. Its
    length is √Σ(δr² + Δt² δv²) (Å), which λ does not depend on. Noise of a thermostat is the same
    for both neighbours. The first of `blocks` blocks, in which the vector turns to where growth
    is fastest, is left out.

    Args:
      step: SimulatorState -> SimulatorState, as of `simulator`.
      state: where to start.
      n: number of strides, a multiple of `blocks`; 1/λ should fit into a block.
      time_step: Δt of a stride, fs.
      key: draws the first tangent vector.
      blocks: at least 3.
    """
    if blocks < 3 or n % blocks:
        raise ValueError(
            f"{n} strides cannot be cut into {blocks} blocks of which one is left out; give at "
            "least 3 blocks, and a number of strides that is a multiple of them."
        )
    end, logarithms = _tangent_growth(step, n, time_step, state, key)
    if end.failure.kind != FINE:
        raise RolloutError(describe_failure(end))
    if overflowed(end):
        raise RolloutError(
            f"The neighbour list overflows with {end.neighbors.idx.shape[-1]} slots per atom "
            "within these strides; start from the simulator's `grow(state)`."
        )
    mean, error = block_average(logarithms[n // blocks :] / time_step, blocks - 1)
    return Growth(mean, error, logarithms, float(time_step))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _tangent_growth(step, n: int, time_step, state, key):
    """The state `n` strides later, and ln of a tangent vector's growth in every one."""

    def advance(carry, _):
        state, tangent = carry

        def move(positions, velocities):
            system = state.system.replace(positions=positions, velocities=velocities)
            new = step(state.replace(system=system))
            return (new.system.positions, new.system.velocities), new

        frame = (state.system.positions, state.system.velocities)
        _, tangent, state = jax.jvp(move, frame, tangent, has_aux=True)
        tangent, length = _unit(tangent, time_step)
        return (state, tangent), jnp.log(length)

    keys = jax.random.split(key)
    shape, dtype = state.system.positions.shape, state.system.positions.dtype
    drawn = [jax.random.normal(k, shape, dtype) * state.system.mask[:, None] for k in keys]
    start = _unit((drawn[0], drawn[1] / time_step), time_step)[0]
    (state, _), logarithms = jax.lax.scan(advance, (state, start), length=n)
    return state, logarithms


def _unit(tangent, time_step):
    """A tangent vector (δr, δv) scaled to length 1 Å, and its length before."""
    positions, velocities = tangent
    length = jnp.sqrt(jnp.sum(positions**2 + (time_step * velocities) ** 2))
    return jax.tree.map(lambda x: x / length, tangent), length


def gradient_horizon(growth: Growth, uncertainty: float | None = None) -> float:
    """The time (fs) beyond which a gradient is noise: ln(1/ε)/λ.

    By then a relative error ε of the start frame, by default the rounding of its floats, has
    grown to the size of the frame itself, so that derivatives are taken along another trajectory.
    Infinite where λ is not above twice its error.
    """
    if uncertainty is None:
        uncertainty = float(jnp.finfo(growth.logarithms.dtype).eps)
    if not growth.exponent > 2 * growth.error:
        return float("inf")
    return float(-jnp.log(uncertainty) / growth.exponent)


def describe_growth(growth: Growth) -> str:
    """One sentence: the exponent with its error, and the horizon of gradients."""
    rate = f"λ = {float(growth.exponent):.2e} ± {float(growth.error):.1e} /fs"
    horizon = gradient_horizon(growth)
    if horizon == float("inf"):
        time = 1e-3 * growth.time_step * len(growth.logarithms)
        return f"Perturbations were not seen to grow in {time:.3g} ps ({rate})."
    strides = int(horizon / growth.time_step)
    return (
        f"Perturbations grow e-fold in {1 / float(growth.exponent):.0f} fs ({rate}), so that in "
        f"{growth.logarithms.dtype} a gradient is noise beyond {1e-3 * horizon:.3g} ps "
        f"({strides} strides), and one of an average long before."
    )
