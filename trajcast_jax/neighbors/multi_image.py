"""Neighbour lists with all periodic images, for cells that are small against the cutoff.

The minimum image convention finds every neighbour only within half the smallest height of the
cell. In smaller cells, several images of an atom can be within the cutoff. Their shifts are
consecutive integers along every lattice vector. They are usually so few that all can be tested,
without a cell list or sorting.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from trajcast_jax.blocks import in_blocks, rows_at_once
from trajcast_jax.system import heights

ROUNDING = 1 + 1e-5
"""Factor on the search radius for images, so that rounding does not lose an image."""


def images_within(cell, r_max: float) -> Int[np.ndarray, "image 3"]:
    """Consecutive integer shifts (image, 3), enough for every image of a pair within `r_max` (Å).

    Along lattice vector k, images within `r_max` have a fractional separation within
    ±r_max/height_k. This interval holds at most ⌊2 r_max/height_k⌋ + 1 images, which are 1 apart.
    """
    if cell is None:
        return np.zeros((1, 3), np.int32)
    with jax.ensure_compile_time_eval():  # sets a shape, so it must be known while tracing
        counts = np.floor(2 * r_max / np.asarray(heights(cell))).astype(int) + 1
    axes = np.meshgrid(*[np.arange(n, dtype=np.int32) for n in counts], indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, 3)


def lowest_shifts(vectors: Float[Array, "*pair 3"], cell, r_max: float) -> Float[Array, "*pair 3"]:
    """Lowest shift of each fractional vector, to which those of `images_within` are added."""
    return jnp.ceil(-r_max / heights(cell) - vectors)


def square_lengths(components, cell: Float[Array, "3 3"]) -> Float[Array, "*pair"]:
    """Squared lengths (Å²) of vectors, given as three arrays of fractional components.

    XLA fuses these sums with the operations after them; it would not fuse a matrix product.
    """
    axes = (sum(components[k] * cell[k, axis] for k in range(3)) for axis in range(3))
    return sum(along**2 for along in axes)


def first_slots(
    within: Bool[Array, "atom slot"], most: int
) -> tuple[Int[Array, "atom most"], Int[Array, "atom"]]:
    """Indices of the first `most` true slots of each atom, and the number of its true slots.

    If there are fewer than `most`, the remaining indices are the number of slots.
    """
    # The k-th true slot (k = 0, 1, …) is the first at which the cumulative sum reaches k + 1.
    found = jnp.cumsum(within, axis=-1)
    count = lambda rows: jnp.sum(rows[:, None] <= jnp.arange(most)[:, None], axis=-1)  # noqa: E731
    return in_blocks(count, (found,), rows_at_once(len(found))), found[:, -1]


@struct.dataclass
class ImageList:
    """Neighbours of every atom in the layout of jax-md's lists, plus image shifts.

    Attributes:
      idx: (atom, neighbor) index j; the number of atoms marks an empty slot.
      shifts: (atom, neighbor, 3) integer lattice shifts S in r_ij = r_j − r_i + S·cell.
      did_buffer_overflow: True if there are more neighbours than slots.
    """

    idx: Int[Array, "atom neighbor"]
    shifts: Float[Array, "atom neighbor 3"]
    did_buffer_overflow: Bool[Array, ""]


class ListFns(NamedTuple):
    """Functions of a neighbour list: with all images, or by jax-md if one image is enough.

    Attributes:
      prepare: `prepare(positions, capacity)`, on the host. Returns the largest number of
        neighbours of an atom, and a function that makes an empty list with a given number of
        slots. `capacity` is the requested number of slots, 0 if none is.
      update: `update(positions, list)`, inside jit. Returns the filled list.
      images: largest number of images of one atom that can be neighbours of another atom.
    """

    prepare: Callable[..., tuple[int, Callable[[int], Any]]]
    update: Callable[[Float[Array, "atom 3"], Any], Any]
    images: int


def image_list(cell: Float[Array, "3 3"], reach: float) -> ListFns:
    """List functions for all images within `reach` (Å), for a cell of any size (rows, Å).

    The functions take fractional positions, which are NaN for padding.
    """
    cell = np.asarray(cell, np.float64)
    images = images_within(cell, ROUNDING * reach)

    def around(numbers, centers, positions, capacity: int):
        box = jnp.asarray(cell, positions.dtype)
        vectors = positions - centers[:, None]  # (center, atom, 3)
        lowest = lowest_shifts(vectors, box, ROUNDING * reach)
        shifts = lowest[:, :, None] + images.astype(vectors.dtype)
        places = [vectors[:, :, None, k] + shifts[..., k] for k in range(3)]
        itself = numbers[:, None, None] == jnp.arange(len(positions))[:, None]
        itself &= ~jnp.any(shifts, axis=-1)
        within = ((square_lengths(places, box) < reach**2) & ~itself).reshape(len(centers), -1)
        slots, counts = first_slots(within, capacity)
        idx = jnp.minimum(slots // len(images), len(positions))
        shifts = shifts.reshape(len(centers), -1, 3)
        fill = {"mode": "fill", "fill_value": 0}
        return idx, jnp.take_along_axis(shifts, slots[..., None], axis=1, **fill), counts

    def listed(positions, capacity: int):
        rows = jnp.arange(len(positions)), positions
        return in_blocks(
            lambda *block: around(*block, positions, capacity), rows, rows_at_once(len(positions))
        )

    def update(positions, old: ImageList) -> ImageList:
        capacity = old.idx.shape[-1]
        idx, shifts, counts = listed(positions, capacity)
        return ImageList(idx, shifts, jnp.any(counts > capacity))

    def prepare(positions, _):
        *_, counts = jax.jit(lambda x: listed(x, 1))(positions)
        n_atoms = len(positions)

        def empty(slots: int) -> ImageList:
            idx = jnp.full((n_atoms, slots), n_atoms, jnp.int32)
            shifts = jnp.zeros((n_atoms, slots, 3), positions.dtype)
            return ImageList(idx, shifts, jnp.zeros((), bool))

        return int(counts.max(initial=0)), empty

    return ListFns(prepare, update, len(images))
