"""Exact projections of a forecast onto the conserved momenta.

Thiemann et al., Nature Machine Intelligence 8, 764 (2026), arXiv:2503.23794, generalised to any
total momentum and any shape of molecule. `before` and `after` are two frames of one system;
`after` is corrected. The functions are independent of the network and differentiable everywhere,
because they are used in training too.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from trajcast_jax.mechanics import (
    angular_momentum,
    angular_velocity,
    arms,
    momentum,
    total_mass,
)
from trajcast_jax.system import System, product


def conserve_linear(
    before: System,
    after: System,
    time_step: float | Float[Array, ""],
    target: Float[Array, "3"] | None = None,
    uniform: bool = True,
) -> System:
    """Give `after` the total momentum of `before`, and its centre of mass the matching motion.

    With P the momentum before and M the total mass, a common velocity and a common displacement
    are added, so that Σ m v' = P and the centre of mass moves by P Δt/M in `time_step` Δt (fs).
    Positions must be unwrapped. If a `target` (Da·Å/fs) is given, it replaces P. With `uniform`
    False, as in the paper's PyTorch code, the centre of mass is kept fixed if P is exactly 0 and
    is not corrected otherwise.
    """
    mass = total_mass(before)
    mask = before.mask[:, None]
    total = momentum(before) if target is None else jnp.asarray(target, before.velocities.dtype)
    velocity = total / mass
    # The mean displacement is more precise than the difference of two centres of mass.
    moved = product(before.masses, after.positions - before.positions) / mass
    shift = velocity * time_step - moved
    if not uniform:
        shift = jnp.where(jnp.all(total == 0), -moved, 0.0)
    return after.replace(
        positions=after.positions + mask * shift,
        velocities=after.velocities + mask * (velocity - momentum(after) / mass),
    )


def conserve_angular(
    before: System, after: System, target: Float[Array, "3"] | None = None
) -> System:
    """Give `after` the angular momentum of `before` about the centre of mass.

    A `target` (Da·Å²/fs) replaces that of `before`. A rigid rotation ω = I⁺(L − L') is added to
    the velocities, with I the inertia tensor of the new positions; the linear momentum does not
    change. For isolated molecules only. A linear molecule cannot have angular momentum along its
    axis, and a single atom has none.
    """
    wanted = angular_momentum(before) if target is None else jnp.asarray(target)
    missing = wanted.astype(after.velocities.dtype) - angular_momentum(after)
    omega = angular_velocity(after, missing)
    return after.replace(velocities=after.velocities + jnp.cross(omega, arms(after)))
