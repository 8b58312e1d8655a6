"""Observables to differentiate: soft bins in place of counts, and numbers to make a loss of.

A histogram has no gradient: a distance counts or it does not. Here each is smeared by a Gaussian
and every bin gets the part that falls into it, so that a width of 0 is the histogram. What
`observables` computes without bins (MSD, VACF, VDOS, temperatures) is differentiable as it is.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from trajcast_jax.images import images_within
from trajcast_jax.observables import per_shell, select
from trajcast_jax.pairs import over_pairs
from trajcast_jax.system import System, minimum_image

TAIL = 5.0
"""Widths after which a Gaussian is cut: 6e-7 of it lie farther out."""


def soft_histogram(
    samples: Float[Array, "..."], edges: Float[Array, "edge"], width: float | Float[Array, ""]
) -> Float[Array, "bin"]:
    """Numbers of samples between consecutive edges, each smeared by a Gaussian of `width`.

    A sample of inf is in no bin.
    """
    below = erf((edges - samples.ravel()[:, None]) / (2**0.5 * width)) / 2
    return jnp.sum(jnp.diff(below, axis=-1), axis=0)


def soft_radial_distribution_function(
    trajectory: System,
    species_a: int,
    species_b: int,
    r_max: float,
    bins: int,
    width: float,
    images: Int[np.ndarray, "image 3"] | None = None,
) -> tuple[Float[Array, "bin"], Float[Array, "bin"]]:
    """g(r) as `radial_distribution_function` has it, of distances smeared by `width` (Å).

    Differentiable in positions and cell. Species and mask must be concrete arrays; so must the
    cell, unless `images` are given: `images_within(cell, r_max + TAIL * width)` of one like it.
    """
    a, b = select(trajectory, species_a), select(trajectory, species_b)
    cell, reach = trajectory.cell, r_max + TAIL * width
    images = images_within(cell, reach) if images is None else images
    edges = jnp.linspace(0.0, r_max, bins + 1, dtype=trajectory.positions.dtype)
    counts = _soft_counts(trajectory.positions, cell, a, b, images, reach, edges, width)
    return (edges[1:] + edges[:-1]) / 2, per_shell(counts.mean(axis=0), cell, a, b, edges)


@jax.jit
def _soft_counts(positions, cell, a, b, images, reach, edges, width) -> Float[Array, "time bin"]:
    @jax.checkpoint  # a distance is less than its parts in all bins
    def around(_, distances):
        return soft_histogram(distances, edges, width)

    def total(counts):
        return jnp.sum(counts, axis=0)

    return over_pairs(around, total, positions, cell, a, b, images, reach)


def soft_speed_distribution(
    velocities: Float[Array, "time atom 3"], max_speed: float, bins: int, width: float
) -> tuple[Float[Array, "bin"], Float[Array, "bin"]]:
    """Speeds and their density as `speed_distribution` has them, smeared by `width` (Å/fs)."""
    speeds = jnp.linalg.norm(velocities, axis=-1)
    edges = jnp.linspace(0.0, max_speed, bins + 1, dtype=speeds.dtype)
    density = soft_histogram(speeds, edges, width) / (speeds.size * (max_speed / bins))
    return (edges[1:] + edges[:-1]) / 2, density


@jax.jit
def dihedrals(
    trajectory: System, atoms: Int[ArrayLike, "dihedral 4"]
) -> Float[Array, "*time dihedral"]:
    """Torsion angles (−π…π) of chains of four atoms, in one frame or in all of a trajectory.

    The sign is IUPAC's (doi:10.1351/goldbook.T06406): positive if, looking along the middle bond,
    the front bond must turn clockwise to cover the rear one. Bonds are minimum images. By arctan2,
    which is smooth at 0 and jumps only from π to −π; 0 with gradient 0 for three atoms in a line.
    """
    places = jnp.moveaxis(trajectory.positions[..., jnp.asarray(atoms), :], -2, 0)
    first, middle, last = minimum_image(jnp.diff(places, axis=0), trajectory.cell)
    normal = jnp.cross(middle, last)
    sine = jnp.linalg.norm(middle, axis=-1) * jnp.sum(first * normal, axis=-1)
    cosine = jnp.sum(jnp.cross(first, middle) * normal, axis=-1)
    straight = (sine == 0) & (cosine == 0)
    return jnp.arctan2(sine, jnp.where(straight, 1.0, cosine))


def diffusion_coefficient(
    displacements: Float[ArrayLike, "lag"], times: Float[ArrayLike, "lag"]
) -> Float[ArrayLike, ""]:
    """D (Å²/fs): a sixth of the slope of the line through mean squared displacements (Å²).

    Einstein's ⟨r²⟩ = 6 D t holds for lags `times` (fs) after the ballistic start, and those above
    a quarter of the trajectory have few origins: give the part between.
    """
    times = times - times.mean()
    return times @ (displacements - displacements.mean()) / (times @ times) / 6


def peak_position(
    wavenumbers: Float[Array, "frequency"], density: Float[Array, "frequency"],
    lowest: float, highest: float,
) -> Float[Array, ""]:  # fmt: skip
    """Where a peak of a spectrum is (cm⁻¹): the centroid of its density from `lowest` to `highest`.

    Unlike the largest value's place it has a gradient, and resolves less than a grid step.
    """
    inside = jnp.where((wavenumbers >= lowest) & (wavenumbers <= highest), density, 0.0)
    return inside @ wavenumbers / inside.sum()
