"""Before anything long: a few ps of reference MD, and the settings that follow from it."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
from ase.data import chemical_symbols

from trajcast_jax import io
from trajcast_jax.config import Experiment, from_dict, to_json
from trajcast_jax.config.writing import to_toml
from trajcast_jax.data import frame_pairs, statistics
from trajcast_jax.dynamics.ensemble import nve
from trajcast_jax.dynamics.rollout import rollout, simulator
from trajcast_jax.io import atomic_write
from trajcast_jax.neighbors.graph import neighbor_list
from trajcast_jax.network import checkpoint
from trajcast_jax.network.forecast import Forecaster, TrainedForecast
from trajcast_jax.reference import (
    complete_runs,
    engine_speed,
    is_imported,
    known_settings,
)
from trajcast_jax.units import FS_PER_DAY_TO_NS
from trajcast_jax.workflow.campaign import lengths
from trajcast_jax.workflow.campaign.choices import candidates, choose, system_in_words, table
from trajcast_jax.workflow.campaign.course import Campaign, StageError
from trajcast_jax.workflow.campaign.findings import find
from trajcast_jax.workflow.campaign.plan import Plan
from trajcast_jax.workflow.campaign.sources import Source
from trajcast_jax.workflow.campaign.stages import Outcome, Task
from trajcast_jax.workflow.timing import timed

IMPORTING = ".importing"
"""File in the folder of a campaign while it imports into a folder that was not there before."""
STRIDES = 10
"""Strides of a network with random weights that are timed."""


def prepare(campaign: Campaign, source: Source) -> Plan:
    """Measure the system, choose the settings that are not stated, and write them to a TOML file.

    Prints the table of choices, and how long the reference will take.

    Raises:
      StageError: the preflight failed.
    """
    source = with_runs(campaign, source)
    if source.trajectories:
        runs, engine = imported(campaign, source), None
    elif is_imported(campaign.reference):
        runs, engine = complete_runs(campaign.reference), None
    else:
        runs, engine = preflight(campaign, source)

    def make() -> dict:
        trajectories = [io.read_trajectory(path) for path in runs]
        interval = float(np.diff(trajectories[0][1][:2])[0])
        findings = find([run for run, _ in trajectories], interval)
        require_known(source.model, set(findings.counts))
        experiment, choices = choose(
            source.experiment, source.stated, findings,
            hours=campaign.hours, engine=engine, imported=is_imported(campaign.reference),
        )  # fmt: skip
        return {
            "experiment": json.loads(to_json(experiment)),
            "choices": [choice._asdict() for choice in choices],
            "kind": findings.kind,
            "elements": len(findings.counts),
            "system": system_in_words(findings),
            "candidates": [list(c) for c in candidates(findings) if _free(c, source.stated)],
            "table": table(experiment, choices, source.stated),
            "forecast_ns_per_day": stride_speed(experiment, runs[0]),
        }

    record = campaign.journal.once(settings_step(campaign), make)
    experiment = from_dict(Experiment, record["experiment"])
    write_settings(campaign.settings, experiment, record["choices"])
    speed = engine["ns_per_day"] if engine else None
    print(f"{record['system']}\n\n{record['table']}\n")
    print(outlook(experiment, speed, record["forecast_ns_per_day"], campaign.hours), flush=True)
    chosen = tuple(tuple(changes) for changes in record["candidates"])
    has_engine = bool(experiment.reference.calculator or experiment.reference.commands)
    model = str(source.model) if source.model else ""
    return Plan(experiment, record["kind"], record["elements"], has_engine, speed, model, chosen)


def require_known(model: Path | None, elements: set[str]) -> None:
    """Raise a StageError if the model that training starts from lacks an element."""
    if model is None:
        return
    known = {chemical_symbols[z] for z in checkpoint.describe(model)[0].statistics.species}
    if elements - known:
        raise StageError(
            f"{model} knows {', '.join(sorted(known))} only, but the system has "
            f"{', '.join(sorted(elements))}; train without it, or start from another model."
        )


def settings_step(campaign: Campaign) -> str:
    """The step that chooses settings: anew for other hours, until there is a reference."""
    steps = [record.get("step", "") for record in campaign.journal.records]
    known = [step for step in steps if step.startswith("settings for ")]
    if known and any(step.startswith(("reference", "trials", "round")) for step in steps):
        return known[-1]
    return f"settings for {campaign.hours:g} hours"


def with_runs(campaign: Campaign, source: Source) -> Source:
    """The source, with the settings that runs in the reference folder were made with as stated."""
    known = known_settings(campaign.reference)
    new = {k: v for k, v in known.items() if f"reference.{k}" not in source.stated}
    if not new:
        return source
    values = dataclasses.asdict(source.experiment)
    values["reference"] |= new
    names = frozenset(f"reference.{k}" for k in new)
    return source._replace(experiment=from_dict(Experiment, values), stated=source.stated | names)


def _free(changes: tuple[str, ...], stated: frozenset[str]) -> bool:
    """Whether a candidate changes only what nobody has stated."""
    return not any(change.partition("=")[0].strip() in stated for change in changes)


def write_settings(path: Path, experiment: Experiment, choices: list[dict]) -> None:
    """Write settings as TOML, with the reason of each choice as a comment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    comments = {choice["setting"]: choice["because"] for choice in choices}
    atomic_write(path, to_toml(experiment, comments).encode())


