"""A rollout's state on disk, so that a stopped rollout goes on bit by bit."""

import io
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from trajcast_jax.io import atomic_write
from trajcast_jax.rollout import Simulator, SimulatorState

LIST = ("idx", "shifts", "reference_positions", "rebuilds", "overflow")
"""What is kept of a neighbour list; the rest depends on how large it is and is made anew."""


def _bare(state: SimulatorState) -> SimulatorState:
    return state.replace(neighbors={name: getattr(state.neighbors, name) for name in LIST})


def _is_key(leaf) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _arrays(state: SimulatorState) -> dict[str, np.ndarray]:
    """The leaves of a state by name."""
    arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(_bare(state)):
        raw = jax.random.key_data(leaf) if _is_key(leaf) else leaf
        arrays[jax.tree_util.keystr(path)] = np.asarray(raw)
    return arrays


def save_state(path: str | Path, state: SimulatorState) -> None:
    """Writes the state to an npz file; a kill leaves the file before or the file after."""
    file = io.BytesIO()
    np.savez(file, **_arrays(state))
    atomic_write(path, file.getvalue())


def load_state(path: str | Path, sim: Simulator, like: SimulatorState) -> SimulatorState:
    """The state in a file of `save_state`, from which `sim` continues bit by bit.

    `like` is any state of the same simulator and system, as from `sim.init`.
    """
    try:
        with np.load(path) as file:
            found = dict(file)
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is not a complete simulator state ({error}); start the rollout anew."
        ) from error
    expected = _arrays(like)
    for name in sorted({*found, *expected}):
        have, want = _kind(found.get(name)), _kind(expected.get(name))
        larger = name.endswith(("['idx']", "['shifts']")) and "nothing" not in (have, want)
        if have != want and not larger:
            raise ValueError(
                f"{path} holds {have} as {name}, but this simulation {want}: continue with the "
                "system, ensemble, replicas and precision that it was saved with."
            )

    def stored(tree_path, leaf):
        raw = jnp.asarray(found[jax.tree_util.keystr(tree_path)])
        if _is_key(leaf):
            return jax.random.wrap_key_data(raw, impl=jax.random.key_impl(leaf))
        return raw

    state = jax.tree_util.tree_map_with_path(stored, _bare(like))
    state = state.replace(neighbors=like.neighbors.replace(**state.neighbors))
    return sim.grow(state, state.neighbors.idx.shape[-1])


def _kind(array: np.ndarray | None) -> str:
    return "nothing" if array is None else f"{array.dtype}{list(array.shape)}"
