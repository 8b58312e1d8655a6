"""The `Graph` that the network reads: the edges within the cutoff of a neighbour list."""

import functools
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from trajcast_jax.neighbors.multi_image import first_slots
from trajcast_jax.system import System, transform


@struct.dataclass
class Graph:
    """Edges for the network: atom i receives messages from its neighbours j.

    Attributes:
      vectors: (atom, neighbor, 3) r_ij in Å. Empty slots hold (cutoff, 0, 0), to avoid divisions
        by zero.
      senders: (atom, neighbor) index j; 0 in empty slots.
      mask: (atom, neighbor) True for neighbours within the cutoff.
      mesh: mesh points of `neighbors/far_field.py`; None for isolated molecules.
    """

    vectors: Float[Array, "atom neighbor 3"]
    senders: Int[Array, "atom neighbor"]
    mask: Bool[Array, "atom neighbor"]
    mesh: tuple[int, int, int] | None = struct.field(pytree_node=False, default=None)


def disjoint_union(graphs: Graph) -> Graph:
    """Join graphs with a leading frame axis into one graph without edges between frames.

    One pass of the network over the union is faster than a vmapped pass: matrix products are
    as large as those of one big frame, and blocks of atoms still fit the cache.
    """
    frames, atoms, _ = graphs.senders.shape
    first = atoms * jnp.arange(frames, dtype=graphs.senders.dtype)[:, None, None]
    together = graphs.replace(senders=graphs.senders + first)
    return jax.tree.map(lambda x: x.reshape(frames * atoms, *x.shape[2:]), together)


class NeighborIndices(Protocol):
    """Fields that `graph` reads, of `Neighbors` or of the compact lists in `data/pairs.py`."""

    idx: Int[Array, "atom neighbor"]
    shifts: Array
    mesh: tuple[int, int, int] | None


@functools.partial(jax.jit, static_argnames="cutoff", inline=True)  # at once outside of a jit too
def graph(system: System, neighbors: NeighborIndices, cutoff: float) -> Graph:
    """Select the edges within the cutoff (Å) from a neighbour list; differentiable.

    Vectors are NaN for atoms with more neighbours within the cutoff than `Neighbors.near`;
    `update` then sets `overflow`.
    """
    require_reach(neighbors, cutoff)
    idx, shifts = neighbors.idx, neighbors.shifts
    near, crowded = getattr(neighbors, "near", idx.shape[-1]), False
    if near < idx.shape[-1]:
        idx, shifts, crowded = nearest(lax.stop_gradient(system), idx, shifts, cutoff, near)
    vectors, mask = edges_of(system, idx, shifts, cutoff)
    nowhere = jnp.asarray([cutoff, 0.0, 0.0], vectors.dtype)
    senders = jnp.where(mask, idx, 0).astype(jnp.int32)
    vectors = jnp.where(mask[..., None], vectors, nowhere)
    return Graph(jnp.where(crowded, jnp.nan, vectors), senders, mask, neighbors.mesh)


def require_reach(neighbors: NeighborIndices, cutoff: float) -> None:
    """Raise ValueError if a list that was made for a shorter cutoff would miss neighbours."""
    reach = getattr(neighbors, "cutoff", 0.0)
    if 0 < reach < cutoff * (1 - 1e-6):
        raise ValueError(
            f"The neighbour list was made for a cutoff of {reach:g} Å, but the model's is "
            f"{cutoff:g} Å: neighbours would be missing. Make it by neighbor_list(system.cell, "
            "model.cutoff)."
        )


def nearest(system: System, idx, shifts, cutoff: float, near: int):
    """Pack the first `near` neighbours within the cutoff (Å) of every atom.

    Returns their `idx` and `shifts`, and a mask (atom, 1, 1) of atoms with more than `near`.
    """
    _, within = edges_of(system, idx, shifts, cutoff)
    slots, counts = first_slots(within, near)
    fill = {"mode": "fill", "fill_value": system.positions.shape[0]}
    idx = jnp.take_along_axis(idx, slots, axis=-1, **fill)
    shifts = jnp.take_along_axis(shifts, slots[..., None], axis=1, mode="fill", fill_value=0)
    return idx, shifts, (counts > near)[:, None, None]


def edges_of(system: System, idx, shifts, cutoff: float):
    """Vectors r_ij (Å) of all slots, and the mask of neighbours within the cutoff."""
    vectors = system.positions[senders_of(idx)] - system.positions[:, None]
    if system.cell is not None:
        vectors = vectors + transform(shifts.astype(vectors.dtype), system.cell)
    return vectors, (idx < len(idx)) & (jnp.sum(vectors**2, axis=-1) < cutoff**2)


def senders_of(idx: Int[Array, "atom neighbor"]):
    """Neighbour indices, with 0 in empty slots."""
    return jnp.where(idx < len(idx), idx, 0)