def imported(campaign: Campaign, source: Source) -> list[Path]:
    """Import the trajectories of a source as reference runs; their paths."""
    write_settings(campaign.settings, source.experiment, [])
    unfinished = campaign.home / IMPORTING
    if "import" not in campaign.journal:
        if unfinished.exists():  # an import that failed, perhaps with other options
            shutil.rmtree(campaign.reference, ignore_errors=True)
        elif not campaign.reference.exists():
            unfinished.touch()
    open_stride = () if "data.time_step" in source.stated else ("--set", "data.time_step=auto")
    task = campaign.task(
        "import", "generate", "--out", campaign.reference, *source.reading, *open_stride,
        "--from", *source.trajectories,
    )  # fmt: skip
    campaign.need("import", task, unreadable)
    unfinished.unlink(missing_ok=True)
    return complete_runs(campaign.reference)


def unreadable(outcomes: list[Outcome]) -> str:
    """Why an import failed; "" if it did not."""
    status, message = outcomes[0]
    hint = " A structure alone needs --calculator and --temperature." * ("velocities" in message)
    return f"{message or 'no reason was given.'}{hint}" if status else ""


def preflight(campaign: Campaign, source: Source) -> tuple[list[Path], dict | None]:
    """Simulate a few ps; the paths of the runs, and the record of the engine's speed.

    Raises:
      StageError: the engine failed.
    """
    folder = campaign.home / "preflight"
    settings = lengths.preflight(source.experiment.reference)
    path = campaign.home / "preflight.toml"
    write_settings(path, Experiment("preflight", reference=settings), [])
    log = campaign.home / "logs" / "preflight.log"
    task = Task("generate", (str(path), "--out", str(folder), "--set", "data.time_step=1"), log)
    # Checks of so short runs may fail by chance.
    campaign.need(
        "preflight",
        task,
        lambda outcomes: "" if complete_runs(folder) else outcomes[0].message or "no run.",
    )
    return complete_runs(folder), engine_speed(folder)


def stride_speed(experiment: Experiment, run: Path) -> float:
    """ns/day of forecasts of a run's first frame by a network with random weights."""
    model = experiment.model
    run_frames = io.read_trajectory(run)
    pairs = frame_pairs([run_frames], experiment.data.time_step, model.cutoff, 20)
    far = (model.cutoff, experiment.data.time_step) if model.far_field else None
    forecaster = Forecaster(model, statistics(pairs, far=far), experiment.data.time_step)
    trained = TrainedForecast(forecaster.init(0), forecaster)
    start = jax.tree.map(lambda x: x[0], pairs.system)
    neighbors = neighbor_list(start.cell, model.cutoff, experiment.rollout.skin)
    # Weights are random, so that the system is put back after each stride.
    still = lambda system, listed: start.replace(  # noqa: E731
        positions=start.positions + 0 * trained.forecast(system, listed).positions
    )
    sim = simulator(still, neighbors, nve(), experiment.data.time_step)
    state = sim.init(jax.random.key(0), start)
    many = jax.jit(rollout(sim.step, STRIDES))
    seconds = timed(lambda: many(state), 3)["wall_s"]
    return STRIDES * experiment.data.time_step / seconds * FS_PER_DAY_TO_NS


def outlook(experiment: Experiment, engine: float | None, ours: float, hours: float) -> str:
    """What to expect: how long the reference takes, and whether a forecast can pay."""
    reference = experiment.reference
    atoms_time = reference.npt_time + reference.nvt_time
    atoms_time += reference.runs * (reference.nve_time + reference.gap_time)
    lines = []
    if engine:
        taken = atoms_time * FS_PER_DAY_TO_NS / engine / 3600
        ratio = ours / engine
        lines.append(
            f"The reference, {atoms_time * 1e-3:.4g} ps, will take about {taken:.2g} hours of the "
            f"{hours:g}; training, visits and forecasts take the rest."
        )
        lines.append(
            f"The engine makes {engine:.3g} ns/day here, and a forecast of this size about "
            f"{ours:.3g} ns/day: {ratio:.3g} times as fast."
            + (" A FORECAST WILL NOT PAY: use the engine." if ratio < 1 else "")
        )
    else:
        lines.append(f"A forecast of this size makes about {ours:.3g} ns/day here.")
    return "\n".join(lines)
