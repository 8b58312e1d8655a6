"""Compare a converted model with results of the PyTorch TrajCast (an oracle).

The error of an array is max|error|/max|value|.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trajcast_jax.neighbors.graph import Graph, graph, neighbor_list
from trajcast_jax.network.forecast import Forecaster
from trajcast_jax.pytorch import importer
from trajcast_jax.pytorch.oracle import (
    Arrays,
    Edges,
    Oracle,
    below,
    degree,
    dense,
    frame_edges,
    frame_names,
    frame_system,
    species_of,
)
from trajcast_jax.pytorch.oracle import load as load  # re-exported
from trajcast_jax.pytorch.weights import expected_shapes, to_params, to_torch_layout
from trajcast_jax.system import System, minimum_image

BOUNDS = {"float64": 1e-10, "float32": 1e-4}
"""Largest allowed errors by precision."""


class Model(NamedTuple):
    """A converted model in one precision."""

    forecaster: Forecaster
    weights: dict[str, Any]
    stretch: float
    params: Any


def convert(oracle: Oracle) -> Model:
    """Convert the oracle's model, in JAX's current default precision."""
    # The time step affects only the centre of mass, and not with PyTorch's rule for it.
    forecaster = importer.forecaster(oracle.config, oracle.state, species_of(oracle), 1.0)
    n_species = len(forecaster.statistics.species)
    names = expected_shapes(forecaster.settings, n_species)
    dtype = jnp.zeros(()).dtype
    weights = {name: jnp.asarray(oracle.state[name], dtype) for name in names}
    stretch = importer.frequency_stretch(oracle.config, oracle.state)
    params = importer.params_of(oracle.config, {**oracle.state, **weights})
    return Model(forecaster, weights, stretch, params)


class OurNeighbors:
    """The neighbour list of this package for frames of one cell, rebuilt at every call."""

    def __init__(self, cell, cutoff: float):
        self.functions = neighbor_list(cell, cutoff, skin=0.0)
        self.update = jax.jit(self.functions.update)
        self.neighbors = None

    def __call__(self, system: System) -> Edges:
        """Find all edges within the cutoff."""
        if self.neighbors is not None:
            self.neighbors = self.update(self.neighbors, system)
        if self.neighbors is None or bool(self.neighbors.overflow):
            self.neighbors = self.functions.allocate(system)
        found = jax.tree.map(np.asarray, graph(system, self.neighbors, self.functions.cutoff))
        receivers, slots = np.nonzero(found.mask)
        return Edges(receivers, found.senders[receivers, slots], found.vectors[receivers, slots])


def compiled_forward(model: Model):
    """Compile a function (params, system, graph) → raw target (atom, 6), changes, stages."""
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
    """Compile the gradient of Σ(raw target − labels)² with respect to PyTorch's weights.

    The function's arguments are (weights, system, graph, labels).
    """
    fc, stretch = model.forecaster, model.stretch

    @jax.jit
    @jax.grad
    def gradient(weights, system: System, edges: Graph, labels):
        params = to_params(weights, fc.settings, len(fc.statistics.species), stretch)
        target = _normalised(fc, system, *fc.changes(params, system, edges))
        return jnp.sum((target - labels) ** 2)

    return gradient


def _normalised(fc: Forecaster, system: System, displacements, velocities) -> jax.Array:
    """Displacements and velocities divided by their scales, (atom, 6)."""
    scales = fc.scales(system.species, displacements.dtype)
    return jnp.concatenate([displacements / scales[:, :1], velocities / scales[:, 1:]], axis=1)


def _stages(fc: Forecaster, kept: dict) -> dict[str, jax.Array]:
    """Intermediates by their PyTorch names, in PyTorch's layout."""
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
    """Part of an oracle's stage that this network computes: of the last block, only vectors."""
    s = fc.settings
    if stage != f"mp_layer_{s.blocks - 1}":
        return value
    # The columns are 0o, 0e (always both), then 1o.
    return value[:, 2 * s.channels : 5 * s.channels]


def relative(value, expected) -> float:
    """Error max|value − expected|/max|expected|; the absolute error if `expected` is zero."""
    value, expected = np.asarray(value, np.float64), np.asarray(expected, np.float64)
    if value.shape != expected.shape or not np.isfinite(value).all():
        return float("inf")
    scale = np.abs(expected).max(initial=0.0)
    return float(np.abs(value - expected).max(initial=0.0) / (scale or 1.0))


def errors(oracle: Oracle) -> Iterator[tuple[str, float]]:
    """Yield ("<dtype>/<frame>/<name>", error) for all arrays of the oracle.

    Names with `neighbors/` use the neighbour list of this package, the others the oracle's edges.
    """
    for dtype, arrays in oracle.arrays.items():
        with jax.enable_x64(dtype == "float64"):
            for name, error in _errors_in(oracle, arrays):
                yield f"{dtype}/{name}", error


def _errors_in(oracle: Oracle, arrays: Arrays) -> Iterator[tuple[str, float]]:
    """Yield the errors in JAX's current precision."""
    model = convert(oracle)
    fc = model.forecaster
    cutoff, forward = fc.settings.cutoff, compiled_forward(model)
    frames = {name: below(arrays, f"{name}/") for name in frame_names(arrays)}
    systems = {name: frame_system(frame) for name, frame in frames.items()}
    lists = {"": {name: frame_edges(frame, cutoff) for name, frame in frames.items()}}
    ours = functools.cache(lambda cell: OurNeighbors(_cell(cell), cutoff))
    finders = {name: ours(_key(system.cell)) for name, system in systems.items()}
    lists["neighbors/"] = {name: finders[name](system) for name, system in systems.items()}
    # Some spare slots, so that steps and frames share one compilation.
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
            for stage, expected in below(frame, "stage/").items():
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
    batch = below(arrays, "batch/")
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
    """Largest error of edge lengths, divided by the cutoff; inf if the pairs of atoms differ.

    Edges at the cutoff are ignored: they have no effect, and may be in one of the lists only.
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
    """Yield errors after autoregressive steps with this package's neighbour list.

    Positions are compared modulo the cell.
    """
    wanted = {int(k.split("/")[0]) for k in below(frame, "step")}
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
    """Yield errors of the batch's targets, loss, and gradient for PyTorch's weights."""
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
    expected = below(batch, "grad/")
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
