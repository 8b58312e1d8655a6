"""Forecasts that `rollout` wrote: what is known of them, and their drift at constant energy."""

import dataclasses
import json
from pathlib import Path

from trajcast_jax.analysis.criteria import with_error
from trajcast_jax.analysis.evaluation import compare
from trajcast_jax.config import Experiment
from trajcast_jax.io import ReadOptions, atomic_write, read_trajectory
from trajcast_jax.reading import load_json

DRIFT = ("mean_K", "drift_K_per_ps", "drift_K_per_ps_error")
"""What is stated of a forecast at constant energy."""


def state_drift(experiment: Experiment, path: Path, out: Path, options: ReadOptions) -> str:
    """Say how a forecast at constant energy drifts and fails; add it to the verdict.json in `out`.

    It is stated, not judged.
    """
    rollout = dataclasses.replace(experiment.rollout, ensemble="nve")
    trajectory, times = read_trajectory(trajectory_in(path), options=options)
    settings = dataclasses.replace(experiment, rollout=rollout)
    report, _ = compare(trajectory, {}, settings, float(times[1] - times[0]))
    part, time = report.get("temperature", {}), report["failure"]["time_ps"]
    found = {name: part.get(name) for name in DRIFT} | {"failure_ps": time}
    drift = with_error(found["drift_K_per_ps"], found["drift_K_per_ps_error"], ".3g", " K/ps")
    end = "no failure" if time is None else f"a failure after {time:.2f} ps"
    text = f"At constant energy (stated, not judged): {drift} over {report['duration_ps']:.4g} ps"
    found |= {"duration_ps": report["duration_ps"], "sentence": f"{text}, {end}."}
    verdict = load_json(out / "verdict.json") | {"constant_energy": found}
    atomic_write(out / "verdict.json", json.dumps(verdict, indent=1).encode())
    return found["sentence"]


def trajectory_in(path: Path) -> Path:
    """The trajectory of a rollout's folder, or the file itself."""
    return path / "trajectory.h5" if path.is_dir() else path


def known_of(trajectory: Path) -> dict:
    """What `rollout` wrote beside a forecast; {} if unknown.

    `ns_per_day` is its speed (of all `replicas`), `stopped` why it ended early, and `planned_ps`
    its planned duration.
    """
    report, run = trajectory.parent / "report.json", run_of(trajectory)
    known = load_json(report) if report.exists() else {}
    found = {name: known[name] for name in ("ns_per_day", "replicas", "stopped") if name in known}
    if run:
        found["planned_ps"] = run["experiment"]["rollout"]["duration"] * 1e-3
    return found


def run_of(trajectory: Path) -> dict:
    """The content of the run.json of a forecast trajectory; {} if there is none."""
    for folder in (trajectory.parent, trajectory.parent.parent):  # replicas are in subfolders
        if (folder / "run.json").exists():
            return load_json(folder / "run.json")
    return {}
