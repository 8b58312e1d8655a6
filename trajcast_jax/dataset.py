"""`FramePairs`: two frames Δt apart, with the neighbours of the first; for training and tests.

Pairs come from whole trajectories (runs). Training, validation and test sets take different
runs (imported ones: blocks of time); neighbouring frames are never shuffled apart.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from trajcast_jax.config import Statistics
from trajcast_jax.far_field import decorrelation, far_features, mesh_size, neutral_charges
from trajcast_jax.graph import Graph, graph, nearest, neighbor_list
from trajcast_jax.system import System, heights, minimum_image, pad, product


@struct.dataclass
class FramePairs:
    """Pairs along a leading axis; all arrays padded to the largest system and neighbourhood.

    Attributes:
      system: the first frames; every field has the pair axis.
      displacements: (pair, atom, 3) Å, minimum image of r(t+Δt) − r(t).
      velocities: (pair, atom, 3) Å/fs at t+Δt.
      idx, shifts: (pair, atom, neighbor[, 3]) as in `graph.Neighbors`, without skin.
      mesh: as there, fine enough for every cell.
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
        """The graph of one pair's first frame (no pair axis)."""
        return graph(self.system, self, cutoff)


SKIN = 1.0
"""Å, of the list that neighbours of frames are picked from."""
FAR_FRAMES = 100
"""Frames of a training set that the far field is normalised on."""


def stride(time_step: float, spacing: float) -> int:
    """How many frames `spacing` fs apart make one stride of `time_step` fs."""
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
    """`n_pairs` different start frames, drawn at random from those with a frame a stride later.

    Where a trajectory consists of independent pieces of `segment` frames, both are of one piece.
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
    """Random pairs from `trajectories`, as many from each, with their neighbours.

    Each trajectory is (System with a time axis, times in fs). Systems may differ in size,
    composition and cell; all must be periodic or all isolated. With `time_reversal` every
    pair (r, v) → (r + d, v') comes with its mirror (r + d, −v') → (r, −v) as well. `segment`:
    the trajectories consist of independent pieces of so many frames. With `strides` each of
    the `n_pairs` is followed by those of the strides after it, and so is its mirror.
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
    def backwards(x):  # the last of consecutive strides first
        return x.reshape(-1, strides, *x.shape[1:])[:, ::-1].reshape(x.shape)

    system, displacements, velocities = part
    after = system.positions + displacements
    back = system.replace(positions=backwards(after), velocities=-backwards(velocities))
    return back, -backwards(displacements), -backwards(np.asarray(system.velocities))


def join(parts: list[FramePairs]) -> FramePairs:
    """Datasets of one kind (periodic or isolated) as one, padded to the largest."""
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
    """Joined along the pair axis; constants of Systems (no pair axis yet) are kept."""
    if isinstance(parts[0], FramePairs):
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    systems, displacements, velocities = zip(*parts, strict=True)
    system = systems[0].replace(
        positions=np.concatenate([s.positions for s in systems]),
        velocities=np.concatenate([s.velocities for s in systems]),
    )
    return system, np.concatenate(displacements), np.concatenate(velocities)


def _repeat_constants(system: System) -> System:
    """Masses, species, cell and mask with the pair axis that positions have."""
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
    """Neighbour slots of every frame, compactly: (pair, atom, neighbor) and shifts.

    One list follows the frames, which mostly come in the order of time, and is made anew where an
    atom has left its skin.
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


def statistics(
    pairs: FramePairs,
    per_species: bool = True,
    baseline: bool = True,
    far: tuple[float, float] | None = None,
) -> Statistics:
    """Scales, linear baselines and mean number of neighbours of a training set.

    Baselines are least-squares slopes of d and v' on v; scales the RMS component of what
    they leave. Without `per_species` one RMS over all atoms serves every species. `far`, the
    cutoff (Å) and the stride (fs), asks for what a far field is normalised by.
    """
    z = np.asarray(pairs.system.species)
    species = tuple(int(s) for s in np.unique(z[z > 0]))
    v = np.asarray(pairs.system.velocities, np.float64)
    fields = [np.asarray(x, np.float64) for x in (pairs.displacements, pairs.velocities)]
    slopes, scales = np.zeros((2, len(species))), np.zeros((2, len(species)))
    for k, field in enumerate(fields):
        left = field.copy()
        for i, s in enumerate(species):
            here = z == s
            if baseline:
                slopes[k, i] = (field[here] * v[here]).sum() / (v[here] ** 2).sum()
            left[here] -= slopes[k, i] * v[here]
            scales[k, i] = np.sqrt((left[here] ** 2).mean())
        if not per_species:
            scales[k] = np.sqrt((left[z > 0] ** 2).mean())
    neighbors = (np.asarray(pairs.idx) < z.shape[-1]).sum() / (z > 0).sum()
    return Statistics(
        species=species,
        displacement_scale=tuple(scales[0].tolist()),
        velocity_scale=tuple(scales[1].tolist()),
        displacement_baseline=tuple(slopes[0].tolist()),
        velocity_baseline=tuple(slopes[1].tolist()),
        velocity_rms=tuple(float(np.sqrt((v[z == s] ** 2).mean())) for s in species),
        average_neighbors=float(neighbors),
        far_mixing=() if far is None else _far_mixing(pairs, species, *far),
    )


def longest_cell(pairs: FramePairs) -> float:
    """Å between opposite faces, the largest of all cells: the longest wave in them; 0 without."""
    if pairs.system.cell is None:
        return 0.0
    return float(jax.vmap(heights)(jnp.asarray(pairs.system.cell)).max())


def _far_mixing(pairs: FramePairs, species, cutoff: float, time_step: float):
    some = np.unique(np.linspace(0, len(pairs) - 1, FAR_FRAMES).astype(int))
    frames = jax.tree.map(lambda x: jnp.asarray(x[some]), pairs.system)

    z = np.asarray(pairs.system.species)
    counts = np.array([(z == s).sum() for s in species])
    charges = np.eye(len(species)) if pairs.mesh is None else neutral_charges(counts)

    def one(frame: System):
        dtype = frame.positions.dtype
        one_hot = (frame.species[:, None] == jnp.asarray(species)).astype(dtype)
        sources = product(one_hot, jnp.asarray(charges, dtype))
        return far_features(frame, sources, cutoff, pairs.mesh, time_step)

    mixing = decorrelation(jax.device_get(jax.jit(lambda x: jax.lax.map(one, x))(frames)))
    return tuple(tuple(map(tuple, matrix)) for matrix in (charges @ mixing).tolist())
