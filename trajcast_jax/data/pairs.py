"""Frame pairs: two frames Δt apart and the neighbours of the first, for training and tests.

Pairs are drawn from trajectories (runs). Training, validation and test sets use different runs
(or different time blocks of imported trajectories), so that correlated frames are not split
between sets.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from trajcast_jax.neighbors.far_field import mesh_size
from trajcast_jax.neighbors.graph import Graph, graph, nearest, neighbor_list
from trajcast_jax.system import System, minimum_image, pad


@struct.dataclass
class FramePairs:
    """Frame pairs along a leading axis, padded to the most atoms and neighbours.

    Attributes:
      system: the first frames; every field has the pair axis.
      displacements: (pair, atom, 3) Å, minimum image of r(t+Δt) − r(t).
      velocities: (pair, atom, 3) Å/fs at t+Δt.
      idx, shifts: (pair, atom, neighbor[, 3]) as in `neighbors.graph.Neighbors`, without skin.
      mesh: as in `neighbors.graph.Neighbors`; fine enough for every cell.
    """

    system: System
    displacements: Float[Array, "pair atom 3"]
    velocities: Float[Array, "pair atom 3"]
    idx: Int[Array, "pair atom neighbor"]
    shifts: Int[Array, "pair atom neighbor 3"]
    mesh: tuple[int, int, int] | None = struct.field(pytree_node=False, default=None)

    def __len__(self) -> int:
        return self.displacements.shape[0]

    def edges(self, cutoff: float) -> Graph:
        """Graph of the first frame, for a single pair (without pair axis); cutoff in Å."""
        return graph(self.system, self, cutoff)


SKIN = 1.0
"""Å, skin of the neighbour list from which the neighbours within the cutoff are selected."""


def stride(time_step: float, spacing: float) -> int:
    """Number of frames, `spacing` fs apart, per stride of `time_step` fs.

    Raises:
      ValueError: the stride is not a multiple of the spacing.
    """
    n = round(time_step / spacing)
    if n < 1 or abs(n * spacing - time_step) > 1e-6 * time_step:
        raise ValueError(
            f"A stride of {time_step:g} fs is no whole number of frames: the trajectory has one "
            f"every {spacing:g} fs; choose a multiple of that (data.time_step), or store "
            "frames more often (reference.save_every)."
        )
    return n


def start_frames(
    n_frames: int, n_stride: int, n_pairs: int, seed, segment: int | None = None
) -> np.ndarray:
    """Draw `n_pairs` different start frames with a frame `n_stride` frames later; sorted.

    If the trajectory consists of independent pieces of `segment` frames, both frames are in the
    same piece.

    Raises:
      ValueError: there are fewer than `n_pairs` possible start frames.
    """
    possible = np.arange(max(n_frames - n_stride, 0))
    if segment is not None:
        possible = possible[possible % segment + n_stride < segment]
    if len(possible) < max(n_pairs, 1):
        raise ValueError(
            f"A trajectory of {n_frames} frames holds {len(possible)} pairs that are "
            f"{n_stride} frames apart, but {n_pairs} are asked for; make the trajectory longer "
            "(reference.nve_time) or ask for fewer pairs (data.train_pairs, validation_pairs, "
            "test_pairs)."
        )
    return np.sort(np.random.default_rng(seed).choice(possible, n_pairs, replace=False))


def frame_pairs(
    trajectories: list[tuple[System, np.ndarray]],
    time_step: float,
    cutoff: float,
    n_pairs: int,
    seed: int = 0,
    time_reversal: bool = False,
    segment: int | None = None,
    strides: int = 1,
) -> FramePairs:
    """Draw random frame pairs, equally many from each trajectory, with their neighbours.

    Args:
      trajectories: pairs (System with a time axis, times in fs). Systems may differ in size,
        composition and cell, but all must be periodic or all isolated.
      time_step: the stride Δt, fs.
      cutoff: of the neighbours, Å.
      n_pairs: number of pairs to draw, without those added by the next options.
      seed: of the random choice.
      time_reversal: add to every pair (r, v) → (r + d, v') its time-reversed pair
        (r + d, −v') → (r, −v).
      segment: number of frames per piece, if trajectories consist of independent pieces.
      strides: number of consecutive pairs that every drawn pair (and every reversed one) stands
        for; the following ones are stored after it.

    Raises:
      ValueError: periodic and isolated systems are mixed, or there are too few frames.
    """
    shares = np.diff(np.linspace(0, n_pairs, len(trajectories) + 1).astype(int))
    size = max(trajectory.masses.shape[0] for trajectory, _ in trajectories)
    if len({trajectory.cell is None for trajectory, _ in trajectories}) > 1:
        raise ValueError(
            "Some trajectories are periodic and some have no cell; train on one kind at a time."
        )
    parts = []
    for run, ((trajectory, times), share) in enumerate(zip(trajectories, shares, strict=True)):
        if share == 0:
            continue
        n = stride(time_step, float(times[1] - times[0]))
        starts = start_frames(len(times), n * strides, int(share), (seed, run), segment)
        starts = (starts[:, None] + n * np.arange(strides)).ravel()
        part = _pairs(trajectory, starts, n)
        if time_reversal:
            part = _concatenate([part, _reversed(part, strides)])
        system, displacements, velocities = part
        tail = [(0, 0), (0, size - displacements.shape[1]), (0, 0)]
        system = pad(system, size)
        idx, shifts = _neighbors(system, cutoff)
        parts.append(
            FramePairs(
                _repeat_constants(system),
                np.pad(displacements, tail),
                np.pad(velocities, tail),
                idx,
                shifts,
                mesh_size(trajectory.cell, cutoff),
            )
        )
    return join(parts)


def _pairs(trajectory: System, starts: np.ndarray, n: int):
    first, last = np.asarray(trajectory.positions), np.asarray(trajectory.velocities)
    displacements = first[starts + n] - first[starts]
    system = trajectory.replace(positions=first[starts], velocities=last[starts])
    if trajectory.cell is not None:
        displacements = np.asarray(minimum_image(displacements, trajectory.cell))
    return system, displacements, last[starts + n]


def _reversed(part, strides: int):
    def backwards(x):  # reverse the order of consecutive strides
        return x.reshape(-1, strides, *x.shape[1:])[:, ::-1].reshape(x.shape)

    system, displacements, velocities = part
    after = system.positions + displacements
    back = system.replace(positions=backwards(after), velocities=-backwards(velocities))
    return back, -backwards(displacements), -backwards(np.asarray(system.velocities))


def join(parts: list[FramePairs]) -> FramePairs:
    """Concatenate datasets of one kind (periodic or isolated), padded to the largest size."""
    size = max(part.displacements.shape[1] for part in parts)
    slots = max(part.idx.shape[-1] for part in parts)
    mesh = None
    if parts[0].mesh is not None:
        mesh = tuple(max(points) for points in zip(*(part.mesh for part in parts), strict=True))
    sized = [_with_slots(_with_size(part, size), slots, size) for part in parts]
    return _concatenate([part.replace(mesh=mesh) for part in sized])


def _with_size(part: FramePairs, size: int) -> FramePairs:
    old = part.displacements.shape[1]

    def grow(x):
        return np.pad(x, [(0, 0), (0, size - old)] + [(0, 0)] * (x.ndim - 2))

    cell, idx = part.system.cell, np.where(part.idx == old, size, part.idx)
    system = jax.tree.map(grow, part.system.replace(cell=None)).replace(cell=cell)
    return FramePairs(
        system=system,
        displacements=grow(part.displacements),
        velocities=grow(part.velocities),
        idx=np.pad(idx, [(0, 0), (0, size - old), (0, 0)], constant_values=size),
        shifts=grow(part.shifts),
        mesh=part.mesh,
    )


def _concatenate(parts):
    """Concatenate along the pair axis; Systems' constants, which have none yet, are kept."""
    if isinstance(parts[0], FramePairs):
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    systems, displacements, velocities = zip(*parts, strict=True)
    system = systems[0].replace(
        positions=np.concatenate([s.positions for s in systems]),
        velocities=np.concatenate([s.velocities for s in systems]),
    )
    return system, np.concatenate(displacements), np.concatenate(velocities)


def _repeat_constants(system: System) -> System:
    """Add the pair axis of positions to masses, species, cell and mask."""
    n = system.positions.shape[0]
    repeat = lambda x: np.broadcast_to(np.asarray(x), (n, *x.shape))  # noqa: E731
    return System(
        positions=np.asarray(system.positions),
        velocities=np.asarray(system.velocities),
        masses=repeat(system.masses),
        species=repeat(system.species),
        cell=None if system.cell is None else repeat(system.cell),
        mask=repeat(system.mask),
    )


def _neighbors(system: System, cutoff: float):
    """Neighbour indices (pair, atom, neighbor) and shifts of every frame, in small integers.

    One neighbour list is updated from frame to frame. Frames are mostly in time order, so it is
    rebuilt only when an atom has moved by half the skin.
    """
    fns = neighbor_list(system.cell, cutoff, SKIN)
    frame = lambda r: system.replace(positions=r, velocities=jnp.zeros_like(r))  # noqa: E731
    positions = jnp.asarray(system.positions)
    start = fns.allocate(frame(positions[0]))
    n_atoms = system.masses.shape[0]
    integer = np.int16 if n_atoms < 2**15 else np.int32

    def pick(neighbors, r):
        here = frame(r)
        n = fns.update(neighbors, here)
        idx, shifts, _ = nearest(here, n.idx, n.shifts, cutoff, n.near)
        return n, (idx.astype(integer), shifts.astype(np.int8))

    scan = jax.jit(lambda start, positions: jax.lax.scan(pick, start, positions))
    while True:
        last, (idx, shifts) = jax.device_get(scan(start, positions))
        if not last.overflow:
            break
        start = fns.allocate(frame(positions[0]), capacity=start.capacity + start.capacity // 4 + 4)
    used = max(1, int((idx < n_atoms).sum(-1).max()))
    return idx[..., :used], shifts[..., :used, :]


def _with_slots(part: FramePairs, slots: int, size: int) -> FramePairs:
    extra = slots - part.idx.shape[-1]
    return part.replace(
        idx=np.pad(part.idx, [(0, 0), (0, 0), (0, extra)], constant_values=size),
        shifts=np.pad(part.shifts, [(0, 0), (0, 0), (0, extra), (0, 0)]),
    )
