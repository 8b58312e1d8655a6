"""Neighbour lists on the device, and the `Graph` that the network reads.

The only importer of jax-md's partition module. Cells whose perpendicular heights allow the
minimum image use `jax_md.partition` (with its cell list where the cell is large enough);
smaller cells the list of `images.py`. Both end up as neighbour indices with integer image
shifts, so everything downstream is the same code.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from trajcast_jax.far_field import mesh_size
from trajcast_jax.images import ListFns, first_slots, image_list
from trajcast_jax.imports import submodules
from trajcast_jax.system import System, heights, image_shifts, inverse, transform

partition, space = submodules("jax_md", "partition", "space")


@struct.dataclass
class Neighbors:
    """Neighbours within cutoff + skin, packed to the front of a fixed number of slots.

    Attributes:
      idx: (atom, neighbor) index of the neighbour; the number of atoms marks an empty slot.
      shifts: (atom, neighbor, 3) whole lattice vectors S: r_ij = r_j − r_i + S·cell, for
        unwrapped positions.
      reference_positions: (atom, 3) Å, where the list was built.
      overflow: True once a build found more neighbours than slots; sticky.
      rebuilds: number of builds so far.
      lists: the state of jax-md's list, or of that of images.
      near: slots per atom for neighbours within the cutoff alone, which `graph` packs anew
        for every frame, so that what the skin holds costs the network nothing.
      mesh: points of the mesh of `far_field.py`; None for isolated molecules.
    """

    idx: Int[Array, "atom neighbor"]
    shifts: Float[Array, "atom neighbor 3"]
    reference_positions: Float[Array, "atom 3"]
    overflow: Bool[Array, ""]
    rebuilds: Int[Array, ""]
    lists: Any
    near: int = struct.field(pytree_node=False)
    mesh: tuple[int, int, int] | None = struct.field(pytree_node=False, default=None)

    @property
    def capacity(self) -> int:
        """Slots per atom."""
        return self.idx.shape[-1]


@struct.dataclass
class Graph:
    """Who hears whom, for the network: atom i receives from its neighbours j.

    Attributes:
      vectors: (atom, neighbor, 3) r_ij in Å; the unit vector along x times the cutoff where
        there is no neighbour, so that nothing downstream divides by zero.
      senders: (atom, neighbor) index j; 0 where there is no neighbour.
      mask: (atom, neighbor) True for neighbours within the cutoff.
      mesh: points of the mesh of `far_field.py`; None for isolated molecules.
    """

    vectors: Float[Array, "atom neighbor 3"]
    senders: Int[Array, "atom neighbor"]
    mask: Bool[Array, "atom neighbor"]
    mesh: tuple[int, int, int] | None = struct.field(pytree_node=False, default=None)


def disjoint_union(graphs: Graph) -> Graph:
    """Graphs of a leading axis as a single one: their atoms in a row, no edge between them.

    One pass of the network over it costs less than a vmapped one: products stay as large as
    those of one big frame, and blocks of atoms as small as fits the cache.
    """
    frames, atoms, _ = graphs.senders.shape
    first = atoms * jnp.arange(frames, dtype=graphs.senders.dtype)[:, None, None]
    together = graphs.replace(senders=graphs.senders + first)
    return jax.tree.map(lambda x: x.reshape(frames * atoms, *x.shape[2:]), together)


class NeighborFns(NamedTuple):
    """`allocate(system, capacity=None)` on the host, once; `update(neighbors, system)` in jit."""

    allocate: Callable[..., Neighbors]
    update: Callable[[Neighbors, System], Neighbors]
    cutoff: float
    skin: float


class NeighborIndices(Protocol):
    """What `graph` reads of a neighbour list: `Neighbors`, or the compact ones of a dataset."""

    idx: Int[Array, "atom neighbor"]
    shifts: Array
    mesh: tuple[int, int, int] | None


@functools.partial(jax.jit, static_argnames="cutoff", inline=True)  # at once outside of a jit too
def graph(system: System, neighbors: NeighborIndices, cutoff: float) -> Graph:
    """The edges within the cutoff (Å), from a list that may hold more; differentiable.

    NaN where a `Neighbors` has too few slots for them, which its update calls an overflow.
    """
    idx, shifts = neighbors.idx, neighbors.shifts
    near, crowded = getattr(neighbors, "near", idx.shape[-1]), False
    if near < idx.shape[-1]:
        idx, shifts, crowded = nearest(lax.stop_gradient(system), idx, shifts, cutoff, near)
    vectors, mask = _edges(system, idx, shifts, cutoff)
    nowhere = jnp.asarray([cutoff, 0.0, 0.0], vectors.dtype)
    senders = jnp.where(mask, idx, 0).astype(jnp.int32)
    vectors = jnp.where(mask[..., None], vectors, nowhere)
    return Graph(jnp.where(crowded, jnp.nan, vectors), senders, mask, neighbors.mesh)


def nearest(system: System, idx, shifts, cutoff: float, near: int):
    """Slots of the first `near` neighbours within the cutoff, and whose are more, (atom, 1, 1)."""
    _, within = _edges(system, idx, shifts, cutoff)
    slots, counts = first_slots(within, near)
    fill = {"mode": "fill", "fill_value": system.positions.shape[0]}
    idx = jnp.take_along_axis(idx, slots, axis=-1, **fill)
    shifts = jnp.take_along_axis(shifts, slots[..., None], axis=1, mode="fill", fill_value=0)
    return idx, shifts, (counts > near)[:, None, None]


def _edges(system: System, idx, shifts, cutoff: float):
    """The vectors r_ij (Å) of all slots, and which of them are neighbours within the cutoff."""
    vectors = system.positions[_senders(idx)] - system.positions[:, None]
    if system.cell is not None:
        vectors = vectors + transform(shifts.astype(vectors.dtype), system.cell)
    return vectors, (idx < len(idx)) & (jnp.sum(vectors**2, axis=-1) < cutoff**2)


@functools.partial(jax.jit, static_argnums=3)
def _most(system: System, idx, shifts, cutoff: float) -> Int[Array, ""]:
    """The number of neighbours within the cutoff of the atom that has the most."""
    return _edges(system, idx, shifts, cutoff)[1].sum(axis=-1).max(initial=0)


def _room(occupied: int, spare: float, multiple: int) -> int:
    """Slots for so many neighbours and `spare` more, at least."""
    return -(-int(occupied + spare + 1) // multiple) * multiple


def neighbor_list(
    cell: Float[Array, "3 3"] | None, cutoff: float, skin: float = 0.5
) -> NeighborFns:
    """Functions that allocate and update the neighbours within `cutoff` (Å) of every atom.

    `cell` (rows are lattice vectors, Å) decides the algorithm and must be the cell of the
    systems given later; None is an isolated molecule. A list is reused until an atom has
    moved skin/2, and is a constant to derivatives. `allocate` sizes the buffers for the system it
    is given, with room for 10 % more, or to `capacity` slots per
    atom; `update` sets `overflow` when that was too few.
    """
    if cutoff <= 0 or skin < 0:
        raise ValueError(
            f"The cutoff must be positive and the skin not negative, but they are {cutoff} Å and "
            f"{skin} Å."
        )
    lists_of, to_coordinates, to_shifts = _algorithm(cell, cutoff + skin)
    mesh = mesh_size(cell, cutoff)

    def coordinates(system: System):
        # NaN is within reach of nothing: padding has no neighbours and is nobody's.
        return jnp.where(system.mask[:, None], to_coordinates(system), jnp.nan)

    def allocate(system: System, capacity: int | None = None) -> Neighbors:
        occupancy, empty = lists_of.prepare(coordinates(system), capacity or 0)
        wanted = _room(occupancy, 0.1 * occupancy, 4)
        limit = lists_of.images * len(system.masses) - 1
        slots = max(1, min(capacity or wanted, limit))
        # Jitted: op by op, each of jax-md's many small operations would compile by itself.
        listed = jax.jit(build, static_argnums=4)(
            empty(slots), system, jnp.zeros((), bool), jnp.zeros((), jnp.int32), slots
        )
        closest = int(_most(system, listed.idx, listed.shifts, cutoff))
        near = _room(closest, 0.7 * closest**0.5, 2)  # their number fluctuates like a root of it
        if capacity is not None:
            near = slots if slots == limit else -(-near * slots // wanted)
        return listed.replace(near=min(near, slots))

    def build(lists, system: System, overflow, rebuilds, near: int) -> Neighbors:
        lists = lists_of.update(coordinates(system), lists)
        return Neighbors(
            idx=lists.idx,
            shifts=to_shifts(lists, system),
            reference_positions=system.positions,
            overflow=overflow | jnp.asarray(lists.did_buffer_overflow, bool),
            rebuilds=rebuilds + 1,
            lists=lists,
            near=near,
            mesh=mesh,
        )

    def update(neighbors: Neighbors, system: System) -> Neighbors:
        # Who is a neighbour is not a function to differentiate; how far away it is (`graph`) is.
        system = lax.stop_gradient(system)
        moved = jnp.sum((system.positions - neighbors.reference_positions) ** 2, axis=-1)
        moved = jnp.where(system.mask, moved, 0.0)
        n = neighbors
        # A NaN compares false: a broken system keeps its list and is caught by the rollout.
        listed = lax.cond(
            jnp.any(moved >= (0.5 * skin) ** 2),
            lambda: build(n.lists, system, n.overflow, n.rebuilds, n.near),
            lambda: n,
        )
        crowded = _most(system, listed.idx, listed.shifts, cutoff) > n.near
        return listed.replace(overflow=listed.overflow | crowded)

    return NeighborFns(allocate, update, float(cutoff), float(skin))


def _algorithm(cell, reach: float) -> tuple[ListFns, Callable, Callable]:
    """The lists for a cell, what makes their coordinates of a system, and the shifts of their idx.

    Shifts are (atom, neighbor, 3), for the unwrapped positions of a system.
    """
    if cell is None:
        free = partition.neighbor_list(space.free()[0], 1.0, reach, disable_cell_list=True)
        return _of_jax_md(free), _same, _no_shifts
    # Nearer than half the smallest height the minimum image finds every neighbour.
    if reach < 0.5 * float(heights(np.asarray(cell)).min()):
        return _of_jax_md(_minimum_image_list(cell, reach)), _fractional, _nearest_shifts
    return image_list(cell, reach), _fractional, _unfolded_shifts


def _of_jax_md(fns) -> ListFns:
    def prepare(positions, capacity: int):
        # The buffer of the cell list must grow with a capacity that is asked for, too.
        lists, n_atoms = fns.allocate(positions, extra_capacity=capacity), len(positions)

        def empty(slots: int):
            idx = jnp.full((n_atoms, slots), n_atoms, jnp.int32)
            # An array among what JAX takes for constants of a type: wherever it compares two such
            # types while it traces, the comparison is traced too and fails. Only new boxes need it.
            return dataclasses.replace(lists, idx=idx, max_occupancy=slots, cell_size=None)

        return int((lists.idx < n_atoms).sum(1).max(initial=0)), empty

    return ListFns(prepare, fns.update, images=1)


def _same(system: System):
    return system.positions


def _fractional(system: System):
    """Fractional coordinates folded into [0, 1)."""
    fractional = transform(system.positions, inverse(system.cell))
    folded = fractional - jnp.floor(fractional)
    return jnp.where(folded < 1.0, folded, 0.0)  # −1e-9 folds to 1.0 in float32


def _triangular(cell) -> np.ndarray:
    """jax-md's box (columns are lattice vectors), rotated to upper-triangular form.

    Fractional coordinates do not know of the rotation, so distances stay right.
    """
    box = np.asarray(cell, np.float64).T
    _, upper = np.linalg.qr(box)
    return upper * np.sign(np.diag(upper))[:, None]


def _minimum_image_list(cell, reach: float):
    box = jnp.asarray(_triangular(cell))

    def displacement(a, b, **_):  # jax-md names the time too
        vector = a - b
        # Sums fuse; jax-md's own product of matrices takes thrice as long and rounds on GPUs.
        return jnp.sum(box * (vector - jnp.round(vector)), axis=-1)

    # jax-md asks the same, and whatever goes wrong then it takes for a wrong number of dimensions.
    jax.eval_shape(displacement, jnp.zeros(3), jnp.zeros(3))
    return partition.neighbor_list(displacement, box, reach, fractional_coordinates=True)


def _no_shifts(lists, system: System):
    return jnp.zeros((*lists.idx.shape, 3), system.positions.dtype)


def _nearest_shifts(lists, system: System):
    vectors = system.positions[_senders(lists.idx)] - system.positions[:, None]
    return image_shifts(vectors, system.cell)


def _unfolded_shifts(lists, system: System):
    # The list was made for folded positions: r_folded = r + fold·cell.
    exact = transform(system.positions, inverse(system.cell))
    fold = jnp.round(_fractional(system) - exact)
    return lists.shifts + fold[_senders(lists.idx)] - fold[:, None]


def _senders(idx: Int[Array, "atom neighbor"]):
    """The indices, with 0 for empty slots."""
    return jnp.where(idx < len(idx), idx, 0)
