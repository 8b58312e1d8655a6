"""Label states that a model's forecasts visit: `python -m experiments.visit quartz`.

Forecasts drift to states that are in no reference run, where errors grow. This command runs
forecasts with the thermostat, and reference MD for one stride from states on their way. The
results are training pairs in the region that the model needs (DAgger: S. Ross et al., AISTATS
2011, arXiv:1011.0686). `python -m experiments.fit quartz --visited FILE` adds them to the
training set.
"""

from pathlib import Path

import jax
import numpy as np
import tyro

from trajcast_jax import io
from trajcast_jax.config import Experiment, ReferenceSettings
from trajcast_jax.config.settings import COUNT, NATURAL
from trajcast_jax.dynamics.ensemble import csvr
from trajcast_jax.dynamics.rollout import FINE, rollout, simulator
from trajcast_jax.mechanics import degrees_of_freedom, temperature
from trajcast_jax.neighbors.graph import neighbor_list
from trajcast_jax.network import checkpoint as checkpoints
from trajcast_jax.reference import engine_for_frames
from trajcast_jax.system import System
from trajcast_jax.workflow.command_line import load, require_within
from trajcast_jax.workflow.progress import progress_bar
from trajcast_jax.workflow.reference_runs import ensure_reference
from trajcast_jax.workflow.training_pairs import SEGMENT

LAST = 32
"""Number of strides before a failure from which all states are used."""


def visited_states(model, experiment: Experiment, starts: list[System], strides: int, every: int):
    """Yield every `every`-th state of forecasts of `strides` strides from each start.

    A state is positions (Å) and velocities (Å/fs). Of a forecast that fails, the states before
    the failure are used, and all of the last `LAST` strides.

    Raises:
      ValueError: `strides` is not a multiple of `every`.
    """
    if every < 1 or strides % every:
        raise ValueError(
            f"Of {strides} strides each {every}-th state cannot be taken; give a number of strides "
            "that is a multiple of `every`."
        )
    settings = experiment.rollout
    neighbors = neighbor_list(starts[0].cell, model.cutoff, settings.skin)
    thermostat = csvr(settings.temperature, settings.time_constant)
    sim = simulator(
        model.forecast, neighbors, thermostat,
        time_step=model.time_step, max_temperature=3 * settings.temperature,
    )  # fmt: skip
    run = jax.jit(rollout(sim.step, strides))
    roomy = int(1.3 * neighbors.allocate(starts[0]).capacity)
    for k, start in enumerate(starts):
        state = sim.grow(sim.init(jax.random.key(settings.seed + k), start), roomy)
        state, frames = run(state)
        if bool(state.neighbors.overflow):
            continue
        failed = int(state.failure.kind) != FINE
        good = int(state.failure.step) - 1 if failed else strides
        for frame in range(good):
            if (frame + 1) % every == 0 or (failed and frame >= good - LAST):
                yield np.asarray(frames.positions[frame]), np.asarray(frames.velocities[frame])


def labelled(reference: ReferenceSettings, start: System, states, steps: int):
    """Yield, for every state, two frames: the state, and `steps` engine steps later.

    Yield None if reference MD itself becomes unstable (above three times the temperature, or an
    atom lost): overlapping atoms of a forecast are useless for training.
    """
    engine = engine_for_frames(reference, start.cell)
    limit = 3 * reference.temperature
    for positions, velocities in states:
        engine.set_frame(positions.astype(np.float64), velocities.astype(np.float64))
        before = engine.frame()
        try:
            engine.advance(steps)
        except RuntimeError:
            engine.close()
            engine = engine_for_frames(reference, start.cell)
            yield None
            continue
        both = np.stack([before, engine.frame()]).astype(np.float32)
        frames = start.replace(positions=both[:, 0], velocities=both[:, 1])
        end = start.replace(positions=both[1, 0], velocities=both[1, 1])
        hottest = float(temperature(end, degrees_of_freedom(end, angular=end.cell is None)))
        yield frames if hottest < limit else None
    engine.close()


def drawn_frames(experiment: Experiment, paths: list[Path], count: int, seed: int) -> list[System]:
    """Draw `count` random frames of the training runs.

    Raises:
      ValueError: no training run is there.
    """
    rng, chosen, runs = np.random.default_rng(seed), [], experiment.data.train_runs
    there = [run for run in runs if run < len(paths)]
    if not there:
        raise ValueError(
            f"None of data.train_runs, {runs}, is among the {len(paths)} runs; generate more, or "
            "change the setting."
        )
    for run in rng.choice(there, count):
        frame = int(rng.integers(io.n_frames(paths[run])))
        trajectory, _ = io.read_trajectory(paths[run], frame, frame + 1)
        chosen.append(
            trajectory.replace(
                positions=trajectory.positions[0], velocities=trajectory.velocities[0]
            )
        )
    return chosen


def main(
    experiment: tyro.conf.Positional[str],
    checkpoint: Path,
    out: Path,
    starts: int = 150,
    strides: int = 60,
    every: int = 3,
    seed: int = 0,
    reference: Path | None = None,
    set: tuple[str, ...] = (),
) -> None:
    """Write pairs (visited state, state after one stride of reference MD) to an H5MD file.

    Args:
      experiment: name of a TOML file in experiments/, or the path of one.
      checkpoint: folder of the model that makes the forecasts.
      out: output file (.h5).
      starts: number of forecasts, each from a random frame of a training run.
      strides: number of strides of each forecast.
      every: number of strides between the states that are used.
      seed: random seed of the start frames.
      reference: folder of the reference runs; by default runs/reference/<name>. The runs may be in
        another cell, given by `reference.repeat` in --set.
      set: settings to replace.
    """
    for name, number in (("--starts", starts), ("--strides", strides), ("--every", every)):
        require_within(name, number, COUNT)
    require_within("--seed", seed, NATURAL)
    loaded = load(experiment, set)
    if out.exists():
        raise ValueError(f"{out} exists already; give another file, or remove it.")
    paths = ensure_reference(loaded, reference)
    model = checkpoints.restore(checkpoint)
    chosen = drawn_frames(loaded, paths, starts, seed)
    steps = round(model.time_step / loaded.reference.time_step)
    unfinished = out.with_name(f".{out.name}")
    unfinished.unlink(missing_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    states = visited_states(model, loaded, chosen, strides, every)
    pairs, left_out = labelled(loaded.reference, chosen[0], states, steps), 0
    with io.H5MDWriter(unfinished, chosen[0], model.time_step) as writer:
        for frames in progress_bar(pairs, total=starts * (strides // every), unit="pair"):
            if frames is None:
                left_out += 1
            else:
                writer.append(frames)
    unfinished.rename(out)
    print(f"{io.n_frames(out) // SEGMENT} pairs in {out}; reference MD exploded from {left_out}.")
