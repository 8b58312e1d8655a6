"""Makes the reference trajectories of an experiment: `python -m experiments.generate quartz`."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

import experiments
from experiments import folders
from trajcast_jax.config import Experiment, ReferenceSettings
from trajcast_jax.dataset import stride
from trajcast_jax.io import atomic_write
from trajcast_jax.reference import (
    check_run,
    complete_runs,
    format_checks,
    import_trajectories,
    is_imported,
    reference_md,
    require_settings,
    run_path,
    seed_of,
    stages,
)


def ensure_reference(experiment: Experiment, out: Path | None = None) -> list[Path]:
    """The paths of the experiment's reference runs, made first where they are missing.

    Runs that were imported are taken as they are; runs of other settings are an error, and of
    runs that failed a check it is said.
    """
    out, settings = out or folders.reference(experiment), experiment.reference
    imported, checked = is_imported(out), out / "report.json"
    if not imported:
        seed = seed_of(out)
        require_settings(settings, out, seed)
        if len(complete_runs(out)) < settings.runs:
            simulate(settings, out, seed)
            report(out, settings)
            checked = None  # what failed has just been said
    if checked and checked.exists() and not json.loads(checked.read_text())["passed"]:
        print(f"warning: the runs in {out} failed checks ({checked}).", file=sys.stderr)
    return complete_runs(out)[: None if imported else settings.runs]


def simulate(settings: ReferenceSettings, out: Path, seed: int) -> None:
    """Runs, or goes on with, reference molecular dynamics under a progress bar."""
    plan = stages(settings)
    total = sum(stage.n_frames for stage in plan)
    form = "{desc}{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} ps [{elapsed}<{remaining}]"
    to_ps = settings.save_every * 1e-3
    with tqdm(total=total * to_ps, bar_format=form, desc="reference MD") as bar:
        for index, frames in reference_md(settings, out, seed):
            before = sum(stage.n_frames for stage in plan[:index])
            done, stage = (before + frames) * to_ps, plan[index]
            if not bar.n:  # what an earlier process has done tells nothing about the speed
                bar.initial = bar.n = done
            bar.set_description(stage.kind if stage.run < 0 else f"{stage.kind} {stage.run}")
            bar.update(done - bar.n)


def report(out: Path, settings: ReferenceSettings | None) -> bool:
    """Checks all complete runs, prints and stores the results in report.json; True if all pass."""
    result, passed = {}, True
    for path in complete_runs(out):
        checks = check_run(path, settings)
        good = all(check.passed is not False for check in checks)
        passed = passed and good
        print(f"{path}: {'all checks passed' if good else 'CHECKS FAILED'}")
        print(format_checks(checks))
        result[path.name] = [check._asdict() for check in checks]
    content = {"passed": passed, "runs": result}
    atomic_write(out / "report.json", json.dumps(content, indent=1, ensure_ascii=False).encode())
    if not passed:
        print(
            f"CHECKS FAILED in {out}: do not use these runs before you know why.", file=sys.stderr
        )
    return passed


def main(
    experiment: tyro.conf.Positional[str],
    runs: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    sources: Annotated[tuple[Path, ...], tyro.conf.arg(name="from")] = (),
    time_step: float | None = None,
    set: tuple[str, ...] = (),
) -> None:
    """Makes reference trajectories by molecular dynamics, or from trajectories that exist.

    Args:
      experiment: name of a TOML file in experiments/, or the path of one.
      runs: number of runs; by default the experiment's.
      seed: another seed gives independent runs of the same system.
      out: folder of the runs; by default runs/reference/<name>.
      sources: trajectories with velocities that ASE reads, to take in place of a simulation.
      time_step: fs between the frames of those, where the files do not tell.
      set: settings that differ from the file: reference.ensemble=csvr reference.nve_time=1e6.
    """
    loaded = experiments.load(experiment, set)
    settings = loaded.reference
    if runs is not None:
        settings = dataclasses.replace(settings, runs=runs)
    out = out or folders.reference(loaded)
    if sources:
        import_trajectories(sources, out, settings.runs, time_step=time_step, gap=settings.gap_time)
        settings = None
    else:
        stride(loaded.data.time_step, settings.save_every)  # or nobody could learn from the runs
        simulate(settings, out, seed)
    print(f"Runs are {run_path(out, 0)} and following.")
    if not report(out, settings):
        sys.exit(1)


if __name__ == "__main__":
    experiments.run(lambda: tyro.cli(main))
