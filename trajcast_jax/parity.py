"""Holds a converted model against numbers that the PyTorch TrajCast printed (an oracle).

An oracle is a .npz file: `config_json`, `weights/<state-dict name>`, and for each precision
frames with their edges and what the model made of them, stage by stage, after steps, and as
a batch with the gradient of its loss. Errors are max|error|/max|value| of each array.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trajcast_jax import torch_import
from trajcast_jax.forecast import Forecaster
from trajcast_jax.graph import Graph, graph, neighbor_list
from trajcast_jax.system import System, make_system, minimum_image
from trajcast_jax.torch_weights import expected_shapes, to_params, to_torch_layout

BOUNDS = {"float64": 1e-10, "float32": 1e-4}
"""What an error may be."""

Arrays = Mapping[str, np.ndarray]


class Oracle(NamedTuple):
    """An oracle file: the model, and for each precision "<frame>/<what>" → array."""

    config: dict
    state: dict[str, np.ndarray]
    arrays: dict[str, dict[str, np.ndarray]]


class Edges(NamedTuple):
    """An edge list: `receivers` hear `senders` along `vectors` (Å)."""

    receivers: np.ndarray
    senders: np.ndarray
    vectors: np.ndarray


class Model(NamedTuple):
    """A converted model in one precision."""

    forecaster: Forecaster
    weights: dict[str, Any]
    stretch: float
    params: Any


def load(path: str | Path) -> Oracle:
    """Read an oracle file."""
    with np.load(path) as file:
        everything = {name: file[name] for name in file.files}
    if "config_json" not in everything:
        raise ValueError(f"{path} is no parity oracle: it holds no config_json.")
    state = _below(everything, "weights/")
    arrays = {dtype: _below(everything, f"{dtype}/") for dtype in BOUNDS}
    config = json.loads(str(everything["config_json"]))
    return Oracle(config, state, {dtype: found for dtype, found in arrays.items() if found})


def _below(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def frame_names(arrays: Arrays) -> list[str]:
    """Names of the frames, in their order."""
    found = {name.split("/")[0] for name in arrays if name.startswith("frame")}
    return sorted(found, key=lambda name: (len(name), name))


def species_of(oracle: Oracle) -> list[int]:
    """Atomic number of each atom type; types that no frame holds get numbers that none has."""
    known = {}
    for arrays in oracle.arrays.values():
        for frame in frame_names(arrays):
            types, numbers = arrays[f"{frame}/atom_types"], arrays[f"{frame}/numbers"]
            known |= dict(zip(types.ravel().tolist(), numbers.ravel().tolist(), strict=True))
    free = (z for z in range(118, 0, -1) if z not in known.values())
    return [
        known[k] if k in known else next(free) for k in range(oracle.config["num_chem_elements"])
    ]


def convert(oracle: Oracle) -> Model:
    """The oracle's model; in the precision of JAX's current default."""
    # The time step only moves the centre of mass, and not by the PyTorch rule.
    forecaster = torch_import.forecaster(oracle.config, oracle.state, species_of(oracle), 1.0)
    n_species = len(forecaster.statistics.species)
    names = expected_shapes(forecaster.settings, n_species)
    dtype = jnp.zeros(()).dtype
    weights = {name: jnp.asarray(oracle.state[name], dtype) for name in names}
    stretch = torch_import.frequency_stretch(oracle.config, oracle.state)
    params = torch_import.params_of(oracle.config, {**oracle.state, **weights})
    return Model(forecaster, weights, stretch, params)


def frame_system(frame: Arrays) -> System:
    """The frame as a System with the oracle's masses."""
    periodic = "cell" in frame and np.any(frame.get("pbc", True))
    return make_system(
        frame["positions"],
        frame["velocities"],
        frame["numbers"].ravel(),
        cell=frame["cell"] if periodic else None,
        masses=frame["masses"].ravel(),
    )


