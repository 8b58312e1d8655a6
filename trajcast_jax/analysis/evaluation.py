"""Evaluate a model: one-step errors, and a forecast trajectory compared with the reference."""

import functools
import json
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ase.data import chemical_symbols
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from trajcast_jax import averages
from trajcast_jax.analysis import block_observables, comparison, observables
from trajcast_jax.analysis.bands import Bands, compare_bands
from trajcast_jax.analysis.block_observables import Measured
from trajcast_jax.analysis.joint_verdict import judge_together
from trajcast_jax.analysis.plots import plot_all
from trajcast_jax.analysis.report import render, render_summary, summarize
from trajcast_jax.analysis.verdict import judge
from trajcast_jax.config import Experiment
from trajcast_jax.data.pairs import FramePairs
from trajcast_jax.io import ReadOptions, atomic_write, read_trajectory
from trajcast_jax.network.forecast import Forecaster, TrainedForecast
from trajcast_jax.system import System

FEWEST_FRAMES = 16
"""Smallest number of frames of a forecast for a comparison."""


# One step


class Step(NamedTuple):
    """Results of one step of many systems: displacements (Å) and new velocities (Å/fs)."""

    displacements: Float[ArrayLike, "pair atom 3"]
    velocities: Float[ArrayLike, "pair atom 3"]


def one_step_predictions(model: TrainedForecast, pairs: FramePairs) -> Step:
    """Forecast one step from the first frame of every pair, one pair at a time."""
    return _predictions(model.forecaster, model.params, pairs)


@functools.partial(jax.jit, static_argnums=0)
def _predictions(forecaster: Forecaster, params, pairs: FramePairs) -> Step:
    def one(pair):
        edges = pair.edges(forecaster.settings.cutoff)
        after = forecaster.on_graph(params, pair.system, edges)
        return Step(after.positions - pair.system.positions, after.velocities)

    return jax.lax.map(one, pairs)


def evaluate_one_step(model: TrainedForecast, pairs: FramePairs) -> dict:
    """One-step errors of a model on test pairs; see `one_step_errors`."""
    return one_step_errors(
        one_step_predictions(model, pairs),
        Step(pairs.displacements, pairs.velocities),
        pairs.system.velocities,
        pairs.system.species,
        model.time_step,
        pairs.system.mask,
    )


def one_step_errors(
    predicted: Step,
    target: Step,
    velocities: Float[ArrayLike, "pair atom 3"],
    species: Int[ArrayLike, "*pair atom"],
    time_step: float,
    mask: Bool[ArrayLike, "*pair atom"] | None = None,
    n_blocks: int = 10,
) -> dict:
    """Mean absolute errors per Cartesian component, also in % of the mean |x| of the targets.

    This is the metric of Thiemann et al., Nat. Mach. Intell. 8, 764 (2026), Table S1.
    `persistence_percent` is the error of uniform motion, d = v Δt and v' = v. Results are for all
    atoms and by species; their standard errors come from blocks of pairs.

    Args:
      predicted: displacements (Å) and new velocities (Å/fs) of the model.
      target: those of the data.
      velocities: velocities before the step, Å/fs.
      species: atomic numbers; 0 for padding.
      time_step: the stride Δt, fs.
      mask: real atoms; by default those with a species above 0.
      n_blocks: number of blocks of pairs.
    """
    real = np.broadcast_to(np.asarray(species) > 0 if mask is None else mask, velocities.shape[:2])
    species = np.broadcast_to(np.asarray(species), velocities.shape[:2])
    before = np.asarray(velocities, np.float64)
    persistence = Step(before * time_step, before)
    groups = {"all": real} | {
        chemical_symbols[z]: real & (species == z) for z in np.unique(species[real])[::-1]
    }
    errors = {}
    for name, atoms in groups.items():
        errors[name] = {}
        for field in Step._fields:
            x = np.asarray(getattr(target, field), np.float64)
            size = np.abs(x)[atoms].mean()
            off = np.abs(np.asarray(getattr(predicted, field), np.float64) - x)
            idle = np.abs(getattr(persistence, field) - x)[atoms].mean()
            mean, error = off[atoms].mean(), _error_of_pairs(off.mean(axis=-1), atoms, n_blocks)
            errors[name][field] = {
                "mae": float(mean),
                "mae_error": error,
                "relative_percent": float(100 * mean / size),
                "relative_percent_error": None if error is None else float(100 * error / size),
                "persistence_percent": float(100 * idle / size),
            }
    return errors | {"n_pairs": len(before), "time_step": time_step}


def _error_of_pairs(values: np.ndarray, atoms: np.ndarray, n_blocks: int) -> float | None:
    """Standard error of the mean over `atoms` of values (pair, atom), from blocks of pairs."""
    counts = atoms.sum(axis=1)
    held = counts > 0
    means = (values * atoms).sum(axis=1)[held] / counts[held]
    return comparison.number(averages.block_average(means, n_blocks)[1])


# Forecast against reference


def reference_observables(
    trajectories: list[System], stored_every: float, time_step: float, settings: Experiment
) -> Measured:
    """Measure the observables of reference runs, for `block_observables.save`.

    Runs stored every `stored_every` fs are subsampled to frames `time_step` fs apart, like a
    forecast with this stride. So both spectra fold at the Nyquist limit of `time_step`.
    """
    angular = settings.model.conserve_angular
    return block_observables.measure(
        trajectories, stored_every, time_step, settings.evaluation, angular
    )


