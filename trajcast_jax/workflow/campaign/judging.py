"""Judge a model by its forecasts from states that it was never trained on."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trajcast_jax import io
from trajcast_jax.config import Experiment
from trajcast_jax.reference import run_path
from trajcast_jax.workflow.campaign.course import Campaign, StageError, Task

FORECASTS = 3
"""Forecasts by which a model is judged."""


class Judgement(NamedTuple):
    """What forecasts of a model show.

    Attributes:
      model: folder of the checkpoint.
      friction: time constant (fs) of the friction of the forecasts; 0 for none.
      duration: of each forecast, fs.
      passed: whether all criteria are met; None if some could not be decided.
      shortfall: one number to compare models by; smaller is better.
      sentence: the verdict in words.
      missed, undecided: names of criteria.
      unchecked: names of those that the reference leaves open.
      folder: where the report is.
    """

    model: str
    friction: float
    duration: float
    passed: bool | None
    shortfall: float
    sentence: str
    missed: list[str]
    undecided: list[str]
    unchecked: list[str]
    folder: str


def judge(
    campaign: Campaign,
    step: str,
    experiment: Experiment,
    model: str | Path,
    *,
    seed: int,
    duration: float,
    friction: float = 0.0,
    forecasts: int = FORECASTS,
    energies: int = 0,
) -> Judgement:
    """Forecast from frames of the held-out runs and hold the forecasts against these runs.

    Args:
      step: name of the step in the journal.
      seed: of the start frames and of the thermostats.
      duration: of each forecast, fs.
      friction: time constant of a friction, fs; 0 for none.
      forecasts: number of forecasts.
      energies: frames of each forecast whose potential energies the engine computes.
    """
    folder = campaign.place(f"judged/{step}")
    starts = start_frames(campaign, experiment, folder, seed, forecasts)
    change = f"rollout.friction_time={friction:g}"
    outs = [folder / f"forecast_{k}" for k in range(forecasts)]
    tasks = [
        _forecast(campaign, step, out, (
            "--checkpoint", model, "--start", start, "--seed", 100 * seed + k,
            "--duration", duration, "--no-report", "--set", change,
        ), k + 1)
        for k, (out, start) in enumerate(zip(outs, starts, strict=True))
    ]  # fmt: skip
    campaign.stage(f"{step}: forecasts", *tasks)
    there = [out for out in outs if (out / "trajectory.h5").exists()]
    if len(there) < forecasts:
        missing = next(t for t, out in zip(tasks, outs, strict=True) if out not in there)
        raise StageError(f"A forecast wrote no trajectory; its output is in {missing.log}.")
    verdict = campaign.task(
        step, "evaluate", "--reference", campaign.reference, "--held-out", "--out", folder,
        *(["--energies", energies] if energies else []),
        "--set", change, f"rollout.duration={duration:g}", "--rollout", *there,
    )  # fmt: skip
    if f"{step}: verdict" not in campaign.journal:
        (folder / "verdict.json").unlink(missing_ok=True)
    campaign.stage(f"{step}: verdict", verdict)
    result = campaign.journal.once(
        step, lambda: read_verdict(folder, verdict.log, str(model), friction, duration)._asdict()
    )
    return Judgement(**result)


def _forecast(campaign: Campaign, step: str, out: Path, options: tuple, part: int) -> Task:
    """The command of a forecast; of one that was interrupted, the command that goes on."""
    if (out / "run.json").exists():
        options = ("--resume", "--no-report")
    return campaign.task(step, "rollout", "--out", out, *options, part=part)


def start_frames(
    campaign: Campaign, experiment: Experiment, folder: Path, seed: int, n: int
) -> list[Path]:
    """Write `n` frames of the held-out runs to files; another seed gives others."""
    data = experiment.data
    runs = [run_path(campaign.reference, k) for k in (*data.test_runs, *data.validation_runs)]
    random = np.random.default_rng((seed, n))
    paths = []
    for k in range(n):
        path = folder / f"start_{k}.h5"
        source = runs[k % len(runs)]
        frame = int(random.integers(io.n_frames(source)))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            frames, _ = io.read_trajectory(source, frame, frame + 1)
            system = frames.replace(positions=frames.positions[0], velocities=frames.velocities[0])
            unfinished = path.with_name(f".{path.name}")
            unfinished.unlink(missing_ok=True)
            with io.H5MDWriter(unfinished, system, 1.0) as writer:
                writer.append(frames)
            unfinished.rename(path)
        paths.append(path)
    return paths


def read_verdict(
    folder: Path, log: Path, model: str, friction: float, duration: float
) -> Judgement:
    """Read the verdict that `evaluate` wrote.

    Raises:
      StageError: there is none.
    """
    path = folder / "verdict.json"
    if not path.exists():
        raise StageError(f"The forecasts in {folder} could not be judged; the reason is in {log}.")
    verdict = json.loads(path.read_text())
    rows = verdict["criteria"]
    return Judgement(
        model, friction, duration,
        verdict["passed"], verdict["shortfall"], verdict["sentence"],
        [row["name"] for row in rows if row["passed"] is False],
        [row["name"] for row in rows if row["passed"] is None],
        [row["name"] for row in verdict.get("unchecked", [])],
        str(folder),
    )  # fmt: skip
