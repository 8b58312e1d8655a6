"""The card of a model that was made before there were cards, from what is published about it.

Its folder has a start frame and the observables of its reference; experiments/results has pages and
numbers of its forecasts. What none of these tells stays unknown.
"""

import dataclasses
import re
import shlex
from itertools import combinations
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from trajcast_jax import io
from trajcast_jax.config import Experiment, changed
from trajcast_jax.network import checkpoint
from trajcast_jax.network.card import Card, Criterion, Made, Measured, RolloutDefaults
from trajcast_jax.network.familiar import guessed
from trajcast_jax.network.validity import Validity, validity_of
from trajcast_jax.reading import load_json
from trajcast_jax.workflow.command_line import FOLDER

RESULTS = FOLDER / "results"
TEMPERATURE, SPECIES, STRUCTURE, SPECTRUM = 3.0, 10.0, 5.0, 0.95
"""Limits of the pages: K, K, % and overlap."""
SOURCE = "experiments/results/{}"


def shipped_card(experiment: Experiment, folder: Path, results: Path = RESULTS) -> Card:
    """The card of the model in `folder`.

    Args:
      experiment: the experiment whose settings its forecasts had, but for those that the commands
        in its results change.
      folder: checkpoint, start.extxyz and reference.npz.
      results: folder of NAME.json, engines.json and README.md.

    Raises:
      FileNotFoundError: there is no start frame.
    """
    if not (folder / "start.extxyz").exists():
        raise FileNotFoundError(
            f"{folder} has no start.extxyz. A card is written here only for models that come with "
            "a start frame and results; trainings write those of other models by themselves."
        )
    name, values = experiment.name, {}
    if (results / f"{name}.json").exists():
        values = load_json(results / f"{name}.json")
    return Card(
        validity=validity(folder),
        name=name,
        measured=measured(name, values) if values else Measured(),
        rollout=settings(experiment, values.get("commands", [])),
        made=made(experiment, folder, results),
    )


def validity(folder: Path) -> Validity:
    """Where a shipped model is valid.

    Composition, masses and density are those of the start frame, distances those of the reference,
    temperature, neighbours and the longest cell those of the training set, by its statistics.
    """
    forecaster, _ = checkpoint.describe(folder)
    start = io.read(folder / "start.extxyz")
    cutoff = forecaster.settings.cutoff
    known = validity_of(start, forecaster.time_step, cutoff)
    learned = guessed(forecaster.statistics, cutoff, start, 0.0)
    longest = learned.longest_cell and max(known.longest_cell, learned.longest_cell)
    return dataclasses.replace(
        known,
        temperature=learned.temperature,
        neighbors=learned.neighbors,
        longest_cell=longest or known.longest_cell,
        closest=_closest(folder / "reference.npz"),
        fastest={},  # a single frame does not tell
    )


def _closest(path: Path) -> dict[str, float]:
    if not path.exists():
        return {}
    found = {}
    with np.load(path) as values:
        for key in values.files:
            if key.startswith("closest/") and np.isfinite(least := float(values[key].min())):
                pair = key.removeprefix("closest/").split("-")
                found[tuple(sorted(pair, key=atomic_numbers.get))] = round(least, 4)
    order = sorted(found, key=lambda pair: [atomic_numbers[x] for x in pair])
    return {"-".join(pair): found[pair] for pair in order}


def measured(name: str, values: dict) -> Measured:
    """What the forecasts of a results file did."""
    summary, steps = values["summary"], values.get("one_step", {})
    rows = (*_thermal(summary), *_structural(summary["figures"]))
    missed = [row.name for row in rows if row.passed is False]
    count = summary["runs"]
    errors = {key: steps["all"][key]["relative_percent"] for key in steps.get("all", {})}
    return Measured(
        accepted=not missed,
        sentence=(
            f"Held against the reference before there were cards, {count} forecasts "
            + (f"miss {', '.join(missed)}." if missed else f"meet all {len(rows)} criteria.")
        ),
        criteria=rows,
        one_step=errors,
        one_step_pairs=f"{steps['n_pairs']:,} pairs of test runs" if steps else "",
        forecasts=count,
        duration=1e3 * min(summary["duration_ps"]),
        seeds=_seeds(_command(values.get("commands", []))),
        source=SOURCE.format(f"{name}.json"),
    )