def frame_edges(frame: Arrays, cutoff: float) -> Edges:
    """The oracle's own edge list."""
    receivers, senders = frame["edge_index"]
    vectors = frame["positions"][senders] - frame["positions"][receivers]
    shifts = frame["shifts"].astype(vectors.dtype)
    # Shifts come in Å or in lattice vectors; only one of the two ends within the cutoff.
    within = np.linalg.norm(vectors + shifts, axis=-1) < cutoff * (1 + 1e-5)
    return Edges(receivers, senders, vectors + (shifts if within.all() else shifts @ frame["cell"]))


def dense(edges: Edges, n_atoms: int, capacity: int, cutoff: float) -> tuple[Graph, np.ndarray]:
    """The graph of an edge list with `capacity` slots per atom, and the slot of each edge."""
    order = np.argsort(edges.receivers, kind="stable")
    counts = np.bincount(edges.receivers, minlength=n_atoms)
    slots = np.empty(len(order), int)
    slots[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    senders = np.zeros((n_atoms, capacity), np.int32)
    mask = np.zeros((n_atoms, capacity), bool)
    vectors = np.tile(np.asarray([cutoff, 0.0, 0.0]), (n_atoms, capacity, 1))
    senders[edges.receivers, slots] = edges.senders
    mask[edges.receivers, slots] = True
    vectors[edges.receivers, slots] = edges.vectors
    dtype = jnp.zeros(()).dtype
    return Graph(jnp.asarray(vectors, dtype), jnp.asarray(senders), jnp.asarray(mask)), slots


def degree(edges: Edges) -> int:
    """The largest number of neighbours of an atom."""
    return int(np.bincount(edges.receivers, minlength=1).max())


class OurNeighbors:
    """Our neighbour list for frames of one cell, rebuilt at every call."""

    def __init__(self, cell, cutoff: float):
        self.functions = neighbor_list(cell, cutoff, skin=0.0)
        self.update = jax.jit(self.functions.update)
        self.neighbors = None

    def __call__(self, system: System) -> Edges:
        """All edges within the cutoff."""
        if self.neighbors is not None:
            self.neighbors = self.update(self.neighbors, system)
        if self.neighbors is None or bool(self.neighbors.overflow):
            self.neighbors = self.functions.allocate(system)
        found = jax.tree.map(np.asarray, graph(system, self.neighbors, self.functions.cutoff))
        receivers, slots = np.nonzero(found.mask)
        return Edges(receivers, found.senders[receivers, slots], found.vectors[receivers, slots])


def compiled_forward(model: Model):
    """(params, system, graph) → raw target (atom, 6), changes, stages; compiled once a shape."""
    fc = model.forecaster
    wanted = {"bessel", "speed_mixing", "embed", "read_out_2"}
    wanted |= {f"block_{k}" for k in range(fc.settings.blocks)}

    @jax.jit
    def forward(params, system: System, edges: Graph):
        raw, kept = fc.model.apply(
            params, edges, system.velocities, fc.species_index(system.species),
            capture_intermediates=lambda module, _: module.name in wanted,
            mutable=["intermediates"],
        )  # fmt: skip
        displacements, velocities = fc.fields(system, raw)
        target = _normalised(fc, system, displacements, velocities)
        return target, (displacements, velocities), _stages(fc, kept["intermediates"])

    return forward


def compiled_gradient(model: Model):
    """(weights, system, graph, labels) → gradient of Σ(raw target − labels)² by PyTorch weight."""
    fc, stretch = model.forecaster, model.stretch

    @jax.jit
    @jax.grad
    def gradient(weights, system: System, edges: Graph, labels):
        params = to_params(weights, fc.settings, len(fc.statistics.species), stretch)
        target = _normalised(fc, system, *fc.changes(params, system, edges))
        return jnp.sum((target - labels) ** 2)

    return gradient


def _normalised(fc: Forecaster, system: System, displacements, velocities) -> jax.Array:
    """Displacement and velocity over their scales, (atom, 6)."""
    scales = fc.scales(system.species, displacements.dtype)
    return jnp.concatenate([displacements / scales[:, :1], velocities / scales[:, 1:]], axis=1)


def _stages(fc: Forecaster, kept: dict) -> dict[str, jax.Array]:
    """The intermediates by PyTorch's names and in its layout."""
    called = lambda name: kept[name]["__call__"][0]  # noqa: E731
    stages = {
        "EdgeLengthEncoding": called("bessel"),
        "VelocityNormEncoding": called("speed_mixing"),
        "SHEdgeVectors": kept["edge_harmonics"][0],
        "SHVelVectors": kept["speed_harmonics"][0],
        "LinearInit": to_torch_layout(called("embed")),
        "LinearReadOut": to_torch_layout(called("read_out_2")),
    }
    for k in range(fc.settings.blocks):
        stages[f"mp_layer_{k}"] = to_torch_layout(called(f"block_{k}"))
    return stages


def built_part(fc: Forecaster, stage: str, value: np.ndarray) -> np.ndarray:
    """The part of an oracle's stage that our network has: of the last block the vectors."""
    s = fc.settings
    if stage != f"mp_layer_{s.blocks - 1}":
        return value
    # 0o, 0e (both there, whatever came in), then 1o.
    return value[:, 2 * s.channels : 5 * s.channels]


def relative(value, expected) -> float:
    """max|value − expected|/max|expected|; absolute where nothing is expected but zeros."""
    value, expected = np.asarray(value, np.float64), np.asarray(expected, np.float64)
    if value.shape != expected.shape or not np.isfinite(value).all():
        return float("inf")
    scale = np.abs(expected).max(initial=0.0)
    return float(np.abs(value - expected).max(initial=0.0) / (scale or 1.0))


def errors(oracle: Oracle) -> Iterator[tuple[str, float]]:
    """("<dtype>/<frame>/<what>", error) for everything that the oracle holds.

    `neighbors/<what>` is with our neighbour list, the others are with the oracle's edges.
    """
    for dtype, arrays in oracle.arrays.items():
        with jax.enable_x64(dtype == "float64"):
            for name, error in _errors_in(oracle, arrays):
                yield f"{dtype}/{name}", error


def _errors_in(oracle: Oracle, arrays: Arrays) -> Iterator[tuple[str, float]]:
    """Errors in JAX's current precision."""
    model = convert(oracle)
    fc = model.forecaster
    cutoff, forward = fc.settings.cutoff, compiled_forward(model)
    frames = {name: _below(arrays, f"{name}/") for name in frame_names(arrays)}
    systems = {name: frame_system(frame) for name, frame in frames.items()}
    lists = {"": {name: frame_edges(frame, cutoff) for name, frame in frames.items()}}
    ours = functools.cache(lambda cell: OurNeighbors(_cell(cell), cutoff))
    finders = {name: ours(_key(system.cell)) for name, system in systems.items()}
    lists["neighbors/"] = {name: finders[name](system) for name, system in systems.items()}
    # Room for some more, so that steps and frames share one compilation.
    most = max(degree(edges) for found in lists.values() for edges in found.values())
    capacity = -(-int(1.1 * most + 1) // 4) * 4

    graphs, targets = {}, {}
    for where, found in lists.items():
        for name, edges in found.items():
            edges_dense, slots = dense(edges, len(systems[name].masses), capacity, cutoff)
            graphs[where, name] = edges_dense
            target, _, stages = forward(model.params, systems[name], edges_dense)
            targets[where, name] = target
            frame = frames[name]
            yield f"{name}/{where}raw_target", relative(target, frame["raw_target"])
            for stage, expected in _below(frame, "stage/").items():
                if stage not in stages:
                    raise ValueError(f"The oracle holds the stage {stage}, which is not known.")
                value = np.asarray(stages[stage])
                if value.ndim == 3:  # (atom, slot, …): back to the oracle's order of edges
                    if where:
                        continue
                    value = value[edges.receivers, slots]
                yield (
                    f"{name}/{where}stage/{stage}",
                    relative(value, built_part(fc, stage, expected)),
                )
            if where:
                yield f"{name}/{where}edges", _edge_error(lists[""][name], edges, cutoff)
    for name, frame in frames.items():
        yield from _step_errors(name, frame, model, forward, finders[name], capacity)
    batch = _below(arrays, "batch/")
    if batch:
        gradient_of = compiled_gradient(model)
        for where in lists:
            of_frames = {n: (s, graphs[where, n], targets[where, n]) for n, s in systems.items()}
            yield from _batch_errors(where, batch, model.weights, of_frames, gradient_of)


def _key(cell):
    return None if cell is None else tuple(map(tuple, np.asarray(cell).tolist()))


def _cell(key):
    return None if key is None else jnp.asarray(key)


def _edge_error(expected: Edges, found: Edges, cutoff: float) -> float:
    """Largest error of a length over the cutoff; inf where another pair of atoms is an edge.

    Edges at the very cutoff, which do nothing, may be in one list and not in the other.
    """
    rows = []
    for edges in (expected, found):
        lengths = np.linalg.norm(edges.vectors.astype(np.float64), axis=-1)
        inside = lengths < cutoff - 1e-4
        pairs = np.stack([edges.receivers, edges.senders, lengths], axis=1)[inside]
        rows.append(pairs[np.lexsort(pairs.T[::-1])])
    if rows[0].shape != rows[1].shape or (rows[0][:, :2] != rows[1][:, :2]).any():
        return float("inf")
    return float(np.abs(rows[0][:, 2] - rows[1][:, 2]).max(initial=0.0) / cutoff)


def _step_errors(
    name: str, frame: Arrays, model: Model, forward, neighbors: OurNeighbors, capacity: int
) -> Iterator[tuple[str, float]]:
    """Errors after autoregressive steps with our neighbour list; positions modulo the cell."""
    wanted = {int(k.split("/")[0]) for k in _below(frame, "step")}
    system, cutoff = frame_system(frame), model.forecaster.settings.cutoff
    for step in range(1, max(wanted, default=0) + 1):
        edges = neighbors(system)
        while degree(edges) > capacity:
            capacity = -(-int(1.2 * capacity) // 4) * 4
        edges_dense, _ = dense(edges, len(system.masses), capacity, cutoff)
        _, (displacements, velocities), _ = forward(model.params, system, edges_dense)
        system = system.replace(positions=system.positions + displacements, velocities=velocities)
        if step in wanted:
            positions, expected = system.positions, frame[f"step{step}/positions"]
            error = np.asarray(minimum_image(positions - expected, system.cell))
            yield f"{name}/step{step}/positions", relative(expected + error, expected)
            expected = frame[f"step{step}/velocities"]
            yield f"{name}/step{step}/velocities", relative(velocities, expected)


def _batch_errors(
    where: str, batch: Arrays, weights: dict, frames: dict[str, tuple], gradient_of
) -> Iterator[tuple[str, float]]:
    """Errors of the batch's targets and loss, and of its gradient by PyTorch's weights."""
    used, rows = [], 0
    for frame in frames.values():
        if rows < len(batch["raw_target"]):
            used, rows = [*used, frame], rows + len(frame[2])
    if rows != len(batch["raw_target"]):
        raise ValueError(
            f"The batch has {len(batch['raw_target'])} atoms, but the oracle's first frames have "
            f"{rows}; it must be made of whole frames, in their order."
        )
    target = np.concatenate([target for _, _, target in used])
    yield f"batch/{where}raw_target", relative(target, batch["raw_target"])
    if "targets_normalized" not in batch:
        return
    labels = batch["targets_normalized"]
    yield f"batch/{where}mse", relative(np.mean((target - labels) ** 2), batch["mse"])
    expected = _below(batch, "grad/")
    if not expected:
        return
    gradient = None
    ends = np.cumsum([len(target) for _, _, target in used])
    for (system, edges, _), label in zip(used, np.split(labels, ends[:-1]), strict=True):
        part = gradient_of(weights, system, edges, jnp.asarray(label))
        gradient = part if gradient is None else jax.tree.map(jnp.add, gradient, part)
    for weight, value in expected.items():
        if weight not in gradient:
            raise ValueError(f"The oracle holds a gradient by {weight}, which is no weight.")
        yield f"batch/{where}grad/{weight}", relative(gradient[weight] / labels.size, value)
