"""Learning curves: `python -m experiments.learning paracetamol --pairs 100 1000 10000`.

Train a network from scratch for each number of pairs, for equal times, and measure its one-step
errors on the test runs. `python -m experiments.learning` plots the stored results of all systems:
errors over training time, and over the number of pairs.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

import experiments
from trajcast_jax.analysis import plots
from trajcast_jax.analysis.evaluation import Step, evaluate_one_step
from trajcast_jax.config import Experiment
from trajcast_jax.io import atomic_write
from trajcast_jax.network import checkpoint
from trajcast_jax.workflow import folders
from trajcast_jax.workflow.fit import train
from trajcast_jax.workflow.metrics import read_curve
from trajcast_jax.workflow.reference_runs import ensure_reference
from trajcast_jax.workflow.training_pairs import load_pairs

RESULTS = Path(__file__).parent / "results"
SHOWN = ("quartz", "water", "paracetamol", "paracetamol_xtb")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train on different numbers of pairs; without an experiment, plot the stored results."""

    experiment: tyro.conf.Positional[str | None] = None
    """Name of a TOML file in experiments/, or the path of one."""
    pairs: tuple[int, ...] = (100, 300, 1_000, 3_000, 10_000)
    """Numbers of training pairs, not counting time-reversed ones."""
    minutes: float | None = None
    """Minutes of each training, including compilation; by default training.updates apply."""
    reference: Path | None = None
    """Folder of the reference runs; by default runs/reference/<name>."""
    out: Path | None = None
    """Output folder; by default runs/<name>/learning, or experiments/results for the plot."""
    set: tuple[str, ...] = ()
    """Settings to replace."""


def errors_by_pairs(experiment: Experiment, arguments: Arguments, out: Path) -> None:
    """Train once for each number of pairs; finished trainings in `out` are not repeated."""
    paths = ensure_reference(experiment, arguments.reference)
    test = load_pairs(experiment, paths, "test")
    rows = []
    for count in arguments.pairs:
        own = out / f"{count:06d}"
        data = dataclasses.replace(experiment.data, train_pairs=count)
        if not (own / "ema").exists():
            train(
                dataclasses.replace(experiment, data=data),
                own,
                paths=paths,
                minutes=arguments.minutes,
            )
        errors = evaluate_one_step(checkpoint.restore(own / "ema"), test)
        curve = read_curve(own / "metrics.csv")
        updates, minutes = int(curve["update"][-1]), round(float(curve["seconds"][-1]) / 60, 2)
        row = {"pairs": count, "minutes": minutes, "updates": updates}
        for field in Step._fields:
            found = errors["all"][field]
            row[field] = found["relative_percent"]
            row[f"{field}_error"] = found["relative_percent_error"]
        print(
            f"{count:,} pairs, {updates:,} updates: d {row['displacements']:.2f} %, "
            f"v {row['velocities']:.2f} %"
        )
        rows.append(row)
        atomic_write(out / "learning.json", json.dumps(rows, indent=1).encode())


def draw(folder: Path) -> Figure:
    """Plot the stored learning curves: errors over time, and errors over numbers of pairs."""
    by_time = [name for name in SHOWN if (folder / f"{name}_train.csv").exists()]
    by_pairs = [name for name in SHOWN if (folder / f"{name}_learning.json").exists()]
    if not by_time:
        raise FileNotFoundError(
            f"There is no learning curve in {folder}; put the metrics.csv of a training there as "
            "<name>_train.csv."
        )
    count = len(by_time) + len(by_pairs)
    figure = Figure(figsize=(3.2 * count, 3.2), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False)[0]
    for axes, name in zip(panels, by_time, strict=False):
        curve = read_curve(folder / f"{name}_train.csv")
        errors = curve["displacement_error"], curve["velocity_error"]
        plots.learning_panel(axes, curve["seconds"] / 60, errors, _published(name))
        axes.set(title=name, xlabel="minutes of training")
    for axes, name in zip(panels[len(by_time) :], by_pairs, strict=True):
        rows = json.loads((folder / f"{name}_learning.json").read_text())
        x, *errors = np.array([[r["pairs"], *(r[f] for f in Step._fields)] for r in rows]).T
        plots.learning_panel(axes, x, errors, _published(name), marker="o")
        axes.set(title=f"{name}, {rows[-1]['updates']:,} updates", xlabel="training pairs")
    panels[0].set(ylabel="relative error of one step / %")
    panels[0].legend(fontsize="small")
    return figure


def _published(name: str) -> tuple[float, ...]:
    return experiments.load(name).evaluation.published_errors


def main(arguments: Arguments) -> None:
    """Run the command."""
    if arguments.experiment is None:
        out = arguments.out or RESULTS
        plots.save(out / "learning.png", lambda: draw(out))
        print(f"The plot is {out / 'learning.png'}.")
        return
    experiment = experiments.load(arguments.experiment, arguments.set)
    out = arguments.out or folders.learning(experiment)
    out.mkdir(parents=True, exist_ok=True)
    errors_by_pairs(experiment, arguments, out)
    print(f"The errors are in {out / 'learning.json'}.")


if __name__ == "__main__":
    experiments.run(lambda: main(tyro.cli(Arguments)))
