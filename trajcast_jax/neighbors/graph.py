"""Neighbour lists on the device, and the `Graph` that the network reads.

No other module imports jax-md. If the perpendicular heights of the cell allow the minimum image
convention, the list is that of `jax_md.partition` (with its cell list if the cell is large
enough); smaller cells use `neighbors/multi_image.py`. Both give neighbour indices with integer
image shifts, so all further code is the same.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from trajcast_jax.imports import submodules
from trajcast_jax.neighbors.edges import (
    Graph,
    NeighborIndices,
    disjoint_union,
    edges_of,
    graph,
    nearest,
    senders_of,
)
from trajcast_jax.neighbors.far_field import mesh_size
from trajcast_jax.neighbors.multi_image import ListFns, image_list
from trajcast_jax.system import System, check_cell, heights, image_shifts, inverse, known, transform

__all__ = [
    "Graph",
    "NeighborFns",
    "NeighborIndices",
    "Neighbors",
    "disjoint_union",
    "graph",
    "nearest",
    "neighbor_list",
]

SAME_CELL = 1e-3
"""Share of the cell by which the cell of a list may differ from that of its systems."""

partition, space = submodules("jax_md", "partition", "space")


@struct.dataclass
class Neighbors:
    """Neighbours within cutoff + skin, packed to the front of a fixed number of slots.

    Attributes:
      idx: (atom, neighbor) index of the neighbour; the number of atoms marks an empty slot.
      shifts: (atom, neighbor, 3) integer lattice shifts S in r_ij = r_j − r_i + S·cell, for
        unwrapped positions.
      reference_positions: (atom, 3) Å, positions at the last build.
      overflow: True once a build has found more neighbours than slots; it is never reset.
      rebuilds: number of builds so far.
      lists: a `NearestList` or an `ImageList`.
      near: slots per atom for neighbours within the cutoff. `graph` packs these for every frame,
        so that neighbours in the skin do not cost the network time.
      mesh: mesh points of `neighbors/far_field.py`; None for isolated molecules.
      cutoff: Å, for which the list was made; `graph` refuses a longer one.
    """

    idx: Int[Array, "atom neighbor"]
    shifts: Float[Array, "atom neighbor 3"]
    reference_positions: Float[Array, "atom 3"]
    overflow: Bool[Array, ""]
    rebuilds: Int[Array, ""]
    lists: Any
    near: int = struct.field(pytree_node=False)
    mesh: tuple[int, int, int] | None = struct.field(pytree_node=False, default=None)
    cutoff: float = struct.field(pytree_node=False, default=0.0)

    @property
    def capacity(self) -> int:
        """Number of slots per atom."""
        return self.idx.shape[-1]


class NeighborFns(NamedTuple):
    """Functions of a neighbour list: `allocate` runs once on the host, `update` inside jit.

    Attributes:
      allocate: `allocate(system, capacity=None)` → `Neighbors`.
      update: `update(neighbors, system)` → `Neighbors`.
      cutoff: Å.
      skin: Å.
    """

    allocate: Callable[..., Neighbors]
    update: Callable[[Neighbors, System], Neighbors]
    cutoff: float
    skin: float


@functools.partial(jax.jit, static_argnums=3)
def _most(system: System, idx, shifts, cutoff: float) -> Int[Array, ""]:
    """Largest number of neighbours within the cutoff of any atom."""
    return edges_of(system, idx, shifts, cutoff)[1].sum(axis=-1).max(initial=0)


def _room(occupied: int, spare: float, multiple: int) -> int:
    """Slots for `occupied` neighbours and at least `spare` more, rounded up to a `multiple`."""
    return -(-int(occupied + spare + 1) // multiple) * multiple


def _near(closest: int, slots: int, wanted: int, limit: int, capacity: int | None) -> int:
    """Slots for neighbours within the cutoff, if an atom has up to `closest` of them."""
    near = _room(closest, 0.7 * closest**0.5, 2)  # the count fluctuates by about its square root
    if capacity is not None:
        near = slots if slots == limit else -(-near * slots // wanted)
    return min(near, slots)


def _check_lengths(cutoff: float, skin: float) -> None:
    if not (0 < cutoff < np.inf and 0 <= skin < np.inf):
        raise ValueError(
            f"The cutoff must be positive and the skin not negative, but they are {cutoff} Å and "
            f"{skin} Å."
        )


def _check_system(system: System, cell) -> None:
    """Check a system against the cell of its list, unless it is traced."""
    if (system.cell is None) != (cell is None):
        own, other = ("no cell", "a cell") if system.cell is None else ("a cell", "none")
        raise ValueError(
            f"The system has {own}, but the neighbour list was made for {other}; make it by "
            "neighbor_list(system.cell, model.cutoff)."
        )
    if cell is not None and known(system.cell, cell):
        mine, its = np.asarray(cell, float), np.asarray(system.cell, float)
        if not np.abs(its - mine).max() <= SAME_CELL * np.abs(mine).max():
            raise ValueError(
                f"The cell of the system is {np.round(its, 3).tolist()} Å, but the neighbour list "
                f"was made for {np.round(mine, 3).tolist()} Å; make it by "
                "neighbor_list(system.cell, model.cutoff)."
            )
    if known(system.positions, system.mask):
        finite = np.isfinite(np.asarray(system.positions)).all(-1) | ~np.asarray(system.mask)
        if not finite.all():
            raise ValueError(
                f"The position of atom {int(np.argmin(finite))} is not finite, so that it has no "
                "neighbours; mend the start frame."
            )


def _outdated(neighbors: Neighbors, system: System, skin: float) -> Bool[Array, ""]:
    """Whether any atom has moved by skin/2 since the last build."""
    moved = jnp.sum((system.positions - neighbors.reference_positions) ** 2, axis=-1)
    moved = jnp.where(system.mask, moved, 0.0)
    # Comparisons with NaN are false, so a broken system keeps its list; the rollout detects it.
    return jnp.any(moved >= (0.5 * skin) ** 2)


def neighbor_list(
    cell: Float[Array, "3 3"] | None, cutoff: float, skin: float = 0.5
) -> NeighborFns:
    """Functions that allocate and update the list of neighbours within `cutoff` (Å).

    `cell` (rows are lattice vectors, Å; None for an isolated molecule) selects the algorithm and
    must be the cell of all systems used later. A list is rebuilt when an atom has moved by half
    the `skin` (Å), and derivatives treat it as constant. `allocate` sizes the buffers for the
    given system with 10 % to spare, or to `capacity` slots per atom; `update` sets `overflow` if
    there are too few.

    Raises:
      ValueError: the cutoff is not positive or the skin is negative.
    """
    _check_lengths(cutoff, skin)
    check_cell(cell)
    lists_of, to_coordinates, to_shifts = _algorithm(cell, cutoff + skin)
    mesh = mesh_size(cell, cutoff)

    def coordinates(system: System):  # no distance to NaN, of padding, is within the cutoff
        return jnp.where(system.mask[:, None], to_coordinates(system), jnp.nan)

    def allocate(system: System, capacity: int | None = None) -> Neighbors:
        _check_system(system, cell)
        with jax.debug_nans(False):
            places = coordinates(system)
        occupancy, empty = lists_of.prepare(places, capacity or 0)
        wanted, limit = _room(occupancy, 0.1 * occupancy, 4), lists_of.images * len(places) - 1
        slots = max(1, min(capacity or wanted, limit))
        # Without jit, each of jax-md's many small operations would be compiled separately.
        listed = jax.jit(build, static_argnums=4)(
            empty(slots), system, jnp.zeros((), bool), jnp.zeros((), jnp.int32), slots
        )
        closest = int(_most(system, listed.idx, listed.shifts, cutoff))
        return listed.replace(near=_near(closest, slots, wanted, limit, capacity))

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
            cutoff=float(cutoff),
        )

    def update(neighbors: Neighbors, system: System) -> Neighbors:
        # The choice of neighbours has no derivative; their distances (in `graph`) have.
        system = lax.stop_gradient(system)
        n, old = neighbors, _outdated(neighbors, system, skin)
        new = lambda: build(n.lists, system, n.overflow, n.rebuilds, n.near)  # noqa: E731
        listed = lax.cond(old, new, lambda: n)
        crowded = _most(system, listed.idx, listed.shifts, cutoff) > n.near
        return listed.replace(overflow=listed.overflow | crowded)

    return NeighborFns(allocate, update, float(cutoff), float(skin))


def _algorithm(cell, reach: float) -> tuple[ListFns, Callable, Callable]:
    """Choose the list functions for a cell.

    Returns them with a function from a System to the coordinates that they take, and one from
    a list and a System to the shifts (atom, neighbor, 3) for unwrapped positions.
    """
    if cell is None:
        free = partition.neighbor_list(space.free()[0], 1.0, reach, disable_cell_list=True)
        return _of_jax_md(free), _same, _no_shifts
    # Below half the smallest height, the minimum image convention finds every neighbour.
    if reach < 0.5 * float(heights(np.asarray(cell)).min()):
        return _of_jax_md(_minimum_image_list(cell, reach)), _fractional, _nearest_shifts
    return image_list(cell, reach), _fractional, _unfolded_shifts


@struct.dataclass
class NearestList:
    """What changes of jax-md's neighbour list. Its functions stay with `ListFns`, so that a list
    can be pickled, and so do the NaN that padding has for positions.
    """

    idx: Int[Array, "atom neighbor"]
    code: Int[Array, ""]
    cell_list_capacity: int | None = struct.field(pytree_node=False)
    did_buffer_overflow: Bool[Array, ""]


def _of_jax_md(fns) -> ListFns:
    templates = []

    def template():
        """A list of jax-md with its functions, which are the same in all."""
        if not templates:  # an unpickled list is updated before any was allocated
            with jax.ensure_compile_time_eval():
                templates.append(fns.allocate(jnp.full((2, 3), 0.25)))
        return templates[0]

    def update(positions, old: NearestList) -> NearestList:
        # `cell_size` is an array in a static field. When JAX compares such fields while it
        # traces, the comparison is traced too and fails. Only changes of the box need it.
        new = fns.update(
            positions,
            dataclasses.replace(
                template(),
                idx=old.idx,
                reference_position=positions,
                error=dataclasses.replace(template().error, code=old.code),
                cell_list_capacity=old.cell_list_capacity,
                max_occupancy=old.idx.shape[-1],
                cell_size=None,
            ),
        )
        overflow = jnp.asarray(new.did_buffer_overflow, bool)
        return old.replace(idx=new.idx, code=new.error.code, did_buffer_overflow=overflow)

    def prepare(positions, capacity: int):
        # jax-md's cell list must grow with the requested capacity, too.
        with jax.debug_nans(False):  # the positions of padding
            lists, n_atoms = fns.allocate(positions, extra_capacity=capacity), len(positions)
        templates[:] = [lists]

        def empty(slots: int) -> NearestList:
            idx = jnp.full((n_atoms, slots), n_atoms, jnp.int32)
            none = jnp.zeros((), bool)
            return NearestList(idx, lists.error.code, lists.cell_list_capacity, none)

        return int((lists.idx < n_atoms).sum(1).max(initial=0)), empty

    return ListFns(prepare, update, images=1)


def _same(system: System):
    return system.positions


def _fractional(system: System):
    """Fractional coordinates folded into [0, 1)."""
    fractional = transform(system.positions, inverse(system.cell))
    folded = fractional - jnp.floor(fractional)
    return jnp.where(folded < 1.0, folded, 0.0)  # −1e-9 folds to 1.0 in float32


def _triangular(cell) -> np.ndarray:
    """Box for jax-md (columns are lattice vectors), rotated to upper-triangular form.

    The rotation changes neither fractional coordinates nor distances.
    """
    box = np.asarray(cell, np.float64).T
    _, upper = np.linalg.qr(box)
    return upper * np.sign(np.diag(upper))[:, None]


def _minimum_image_list(cell, reach: float):
    box = jnp.asarray(_triangular(cell))

    def displacement(a, b, **_):  # jax-md also passes the time
        vector = a - b
        # XLA fuses sums; jax-md's matrix product takes three times as long and rounds on GPUs.
        return jnp.sum(box * (vector - jnp.round(vector)), axis=-1)

    # jax-md calls this too, but reports any error as a wrong number of dimensions.
    jax.eval_shape(displacement, jnp.zeros(3), jnp.zeros(3))
    return partition.neighbor_list(displacement, box, reach, fractional_coordinates=True)


def _no_shifts(lists, system: System):
    return jnp.zeros((*lists.idx.shape, 3), system.positions.dtype)


def _nearest_shifts(lists, system: System):
    vectors = system.positions[senders_of(lists.idx)] - system.positions[:, None]
    return image_shifts(vectors, system.cell)


def _unfolded_shifts(lists, system: System):
    # The list was built for wrapped positions: r_wrapped = r + fold·cell.
    exact = transform(system.positions, inverse(system.cell))
    fold = jnp.round(_fractional(system) - exact)
    return lists.shifts + fold[senders_of(lists.idx)] - fold[:, None]
