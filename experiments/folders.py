"""Where the files of an experiment are, unless one says otherwise.

What the package ships comes first; a system of one's own has what the commands made of it.
"""

from pathlib import Path

import experiments
from trajcast_jax.checkpoint import pretrained
from trajcast_jax.config import Experiment
from trajcast_jax.reference import complete_runs


def reference(experiment: Experiment) -> Path:
    """The folder of its reference runs."""
    return Path("runs/reference") / experiment.reference_name


def training(experiment: Experiment) -> Path:
    """The folder that its training writes into."""
    return Path("runs") / experiment.name / "train"


def learning(experiment: Experiment) -> Path:
    """The folder of its trainings on fewer and more frames."""
    return Path("runs") / experiment.name / "learning"


def evaluations(experiment: Experiment) -> Path:
    """The folder of the reports on its trajectories."""
    return Path("runs/evaluate") / experiment.name


def rollouts(experiment: Experiment) -> Path:
    """The folder of its forecasts, each in one of its own."""
    return Path("runs") / experiment.name / "rollout"


def model(experiment: Experiment) -> Path:
    """The folder of its model: the one that is shipped, or the best of its training."""
    try:
        return pretrained(experiment.name)
    except FileNotFoundError as error:
        best = training(experiment) / "best"
        if best.is_dir():
            return best
        raise FileNotFoundError(
            f"The package ships no model of {experiment.name}, and there is none in {best}; make "
            f"one by {command(experiment, 'train')}, or give another by --checkpoint."
        ) from error


def start(experiment: Experiment) -> Path:
    """A file whose last frame forecasts start from: one that is shipped, or of its last run."""
    try:
        return pretrained(experiment.reference_name) / "start.extxyz"
    except FileNotFoundError as error:
        paths = complete_runs(reference(experiment))
        if paths:
            return paths[-1]
        raise FileNotFoundError(
            f"The package ships no start frame of {experiment.name}, and there are no reference "
            f"runs in {reference(experiment)}; give a file that holds one by --start, or make runs "
            f"by {command(experiment, 'generate')}."
        ) from error


def runs(experiment: Experiment, folder: Path, use: str) -> list[Path]:
    """Its complete reference runs in a folder.

    Raises:
      FileNotFoundError: says what they are for, if there are none.
    """
    paths = complete_runs(folder)
    if not paths:
        raise FileNotFoundError(
            f"{use}, but there are no complete reference runs in {folder}; make them by "
            f"{command(experiment, 'generate')} --out {folder}."
        )
    return paths


def command(experiment: Experiment, verb: str) -> str:
    """The command line of a verb, with the experiment as one may give it."""
    shipped = (experiments.FOLDER / f"{experiment.name}.toml").is_file()
    return f"python -m experiments.{verb} {experiment.name}{'' if shipped else '.toml'}"
