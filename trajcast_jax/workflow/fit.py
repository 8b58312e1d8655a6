"""Train the network of an experiment: `python -m experiments.fit quartz`."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import tyro

from trajcast_jax import io
from trajcast_jax.analysis import plots
from trajcast_jax.config import Experiment, to_json
from trajcast_jax.config.settings import ABOVE_0
from trajcast_jax.data import FramePairs, join, statistics
from trajcast_jax.data.statistics import updated
from trajcast_jax.learning.training import TrainState, fit, init_state
from trajcast_jax.network import checkpoint
from trajcast_jax.network.card import Card
from trajcast_jax.network.forecast import Forecaster
from trajcast_jax.workflow import folders
from trajcast_jax.workflow.cards import after, training_card
from trajcast_jax.workflow.command_line import load, require_within
from trajcast_jax.workflow.metrics import MetricsLog, read_curve
from trajcast_jax.workflow.progress import progress_bar
from trajcast_jax.workflow.reference_runs import ensure_reference
from trajcast_jax.workflow.stopping import between_chunks
from trajcast_jax.workflow.training_pairs import going_on, load_pairs, load_visited, with_cells


def start(
    experiment: Experiment, train: FramePairs, out: Path, init_from: Path | None,
    new_statistics: bool = False,
) -> tuple[Forecaster, TrainState]:  # fmt: skip
    """Make the initial training state: from `out/last`, else from the checkpoint `init_from`, else
    with random weights.

    With `new_statistics`, the weights of the checkpoint are scaled by the statistics of the
    training pairs, for fine-tuning to another temperature, density or force field.

    Raises:
      ValueError: `out/last` has other model settings than the experiment, or the checkpoint does
        not know a species.
    """
    last = out / "last"
    if checkpoint.exists(last):
        forecaster, _ = checkpoint.describe(last)
        if forecaster.settings != experiment.model:
            raise ValueError(
                f"{last} was trained with other model settings than the experiment has now; "
                "give another --out, or the settings it began with."
            )
        like = init_state(forecaster, experiment.training)
        # The total number of updates is taken from the settings, so that a run can be extended.
        return forecaster, checkpoint.restore_state(last, like).replace(total=like.total)
    training = experiment.training
    kinds = training.per_species_scales, training.linear_baseline
    if init_from is not None:
        trained = checkpoint.restore(init_from)
        forecaster = trained.forecaster
        if new_statistics:
            measured = updated(forecaster.statistics, statistics(train, *kinds))
            forecaster = dataclasses.replace(forecaster, statistics=measured)
        return forecaster, init_state(forecaster, training, trained.params)
    far = (experiment.model.cutoff, experiment.data.time_step)
    measured = statistics(train, *kinds, far if experiment.model.far_field else None)
    forecaster = Forecaster(experiment.model, measured, experiment.data.time_step)
    return forecaster, init_state(forecaster, training)


def train(
    experiment: Experiment,
    out: Path,
    *,
    paths: list[Path],
    visited: tuple[Path, ...] = (),
    init_from: Path | None = None,
    new_statistics: bool = False,
    save_every: int = 500,
    tensorboard: bool = False,
    minutes: float | None = None,
    show: Callable = progress_bar,
) -> None:
    """Train a network; write checkpoints `best/` and `last/` and metrics.csv into `out`.

    At the end, also write `ema/` (the averaged weights) and curve.png (errors over time).
    """
    out.mkdir(parents=True, exist_ok=True)
    sentence = f"Another process trains into {out}; wait for it or give another --out."
    with io.locked(out, sentence), between_chunks() as heed:
        if init_from is not None:
            experiment = going_on(experiment, init_from)
        if checkpoint.exists(out / "last"):
            going_on(experiment, out / "last")
        pairs = {part: load_pairs(experiment, paths, part) for part in ("train", "validation")}
        # What normalises is measured on the reference alone, not on what a model strayed into.
        forecaster, begun = start(experiment, pairs["train"], out, init_from, new_statistics)
        pairs["train"] = join([pairs["train"], *load_visited(experiment, visited)])
        forecaster = with_cells(forecaster, pairs["train"])
        card = training_card(experiment, forecaster, [pairs["train"]], paths)
        n_weights = sum(np.size(x) for x in jax.tree.leaves(begun.params))
        print(f"{n_weights:,} weights, {len(pairs['train']):,} training pairs, {out}")
        log = MetricsLog(out, int(begun.update), tensorboard)
        seconds = None if minutes is None else 60 * minutes
        heed()
        chunks = fit(forecaster, experiment.training, begun, *pairs.values(), seconds=seconds)
        with show(
            total=experiment.training.updates, initial=int(begun.update), unit="update"
        ) as bar:
            state = _follow(
                experiment, out, forecaster, begun, chunks, log, bar, save_every, heed, card
            )
        _finish(experiment, out, forecaster, state, log, card)


def _follow(
    experiment: Experiment, out: Path, forecaster: Forecaster, state: TrainState, chunks,
    log: MetricsLog, bar, save_every: int, heed: Callable[[], None], card: Card,
) -> TrainState:  # fmt: skip
    """Goes through the chunks of `fit`, and saves; gives the last state."""
    saved, best = int(state.update), float(state.best_error)
    for state, metrics in chunks:
        log.write(metrics)
        total = bar.total = int(state.total)
        bar.update(metrics.update - bar.n)
        if metrics.displacement_error is not None:
            bar.set_postfix_str(
                f"loss {metrics.loss:.2g}, error d {metrics.displacement_error:.2f} %, "
                f"v {metrics.velocity_error:.2f} %"
            )
            if float(state.best_error) < best:
                best = float(state.best_error)
                notes = {"metrics": metrics._asdict(), "experiment": _plain(experiment)}
                errors = metrics.displacement_error, metrics.velocity_error
                scored = after(card, log.seconds, errors)
                checkpoint.save(out / "best", forecaster, state.best_params, notes, scored)
        if metrics.update - saved >= save_every or metrics.update >= total:
            checkpoint.save_state(out / "last", forecaster, state)
            saved = metrics.update
        try:
            heed()
        except KeyboardInterrupt:
            if saved < metrics.update:
                checkpoint.save_state(out / "last", forecaster, state)
            print(
                f"\nUpdate {metrics.update} is saved in {out / 'last'}; the same command goes on "
                "from there.",
                file=sys.stderr,
            )
            raise
    return state


def _plain(experiment: Experiment) -> dict:
    return json.loads(to_json(experiment))


def _finish(
    experiment: Experiment, out: Path, forecaster: Forecaster, state: TrainState,
    log: MetricsLog, card: Card,
) -> None:  # fmt: skip
    # The averaged weights at the very end, which need not be the best ones.
    notes = {"experiment": _plain(experiment)}
    checkpoint.save(out / "ema", forecaster, state.ema_params, notes, after(card, log.seconds))
    curve = read_curve(log.path)
    curve["frames"] = curve["update"] * experiment.training.batch_size
    published = experiment.evaluation.published_errors
    plots.save(out / "curve.png", lambda: plots.plot_learning(curve, published))
    print(f"The best model is in {out / 'best'}, the errors over time in {out / 'curve.png'}.")


@dataclasses.dataclass
class Arguments:
    """Train the network of an experiment; an interrupted training continues if run again."""

    experiment: tyro.conf.Positional[str]
    """Name of a TOML file in experiments/, or the path of one."""
    out: Path | None = None
    """Output folder; by default runs/<name>/train."""
    reference: Path | None = None
    """Folder of the reference runs, which are simulated if missing; by default
    runs/reference/<name>."""
    visited: tuple[Path, ...] = ()
    """Files of `python -m experiments.visit` whose pairs are added to the training set."""
    resume: Path | None = None
    """Checkpoint with weights and model settings to start from (fine-tuning), if `out` has none."""
    new_statistics: bool = False
    """With --resume: measure the scales of displacements and velocities anew, for another
    temperature, density or force field."""
    set: tuple[str, ...] = ()
    """Settings to replace: training.updates=1000 model.channels=16."""
    minutes: float | None = None
    """Training time in minutes, including compilation, instead of training.updates."""
    tensorboard: bool = False
    """Write TensorBoard events too."""


def main(arguments: Arguments) -> None:
    """Run the command."""
    if arguments.minutes is not None:
        require_within("--minutes", arguments.minutes, ABOVE_0)
    if arguments.new_statistics and arguments.resume is None:
        raise ValueError("--new-statistics says something of the checkpoint of --resume; give it.")
    experiment = load(arguments.experiment, arguments.set)
    paths = ensure_reference(experiment, arguments.reference)
    train(
        experiment,
        arguments.out or folders.training(experiment),
        paths=paths,
        visited=arguments.visited,
        init_from=arguments.resume,
        new_statistics=arguments.new_statistics,
        tensorboard=arguments.tensorboard,
        minutes=arguments.minutes,
    )