def compare(
    trajectory: System, reference: Measured, settings: Experiment, time_step: float
) -> tuple[dict, Measured]:
    """Compare a forecast (frames `time_step` fs apart) with the reference.

    Returns the report and the forecast's observables. Without a reference ({}), the report has
    failures, temperatures, speeds and momenta only. Observables are measured between the
    equilibration and the first failure. The report holds plain numbers, with lengths in Å and
    times in ps; unknown standard errors are None.
    """
    chosen, angular = settings.evaluation, settings.model.conserve_angular
    trajectory = jax.tree.map(np.asarray, trajectory)  # cut without a program for each way
    limits = comparison.closest_allowed(trajectory, reference, chosen.closest_fraction)
    failure = comparison.first_failure(
        trajectory, settings.rollout.max_temperature, limits, angular
    )
    total = len(trajectory.positions)
    stop = failure.frame if failure else total
    start = int(chosen.equilibration * stop)
    picosecond = time_step * 1e-3
    report = {
        "name": settings.name,
        "n_atoms": len(observables.select(trajectory)),
        "frames": total,
        "time_step_fs": time_step,
        "duration_ps": total * picosecond,
        "measured_from_ps": start * picosecond,
        "measured_to_ps": stop * picosecond,
        "failure": {
            "time_ps": failure.frame * picosecond if failure else None,
            "frame": failure.frame if failure else None,
            "reason": failure.reason if failure else None,
            "criterion": comparison.criterion(settings.rollout.max_temperature, limits),
        },
        "reference": {
            "duration_ps": float(reference["duration"]) * 1e-3,
            "blocks": len(reference["temperature/all"]),
            "stored_every_fs": float(reference["stored_every"]),
        }
        if reference
        else None,
    }
    if stop - start < FEWEST_FRAMES:
        return report, {}
    used = observables.cut(trajectory, slice(start, stop))
    forecast = block_observables.measure([used], time_step, time_step, chosen, angular)
    report |= {
        "temperature": comparison.temperatures(used, forecast, reference, settings, time_step),
        "speed": comparison.speeds(forecast, reference),
        "momentum": comparison.motion(used),
    }
    if not reference:
        return report, forecast
    return report | {
        "rdf": comparison.structure(forecast, reference),
        "vdos": comparison.vibrations(forecast, reference),
        "msd": comparison.displacements(forecast, reference, trajectory.cell is not None),
        "molecules": comparison.molecules(forecast, reference),
    }, forecast


def write_report(
    directory: str | Path,
    forecast: str | Path | System,
    reference: str | Path | Measured,
    settings: Experiment,
    extra: dict,
    options: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
    bands: Bands | str | None = None,
) -> dict:
    """Write report.json, report.md, verdict.json and the plots into `directory`; return the report.

    Args:
      directory: created if it does not exist.
      forecast: a trajectory file, or a trajectory with the time step of the settings.
      reference: a file that `block_observables.save` wrote, or its content; {} for none.
      settings: the experiment; its `rollout` describes the forecast.
      extra: further entries of the report. `one_step` (from `one_step_errors`) becomes a table,
        `stopped` is the reason why the rollout ended early, `planned_ps` its planned duration, and
        all others are listed in the section "The run".
      options: what a trajectory file of another program leaves open.
      bands: bands of modes of the reference, or the reason why there are none.

    Raises:
      ValueError: the trajectory file has only one frame.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if isinstance(reference, str | Path):
        reference = block_observables.load(reference)
    if isinstance(forecast, System):
        time_step = settings.data.time_step * settings.rollout.every
    else:
        path = forecast
        forecast, times = read_trajectory(path, options=options)
        if len(times) < 2:
            raise ValueError(f"{path} holds one frame; a forecast to be judged needs two or more.")
        time_step = float(times[1] - times[0])
    report, curves = compare(forecast, reference, settings, time_step)
    if report["failure"]["time_ps"] is None and "stopped" in extra:
        # The failed frame is not among the stored frames.
        end = {"time_ps": report["duration_ps"], "frame": report["frames"]}
        report["failure"] |= end | {"reason": extra["stopped"].rstrip(".")}
    report = extra | report | _modes(forecast, report, bands, settings)
    report["verdict"] = judge(report)
    kelvin = block_observables.temperatures(forecast, settings.model.conserve_angular)
    report["plots"] = plot_all(directory, report, kelvin, curves, reference)
    atomic_write(directory / "report.json", json.dumps(report, indent=1).encode())
    atomic_write(directory / "report.md", render(report).encode())
    write_verdict(directory, [report])
    return report


def _modes(
    forecast: System, report: dict, bands: Bands | str | None, settings: Experiment
) -> dict[str, dict]:
    """Part of a report: the temperatures of bands of modes, or why there are none."""
    if bands is None or "temperature" not in report:
        return {}
    if isinstance(bands, Bands) and not np.array_equal(bands.species, forecast.species):
        bands = "the forecast has other atoms than the reference runs"
    if isinstance(bands, str):
        return {"modes": {"bands": {}, "why": bands}}
    ends = (report[f"measured_{end}_ps"] * 1e3 / report["time_step_fs"] for end in ("from", "to"))
    used = observables.cut(forecast, slice(*(round(frame) for frame in ends)))
    return {"modes": compare_bands(used, bands, settings.evaluation.n_blocks)}


def write_verdict(directory: str | Path, reports: list[dict]) -> dict:
    """Write verdict.json: that of `judge_together` on one or more reports; return it."""
    verdict = judge_together(reports)
    atomic_write(Path(directory) / "verdict.json", json.dumps(verdict, indent=1).encode())
    return verdict


def write_summary(directory: str | Path, reports: list[dict]) -> dict:
    """Write summary.json, summary.md and verdict.json of several runs; return the summary."""
    summary = summarize(reports) | {"verdict": write_verdict(directory, reports)}
    summary["passed"] = summary["verdict"]["passed"]
    atomic_write(Path(directory) / "summary.json", json.dumps(summary, indent=1).encode())
    atomic_write(Path(directory) / "summary.md", render_summary(summary).encode())
    return summary
