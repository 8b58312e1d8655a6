"""Reference runs for other commands: simulate missing ones, check and measure them."""

import json
import sys
from pathlib import Path

import numpy as np
from jaxtyping import Float

from trajcast_jax.analysis import block_observables, comparison
from trajcast_jax.analysis.bands import Bands, find_bands, frames_of_run, thinned
from trajcast_jax.analysis.evaluation import reference_observables
from trajcast_jax.config import Experiment, ReferenceSettings
from trajcast_jax.data.pairs import stride
from trajcast_jax.io import ReadOptions, atomic_write, n_frames, read_trajectory, runs_of_file
from trajcast_jax.network import checkpoint
from trajcast_jax.reading import load_json
from trajcast_jax.reference import (
    check_run,
    complete_runs,
    failed,
    format_checks,
    is_imported,
    minor,
    reference_md,
    require_settings,
    run_path,
    seed_of,
    stages,
)
from trajcast_jax.system import System
from trajcast_jax.workflow import folders
from trajcast_jax.workflow.progress import progress_bar
from trajcast_jax.workflow.stopping import telling


def ensure_reference(experiment: Experiment, out: Path | None = None) -> list[Path]:
    """Paths of the experiment's reference runs; missing ones are simulated first.

    Imported runs are used as they are. A warning is printed if runs failed a check.

    Raises:
      ValueError: the runs were made with other settings.
    """
    out, settings = out or folders.reference(experiment), experiment.reference
    imported, checked = is_imported(out), out / "report.json"
    if not imported:
        seed = seed_of(out)
        require_settings(settings, out, seed)
        if len(complete_runs(out)) < settings.runs:
            simulate(settings, out, seed)
            report(experiment, out, settings)
            checked = None  # what failed has just been said
    if checked and checked.exists() and not load_json(checked).get("passed"):
        print(f"warning: the runs in {out} failed checks ({checked}).", file=sys.stderr)
    return complete_runs(out)[: None if imported else settings.runs]


def simulate(settings: ReferenceSettings, out: Path, seed: int) -> None:
    """Run or continue reference molecular dynamics with a progress bar."""
    plan = stages(settings)
    total = sum(stage.n_frames for stage in plan)
    form = "{desc}{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} ps [{elapsed}<{remaining}]"
    to_ps = settings.save_every * 1e-3
    with (
        progress_bar(total=total * to_ps, bar_format=form, desc="reference MD") as bar,
        telling(f"The frames until now are in {out}; the same command goes on from there."),
    ):
        for index, frames in reference_md(settings, out, seed):
            before = sum(stage.n_frames for stage in plan[:index])
            done, stage = (before + frames) * to_ps, plan[index]
            if not bar.n:  # exclude the work of earlier processes from the speed
                bar.initial = bar.n = done
            bar.set_description(stage.kind if stage.run < 0 else f"{stage.kind} {stage.run}")
            bar.update(done - bar.n)


def report(
    experiment: Experiment, out: Path, settings: ReferenceSettings | None, paired: bool = True
) -> bool:
    """Check all complete runs, print the results, write report.json; True if all checks pass.

    `settings` are those that the runs were made with; None for imported runs. `paired` tells
    whether the runs must hold pairs of frames one stride apart.
    """
    result, passed, problems = {}, True, []
    for path in complete_runs(out):
        checks = check_run(path, settings)
        bad, small = [c for c in checks if failed(c)], [c for c in checks if minor(c)]
        problem = no_pair(experiment, path) if paired else ""
        if problem:
            problems.append(problem)
        passed = passed and not bad and not problem
        words = "CHECKS FAILED" if bad else "NO PAIR OF FRAMES" if problem else "all checks passed"
        if small and words == "all checks passed":
            names = ", ".join(check.name for check in small)
            words = f"fit to learn from; a little off: {names}"
        print(f"{path}: {words}")
        print(format_checks(checks))
        result[path.name] = [check._asdict() for check in checks]
    if not result:
        problems, passed = (
            [f"{out} holds no complete run; see reference.nve_time and --runs."],
            False,
        )
    content = {"passed": passed, "runs": result}
    if problems:
        content["problems"] = problems
    atomic_write(out / "report.json", json.dumps(content, indent=1, ensure_ascii=False).encode())
    for problem in problems:
        print(problem, file=sys.stderr)
    if not passed:
        print(
            f"CHECKS FAILED in {out}: do not use these runs before you know why.", file=sys.stderr
        )
    return passed


