"""Reduce over the distances between atoms and all periodic images of other atoms.

The largest distance can be of any length: neither a neighbour list nor the minimum image
convention is used. Atoms are processed in blocks, so memory does not grow with the numbers of
frames and atoms.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trajcast_jax.neighbors.multi_image import lowest_shifts, square_lengths
from trajcast_jax.system import inverse, transform

PAIRS_AT_ONCE = 1 << 17
"""Largest number of distances in memory at a time, so that they stay in the cache."""


def _distances(center, others, itself, cell, images, r_max) -> Float[Array, "image atom"]:
    """Distances (Å) from one atom to all images of other atoms that can be within `r_max` (Å).

    Positions are fractional if there is a cell, else in Å. `itself` marks the central atom among
    `others`. Its distance to itself is inf; the distances to its images are included.
    """
    vectors = others - center
    if cell is None:
        return jnp.sqrt(jnp.where(itself, jnp.inf, jnp.sum(vectors**2, axis=-1)))[None]
    lowest = vectors + lowest_shifts(vectors, cell, r_max)
    places = [lowest[None, :, k] + images[:, None, k].astype(lowest.dtype) for k in range(3)]
    home = itself & (abs(places[0]) + abs(places[1]) + abs(places[2]) < 0.5)
    # sqrt has no finite derivative at a distance of 0.
    return jnp.sqrt(jnp.where(home, jnp.inf, square_lengths(places, cell)))


def over_pairs(reduce, total, positions, cell, a, b, images, r_max):
    """Compute `total` over the atoms `a` of `reduce(atom, distances to b)`, for every frame."""
    most = max(1, PAIRS_AT_ONCE // (len(b) * len(images)))
    # The block size divides len(a), because a remainder would be compiled and run separately.
    block = next(n for n in range(min(len(a), most), 0, -1) if len(a) % n == 0)

    def frame(positions):
        places = positions if cell is None else transform(positions, inverse(cell))
        others = places[b]

        def around(atom):
            distances = _distances(places[atom], others, b == atom, cell, images, r_max)
            return reduce(atom, distances)

        return total(jax.lax.map(around, a, batch_size=block))

    return jax.lax.map(frame, positions)


@functools.partial(jax.jit, static_argnames="bins")
def count_distances(
    positions, cell, a, b, images, r_max: float | Float[Array, ""], bins: int
) -> Int[Array, "time bin"]:
    """Count the distances a–b in equal bins from 0 to `r_max` (Å), for every frame.

    Arguments are as in `closest_approach`, with `images` of `images_within(cell, r_max)`.
    """

    def histogram(_, distances):
        places = jnp.minimum(distances * (bins / r_max), bins).astype(jnp.int32)
        return jnp.zeros(bins, jnp.int32).at[places.ravel()].add(1, mode="drop")

    total = functools.partial(jnp.sum, axis=0)
    return over_pairs(histogram, total, positions, cell, a, b, images, r_max)


@jax.jit
def closest_approach(positions, cell, a, b, images, kinds, limits) -> Float[Array, "time"]:
    """Smallest ratio distance/limit of all pairs a–b in every frame; exact if it is below 1.

    Args:
      positions: (time, atom, 3) Å.
      cell: (3, 3) Å or None.
      a: (center,) indices of atoms.
      b: (other,) indices of atoms.
      images: result of `images_within(cell, limits.max())`.
      kinds: (atom,) row of each atom in `limits`.
      limits: (kind, kind) Å.
    """

    def nearest(atom, distances):
        return jnp.min(distances / limits[kinds[atom], kinds[b]])

    return over_pairs(nearest, jnp.min, positions, cell, a, b, images, jnp.max(limits))
