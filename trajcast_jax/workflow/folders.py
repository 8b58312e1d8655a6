"""Default paths of the files of an experiment.

Files that the package ships come first; other systems use the files that the commands wrote.
"""

from pathlib import Path

from trajcast_jax.config import Experiment
from trajcast_jax.network.checkpoint import pretrained
from trajcast_jax.reference import complete_runs
from trajcast_jax.workflow.command_line import FOLDER


def reference(experiment: Experiment) -> Path:
    """Folder of the reference runs."""
    return Path("runs/reference") / experiment.reference_name


def training(experiment: Experiment) -> Path:
    """Folder of the training's output."""
    return Path("runs") / experiment.name / "train"


def campaign(experiment: Experiment) -> Path:
    """Folder of the journal, the logs and the models of `train`."""
    return Path("runs") / experiment.name


def learning(experiment: Experiment) -> Path:
    """Folder of the trainings with different numbers of frames."""
    return Path("runs") / experiment.name / "learning"


def evaluations(experiment: Experiment) -> Path:
    """Folder of the reports on trajectories."""
    return Path("runs/evaluate") / experiment.name


def rollouts(experiment: Experiment) -> Path:
    """Folder of the rollouts; each has a subfolder."""
    return Path("runs") / experiment.name / "rollout"


def model(experiment: Experiment) -> Path:
    """Folder of the model: the shipped one, that of `train`, or the best one of `fit`.

    Raises:
      FileNotFoundError: there is neither.
    """
    try:
        return pretrained(experiment.name)
    except FileNotFoundError as error:
        for path in (campaign(experiment) / "model", training(experiment) / "best"):
            if path.is_dir():
                return path
        raise FileNotFoundError(
            f"The package ships no model of {experiment.name}, and there is none in "
            f"{campaign(experiment) / 'model'} or {training(experiment) / 'best'}; make "
            f"one by {command(experiment, 'train')}, or give another by --checkpoint."
        ) from error


def start(experiment: Experiment) -> Path:
    """File whose last frame is the start of forecasts: the shipped one, or the last reference run.

    Raises:
      FileNotFoundError: there is neither.
    """
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
    """Paths of the complete reference runs in a folder; `use` states their purpose in errors.

    Raises:
      FileNotFoundError: there are none.
    """
    paths = complete_runs(folder)
    if not paths:
        raise FileNotFoundError(
            f"{use}, but there are no complete reference runs in {folder}; make them by "
            f"{command(experiment, 'generate')} --out {folder}."
        )
    return paths


def command(experiment: Experiment, verb: str) -> str:
    """Command line of a verb for the experiment: by its name, its file, or that of `train`."""
    name = experiment.name
    if not (FOLDER / f"{name}.toml").is_file():
        made = campaign(experiment) / f"{name}.toml"
        own = Path(f"{name}.toml")
        name = str(made if made.is_file() and not own.is_file() else own)
    return f"python -m experiments.{verb} {name}"
