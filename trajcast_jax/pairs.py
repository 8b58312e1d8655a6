"""Distances between atoms and all periodic images of others, a block of atoms at a time.

For whatever sums over all pairs of a frame within a distance of any length: no list of
neighbours, no minimum image, and memory that grows with neither frames nor atoms.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trajcast_jax.images import lowest_shifts, square_lengths
from trajcast_jax.system import inverse, transform

PAIRS_AT_ONCE = 1 << 17
"""Distances held at once, so that they stay in cache."""


def _distances(center, others, itself, cell, images, r_max) -> Float[Array, "image atom"]:
    """Distances (Å) from one atom to all images of others that can be within `r_max`.

    Places are fractional where there is a cell, else in Å. `itself` marks the atom among
    the others: its distance is inf, its images count.
    """
    vectors = others - center
    if cell is None:
        return jnp.sqrt(jnp.where(itself, jnp.inf, jnp.sum(vectors**2, axis=-1)))[None]
    lowest = vectors + lowest_shifts(vectors, cell, r_max)
    places = [lowest[None, :, k] + images[:, None, k].astype(lowest.dtype) for k in range(3)]
    home = itself & (abs(places[0]) + abs(places[1]) + abs(places[2]) < 0.5)
    # The root of a distance of 0 would have no finite derivative.
    return jnp.sqrt(jnp.where(home, jnp.inf, square_lengths(places, cell)))


def over_pairs(reduce, total, positions, cell, a, b, images, r_max):
    """Per frame, `total` over the atoms `a` of `reduce(atom, distances around it to b)`."""
    most = max(1, PAIRS_AT_ONCE // (len(b) * len(images)))
    # A divisor: a remainder would be compiled, and run, by itself.
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
    """Numbers of distances a–b (Å) in equal bins from 0 to `r_max`, for every frame."""

    def histogram(_, distances):
        places = jnp.minimum(distances * (bins / r_max), bins).astype(jnp.int32)
        return jnp.zeros(bins, jnp.int32).at[places.ravel()].add(1, mode="drop")

    total = functools.partial(jnp.sum, axis=0)
    return over_pairs(histogram, total, positions, cell, a, b, images, r_max)


@jax.jit
def closest_approach(positions, cell, a, b, images, kinds, limits) -> Float[Array, "time"]:
    """The smallest distance/limit of any pair a–b in every frame; exact where it is below 1.

    Args:
      positions: (time, atom, 3) Å.
      cell: (3, 3) Å or None.
      a: (center,) indices of atoms.
      b: (other,) indices of atoms.
      images: of `images_within(cell, limits.max())`.
      kinds: (atom,) rows of `limits`.
      limits: (kind, kind) Å.
    """

    def nearest(atom, distances):
        return jnp.min(distances / limits[kinds[atom], kinds[b]])

    return over_pairs(nearest, jnp.min, positions, cell, a, b, images, jnp.max(limits))
