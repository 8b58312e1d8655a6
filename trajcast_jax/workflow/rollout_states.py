"""Find the state from which a rollout continues: the newest one whose frames are all stored.

The state is written after the frames. So a kill can leave additional frames, which are removed. If
a file was cut short or a write was lost, frames can be missing. Then the rollout continues from the
state before, or from the start frame. The frames are bit-identical in all cases on one machine.
"""

import os
import sys
from pathlib import Path

import jax.numpy as jnp

from trajcast_jax import io
from trajcast_jax.dynamics.restart import DamagedStateError, load_state, save_state
from trajcast_jax.dynamics.rollout import Simulator, SimulatorState
from trajcast_jax.workflow.rollout_runs import Run, replica_folders

STATE, BEFORE = "state.npz", ".state_before.npz"
DAMAGED = "damaged_trajectory.h5"
"""Name to which an unreadable trajectory is renamed."""


def keep_state(out: Path, state: SimulatorState) -> None:
    """Save the state, and keep the state before it."""
    if (out / STATE).exists():
        os.replace(out / STATE, out / BEFORE)
    save_state(out / STATE, state)


def state_to_go_on_from(
    run: Run, out: Path, sim: Simulator, fresh: SimulatorState
) -> SimulatorState:
    """Load the newest saved state whose frames are in all trajectories; else return `fresh`.

    Raises:
      ValueError: a state belongs to another simulation.
    """
    every, paths = run.experiment.rollout.every, replica_folders(run, out)
    problems = []
    counts = [_frames(path / "trajectory.h5", problems) for path in paths]
    for name in (STATE, BEFORE):
        if not (out / name).exists():
            continue
        try:
            state = load_state(out / name, sim, fresh)
        except DamagedStateError as error:
            problems.append(str(error))
            continue
        step = int(jnp.max(state.step))
        if min(counts) > step // every:
            _say(problems, step)
            return state
        problems.append(f"{out / name} is of stride {step}, for which frames are missing")
    if problems:
        _say(problems, 0)
    for path, count in zip(paths, counts, strict=True):
        if count < 0:
            os.replace(path / "trajectory.h5", path / DAMAGED)
    return fresh


def _frames(path: Path, problems: list[str]) -> int:
    """Return the number of complete frames of a trajectory; −1 if it cannot be read."""
    if not path.exists():
        return 0
    try:
        return io.n_frames(path)
    except ValueError as error:
        problems.append(str(error))
        return -1


def _say(problems: list[str], step: int) -> None:
    if problems:
        where = f"stride {step}" if step else "the start frame, which gives the same frames again"
        print(f"note: {'; '.join(problems)}. Going on from {where}.", file=sys.stderr)
