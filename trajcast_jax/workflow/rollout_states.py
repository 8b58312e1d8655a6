"""Where a rollout goes on: at the last state to which its trajectories still have the frames.

The state is written after the frames, so a kill leaves frames too many, which are cut. Where a
file was cut short or a write was lost, there may be too few: then the state before the last is
taken, or the start frame. All lead to the same frames, bit by bit on the same machine.
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
"""Where a trajectory that cannot be read any more is put aside."""


def keep_state(out: Path, state: SimulatorState) -> None:
    """Save the state; the one before it is kept too."""
    if (out / STATE).exists():
        os.replace(out / STATE, out / BEFORE)
    save_state(out / STATE, state)


def state_to_go_on_from(
    run: Run, out: Path, sim: Simulator, fresh: SimulatorState
) -> SimulatorState:
    """The newest saved state to which all trajectories have the frames, else the fresh one.

    Raises:
      ValueError: a state is one of another simulation.
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
    """Complete frames in a trajectory; −1 if it cannot be read."""
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
