"""Oracles: files with results of the PyTorch TrajCast for some frames, for parity tests.

An oracle is an .npz file with `config_json`, `weights/<state-dict name>`, and for each precision:
frames and their edges; the model's outputs, also stage by stage and after several steps; and a
batch with the gradient of its loss.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from trajcast_jax.io import read_npz
from trajcast_jax.neighbors.graph import Graph
from trajcast_jax.system import System, make_system

PRECISIONS = ("float64", "float32")

Arrays = Mapping[str, np.ndarray]


class Oracle(NamedTuple):
    """Content of an oracle file: the model, and for each precision arrays by "<frame>/<name>"."""

    config: dict
    state: dict[str, np.ndarray]
    arrays: dict[str, dict[str, np.ndarray]]


class Edges(NamedTuple):
    """An edge list; `vectors` (Å) point from `receivers` to `senders`."""

    receivers: np.ndarray
    senders: np.ndarray
    vectors: np.ndarray


def load(path: str | Path) -> Oracle:
    """Read an oracle file."""
    everything = read_npz(path)
    if "config_json" not in everything:
        raise ValueError(f"{path} is no parity oracle: it holds no config_json.")
    state = below(everything, "weights/")
    arrays = {dtype: below(everything, f"{dtype}/") for dtype in PRECISIONS}
    config = json.loads(str(everything["config_json"]))
    return Oracle(config, state, {dtype: found for dtype, found in arrays.items() if found})


def below(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def frame_names(arrays: Arrays) -> list[str]:
    """Names of the frames, in numerical order."""
    found = {name.split("/")[0] for name in arrays if name.startswith("frame")}
    return sorted(found, key=lambda name: (len(name), name))


def species_of(oracle: Oracle) -> list[int]:
    """Atomic number of each atom type; types that occur in no frame get unused numbers."""
    known = {}
    for arrays in oracle.arrays.values():
        for frame in frame_names(arrays):
            types, numbers = arrays[f"{frame}/atom_types"], arrays[f"{frame}/numbers"]
            known |= dict(zip(types.ravel().tolist(), numbers.ravel().tolist(), strict=True))
    free = (z for z in range(118, 0, -1) if z not in known.values())
    return [
        known[k] if k in known else next(free) for k in range(oracle.config["num_chem_elements"])
    ]


def frame_system(frame: Arrays) -> System:
    """Convert a frame to a System with the oracle's masses."""
    periodic = "cell" in frame and np.any(frame.get("pbc", True))
    return make_system(
        frame["positions"],
        frame["velocities"],
        frame["numbers"].ravel(),
        cell=frame["cell"] if periodic else None,
        masses=frame["masses"].ravel(),
    )


def frame_edges(frame: Arrays, cutoff: float) -> Edges:
    """Edge list stored in the oracle."""
    receivers, senders = frame["edge_index"]
    vectors = frame["positions"][senders] - frame["positions"][receivers]
    shifts = frame["shifts"].astype(vectors.dtype)
    # Shifts are in Å or in lattice vectors; only the right unit gives lengths below the cutoff.
    within = np.linalg.norm(vectors + shifts, axis=-1) < cutoff * (1 + 1e-5)
    return Edges(receivers, senders, vectors + (shifts if within.all() else shifts @ frame["cell"]))


def dense(edges: Edges, n_atoms: int, capacity: int, cutoff: float) -> tuple[Graph, np.ndarray]:
    """Convert an edge list to a graph with `capacity` slots per atom; also return edge slots."""
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
    """Largest number of neighbours of an atom."""
    return int(np.bincount(edges.receivers, minlength=1).max())