def no_pair(experiment: Experiment, path: Path) -> str:
    """Say why a run holds no pair of frames one stride apart; "" if it holds one."""
    data, strides = experiment.data, experiment.training.strides
    frames, (_, times) = n_frames(path), read_trajectory(path, 0, 2)
    if len(times) < 2:
        return f"{path} has {frames} frame, and a pair of frames needs 2 or more."
    spacing = float(times[1] - times[0])
    try:
        needed = strides * stride(data.time_step, spacing) + 1
    except ValueError as error:
        return f"{path}: {error}"
    if frames >= needed:
        return ""
    several = f"{strides} strides" if strides > 1 else "a stride"
    return (
        f"{path} has {frames} frames, {spacing:g} fs apart, but {several} of {data.time_step:g} fs "
        f"(data.time_step) needs {needed}: no pair of frames can be made of it. Give a longer "
        "trajectory, fewer runs (reference.runs) or a shorter stride."
    )


def trajectories(
    experiment: Experiment,
    where: Path,
    use: str,
    options: ReadOptions,
    held_out: bool = False,
) -> list[tuple[System, Float[np.ndarray, "time"]]]:
    """Read all runs of a folder, or of a trajectory file, with their times (fs).

    `options` say what a file leaves open; `use` states the purpose of the runs in errors. With
    `held_out`, they are those of validation and test alone.

    Raises:
      FileNotFoundError: there are no complete runs.
    """
    if held_out:
        return [read_trajectory(path) for path in held_out_runs(experiment, where)]
    if where.is_file():
        return runs_of_file(where, options)[0]
    return [read_trajectory(path) for path in folders.runs(experiment, where, use)]


def observables(
    experiment: Experiment,
    where: Path,
    options: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
    held_out: bool = False,
) -> block_observables.Measured:
    """Reference observables, measured on the runs in a folder or a trajectory file.

    Without complete runs in the folder, those that the package ships stand for them. `options` say
    what a file leaves open. With `held_out`, the runs are those of validation and test alone.

    Raises:
      FileNotFoundError: there are neither; or not all validation and test runs, with `held_out`.
    """
    if held_out or where.is_file() or complete_runs(where):
        use = "Observables are those of runs"
        runs = trajectories(experiment, where, use, options, held_out)
        spacing = float(runs[0][1][1] - runs[0][1][0])
        stride = experiment.data.time_step * experiment.rollout.every
        return reference_observables([run for run, _ in runs], spacing, stride, experiment)
    try:
        path = checkpoint.pretrained(experiment.reference_name) / "reference.npz"
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"There are no reference runs in {where}, and the package ships no observables of "
            f"{experiment.name}; make runs by {folders.command(experiment, 'generate')}."
        ) from error
    print(f"There are no reference runs in {where}; the observables in {path} stand for them.")
    return block_observables.load(path)


def held_out_runs(experiment: Experiment, folder: Path) -> list[Path]:
    """Paths of the reference runs that are not trained on: those of validation and test.

    Raises:
      FileNotFoundError: one of them is missing or not complete.
      ValueError: there are none, training uses one of them, or `folder` is a file.
    """
    data = experiment.data
    chosen = dict.fromkeys((*data.validation_runs, *data.test_runs))
    if folder.is_file() or not chosen or set(chosen) & set(data.train_runs):
        raise ValueError(
            "Nothing is held out: settings 'data.validation_runs' and 'data.test_runs' must name "
            "runs that are not in 'data.train_runs', and --reference must be a folder of runs."
        )
    there = complete_runs(folder)
    for path in (run_path(folder, run) for run in chosen):
        if path not in there:
            raise FileNotFoundError(
                f"Forecasts are to be compared with held-out runs, but there is no complete run "
                f"{path}; make it by {folders.command(experiment, 'generate')}."
            )
    return [run_path(folder, run) for run in chosen]


def mode_bands(
    experiment: Experiment,
    where: Path,
    measured: block_observables.Measured,
    options: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
    held_out: bool = False,
) -> Bands | str:
    """Bands of the modes in reference runs, or the reason why there are none.

    Args:
      experiment: that of the runs.
      where: folder of the runs, or a trajectory file.
      measured: their observables, which tell whether atoms diffuse.
      options: what a file leaves open.
      held_out: use the validation and test runs alone.
    """
    runs = _for_modes(experiment, where, options, held_out)
    if not runs:
        return f"there are no reference runs in {where}"
    if runs[0].cell is not None and (moving := comparison.diffusing(measured)):
        return f"{' and '.join(moving)} diffuse, and a fluid has no normal modes"
    try:
        return find_bands(runs)
    except (ValueError, np.linalg.LinAlgError) as error:
        return str(error)


def _for_modes(
    experiment: Experiment, where: Path, options: ReadOptions, held_out: bool
) -> list[System]:
    """Frames of all runs, as many as are used for modes."""
    if where.is_file() and not held_out:
        runs = [run for run, _ in runs_of_file(where, options)[0]]
        return [thinned(run, frames_of_run(run, len(runs))) for run in runs]
    paths = held_out_runs(experiment, where) if held_out else complete_runs(where)
    kept = []
    for path in paths:
        run, _ = read_trajectory(path)
        kept.append(thinned(run, frames_of_run(run, len(paths))))
    return kept
