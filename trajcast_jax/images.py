"""Periodic images of atoms: which can be near, and neighbours where an atom has several near.

The minimum image finds every neighbour only within half the smallest height of a cell. In smaller
cells a pair can be within reach in several places, which are next to each other along every
lattice vector: so few, mostly, that looking at all of them takes no list of cells and no sorting.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from trajcast_jax.layers import in_blocks, rows_at_once
from trajcast_jax.system import heights

ROUNDING = 1 + 1e-5
"""By how much images are looked for beyond the reach, so that rounding loses none within."""


def images_within(cell, r_max: float) -> Int[np.ndarray, "image 3"]:
    """Consecutive shifts, enough to hold every image of a pair within `r_max`.

    Along lattice vector k those have a fractional separation within ±r_max/height_k: an
    interval that holds at most ⌊2 r_max/height_k⌋ + 1 of the places one apart.
    """
    if cell is None:
        return np.zeros((1, 3), np.int32)
    with jax.ensure_compile_time_eval():  # a shape: known while a caller is traced
        counts = np.floor(2 * r_max / np.asarray(heights(cell))).astype(int) + 1
    axes = np.meshgrid(*[np.arange(n, dtype=np.int32) for n in counts], indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, 3)


def lowest_shifts(vectors: Float[Array, "*pair 3"], cell, r_max: float) -> Float[Array, "*pair 3"]:
    """The first of the consecutive shifts of `images_within`, for fractional vectors."""
    return jnp.ceil(-r_max / heights(cell) - vectors)


def square_lengths(components, cell: Float[Array, "3 3"]) -> Float[Array, "*pair"]:
    """Squared lengths (Å²) of vectors, whose three fractional components are arrays of their own.

    XLA fuses these sums with what follows, and does not fuse a product with the cell.
    """
    axes = (sum(components[k] * cell[k, axis] for k in range(3)) for axis in range(3))
    return sum(along**2 for along in axes)


def first_slots(
    within: Bool[Array, "atom slot"], most: int
) -> tuple[Int[Array, "atom most"], Int[Array, "atom"]]:
    """The first `most` slots that are true, beyond the last where there are fewer, and how many."""
    # The k-th that is true is in the first slot up to which there are k + 1.
    found = jnp.cumsum(within, axis=-1)
    count = lambda rows: jnp.sum(rows[:, None] <= jnp.arange(most)[:, None], axis=-1)  # noqa: E731
    return in_blocks(count, (found,), rows_at_once(len(found))), found[:, -1]


@struct.dataclass
class ImageList:
    """Neighbours of every atom, as jax-md's lists hold them, with the image each is.

    Attributes:
      idx: (atom, neighbor) index j; the number of atoms marks an empty slot.
      shifts: (atom, neighbor, 3) whole lattice vectors S: r_ij = r_j − r_i + S·cell.
      did_buffer_overflow: there are more neighbours than slots.
    """

    idx: Int[Array, "atom neighbor"]
    shifts: Float[Array, "atom neighbor 3"]
    did_buffer_overflow: Bool[Array, ""]


class ListFns(NamedTuple):
    """How neighbours are listed: by all their images, or by jax-md where one image is enough.

    On the host, `prepare(positions, capacity)` counts, for a capacity that may be asked for: the
    most neighbours of an atom, and a function that makes an empty list of so many slots. In jit,
    `update(positions, list)` fills that. `images` of an atom at most are neighbours of another.
    """

    prepare: Callable[..., tuple[int, Callable[[int], Any]]]
    update: Callable[[Float[Array, "atom 3"], Any], Any]
    images: int


def image_list(cell: Float[Array, "3 3"], reach: float) -> ListFns:
    """All images within `reach` (Å) in a cell of any size (rows are lattice vectors, Å).

    Positions are fractional, and NaN where there is no atom.
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
