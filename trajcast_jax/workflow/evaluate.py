"""Evaluate a checkpoint and its forecasts: `python -m experiments.evaluate quartz`."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro

from trajcast_jax import averages
from trajcast_jax.analysis import block_observables, plots
from trajcast_jax.analysis.bands import modes_of
from trajcast_jax.analysis.evaluation import (
    evaluate_one_step,
    write_report,
    write_summary,
)
from trajcast_jax.analysis.modes import mode_temperatures
from trajcast_jax.analysis.observables import cut
from trajcast_jax.analysis.report import render_one_step
from trajcast_jax.analysis.scores import number, of_blocks, pair
from trajcast_jax.config import Experiment
from trajcast_jax.config.settings import NATURAL
from trajcast_jax.data.pairs import frame_pairs
from trajcast_jax.io import ReadOptions, atomic_write, read_observables, read_trajectory
from trajcast_jax.network import checkpoint as checkpoints
from trajcast_jax.network.card import MARKDOWN, summary
from trajcast_jax.reference import complete_runs, engine_for_frames, run_path
from trajcast_jax.reference.structure import with_structure
from trajcast_jax.workflow import folders
from trajcast_jax.workflow.command_line import Reading, load, notes_printed, require_within
from trajcast_jax.workflow.forecasts import known_of, run_of, state_drift, trajectory_in
from trajcast_jax.workflow.judgement import conclude
from trajcast_jax.workflow.reference_runs import (
    held_out_runs,
    mode_bands,
    observables,
    trajectories,
)
from trajcast_jax.workflow.shipped_cards import shipped_card

OPEN = ReadOptions()
"""Options for files that leave nothing open."""
NOTHING = (
    "There is nothing to evaluate: give a trajectory by --rollout, or a checkpoint by --checkpoint "
    "beside reference runs."
)


class Asked(NamedTuple):
    """What is asked for of rollouts."""

    energies: int
    """Number of frames whose potential energies the engine computes."""
    options: ReadOptions
    """What files of other programs leave open."""
    held_out: bool
    """Compare with the validation and test runs alone."""
    modes: bool
    """Write the temperature of every mode."""


def one_step(experiment: Experiment, checkpoint: Path, folder: Path, seed: int) -> dict | None:
    """One-step errors on the test runs; without test runs, print the reason and return None."""
    if folder.is_file():
        print(
            f"One-step errors: skipped, because {folder} (--reference) is one file; make runs "
            f"of it by {folders.command(experiment, 'generate')} --from {folder}."
        )
        return None
    paths = [run_path(folder, run) for run in experiment.data.test_runs]
    missing = [path for path in paths if path not in complete_runs(folder)]
    if missing:
        print(
            f"One-step errors: skipped, because there is no complete test run {missing[0]}; "
            f"make it by {folders.command(experiment, 'generate')}."
        )
        return None
    model = checkpoints.restore(checkpoint)
    n_pairs = experiment.data.test_pairs
    runs = [read_trajectory(path) for path in paths]
    pairs = frame_pairs(runs, model.time_step, model.cutoff, n_pairs, seed)
    return evaluate_one_step(model, pairs)


def write_modes(
    experiment: Experiment,
    folder: Path,
    forecasts: list[Path],
    out: Path,
    options: ReadOptions,
    held_out: bool,
) -> None:
    """Write modes.csv, a table of the modes' temperatures in the reference and in forecasts."""
    use = "Normal modes are those of reference runs"
    runs = [run for run, _ in trajectories(experiment, folder, use, options, held_out)]
    modes = modes_of(runs)
    columns = [np.mean([mode_temperatures(run, modes) for run in runs], axis=0)]
    for path in forecasts:
        run, _ = read_trajectory(path, options=options)
        start = int(len(run.positions) * experiment.evaluation.equilibration)
        columns.append(mode_temperatures(cut(run, slice(start, None)), modes))
    head = ["wavenumber_per_cm", "reference_K", *(f"forecast_{k}_K" for k in range(len(forecasts)))]
    rows = np.stack([modes.wavenumbers, *columns], axis=1)
    lines = [",".join(head), *(",".join(f"{x:.1f}" for x in row) for row in rows)]
    atomic_write(out / "modes.csv", ("\n".join(lines) + "\n").encode())


