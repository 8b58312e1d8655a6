"""Differentiable observables: soft histograms, and scalars for loss functions.

A histogram has a zero gradient, because a sample is either inside a bin or not. Here, every
sample is smeared by a Gaussian, and a bin gets the part inside it. In the limit of width 0 this
is the histogram. Observables without bins in `observables` (mean squared displacement, velocity
autocorrelation, density of states, temperatures) are differentiable already.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from trajcast_jax.analysis.observables import per_shell, select
from trajcast_jax.neighbors.distances import over_pairs
from trajcast_jax.neighbors.multi_image import images_within
from trajcast_jax.system import System, minimum_image

TAIL = 5.0
"""Cutoff of the Gaussians, in units of their width; a fraction of 6e-7 is beyond it."""


def soft_histogram(
    samples: Float[Array, "..."], edges: Float[Array, "edge"], width: float | Float[Array, ""]
) -> Float[Array, "bin"]:
    """Count samples between consecutive edges, each smeared by a Gaussian of standard deviation
    `width`.

    Samples that are inf are in no bin.
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
    """Differentiable `radial_distribution_function`, with distances smeared by `width` (Å).

    It is differentiable in positions and cell. Species and mask must be concrete arrays. The cell
    must be concrete too, unless `images` is given: the result of
    `images_within(cell, r_max + TAIL * width)` for a similar cell.
    """
    a, b = select(trajectory, species_a), select(trajectory, species_b)
    cell, reach = trajectory.cell, r_max + TAIL * width
    images = images_within(cell, reach) if images is None else images
    edges = jnp.linspace(0.0, r_max, bins + 1, dtype=trajectory.positions.dtype)
    counts = _soft_counts(trajectory.positions, cell, a, b, images, reach, edges, width)
    return (edges[1:] + edges[:-1]) / 2, per_shell(counts.mean(axis=0), cell, a, b, edges)


@jax.jit
def _soft_counts(positions, cell, a, b, images, reach, edges, width) -> Float[Array, "time bin"]:
    @jax.checkpoint  # distances take less memory than their parts in all bins
    def around(_, distances):
        return soft_histogram(distances, edges, width)

    def total(counts):
        return jnp.sum(counts, axis=0)

    return over_pairs(around, total, positions, cell, a, b, images, reach)


def soft_speed_distribution(
    velocities: Float[Array, "time atom 3"], max_speed: float, bins: int, width: float
) -> tuple[Float[Array, "bin"], Float[Array, "bin"]]:
    """Differentiable `speed_distribution`, with speeds smeared by `width` (Å/fs)."""
    speeds = jnp.linalg.norm(velocities, axis=-1)
    edges = jnp.linspace(0.0, max_speed, bins + 1, dtype=speeds.dtype)
    density = soft_histogram(speeds, edges, width) / (speeds.size * (max_speed / bins))
    return (edges[1:] + edges[:-1]) / 2, density


@jax.jit
def dihedrals(
    trajectory: System, atoms: Int[ArrayLike, "dihedral 4"]
) -> Float[Array, "*time dihedral"]:
    """Dihedral angles (−π…π) of chains of four atoms, in one frame or in all of a trajectory.

    The sign follows IUPAC (doi:10.1351/goldbook.T06406): an angle is positive if, looking along
    the middle bond, the front bond must turn clockwise to cover the rear one. Bond vectors are
    minimum images. The angles are computed by arctan2, which is smooth at 0 and jumps only from π
    to −π. With three atoms in a line, the angle and its gradient are 0.
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
    """Diffusion coefficient D (Å²/fs): a sixth of the slope of mean squared displacements (Å²).

    Einstein's relation ⟨r²⟩ = 6 D t holds for lags `times` (fs) after the ballistic regime. Lags
    above a quarter of the trajectory have few time origins. Pass the lags in between.
    """
    times = times - times.mean()
    return times @ (displacements - displacements.mean()) / (times @ times) / 6


def peak_position(
    wavenumbers: Float[Array, "frequency"], density: Float[Array, "frequency"],
    lowest: float, highest: float,
) -> Float[Array, ""]:  # fmt: skip
    """Position of a peak (cm⁻¹): the centroid of the density from `lowest` to `highest` (cm⁻¹).

    Unlike the position of the maximum, it has a gradient and is not limited by the grid spacing.
    """
    inside = jnp.where((wavenumbers >= lowest) & (wavenumbers <= highest), density, 0.0)
    return inside @ wavenumbers / inside.sum()
