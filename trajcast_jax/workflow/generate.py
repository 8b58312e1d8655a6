"""Make the reference trajectories of an experiment: `python -m experiments.generate quartz`."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from trajcast_jax.config import ReferenceSettings, stated
from trajcast_jax.config.settings import COUNT, NATURAL
from trajcast_jax.data.pairs import stride
from trajcast_jax.io import ReadOptions
from trajcast_jax.reference import (
    import_trajectories,
    run_path,
)
from trajcast_jax.workflow import folders
from trajcast_jax.workflow.command_line import (
    Reading,
    load,
    notes_printed,
    path_of,
    require_within,
)
from trajcast_jax.workflow.reference_runs import report, simulate


def main(
    experiment: tyro.conf.Positional[str],
    runs: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    sources: Annotated[tuple[Path, ...], tyro.conf.arg(name="from")] = (),
    reading: Reading = ReadOptions(),  # noqa: B008 (frozen)
    set: tuple[str, ...] = (),
) -> None:
    """Make reference trajectories by molecular dynamics, or import existing ones.

    Args:
      experiment: name of a TOML file in experiments/, or the path of one.
      runs: number of runs; by default that of the experiment.
      seed: random seed; another seed gives independent runs of the same system.
      out: folder of the runs; by default runs/reference/<name>.
      sources: trajectories with positions and velocities, to import instead of simulating.
      reading: what the files of --from leave open. The options do not overrule what files state.
      set: settings that differ from the file: reference.ensemble=csvr reference.nve_time=1e6.
    """
    loaded = load(experiment, set)
    require_within("--seed", seed, NATURAL)
    if runs is not None:
        require_within("--runs", runs, COUNT)
    settings = loaded.reference if runs is None else _with_runs(loaded.reference, runs)
    out = out or folders.reference(loaded)
    if sources:
        _take(sources, out, settings, reading)
    else:
        _make(loaded, settings, out, seed, reading)
    print(f"Runs are {run_path(out, 0)} and following.")
    # Who has not chosen a stride yet can choose one by these runs.
    paired = not sources or "data.time_step" in stated(path_of(experiment), set)
    if not report(loaded, out, None if sources else settings, paired):
        sys.exit(1)


def _with_runs(settings: ReferenceSettings, runs: int) -> ReferenceSettings:
    return dataclasses.replace(settings, runs=runs)


def _make(loaded, settings: ReferenceSettings, out: Path, seed: int, options) -> None:
    """Simulate the reference."""
    if options != ReadOptions():
        raise ValueError("Options of how to read trajectories need some: --from FILE ...")
    stride(loaded.data.time_step, settings.save_every)  # or nobody could learn from the runs
    simulate(settings, out, seed)


def _take(sources, out: Path, settings, options: ReadOptions) -> None:
    """Import trajectories, and print what was done with them."""
    with notes_printed():
        import_trajectories(
            sources, out, settings.runs, gap=settings.gap_time, options=options, settings=settings
        )