def potential_energies(
    experiment: Experiment, path: Path, n_frames: int, options: ReadOptions = OPEN
) -> np.ndarray:
    """Potential energies (eV) of `n_frames` evenly spaced frames, by the reference's engine."""
    trajectory, _ = read_trajectory(path, options=options)
    start = int(len(trajectory.positions) * experiment.evaluation.equilibration)
    chosen = np.linspace(start, len(trajectory.positions) - 1, n_frames).astype(int)
    engine = engine_for_frames(experiment.reference, trajectory.cell)
    energies = []
    for frame in chosen:
        positions, velocities = trajectory.positions[frame], trajectory.velocities[frame]
        engine.set_frame(np.asarray(positions, np.float64), np.asarray(velocities, np.float64))
        energies.append(engine.energies()[0])
    engine.close()
    return np.array(energies)


def compare_energies(
    experiment: Experiment,
    path: Path,
    folder: Path,
    out: Path,
    n_frames: int,
    options: ReadOptions = OPEN,
    held_out: bool = False,
) -> dict[str, float | None]:
    """Compare potential energies (eV) of a forecast and the reference; also write energy.png.

    Raises:
      ValueError: the reference is a trajectory file, which has no energies.
    """
    if folder.is_file():
        raise ValueError(
            f"--energies needs potential energies of reference runs, and {folder} (--reference) is "
            "one file without them; give a folder of runs, or leave --energies out."
        )
    use = "Potential energies are held against those of reference runs"
    paths = folders.runs(experiment, folder, use)
    if held_out:
        paths = held_out_runs(experiment, folder)
    ours = potential_energies(experiment, path, n_frames, options)
    runs = [read_observables(run)["potential_energy"] for run in paths]
    theirs = np.concatenate(runs)
    out.mkdir(parents=True, exist_ok=True)
    plots.save(out / "energy.png", lambda: plots.plot_energies(ours, theirs))
    n_blocks = experiment.evaluation.n_blocks
    mean, error = averages.block_average(ours - ours.mean(), n_blocks)
    per_run = max(1, n_blocks // len(runs))
    parts = [part.mean() for run in runs for part in np.array_split(run, per_run)]
    return {
        **pair("potential_energy_eV", float(ours.mean()) + float(mean), error),
        "potential_energy_deviation_eV": float(ours.std()),
        "reference_potential_energy_eV": float(theirs.mean()),
        "reference_potential_energy_eV_error": number(of_blocks(parts - np.mean(parts))[1]),
        "reference_potential_energy_deviation_eV": float(theirs.std()),
    }


def judged_step(
    experiment: Experiment, checkpoint: Path, folder: Path, out: Path, seed: int
) -> dict:
    """Report entries of a checkpoint: its path and, if there are test runs, its one-step errors."""
    extra = {"checkpoint": str(checkpoint)}
    known = checkpoints.load_card(checkpoint)
    if known is not None:
        print(summary(known))
    errors = one_step(experiment, checkpoint, folder, seed)
    if errors is not None:
        extra["one_step"] = errors
        print(render_one_step(errors), end="\n\n")
        out.mkdir(parents=True, exist_ok=True)
        atomic_write(out / "one_step.json", json.dumps(errors, indent=1).encode())
    return extra


def judged_rollouts(
    experiment: Experiment,
    paths: list[Path],
    measured: block_observables.Measured,
    folder: Path,
    out: Path,
    extra: dict,
    asked: Asked,
) -> list[dict]:
    """Write the report of every trajectory and a summary of all; return the reports."""
    bands = mode_bands(experiment, folder, measured, asked.options, asked.held_out)
    outs = [out] if len(paths) == 1 else [out / f"{k:02d}" for k in range(len(paths))]
    reports = []
    for own, path in zip(outs, paths, strict=True):
        known = extra | {"trajectory": str(path)} | known_of(path)
        (own / "energy.png").unlink(missing_ok=True)  # may be that of another trajectory
        if asked.energies:
            known |= compare_energies(experiment, path, folder, own, *asked[:3])
        reports.append(write_report(own, path, measured, experiment, known, asked.options, bands))
    write_summary(out, reports)
    (out / "modes.csv").unlink(missing_ok=True)  # may be that of other trajectories
    if asked.modes:
        write_modes(experiment, folder, paths, out, asked.options, asked.held_out)
    return reports


def save_observables(path: Path, measured: block_observables.Measured) -> None:
    """Write reference observables, and say where they are."""
    block_observables.save(path, measured)
    print(f"The reference observables are in {path}.")


def print_written(out: Path, count: int, stated: str = "") -> None:
    """Print the report on one trajectory, or the summary of several, where it is, and `stated`."""
    print((out / ("report.md" if count == 1 else "summary.md")).read_text())
    print(f"The report and its plots are in {out}.\n" + (f"\n{stated}\n" if stated else ""))


def make_card(experiment: Experiment, folder: Path) -> int:
    """Write the card of a shipped model from what is published about it, and print it."""
    checkpoints.save_card(folder, shipped_card(experiment, folder))
    print((folder / MARKDOWN).read_text())
    print(f"The card is in {folder}.")
    return 0


def main(
    experiment: tyro.conf.Positional[str],
    checkpoint: Path | None = None,
    reference: Path | None = None,
    rollout: tuple[Path, ...] = (),
    out: Path | None = None,
    save_reference: Path | None = None,
    modes: bool = False,
    energies: int = 0,
    held_out: bool = False,
    constant_energy: Path | None = None,
    seed: int = 0,
    reading: Reading = OPEN,
    set: tuple[str, ...] = (),
    write_card: bool = False,
) -> int:
    """Evaluate one-step errors of a checkpoint, and compare rollouts with the reference.

    Args:
      experiment: name of a TOML file in experiments/, or the path of one.
      checkpoint: folder of the model; if nothing else is evaluated, the shipped or best trained.
      reference: folder of the reference runs, or a trajectory; by default runs/reference/<name>.
      rollout: forecast trajectories, or folders with a trajectory.h5. The exit status is 1 if one
        misses a criterion. Several get a report each in a subfolder, and a joint verdict.
      out: folder of the report; by default runs/evaluate/<name>.
      save_reference: write the reference observables to this .npz file.
      modes: write the temperature of every mode of a crystal or molecule (modes.csv).
      energies: number of frames of a rollout whose energies the reference's engine computes.
      held_out: compare with the validation and test runs alone, which are not trained on.
      constant_energy: a forecast at constant energy whose drift is stated beside the verdict.
      seed: random seed of the test pairs.
      reading: what the trajectories of other programs among --rollout and --reference leave open.
      set: settings to replace. For a rollout with another stride than the experiment's, set
        data.time_step, so that reference spectra are measured at the same interval.
      write_card: only write the card of a shipped model, from what is published about it.
    """
    loaded = load(experiment, set)
    if write_card:
        return make_card(loaded, checkpoint or folders.model(loaded))
    require_within("--energies", energies, NATURAL)
    folder, out = reference or folders.reference(loaded), out or folders.evaluations(loaded)
    options = reading if reading == OPEN else with_structure(reading, loaded.reference)
    extra = {}
    if checkpoint or not (rollout or save_reference):
        extra = judged_step(loaded, checkpoint or folders.model(loaded), folder, out, seed)
    if not (rollout or save_reference or "one_step" in extra):
        raise ValueError(NOTHING)
    with notes_printed():
        if save_reference or rollout:
            measured = observables(loaded, folder, options, held_out)
        if save_reference:
            save_observables(save_reference, measured)
        if not rollout:
            return 0
        paths = [trajectory_in(path) for path in rollout]
        asked = Asked(energies, options, held_out, modes)
        reports = judged_rollouts(loaded, paths, measured, folder, out, extra, asked)
        stated = constant_energy and state_drift(loaded, constant_energy, out, options)
    print_written(out, len(paths), stated or "")
    return conclude(loaded, reports, extra.get("checkpoint") or run_of(paths[0]).get("checkpoint"))
