"""Exact projections of a forecast onto the conserved momenta.

Thiemann et al., Nature Machine Intelligence 8, 764 (2026), arXiv:2503.23794, for any
total momentum and any shape of molecule. They know no network: `before` and `after`
are two frames of one system, and only `after` is corrected. Used in training too, so
they are differentiable everywhere.
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
    """`after` with the total momentum of `before`, and its centre of mass where that leads.

    With P the momentum before and M the total mass, one common velocity and one common
    displacement are added so that Σ m v' = P and the centre of mass has moved by
    P Δt/M in `time_step` Δt (fs). Positions must be unwrapped. A `target` (Da·Å/fs) is
    imposed in place of P. With `uniform` False the centre rests where P is exactly 0 and
    is left alone where it is not, which is how the paper's PyTorch code has it.
    """
    mass = total_mass(before)
    mask = before.mask[:, None]
    total = momentum(before) if target is None else jnp.asarray(target, before.velocities.dtype)
    velocity = total / mass
    # The mean displacement, not the difference of two centres: those may be far from 0.
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
    """`after` with the angular momentum of `before` (or `target`) about the centre of mass.

    A rigid rotation ω = I⁺(L − L') is added to the velocities, I the inertia tensor of
    the new positions; the linear momentum stays. For isolated molecules only. A line
    cannot take up what points along it, a single atom nothing.
    """
    wanted = angular_momentum(before) if target is None else jnp.asarray(target)
    missing = wanted.astype(after.velocities.dtype) - angular_momentum(after)
    omega = angular_velocity(after, missing)
    return after.replace(velocities=after.velocities + jnp.cross(omega, arms(after)))
