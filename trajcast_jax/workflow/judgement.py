"""Last lines of `rollout` and `evaluate`: the verdict, speeds, and a suggested next command."""

import json
from pathlib import Path

from trajcast_jax.analysis.joint_verdict import judge_together
from trajcast_jax.analysis.verdict import worst
from trajcast_jax.analysis.verdict_tables import render_joint, render_verdict
from trajcast_jax.config import Experiment
from trajcast_jax.reference import engine_speed, processor
from trajcast_jax.workflow import folders

LMAX = 2
"""Order l of features that bond bending in crystals and covalent networks needs."""


def conclude(experiment: Experiment, reports: list[dict], model: str | Path | None) -> int:
    """Print the speeds of forecasts and engine, the verdicts, and a suggested next command.

    Args:
      experiment: the experiment of the forecasts.
      reports: results of `write_report`, one per trajectory.
      model: folder of the checkpoint, if it is known.

    Returns:
      The exit status: 1 if a criterion is missed, else 0.
    """
    verdicts, title = [report["verdict"] for report in reports], "Verdict"
    if "ns_per_day" in reports[0]:
        speed, n_atoms = reports[0]["ns_per_day"], reports[0]["n_atoms"]
        speeds = compare_speeds(experiment, speed, n_atoms, reports[0].get("replicas", 1))
        print(f"{speeds}\n" if speeds else "", end="")
    if len(verdicts) == 1:
        text = render_verdict(verdicts[0])
    elif same_temperature(reports):
        verdicts = [judge_together(reports)]
        text = render_joint(verdicts[0])
    else:
        title += "s"
        text = "\n".join(f"{k + 1}. {v['sentence']}" for k, v in enumerate(verdicts))
    print(f"## {title}\n\n{text}\n")
    passed = worst(verdicts)
    print(next_step(experiment, passed, missed(verdicts), model))
    return int(passed is False)


def same_temperature(reports: list[dict]) -> bool:
    """Whether no two forecasts have different target temperatures."""
    parts = [report["temperature"] for report in reports if "temperature" in report]
    return len({part["target_K"] for part in parts}) < 2


def missed(verdicts: list[dict]) -> set[str]:
    """Return the names of the criteria that at least one forecast missed."""
    return {
        row["name"] for verdict in verdicts for row in verdict["criteria"] if row["passed"] is False
    }


def next_step(
    experiment: Experiment, passed: bool | None, names: set[str], model: str | Path | None
) -> str:
    """Suggest the most useful next command, in a sentence."""
    again = folders.command(experiment, "rollout")
    if passed is None:
        return (
            "Next: extend what is too short. A forecast is continued by "
            f"{again} --resume --duration FS; a reference by "
            f"{folders.command(experiment, 'generate')} --runs N."
        )
    if passed:
        return (
            f"Next: two more seeds for error bars, {again} --seed 1, then "
            f"{folders.command(experiment, 'evaluate')} --rollout FOLDER FOLDER FOLDER."
        )
    model = model or f"runs/{experiment.name}/train/best"
    if _lmax(model) < LMAX and names & {"mean temperature", "g(r)", "vibrational spectrum"}:
        return (
            "Next: bending bonds need lmax = 2. Train a new model by "
            f"{folders.command(experiment, 'fit')} --out runs/{experiment.name}/lmax2 "
            f"--set model.lmax={LMAX}, or, if that has been tried, balance the model: "
            f"{_rounds(experiment, model)}"
        )
    if not (experiment.reference.calculator or experiment.reference.commands):
        return (
            "Next: train longer, or on more trajectories. There is no engine (reference.calculator "
            "or reference.commands) to follow the states that the forecasts visit."
        )
    rounds = _rounds(experiment, model)
    return f"Next: train the model on states that its forecasts visit: {rounds}"


def _rounds(experiment: Experiment, model: str | Path) -> str:
    visited = f"runs/{experiment.name}/visited.h5"
    return (
        f"{folders.command(experiment, 'visit')} --checkpoint {model} --out {visited}, then "
        f"{folders.command(experiment, 'balance')} --resume {model} --visited {visited} "
        f"--out runs/{experiment.name}/balanced."
    )


def _lmax(model: str | Path) -> int:
    try:
        return json.loads((Path(model) / "model.json").read_text())["model"]["lmax"]
    except (OSError, KeyError, ValueError):
        return LMAX  # unknown, so no suggestion about it


def compare_speeds(
    experiment: Experiment, ns_per_day: float, n_atoms: int, replicas: int = 1
) -> str:
    """Compare the speeds of the forecast and the reference's engine, in a sentence.

    `ns_per_day` is the speed of all replicas together. The engine made one run at a time, so each
    replica is compared with it. The sentence is empty if there is no record of the engine's speed.
    """
    found = engine_speed(folders.reference(experiment))
    if found is None:
        return ""
    each, theirs, atoms = ns_per_day / replicas, found["ns_per_day"], found["n_atoms"]
    own = f"the forecast {each:.3g} ns/day of {n_atoms} atoms"
    if replicas > 1:
        own = f"each of {replicas} replicas {each:.3g} ns/day of {n_atoms} atoms"
        own += f" ({ns_per_day:.3g} ns/day together)"
    text = (
        f"Speed: {own}, the reference's engine {theirs:.3g} ns/day "
        f"of {atoms} atoms ({found['engine']}, measured when the runs were made"
        f"{'' if found['processor'] == processor() else ', on another machine'})."
    )
    if atoms != n_atoms:
        return f"{text} The sizes differ, so the two speeds cannot be compared."
    ratio = each / theirs
    together = f" (all replicas together: {replicas * ratio:.3g} times)" if replicas > 1 else ""
    if ratio < 1:
        return (
            f"{text} THE FORECAST IS SLOWER, {ratio:.2f} times as fast{together}: use the engine."
        )
    return f"{text} The forecast is {ratio:.3g} times as fast{together}."
