"""Make the reference trajectories of an experiment: `python -m experiments.generate quartz`."""

import dataclasses
import sys
import warnings
from pathlib import Path
from typing import Annotated

import tyro

from trajcast_jax.config import ReferenceSettings
from trajcast_jax.data.pairs import stride
from trajcast_jax.io import FileNote, ReadOptions
from trajcast_jax.reference import (
    import_trajectories,
    run_path,
)
from trajcast_jax.workflow import folders
from trajcast_jax.workflow.command_line import load
from trajcast_jax.workflow.reference_runs import report, simulate


def main(
    experiment: tyro.conf.Positional[str],
    runs: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    sources: Annotated[tuple[Path, ...], tyro.conf.arg(name="from")] = (),
    time_step: float | None = None,
    md_step: Annotated[float | None, tyro.conf.arg(name="timestep")] = None,
    species: tuple[str, ...] = (),
    units: str = "",
    velocity_unit: str = "",
    periodic: tyro.conf.FlagCreatePairsOff[bool] = False,
    no_periodic: tyro.conf.FlagCreatePairsOff[bool] = False,
    cell: tuple[float, ...] = (),
    first: int = 0,
    last: int | None = None,
    every: int = 1,
    velocities: Path | None = None,
    topology: Path | None = None,
    set: tuple[str, ...] = (),
) -> None:
    """Make reference trajectories by molecular dynamics, or import existing ones.

    The options after `from` say what those leave open; they do not overrule what those state.

    Args:
      experiment: name of a TOML file in experiments/, or the path of one.
      runs: number of runs; by default that of the experiment.
      seed: random seed; another seed gives independent runs of the same system.
      out: folder of the runs; by default runs/reference/<name>.
      sources: trajectories with positions and velocities, to import instead of simulating.
      time_step: fs between the frames of these, if the files do not store times.
      md_step: fs of an integration step, where the files tell the numbers of steps only.
      species: elements of types 1, 2, … in order (Si O), or by name (CA=C MW=X).
      units: LAMMPS's unit style of dumps: metal, real, ...
      velocity_unit: angstrom/fs, angstrom/ps, nm/ps, m/s, ase, bohr/atu or amber.
      periodic: atoms are periodic, where a file has a cell but does not say.
      no_periodic: atoms are isolated.
      cell: a b c (Å), with α β γ (°) or as three vectors, where a file has no cell.
      first: number of the first frame to take, from 0.
      last: number of the last frame to take.
      every: take every n-th frame.
      velocities: a second file, with the velocities (CP2K's -vel-1.xyz).
      topology: a file with the atoms of a trajectory (.tpr, .gro, .prmtop), for MDAnalysis.
      set: settings that differ from the file: reference.ensemble=csvr reference.nve_time=1e6.
    """
    loaded = load(experiment, set)
    settings = loaded.reference if runs is None else _with_runs(loaded.reference, runs)
    out = out or folders.reference(loaded)
    options = ReadOptions(
        species, units, velocity_unit, time_step, md_step, _either(periodic, no_periodic),
        cell, first, last, every, velocities, topology,
    )  # fmt: skip
    if sources:
        _take(sources, out, settings, options)
    else:
        _make(loaded, settings, out, seed, options)
    print(f"Runs are {run_path(out, 0)} and following.")
    if not report(out, None if sources else settings):
        sys.exit(1)


def _with_runs(settings: ReferenceSettings, runs: int) -> ReferenceSettings:
    return dataclasses.replace(settings, runs=runs)


def _either(periodic: bool, no_periodic: bool) -> bool | None:
    if periodic and no_periodic:
        raise ValueError("Atoms are periodic or not: give --periodic or --no-periodic.")
    return True if periodic else False if no_periodic else None


def _make(loaded, settings: ReferenceSettings, out: Path, seed: int, options) -> None:
    """Simulates the reference."""
    if options != ReadOptions():
        raise ValueError("Options of how to read trajectories need some: --from FILE ...")
    stride(loaded.data.time_step, settings.save_every)  # or nobody could learn from the runs
    simulate(settings, out, seed)


def _take(sources, out: Path, settings, options: ReadOptions) -> None:
    """Imports trajectories, and prints what was done with them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FileNote)
        try:
            import_trajectories(
                sources, out, settings.runs, gap=settings.gap_time, options=options,
                settings=settings,
            )  # fmt: skip
        finally:
            for warning in caught:
                if issubclass(warning.category, FileNote):
                    print(f"note: {warning.message}")
