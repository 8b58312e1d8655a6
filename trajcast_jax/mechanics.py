"""Momenta, inertia, kinetic energy and temperature of a system.

Every function takes one frame; use `jax.vmap` over the positions and velocities of a
trajectory. Padding has mass 0 and does not contribute.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from trajcast_jax.system import System, at_once, inverse, product
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV

POINT_RADIUS = 1e-3
"""Å. A system with a smaller radius of gyration is treated as a point, which cannot rotate."""


def total_mass(system: System) -> Float[Array, ""]:
    """Total mass (Da); 1 for a system of padding only, to avoid divisions by zero."""
    mass = jnp.sum(system.masses)
    return jnp.where(mass > 0, mass, 1.0)


@at_once
def momentum(system: System) -> Float[Array, "3"]:
    """Total linear momentum Σ m v (Da·Å/fs)."""
    return product(system.masses, system.velocities)


@at_once
def center_of_mass(system: System) -> Float[Array, "3"]:
    """Centre of mass Σ m r / M of the unwrapped positions (Å)."""
    return product(system.masses, system.positions) / total_mass(system)


def arms(system: System) -> Float[Array, "atom 3"]:
    """Positions relative to the centre of mass (Å); 0 for padding."""
    return jnp.where(system.mask[:, None], system.positions - center_of_mass(system), 0.0)


@at_once
def angular_momentum(system: System) -> Float[Array, "3"]:
    """Angular momentum about the centre of mass, Σ m c × v (Da·Å²/fs)."""
    return product(system.masses, jnp.cross(arms(system), system.velocities))


def inertia_tensor(system: System) -> Float[Array, "3 3"]:
    """Inertia tensor about the centre of mass, Σ m (c² 1 − c cᵀ) (Da·Å²)."""
    c = arms(system)
    second = jnp.einsum("i,ia,ib->ab", system.masses, c, c, precision="highest")
    return jnp.trace(second) * jnp.eye(3, dtype=c.dtype) - second


def _shape(system: System):
    """Scaled inertia tensor, its scale (half the trace), and whether the body is a point or a line.

    Principal moments obey a ≤ b + c, so a body has three nonzero moments, two equal ones (a
    line) or none (a point). The trace and the determinant distinguish these cases. An
    eigendecomposition would have an infinite gradient for equal moments.
    """
    inertia = inertia_tensor(system)
    half = jnp.trace(inertia) / 2
    point = half <= POINT_RADIUS**2 * total_mass(system)
    scale = jnp.where(point, 1.0, half)
    unit = inertia / scale
    # The scaled moments of a line are (≈0, 1, 1), so the determinant is the smallest moment.
    line = jnp.linalg.det(jax.lax.stop_gradient(unit)) <= 100 * jnp.finfo(unit.dtype).eps
    return unit, scale, point, line & ~point


def angular_velocity(system: System, momentum: Float[Array, "3"]) -> Float[Array, "3"]:
    """Angular velocity ω = I⁺ L (1/fs) of a rigid `system` with angular momentum L = `momentum`.

    L is in Da·Å²/fs. I⁺ is the pseudo-inverse of the inertia tensor: a line does not rotate about
    its axis, and a point does not rotate. The cases are computed separately, so that gradients
    are finite for every shape.
    """
    unit, scale, point, line = _shape(system)
    # For a line I = h (1 − n nᵀ), so that I⁺ = I / h².
    body = jnp.where(line | point, jnp.eye(3, dtype=unit.dtype), unit)
    turning = jnp.where(line, unit, inverse(body))
    omega = product(turning, momentum)
    # One step of iterative refinement: cofactors of a nearly linear molecule lose precision.
    omega = omega + product(turning, momentum - product(unit, omega))
    return jnp.where(point, 0.0, omega / scale)


@at_once
def kinetic_energy(system: System) -> Float[Array, ""]:
    """Kinetic energy ½ Σ m v² (eV)."""
    return 0.5 * KINETIC_TO_EV * jnp.sum(system.masses[:, None] * system.velocities**2)


@functools.partial(at_once, static_argnames=("zero_momentum", "angular"))
def degrees_of_freedom(
    system: System, zero_momentum: bool = True, angular: bool = False
) -> Int[Array, ""]:
    """Number of kinetic degrees of freedom of the unmasked atoms; never negative.

    It is 3N, minus 3 if the total momentum is conserved (`zero_momentum`), and minus 3, 2 or 0
    for a nonlinear molecule, a linear molecule or a single atom if the angular momentum is
    conserved too (`angular`, for isolated molecules).
    """
    count = 3 * jnp.sum(system.mask)
    if zero_momentum:
        count = count - 3
    if angular:
        _, _, point, line = _shape(system)
        count = count - jnp.where(point, 0, jnp.where(line, 2, 3))
    return jnp.maximum(count, 0)


@at_once
def temperature(system: System, dof: Int[Array, ""] | int) -> Float[Array, ""]:
    """Kinetic temperature 2K/(N_f k_B) (K) for N_f = `dof` degrees of freedom; 0 for none."""
    return jnp.where(
        jnp.asarray(dof) > 0,
        2 * kinetic_energy(system) / (jnp.maximum(dof, 1) * BOLTZMANN),
        0.0,
    )


def rigid_velocities(system: System, angular: bool) -> Float[Array, "atom 3"]:
    """Velocities (Å/fs) of the rigid-body translation, plus the rotation if `angular`.

    Subtracting them from the velocities sets the total momentum to 0, and the angular momentum
    too if `angular`.
    """
    rigid = momentum(system) / total_mass(system) * system.mask[:, None]
    if angular:
        omega = angular_velocity(system, angular_momentum(system))
        rigid = rigid + jnp.cross(omega, arms(system))
    return rigid


def on_energy_shell(system: System, velocities: Float[Array, "atom 3"]) -> Float[Array, "atom 3"]:
    """Project `velocities` (Å/fs) onto the momenta and the kinetic energy of `system`.

    The rigid-body part of `velocities` is replaced by that of `system`; it includes the rotation
    if there is no cell. The remaining part is scaled to the kinetic energy of the remaining part
    of `system`. This works because the kinetic energies of the two parts add up.
    """

    def inner(v):
        return v - rigid_velocities(system.replace(velocities=v), angular=system.cell is None)

    def energy(v):
        return kinetic_energy(system.replace(velocities=v))

    own, given = inner(system.velocities), inner(velocities)
    return system.velocities - own + jnp.sqrt(energy(own) / energy(given)) * given


def maxwell_boltzmann(
    key: PRNGKeyArray,
    system: System,
    temperature: float | Float[Array, ""],
    angular: bool = False,
) -> Float[Array, "atom 3"]:
    """Draw Maxwell–Boltzmann velocities (Å/fs) at `temperature` (K) with total momentum 0.

    The angular momentum is 0 too if `angular`, for systems that conserve it.

    Each component is normal with variance k_B T/m. Removing the total momentum reduces the
    variance to (k_B T/m)(1 − m/M).
    """
    mass = jnp.where(system.mask, system.masses, 1.0)
    width = jnp.sqrt(BOLTZMANN / KINETIC_TO_EV * temperature / mass) * system.mask
    draw = jax.random.normal(key, system.velocities.shape, system.velocities.dtype)
    velocities = width[:, None] * draw
    return velocities - rigid_velocities(system.replace(velocities=velocities), angular)
