"""Judges a checkpoint and its forecasts: `python -m experiments.evaluate quartz`."""

import json
from pathlib import Path

import numpy as np
import tyro

import experiments
from experiments import folders
from trajcast_jax import checkpoint as checkpoints
from trajcast_jax import measurement, plots
from trajcast_jax.config import Experiment
from trajcast_jax.dataset import frame_pairs
from trajcast_jax.evaluation import (
    evaluate_one_step,
    reference_observables,
    write_report,
    write_summary,
)
from trajcast_jax.io import atomic_write, read_observables, read_trajectory
from trajcast_jax.modes import (
    InternalModes,
    NormalModes,
    internal_modes,
    mode_temperatures,
    normal_modes,
)
from trajcast_jax.observables import cut
from trajcast_jax.reference import complete_runs, engine_for_frames, run_path
from trajcast_jax.reference.bonds import bonded_pairs
from trajcast_jax.report import render_one_step
from trajcast_jax.system import System


def one_step(experiment: Experiment, checkpoint: Path, folder: Path, seed: int) -> dict | None:
    """One-step errors on the test runs; None, and a line that says why, without those."""
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


def observables(experiment: Experiment, folder: Path) -> measurement.Measured:
    """The reference observables: of the runs in a folder, else those that the package ships."""
    paths = complete_runs(folder)
    if paths:
        runs = [read_trajectory(path) for path in paths]
        spacing = float(runs[0][1][1] - runs[0][1][0])
        stride = experiment.data.time_step * experiment.rollout.every
        return reference_observables([run for run, _ in runs], spacing, stride, experiment)
    try:
        path = checkpoints.pretrained(experiment.reference_name) / "reference.npz"
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"There are no reference runs in {folder}, and the package ships no observables of "
            f"{experiment.name}; make runs by {folders.command(experiment, 'generate')}."
        ) from error
    print(f"There are no reference runs in {folder}; the observables in {path} stand for them.")
    return measurement.load(path)


def modes_of(runs: list[System], torsions: bool = True) -> NormalModes | InternalModes:
    """The normal modes of a crystal, or those of the distances and torsions of a molecule."""
    if runs[0].cell is None:
        return internal_modes(runs, bonded_pairs(cut(runs[0], 0)), torsions=torsions)
    return normal_modes(runs)


def mode_table(experiment: Experiment, folder: Path, forecasts: list[System]) -> str:
    """Temperatures of the normal modes in the reference and in forecasts, a line a mode, as CSV."""
    paths = folders.runs(experiment, folder, "Normal modes are those of reference runs")
    runs = [read_trajectory(path)[0] for path in paths]
    modes = modes_of(runs)
    columns = [np.mean([mode_temperatures(run, modes) for run in runs], axis=0)]
    for run in forecasts:
        start = int(len(run.positions) * experiment.evaluation.equilibration)
        columns.append(mode_temperatures(cut(run, slice(start, None)), modes))
    head = ["wavenumber_per_cm", "reference_K", *(f"forecast_{k}_K" for k in range(len(forecasts)))]
    rows = np.stack([modes.wavenumbers, *columns], axis=1)
    return "\n".join([",".join(head), *(",".join(f"{x:.1f}" for x in row) for row in rows)]) + "\n"


def potential_energies(experiment: Experiment, path: Path, n_frames: int) -> np.ndarray:
    """What the reference's engine says of `n_frames` frames of a forecast, evenly spread, in eV."""
    trajectory, _ = read_trajectory(path)
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
    experiment: Experiment, path: Path, folder: Path, out: Path, n_frames: int
) -> dict[str, float]:
    """Potential energies of a forecast and of the reference runs, as numbers and energy.png."""
    use = "Potential energies are held against those of reference runs"
    paths = folders.runs(experiment, folder, use)
    ours = potential_energies(experiment, path, n_frames)
    theirs = np.concatenate([read_observables(run)["potential_energy"] for run in paths])
    out.mkdir(parents=True, exist_ok=True)
    plots.save(out / "energy.png", lambda: plots.plot_energies(ours, theirs))
    return {
        "potential_energy_eV": float(ours.mean()),
        "potential_energy_deviation_eV": float(ours.std()),
        "reference_potential_energy_eV": float(theirs.mean()),
        "reference_potential_energy_deviation_eV": float(theirs.std()),
    }


def main(
    experiment: tyro.conf.Positional[str],
    checkpoint: Path | None = None,
    reference: Path | None = None,
    rollout: tuple[Path, ...] = (),
    out: Path | None = None,
    save_reference: Path | None = None,
    modes: bool = False,
    energies: int = 0,
    seed: int = 0,
    set: tuple[str, ...] = (),
) -> None:
    """Evaluates one step of a checkpoint on test runs, and a rollout against the reference.

    Args:
      experiment: name of a TOML file in experiments/, or the path of one.
      checkpoint: directory of the model; by default, where nothing else is to be done, the one
        that the package ships, or else the best one that training made.
      reference: folder of the reference runs; by default runs/reference/<name>.
      rollout: trajectory of a forecast, or the directory that holds its trajectory.h5; of
        several, each gets a folder of its own and all a summary.
      out: directory of the report; by default runs/evaluate/<name>.
      save_reference: write the reference observables to this .npz file.
      modes: write the temperature of every mode too (modes.csv): normal modes of a crystal, or
        those of the distances and torsions of a molecule.
      energies: so many frames of a rollout have their potential energy computed by the engine of
        the reference; that of runs at constant energy spreads less than a thermostatted one.
      seed: draws the test pairs.
      set: settings that differ from the file; a rollout at another stride than the experiment's
        needs data.time_step, so that spectra of the reference are seen at that interval too.
    """
    loaded = experiments.load(experiment, set)
    folder = reference or folders.reference(loaded)
    out = out or folders.evaluations(loaded)
    extra = {}
    if checkpoint or not (rollout or save_reference):
        model = checkpoint or folders.model(loaded)
        extra["checkpoint"] = str(model)
        errors = one_step(loaded, model, folder, seed)
        if errors is not None:
            extra["one_step"] = errors
            print(render_one_step(errors), end="\n\n")
            out.mkdir(parents=True, exist_ok=True)
            atomic_write(out / "one_step.json", json.dumps(errors, indent=1).encode())
    if save_reference or rollout:
        measured = observables(loaded, folder)
    if save_reference:
        measurement.save(save_reference, measured)
        print(f"The reference observables are in {save_reference}.")
    if rollout:
        paths = [path / "trajectory.h5" if path.is_dir() else path for path in rollout]
        outs = [out] if len(paths) == 1 else [out / f"{k:02d}" for k in range(len(paths))]
        reports = []
        for own, path in zip(outs, paths, strict=True):
            known = extra | {"trajectory": str(path)}
            (own / "energy.png").unlink(missing_ok=True)  # of another trajectory
            if energies:
                known |= compare_energies(loaded, path, folder, own, energies)
            reports.append(write_report(own, path, measured, loaded, known))
        write_summary(out, reports)
        (out / "modes.csv").unlink(missing_ok=True)
        if modes:
            forecasts = [read_trajectory(path)[0] for path in paths]
            atomic_write(out / "modes.csv", mode_table(loaded, folder, forecasts).encode())
        print((out / ("report.md" if len(paths) == 1 else "summary.md")).read_text())
        print(f"The report and its plots are in {out}.")
    if not (rollout or save_reference or "one_step" in extra):
        raise ValueError(
            "There is nothing to evaluate: give a trajectory by --rollout, or a checkpoint by "
            "--checkpoint beside reference runs."
        )


if __name__ == "__main__":
    experiments.run(lambda: tyro.cli(main))
