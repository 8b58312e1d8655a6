"""Trains the network of an experiment: `python -m experiments.train quartz`."""

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import tyro
from tqdm import tqdm

import experiments
from experiments import folders
from experiments.generate import ensure_reference
from experiments.visit import SEGMENT
from trajcast_jax import checkpoint, io, plots
from trajcast_jax.config import Experiment
from trajcast_jax.dataset import FramePairs, frame_pairs, join, longest_cell, statistics
from trajcast_jax.forecast import Forecaster
from trajcast_jax.training import Metrics, TrainState, fit, init_state


def load_pairs(experiment: Experiment, paths: list[Path], part: str) -> FramePairs:
    """The "train", "validation" or "test" pairs of an experiment, from its own runs."""
    data = experiment.data
    runs = getattr(data, f"{part}_runs")
    absent = [run for run in runs if run >= len(paths)]
    if absent:
        raise ValueError(
            f"data.{part}_runs names run {absent[0]}, but there are only {len(paths)} runs; "
            "generate more, or change the setting."
        )
    strides = experiment.training.strides if part == "train" else 1
    return frame_pairs(
        [io.read_trajectory(paths[run]) for run in runs],
        data.time_step,
        experiment.model.cutoff,
        getattr(data, f"{part}_pairs") // strides,
        seed=("train", "validation", "test").index(part),
        time_reversal=data.time_reversal and part == "train",
        strides=strides,
    )


def load_visited(experiment: Experiment, paths: tuple[Path, ...]) -> list[FramePairs]:
    """All pairs of files that `experiments.visit` wrote, with their mirror images in time."""
    data, strides = experiment.data, experiment.training.strides
    if paths and strides > 1:
        raise ValueError(
            f"Visited pairs are single strides, but training.strides is {strides}; leave --visited "
            "out, or set it to 1."
        )
    parts = []
    for path in paths:
        run = io.read_trajectory(path)
        parts.append(
            frame_pairs(
                [run], data.time_step, experiment.model.cutoff, len(run[1]) // SEGMENT,
                time_reversal=data.time_reversal, segment=SEGMENT,
            )
        )  # fmt: skip
    return parts


def with_cells(forecaster: Forecaster, pairs: FramePairs) -> Forecaster:
    """The forecaster, with a note of the longest cell that it learns from."""
    known = forecaster.statistics
    longest = max(known.longest_cell, longest_cell(pairs))
    return dataclasses.replace(
        forecaster, statistics=dataclasses.replace(known, longest_cell=longest)
    )


def going_on(experiment: Experiment, path: Path) -> Experiment:
    """The experiment with the network of the checkpoint that training goes on from.

    Its cutoff is that of the pairs, too.
    """
    forecaster, _ = checkpoint.describe(path)
    own, asked = forecaster.time_step, experiment.data.time_step
    if own != asked:
        raise ValueError(
            f"{path} was trained for strides of {own:g} fs, but data.time_step is {asked:g}; set "
            "it to that, or train a new model in another folder (--out)."
        )
    return dataclasses.replace(experiment, model=forecaster.settings)


def start(
    experiment: Experiment, train: FramePairs, out: Path, init_from: Path | None
) -> tuple[Forecaster, TrainState]:
    """The state to go on from: this run's last one, or given weights, or fresh ones."""
    last = out / "last"
    if last.exists():
        forecaster, _ = checkpoint.describe(last)
        if forecaster.settings != experiment.model:
            raise ValueError(
                f"{last} was trained with other model settings than the experiment has now; "
                "give another --out, or the settings it began with."
            )
        like = init_state(forecaster, experiment.training)
        # How many updates are planned is asked anew, so that a run can be made longer.
        return forecaster, checkpoint.restore_state(last, like).replace(total=like.total)
    if init_from is not None:
        trained = checkpoint.restore(init_from)
        state = init_state(trained.forecaster, experiment.training, trained.params)
        return trained.forecaster, state
    training = experiment.training
    far = (experiment.model.cutoff, experiment.data.time_step)
    measured = statistics(
        train, training.per_species_scales, training.linear_baseline,
        far if experiment.model.far_field else None,
    )  # fmt: skip
    forecaster = Forecaster(experiment.model, measured, experiment.data.time_step)
    return forecaster, init_state(forecaster, training)


class MetricsLog:
    """metrics.csv, one row a chunk, and TensorBoard events on request."""

    def __init__(self, out: Path, update: int, tensorboard: bool):
        self.path = out / "metrics.csv"
        rows = []
        if self.path.exists():  # rows after the state that is resumed would come twice
            with open(self.path, newline="") as file:
                rows = [row for row in csv.reader(file) if row[0].isdigit()]
        # Rows of versions that did not write the time yet get none.
        rows = [[*row, "0"][: len(Metrics._fields)] for row in rows if int(row[0]) <= update]
        self.before = float(rows[-1][-1]) if rows else 0.0  # seconds that earlier processes spent
        text = "\n".join(",".join(row) for row in [Metrics._fields, *rows]) + "\n"
        io.atomic_write(self.path, text.encode())
        self.writer = _tensorboard(out) if tensorboard else None

    def write(self, metrics: Metrics) -> None:
        """Append one row; empty cells where nothing was validated."""
        metrics = metrics._replace(seconds=round(self.before + metrics.seconds, 1))
        with open(self.path, "a", newline="") as file:
            csv.writer(file).writerow("" if x is None else x for x in metrics)
        if self.writer is not None:
            for name, value in metrics._asdict().items():
                if name != "update" and value is not None:
                    self.writer.scalar(name, value, metrics.update)
            self.writer.flush()


