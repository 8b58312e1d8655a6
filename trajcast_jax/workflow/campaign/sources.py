"""What a campaign starts from: an experiment's file, a structure with a calculator, or
trajectories."""

from pathlib import Path
from typing import NamedTuple

import ase.io

from trajcast_jax.config import Experiment, ReferenceSettings, RolloutSettings, changed, stated
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
    """

    experiment: Experiment
    stated: frozenset[str]
    trajectories: tuple[Path, ...] = ()
    reading: tuple[str, ...] = ()


def source_of(
    name: str,
    files: tuple[Path, ...],
    calculator: str,
    temperature: float | None,
    changes: tuple[str, ...],
) -> Source:
    """Find out what `name` is: an experiment, its TOML file, a structure, or a trajectory.

    Args:
      files: trajectories to import instead of simulating (`--from`).
      calculator: ASE calculator "package.module:Class" for a structure.
      temperature: K.
      changes: settings of the command line ("model.lmax=2").

    Raises:
      ValueError: something is missing that nobody but the user knows.
    """
    if temperature is not None:
        wanted = f"reference.temperature={temperature:g}", f"rollout.temperature={temperature:g}"
        changes = (*changes, *wanted)
    path = Path(name)
    if path.suffix == ".toml" or (FOLDER / f"{name}.toml").is_file():
        file = path if path.suffix == ".toml" else FOLDER / f"{name}.toml"
        if calculator:
            changes = (*changes, f'reference.calculator="{calculator}"')
        return Source(load(name, changes), stated(file, changes), tuple(files))
    if not path.is_file():
        if path.suffix:
            raise FileNotFoundError(f"There is no file {path}; check the path.")
        load(name)  # says what is known
    if not calculator:
        experiment = changed(Experiment(path.stem), changes)
        return Source(experiment, stated({}, changes), (path, *files))
    if files:
        raise ValueError(
            "--calculator simulates the reference, and --from imports one; leave one of them out."
        )
    return _with_calculator(path, calculator, temperature, changes)


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
