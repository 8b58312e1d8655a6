"""Momenta, inertia, kinetic energy, temperature: what a system's masses and motion add up to.

Every function takes one frame; `jax.vmap` it over the positions and velocities of a
trajectory. Padding has mass 0 and so adds nothing.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from trajcast_jax.system import System, inverse, product
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV

POINT_RADIUS = 1e-3
"""Å; a system with a smaller radius of gyration is one point and cannot rotate."""


def total_mass(system: System) -> Float[Array, ""]:
    """Total mass (Da); 1 for a system of padding only, so that it can be divided by."""
    mass = jnp.sum(system.masses)
    return jnp.where(mass > 0, mass, 1.0)


def momentum(system: System) -> Float[Array, "3"]:
    """Total linear momentum Σ m v (Da·Å/fs)."""
    return product(system.masses, system.velocities)


def center_of_mass(system: System) -> Float[Array, "3"]:
    """Centre of mass Σ m r / M of the unwrapped positions (Å)."""
    return product(system.masses, system.positions) / total_mass(system)


def arms(system: System) -> Float[Array, "atom 3"]:
    """Positions about the centre of mass (Å); 0 for padding."""
    return jnp.where(system.mask[:, None], system.positions - center_of_mass(system), 0.0)


def angular_momentum(system: System) -> Float[Array, "3"]:
    """Angular momentum about the centre of mass, Σ m c × v (Da·Å²/fs)."""
    return product(system.masses, jnp.cross(arms(system), system.velocities))


def inertia_tensor(system: System) -> Float[Array, "3 3"]:
    """Inertia tensor about the centre of mass, Σ m (c² 1 − c cᵀ) (Da·Å²)."""
    c = arms(system)
    second = jnp.einsum("i,ia,ib->ab", system.masses, c, c, precision="highest")
    return jnp.trace(second) * jnp.eye(3, dtype=c.dtype) - second


def _shape(system: System):
    """The inertia tensor over half its trace, that half trace, and whether it is a point or a line.

    The moments (a, b, c) of a real body obey a ≤ b + c, so it has three of them, two
    equal ones (a line) or none (a point); products of the moments tell which, without
    an eigendecomposition, whose gradient is infinite for equal moments.
    """
    inertia = inertia_tensor(system)
    half = jnp.trace(inertia) / 2
    point = half <= POINT_RADIUS**2 * total_mass(system)
    scale = jnp.where(point, 1.0, half)
    unit = inertia / scale
    # With moments (≈0, 1, 1) of a line the determinant is the smallest moment.
    line = jnp.linalg.det(jax.lax.stop_gradient(unit)) <= 100 * jnp.finfo(unit.dtype).eps
    return unit, scale, point, line & ~point


def angular_velocity(system: System, momentum: Float[Array, "3"]) -> Float[Array, "3"]:
    """Angular velocity ω = I⁺ L (1/fs) with which a rigid `system` carries L = `momentum`.

    I⁺ is the pseudo-inverse: a line does not turn about itself and a point not at
    all. Written out by cases, it has finite gradients for every shape.
    """
    unit, scale, point, line = _shape(system)
    # For a line I = h (1 − n nᵀ), so that I⁺ = I / h².
    body = jnp.where(line | point, jnp.eye(3, dtype=unit.dtype), unit)
    turning = jnp.where(line, unit, inverse(body))
    omega = product(turning, momentum)
    # One refinement: the cofactors of a nearly straight molecule have cancelled.
    omega = omega + product(turning, momentum - product(unit, omega))
    return jnp.where(point, 0.0, omega / scale)


def kinetic_energy(system: System) -> Float[Array, ""]:
    """Kinetic energy ½ Σ m v² (eV)."""
    return 0.5 * KINETIC_TO_EV * jnp.sum(system.masses[:, None] * system.velocities**2)


def degrees_of_freedom(
    system: System, zero_momentum: bool = True, angular: bool = False
) -> Int[Array, ""]:
    """Number of kinetic degrees of freedom, counted from the mask and never negative.

    3N; less 3 when the total momentum is a constant (`zero_momentum`); less 3, 2 or 0
    (a body, a line, a point) when the angular momentum is a constant too (`angular`:
    isolated molecules).
    """
    count = 3 * jnp.sum(system.mask)
    if zero_momentum:
        count = count - 3
    if angular:
        _, _, point, line = _shape(system)
        count = count - jnp.where(point, 0, jnp.where(line, 2, 3))
    return jnp.maximum(count, 0)


def temperature(system: System, dof: Int[Array, ""] | int) -> Float[Array, ""]:
    """Kinetic temperature 2K/(N_f k_B) (K) for `dof` degrees of freedom; 0 when there are none."""
    return jnp.where(
        jnp.asarray(dof) > 0,
        2 * kinetic_energy(system) / (jnp.maximum(dof, 1) * BOLTZMANN),
        0.0,
    )


def rigid_velocities(system: System, angular: bool) -> Float[Array, "atom 3"]:
    """Velocities (Å/fs) of the motion as a whole: the translation, and the rotation if `angular`.

    What is left without it has total momentum 0, and angular momentum 0 if `angular`.
    """
    rigid = momentum(system) / total_mass(system) * system.mask[:, None]
    if angular:
        omega = angular_velocity(system, angular_momentum(system))
        rigid = rigid + jnp.cross(omega, arms(system))
    return rigid


def on_energy_shell(system: System, velocities: Float[Array, "atom 3"]) -> Float[Array, "atom 3"]:
    """The nearest to `velocities` (Å/fs) that have the momenta and kinetic energy of `system`.

    Its motion as a whole, which carries the momenta (without a cell the angular too), takes the
    place of theirs; what is left of them is scaled, for its kinetic energy adds to that.
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
    """Velocities (Å/fs) drawn at `temperature` (K), of total momentum 0.

    With `angular`, of a system that conserves it, of angular momentum 0 too.

    Each component is normal with variance k_B T/m: the lighter an atom, the faster.
    Taking the momentum out leaves (k_B T/m)(1 − m/M).
    """
    mass = jnp.where(system.mask, system.masses, 1.0)
    width = jnp.sqrt(BOLTZMANN / KINETIC_TO_EV * temperature / mass) * system.mask
    draw = jax.random.normal(key, system.velocities.shape, system.velocities.dtype)
    velocities = width[:, None] * draw
    return velocities - rigid_velocities(system.replace(velocities=velocities), angular)
