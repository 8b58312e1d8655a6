"""Choose the settings that nobody states, from what trajectories of the system show."""

import dataclasses
import textwrap

from trajcast_jax.config import Experiment, from_dict
from trajcast_jax.workflow.campaign import lengths, rules
from trajcast_jax.workflow.campaign.findings import Findings, formula
from trajcast_jax.workflow.campaign.rules import Choice, Known

WIDTH = 100
"""Characters of a line of the table."""
LONGEST = 24
"""Largest number of characters of a value in the table."""
RULES = (
    rules.temperatures,
    rules.stride,
    lengths.runs,
    lengths.times,
    lengths.pairs,
    rules.substeps,
    rules.cutoff,
    rules.model,
    rules.training,
    rules.rollout,
    rules.thermostat,
    rules.evaluation,
)
"""In order: later rules use what earlier ones have chosen, or what was stated instead."""


def choose(
    experiment: Experiment,
    stated: frozenset[str],
    findings: Findings,
    *,
    hours: float,
    engine: dict | None,
    imported: bool,
) -> tuple[Experiment, list[Choice]]:
    """Choose all settings that are not stated and that trajectories of the system decide.

    Args:
      experiment: with the stated settings, and defaults elsewhere.
      stated: names of the settings that are never changed (`config.stated`).
      findings: what trajectories of this system show.
      hours: time for everything together, of which a quarter may be reference dynamics.
      engine: `reference.engine_speed` of a preflight, or None if it is not known.
      imported: whether the trajectories were brought. They cannot be made longer, and the time
        between their frames is given.

    Returns:
      The experiment with all choices, and the choices in the order of `RULES`.

    Raises:
      ValueError: a stated value contradicts the trajectories.
    """
    found: list[Choice] = []
    for rule in RULES:
        known = Known(experiment, stated, findings, hours, engine, imported)
        own = [choice for choice in rule(known) if choice.setting not in stated]
        experiment = with_choices(experiment, own)
        found += own
    return experiment, found


def with_choices(experiment: Experiment, choices: list[Choice]) -> Experiment:
    """Replace the settings of the choices, and check that the result is an experiment."""
    values = dataclasses.asdict(experiment)
    for choice in choices:
        table, _, name = choice.setting.partition(".")
        values[table][name] = choice.value
    return from_dict(Experiment, values)


def candidates(findings: Findings) -> list[tuple[str, ...]]:
    """Networks that short trials compare, each as changes for `config.changed`.

    The first is the default. Bonds that bend need lmax 2, and an update with lmax 1 takes a third
    of the time. A far field helps where charges move; models of crystals with one heat in larger
    cells, so that it is tried there too but has to gain.
    """
    found = [("model.lmax=2",), ("model.lmax=1",)]
    if findings.polar:
        on = "true" if findings.kind == "solid" else "false"
        found.append(("model.lmax=2", f"model.far_field={on}"))
    return found


def table(experiment: Experiment, choices: list[Choice], stated: frozenset[str]) -> str:
    """Table of settings: name, value, and the measurement it follows from, or "stated"."""
    rows = [(c.setting, _short(c.value), c.because) for c in choices]
    for name in sorted(stated):
        group, _, field = name.partition(".")
        rows.append((name, _short(getattr(getattr(experiment, group), field)), "stated"))
    rows.sort(key=lambda row: (list(_ORDER).index(row[0].partition(".")[0]), row[2] == "stated"))
    heads = ("setting", "value", "from")
    wide = [max(len(row[k]) for row in [heads, *rows]) for k in (0, 1)]
    start = sum(wide) + 4
    lines = []
    for name, value, because in [heads, *rows]:
        words = textwrap.wrap(because, max(30, WIDTH - start)) or [""]
        lines.append(f"{name:{wide[0]}}  {value:{wide[1]}}  {words[0]}".rstrip())
        lines += [" " * start + more for more in words[1:]]
    return "\n".join(lines)


_ORDER = ("reference", "data", "model", "training", "rollout", "evaluation")


def _short(value) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        text = ", ".join(value)
    elif isinstance(value, list | tuple):
        text = " ".join("–".join(x) if isinstance(x, tuple) else str(x) for x in value)
    else:
        text = " ".join(str(value).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def system_in_words(findings: Findings) -> str:
    """One sentence on what the trajectories show, to be printed above the table."""
    f, v = findings, findings.vibration
    where = "isolated" if not f.periodic else f"{f.density:.3g} g/cm³"
    return (
        f"{formula(f.counts)}: a {f.kind}, {where}, {f.temperature:.4g} ± "
        f"{f.temperature_error:.2g} K in {sum(f.durations) * 1e-3:.3g} ps; the stiffest vibration "
        f"({v.atoms}) has {v.wavenumber:.0f} cm⁻¹, a period of {v.period:.3g} fs"
        f"{'' if v.resolved else ', which the frames do not resolve'}."
    )
