"""Save and load the state of a rollout, to continue it bit-identically."""

import io
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from trajcast_jax.dynamics.rollout import Simulator, SimulatorState
from trajcast_jax.io import atomic_write, read_npz

LIST = ("idx", "shifts", "reference_positions", "rebuilds", "overflow")
"""Fields of a neighbour list that are saved. The others depend on its size and are rebuilt."""


class DamagedStateError(ValueError):
    """A file of a state that is cut short or damaged, and not one of another simulation."""


def _bare(state: SimulatorState) -> SimulatorState:
    return state.replace(neighbors={name: getattr(state.neighbors, name) for name in LIST})


def _is_key(leaf) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _arrays(state: SimulatorState) -> dict[str, np.ndarray]:
    """Leaves of a state by name."""
    arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(_bare(state)):
        raw = jax.random.key_data(leaf) if _is_key(leaf) else leaf
        arrays[jax.tree_util.keystr(path)] = np.asarray(raw)
    return arrays


def save_state(path: str | Path, state: SimulatorState) -> None:
    """Save the state to an npz file; the write is atomic."""
    file = io.BytesIO()
    np.savez(file, **_arrays(state))
    atomic_write(path, file.getvalue())


def load_state(path: str | Path, sim: Simulator, like: SimulatorState) -> SimulatorState:
    """Load a state that `save_state` wrote; `sim` continues from it bit-identically.

    `like` is any state of the same simulator and system, for instance from `sim.init`.

    Raises:
      ValueError: the file is incomplete, or its state is of another simulation.
    """
    try:
        found = read_npz(path)
    except ValueError as error:
        raise DamagedStateError(
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
