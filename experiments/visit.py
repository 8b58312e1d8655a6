"""Labels the states that a model's own forecasts visit: `python -m experiments.visit quartz`.

A forecast drifts to states that no reference run holds, and there errors feed on themselves.
Here forecasts run under the thermostat, and reference MD goes one stride from states on
their way: true pairs where the model needs them (S. Ross et al., AISTATS 2011, arXiv:1011.0686).
`python -m experiments.train quartz --visited FILE` adds them to the training set.
"""

from pathlib import Path

import jax
import numpy as np
import tyro
from tqdm import tqdm

import experiments
from experiments.generate import ensure_reference
from trajcast_jax import checkpoint as checkpoints
from trajcast_jax import io
from trajcast_jax.config import Experiment, ReferenceSettings
from trajcast_jax.ensemble import csvr
from trajcast_jax.graph import neighbor_list
from trajcast_jax.mechanics import degrees_of_freedom, temperature
from trajcast_jax.reference import engine_for_frames
from trajcast_jax.rollout import FINE, rollout, simulator
from trajcast_jax.system import System

SEGMENT = 2
"""Frames of every piece in the file: a visited state, and where it truly leads."""
LAST = 32
"""Strides before a failure of which all states are taken: there a forecast goes wrong."""


def visited_states(model, experiment: Experiment, starts: list[System], strides: int, every: int):
    """States along forecasts of `strides` strides from each start, one each `every` strides.

    A forecast that fails gives those before it does, and of the last `LAST` strides all.
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
    """Every state as the engine reads it, and `steps` of its steps later: frames of two states.

    None for a state from which reference MD itself explodes (beyond three times the temperature,
    or out of its box): atoms that a forecast has put into each other teach nothing.
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
    """Writes pairs (visited state, one stride of reference MD later) to an H5MD file.

    Args:
      experiment: name of a TOML file in experiments/, or the path of one.
      checkpoint: directory of the model whose forecasts are followed.
      out: file to write (.h5).
      starts: number of forecasts, each from a random frame of a training run.
      strides: length of each.
      every: strides between the states that are taken.
      seed: draws the start frames.
      reference: folder of the reference runs; by default runs/reference/<name>. It may hold runs in
        another cell, as `reference.repeat` of --set says.
      set: settings that differ from the file.
    """
    loaded = experiments.load(experiment, set)
    if out.exists():
        raise ValueError(f"{out} exists already; give another file, or remove it.")
    paths = ensure_reference(loaded, reference)
    model = checkpoints.restore(checkpoint)
    rng = np.random.default_rng(seed)
    chosen = []
    there = [run for run in loaded.data.train_runs if run < len(paths)]
    if not there:
        raise ValueError(
            f"None of data.train_runs, {loaded.data.train_runs}, is among the {len(paths)} runs; "
            "generate more, or change the setting."
        )
    for run in rng.choice(there, starts):
        frame = int(rng.integers(io.n_frames(paths[run])))
        trajectory, _ = io.read_trajectory(paths[run], frame, frame + 1)
        chosen.append(
            trajectory.replace(
                positions=trajectory.positions[0], velocities=trajectory.velocities[0]
            )
        )
    steps = round(model.time_step / loaded.reference.time_step)
    unfinished = out.with_name(f".{out.name}")
    unfinished.unlink(missing_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    states = visited_states(model, loaded, chosen, strides, every)
    pairs, left_out = labelled(loaded.reference, chosen[0], states, steps), 0
    with io.H5MDWriter(unfinished, chosen[0], model.time_step) as writer:
        for frames in tqdm(pairs, total=starts * (strides // every), unit="pair"):
            if frames is None:
                left_out += 1
            else:
                writer.append(frames)
    unfinished.rename(out)
    print(f"{io.n_frames(out) // SEGMENT} pairs in {out}; reference MD exploded from {left_out}.")


if __name__ == "__main__":
    experiments.run(lambda: tyro.cli(main))