def read_curve(path: Path) -> dict[str, np.ndarray]:
    """The rows of a metrics.csv that have a validation, by column."""
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["velocity_error"]]
    return {name: np.array([float(row[name]) for row in rows]) for name in Metrics._fields}


def _tensorboard(out: Path):
    try:
        from flax.metrics.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "--tensorboard needs the package tensorboard: pip install tensorboard tensorflow."
        ) from error
    return SummaryWriter(str(out))


def train(
    experiment: Experiment,
    out: Path,
    *,
    paths: list[Path],
    visited: tuple[Path, ...] = (),
    init_from: Path | None = None,
    save_every: int = 500,
    tensorboard: bool = False,
    minutes: float | None = None,
    show: Callable = tqdm,
) -> None:
    """Trains to the end, writing `best/` and `last/` checkpoints and metrics.csv into `out`.

    At the end come `ema/`, the averaged weights, and curve.png, the errors over time.
    """
    out.mkdir(parents=True, exist_ok=True)
    if init_from is not None:
        experiment = going_on(experiment, init_from)
    if (out / "last").exists():
        going_on(experiment, out / "last")
    pairs = {part: load_pairs(experiment, paths, part) for part in ("train", "validation")}
    # What normalises is measured on the reference alone, not on what a model strayed into.
    forecaster, begun = start(experiment, pairs["train"], out, init_from)
    pairs["train"] = join([pairs["train"], *load_visited(experiment, visited)])
    forecaster = with_cells(forecaster, pairs["train"])
    settings = experiment.training
    n_weights = sum(np.size(x) for x in jax.tree.leaves(begun.params))
    print(f"{n_weights:,} weights, {len(pairs['train']):,} training pairs, {out}")
    log = MetricsLog(out, int(begun.update), tensorboard)
    experiment_json = json.loads(json.dumps(dataclasses.asdict(experiment)))
    seconds = None if minutes is None else 60 * minutes
    saved = int(begun.update)
    best = float(begun.best_error)
    state = begun
    with show(total=settings.updates, initial=saved, unit="update") as bar:
        parts = pairs["train"], pairs["validation"]
        for state, metrics in fit(forecaster, settings, begun, *parts, seconds=seconds):
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
                    notes = {"metrics": metrics._asdict(), "experiment": experiment_json}
                    checkpoint.save(out / "best", forecaster, state.best_params, notes)
            if metrics.update - saved >= save_every or metrics.update >= total:
                checkpoint.save_state(out / "last", forecaster, state)
                saved = metrics.update
    # The averaged weights at the very end, which need not be the best ones.
    checkpoint.save(out / "ema", forecaster, state.ema_params, {"experiment": experiment_json})
    curve = read_curve(log.path)
    curve["frames"] = curve["update"] * settings.batch_size
    published = experiment.evaluation.published_errors
    plots.save(out / "curve.png", lambda: plots.plot_learning(curve, published))
    print(f"The best model is in {out / 'best'}, the errors over time in {out / 'curve.png'}.")


@dataclasses.dataclass
class Arguments:
    """Trains the network of an experiment; run again, it goes on where it stopped."""

    experiment: tyro.conf.Positional[str]
    """Name of a TOML file in experiments/, or the path of one."""
    out: Path | None = None
    """Folder to write; by default runs/<name>/train."""
    reference: Path | None = None
    """Folder of the reference runs; made first if it is empty. By default runs/reference/<name>."""
    visited: tuple[Path, ...] = ()
    """Files of `python -m experiments.visit`, whose pairs are added to the training set."""
    resume: Path | None = None
    """A checkpoint whose weights and sizes to start from (fine-tuning) when `out` has none yet."""
    set: tuple[str, ...] = ()
    """Settings that differ from the file: training.updates=1000 model.channels=16."""
    minutes: float | None = None
    """Train for so long, compilation included, instead of for training.updates."""
    tensorboard: bool = False
    """Write TensorBoard events too."""


def main(arguments: Arguments) -> None:
    """Command line."""
    experiment = experiments.load(arguments.experiment, arguments.set)
    paths = ensure_reference(experiment, arguments.reference)
    train(
        experiment,
        arguments.out or folders.training(experiment),
        paths=paths,
        visited=arguments.visited,
        init_from=arguments.resume,
        tensorboard=arguments.tensorboard,
        minutes=arguments.minutes,
    )


if __name__ == "__main__":
    experiments.run(lambda: main(tyro.cli(Arguments)))
