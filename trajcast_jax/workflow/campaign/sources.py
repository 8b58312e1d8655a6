"""What a campaign starts from: an experiment's file, a structure with a calculator, or
trajectories."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import ase.io

from trajcast_jax.config import (
    Experiment,
    ModelSettings,
    ReferenceSettings,
    RolloutSettings,
    changed,
    stated,
)
from trajcast_jax.network import checkpoint
from trajcast_jax.workflow.command_line import FOLDER, load

REACH = 10.0
"""Å, smallest height of the cell to which a structure that is given alone is repeated."""


class Source(NamedTuple):
    """What a campaign starts from.

    Attributes:
      experiment: the settings that are stated, and defaults.
      stated: names of the settings that are stated ("model.cutoff"); they are not changed.
      trajectories: files to import; empty if reference MD is simulated.
      reading: options of `generate` that say what the files leave open.
      model: checkpoint that the training starts from; None for random weights.
    """

    experiment: Experiment
    stated: frozenset[str]
    trajectories: tuple[Path, ...] = ()
    reading: tuple[str, ...] = ()
    model: Path | None = None


def starting_from(source: Source, model: Path) -> Source:
    """The source, with the stride and all model settings of a checkpoint as stated ones.

    Raises:
      ValueError: another stride or other model settings are stated.
    """
    forecaster, _ = checkpoint.describe(model)
    own = {f.name: getattr(forecaster.settings, f.name) for f in dataclasses.fields(ModelSettings)}
    experiment = source.experiment
    asked = {f"model.{k}": (getattr(experiment.model, k), v) for k, v in own.items()} | {
        "data.time_step": (experiment.data.time_step, forecaster.time_step)
    }
    other = [k for k, (mine, its) in asked.items() if k in source.stated and mine != its]
    if other:
        mine, its = asked[other[0]]
        raise ValueError(
            f"{model} has {other[0]} = {its}, but {mine} is stated; leave it out, or train without "
            "--from."
        )
    new = dataclasses.replace(
        experiment,
        model=forecaster.settings,
        data=dataclasses.replace(experiment.data, time_step=forecaster.time_step),
    )
    return source._replace(experiment=new, stated=source.stated | set(asked), model=model)


def split(files: tuple[Path, ...]) -> tuple[tuple[Path, ...], Path | None]:
    """What `--from` names: trajectories, and a checkpoint or the name of a shipped model.

    Raises:
      ValueError: there are several models.
    """
    found = [(file, _model(file)) for file in files]
    models = [model for _, model in found if model]
    if len(models) > 1:
        raise ValueError(f"--from names {len(models)} models; training starts from one.")
    return tuple(file for file, model in found if not model), models[0] if models else None


def _model(file: Path) -> Path | None:
    if file.exists():
        return file if file.is_dir() and checkpoint.exists(file) else None
    try:
        return checkpoint.pretrained(str(file))
    except FileNotFoundError:
        return None


def source_of(
    name: str,
    files: tuple[Path, ...],
    calculator: str,
    temperature: float | None,
    changes: tuple[str, ...],
) -> Source:
    """Find out what `name` is: an experiment, its TOML file, a structure, or a trajectory.

    Args:
      files: trajectories to import instead of simulating, and a model to start from (`--from`).
      calculator: ASE calculator "package.module:Class" for a structure.
      temperature: K.
      changes: settings of the command line ("model.lmax=2").

    Raises:
      ValueError: something is missing that nobody but the user knows.
    """
    files, model = split(files)
    if temperature is not None:
        wanted = f"reference.temperature={temperature:g}", f"rollout.temperature={temperature:g}"
        changes = (*changes, *wanted)
    path = Path(name)
    known = path.suffix == ".toml" or (FOLDER / f"{name}.toml").is_file()
    if not known and not path.is_file():
        if path.suffix:
            raise FileNotFoundError(f"There is no file {path}; check the path.")
        load(name)  # says what is known
    if known:
        file = path if path.suffix == ".toml" else FOLDER / f"{name}.toml"
        if calculator:
            changes = (*changes, f'reference.calculator="{calculator}"')
        source = Source(load(name, changes), stated(file, changes), files)
    elif not calculator:
        experiment = changed(Experiment(path.stem), changes)
        source = Source(experiment, stated({}, changes), (path, *files))
    elif files:
        raise ValueError(
            "--calculator simulates the reference, and --from imports one; leave one of them out."
        )
    else:
        source = _with_calculator(path, calculator, temperature, changes)
    return source if model is None else starting_from(source, model)


def _with_calculator(
    path: Path, calculator: str, temperature: float | None, changes: tuple[str, ...]
) -> Source:
    if temperature is None:
        raise ValueError(f"{path} does not tell the temperature; give it: --temperature 300 (K).")
    reference = ReferenceSettings(
        structure={"filename": str(path.resolve())},
        repeat=repetitions(path),
        calculator=calculator,
        minimize=True,
        npt_time=0.0,
        temperature=temperature,
    )
    experiment = Experiment(
        path.stem, reference=reference, rollout=RolloutSettings(temperature=temperature)
    )
    own = {
        f"reference.{k}"
        for k in ("structure", "repeat", "calculator", "minimize", "npt_time", "temperature")
    }
    names = stated({}, changes) | own | {"rollout.temperature"}
    return Source(changed(experiment, changes), names)


def repetitions(path: Path) -> tuple[int, int, int]:
    """Repetitions of a periodic structure, so that its heights are at least `REACH`."""
    atoms = ase.io.read(path)
    if not atoms.pbc.all():
        return (1, 1, 1)
    heights = 1 / (atoms.cell.reciprocal() ** 2).sum(axis=1) ** 0.5
    return tuple(int(-(-REACH // height)) for height in heights)