def _thermal(summary: dict):
    times = [time for time in summary["failed_after_ps"] if time is not None]
    found = f"after {min(times):.4g} ps" if times else "none"
    yield Criterion("failure", found, "none", passed=not times)
    figures = summary["figures"]
    whole = figures["temperature/mean_K"]
    off = max(abs(kelvin - 300.0) for kelvin in whole["runs"])
    yield Criterion(
        "mean temperature", f"{_value(whole, '.1f')} K", f"300 ± {TEMPERATURE:g} K",
        passed=off <= TEMPERATURE, ratio=off / TEMPERATURE,
    )  # fmt: skip
    kinds = {k.split("/")[2]: x for k, x in figures.items() if "/by_species/" in k}
    apart = [
        (abs(x - y), a, b)
        for a, b in combinations(kinds, 2)
        for x, y in zip(kinds[a]["runs"], kinds[b]["runs"], strict=True)
    ]
    if apart:
        most, a, b = max(apart)
        yield Criterion(
            "temperatures of elements", f"{a} and {b}: {most:.1f} K apart in one forecast",
            f"{SPECIES:g} K apart", passed=most <= SPECIES, ratio=most / SPECIES,
        )  # fmt: skip


def _structural(figures: dict):
    for name, begin, end, limit, words in (
        ("g(r)", "rdf/", "/deviation_percent", STRUCTURE, "{} % off"),
        ("vibrational spectrum", "vdos/overlap/all", "/overlap", SPECTRUM, "{} overlap"),
    ):
        scores = {
            key.removeprefix(begin).removesuffix(end): value
            for key, value in figures.items()
            if key.startswith(begin) and key.endswith(end)
        }
        if not scores:
            continue
        overlap = name != "g(r)"
        worst = (min if overlap else max)(scores, key=lambda x: scores[x]["mean"])
        found = scores[worst]["mean"]
        passed = found >= limit if overlap else found <= limit
        text = words.format(_value(scores[worst], ".3f" if overlap else ".1f"))
        least = (min if overlap else max)(scores[worst]["runs"])
        yield Criterion(
            name,
            f"{worst or 'all atoms'}: {text} on average; {least:.3g} in the worst forecast",
            words.format(f"{limit:g}"),
            passed=passed,
            ratio=(1 - found) / (1 - limit) if overlap else found / limit,
        )


def _value(figure: dict, digits: str) -> str:
    return f"{figure['mean']:{digits}} ± {figure['mean_error']:.1g}"


def settings(experiment: Experiment, commands: list[str]) -> RolloutDefaults:
    """Settings of the forecasts: the experiment's, but for what the first command changes."""
    words, changes = shlex.split(_command(commands).split("(")[0]), []
    if not words:
        return RolloutDefaults()
    if "--set" in words:
        for word in words[words.index("--set") + 1 :]:
            if word.startswith("--"):
                break
            changes.append(word)
    rollout = changed(experiment, tuple(changes)).rollout
    names = (field.name for field in dataclasses.fields(RolloutDefaults))
    return RolloutDefaults(**{name: getattr(rollout, name) for name in names})


def _command(commands: list[str]) -> str:
    return next((x for x in commands if ".rollout " in x), "")


def _seeds(command: str) -> tuple[int, ...]:
    found = re.search(r"--seed (\d+)(?: \(([\d, ]+)\))?", command)
    return tuple(map(int, re.findall(r"\d+", found[0]))) if found else ()


def made(experiment: Experiment, folder: Path, results: Path) -> Made:
    """How a shipped model was made, as far as it is recorded."""
    name, runs = experiment.name, []
    if (results / "engines.json").exists():
        runs = [run for part in load_json(results / "engines.json").values() for run in part]
    case = f"{name} / shipped / float32"
    runs = [(run["machine"], run["cases"][case]) for run in runs if case in run["cases"]]
    speeds = {
        row: [found["rows"][row]["ns_per_day"] for _, found in runs]
        for row in ("stride", "reference step")
    }
    page = results / f"{name}.md"
    return Made(
        command=f"several, in {SOURCE.format(page.name)}" if page.exists() else "",
        version=str(load_json(folder / "model.json").get("version", "")),
        hours=_hours(name, results / "README.md"),
        processor=", ".join(sorted({machine["processor"] for machine, _ in runs})),
        reference=experiment.reference.calculator or "LAMMPS",
        atoms=runs[0][1]["atoms"] if runs else None,
        model_ns_per_day=_mean(speeds["stride"]),
        engine_ns_per_day=_mean(speeds["reference step"]),
    )


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _hours(name: str, page: Path) -> float | None:
    """Hours of training, from the table of all models."""
    if not page.exists():
        return None
    rows = [line.split("|") for line in page.read_text().splitlines() if line.startswith("|")]
    head = next((row for row in rows if any(f"({name}.md)" in cell for cell in row)), [])
    hours = next((row for row in rows if "hours of one core" in row[1]), None)
    if hours is None or not head:
        return None
    return float(hours[[f"({name}.md)" in cell for cell in head].index(True)])
