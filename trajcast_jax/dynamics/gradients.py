"""Estimate for how long gradients of a rollout are meaningful.

JAX differentiates rollouts (`rollout` limits the memory), but chaos limits the use of the
gradients. If nearby trajectories diverge as exp(λt), derivatives grow at the same rate. Rounding
errors grow too, so that derivatives are soon taken along a different trajectory.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from trajcast_jax.averages import block_average
from trajcast_jax.dynamics.rollout import require_sound


@struct.dataclass
class Growth:
    """Growth rate of perturbations along a rollout.

    Attributes:
      exponent: largest Lyapunov exponent λ, 1/fs.
      error: its standard error from block averages, 1/fs.
      logarithms: (stride,) logarithm of the growth factor in every stride, including the first.
      time_step: Δt, fs.
    """

    exponent: Float[Array, ""]
    error: Float[Array, ""]
    logarithms: Float[Array, "stride"]
    time_step: float = struct.field(pytree_node=False)


def lyapunov_exponent(
    step, state, n: int, time_step: float, key: Key[Array, ""], blocks: int = 10
) -> Growth:
    """Estimate the largest Lyapunov exponent of the map `step` from `n` strides after `state`.

    Benettin, Galgani, Strelcyn, Phys. Rev. A 14, 2338 (1976), doi:10.1103/PhysRevA.14.2338. A
    tangent vector of positions and velocities is propagated by forward-mode derivatives and
    rescaled to length 1 at every stride. λ is the mean logarithm of its growth, divided by Δt.
    The length is √Σ(δr² + Δt² δv²) (Å); λ does not depend on this choice. Thermostat noise is the
    same for both trajectories. The first of `blocks` blocks is discarded, because the vector
    first has to align with the direction of fastest growth.

    Args:
      step: SimulatorState -> SimulatorState, as in `simulator`.
      state: initial state.
      n: number of strides, a multiple of `blocks`. A block should be longer than 1/λ.
      time_step: Δt of a stride, fs.
      key: random key for the initial tangent vector.
      blocks: number of blocks, at least 3.

    Raises:
      ValueError: `blocks` is below 3, or `n` is not a multiple of it.
      RolloutError: the rollout failed.
    """
    if blocks < 3 or n % blocks:
        raise ValueError(
            f"{n} strides cannot be cut into {blocks} blocks of which one is left out; give at "
            "least 3 blocks, and a number of strides that is a multiple of them."
        )
    end, logarithms = _tangent_growth(step, n, time_step, state, key)
    require_sound(end)
    mean, error = block_average(logarithms[n // blocks :] / time_step, blocks - 1)
    return Growth(mean, error, logarithms, float(time_step))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _tangent_growth(step, n: int, time_step, state, key):
    """State after `n` strides, and the logarithm of the tangent vector's growth in each."""

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
    """Scale a tangent vector (δr, δv) to length 1 Å; also return its previous length."""
    positions, velocities = tangent
    length = jnp.sqrt(jnp.sum(positions**2 + (time_step * velocities) ** 2))
    return jax.tree.map(lambda x: x / length, tangent), length


def gradient_horizon(growth: Growth, uncertainty: float | None = None) -> float:
    """Time (fs) after which a gradient is noise: ln(1/ε)/λ.

    By this time, a relative error ε = `uncertainty` of the start frame has grown to order 1, so
    derivatives are taken along a different trajectory. By default, ε is the machine epsilon of
    the floats. The result is infinite if λ is not above twice its standard error.
    """
    if uncertainty is None:
        uncertainty = float(jnp.finfo(growth.logarithms.dtype).eps)
    if not growth.exponent > 2 * growth.error:
        return float("inf")
    return float(-jnp.log(uncertainty) / growth.exponent)


def describe_growth(growth: Growth) -> str:
    """Describe the exponent, its standard error and the gradient horizon in one sentence."""
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
