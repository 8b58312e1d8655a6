"""Verdict on a forecast: criteria for a report, each with a limit and the reference's noise.

A criterion is passed, missed, or not decided; `criteria` holds the rules. What is not in a report
is not judged; what could not be checked is listed.
"""

from statistics import fmean

from trajcast_jax.analysis import structural_criteria, thermal_criteria
from trajcast_jax.analysis.criteria import Criterion, Unchecked

CLIP = 10.0
"""Largest number that one criterion, or an early failure, adds to a shortfall."""
ALL = 12
"""Number of criteria that count if no forecast lasted long enough to be compared."""
TOO_SHORT = "all others"
"""Name of the row of a forecast with too few frames."""


def judge(report: dict) -> dict:
    """Judge a report of `evaluation.compare`.

    Returns:
      A dict of `passed` (True; False if a criterion is missed; None if none is missed but one is
      not decided), `sentence`, `criteria` (a list of `Criterion` as dicts), `unchecked` (a list of
      `Unchecked` as dicts), `survived` (the part of the planned duration before a failure), and
      `shortfall`.
    """
    rows, unchecked = criteria(report)
    states = [row.passed for row in rows]
    passed = False if False in states else None if None in states else True
    found = {
        "passed": passed,
        "sentence": sentence(rows, passed, "the forecast meets"),
        "criteria": [row._asdict() for row in rows],
        "unchecked": [part._asdict() for part in unchecked],
        "survived": _survived(report),
    }
    return found | {"shortfall": shortfall([found])}


def criteria(report: dict) -> tuple[list[Criterion], list[Unchecked]]:
    """The rows of the verdict on a report, and what could not be checked."""
    rows = [thermal_criteria.failure(report)]
    if "temperature" not in report:
        why = "there are too few frames before the end of the forecast"
        return [*rows, Criterion(TOO_SHORT, "–", "–", "–", None, why)], []
    found = [
        *thermal_criteria.temperature(report),
        *thermal_criteria.species(report),
        *thermal_criteria.bands(report),
        structural_criteria.structure(report),
        structural_criteria.spectrum(report),
        *structural_criteria.diffusion(report),
        *structural_criteria.molecules(report),
        *thermal_criteria.energy(report),
    ]
    rows += [row for row in found if isinstance(row, Criterion)]
    return rows, [row for row in found if isinstance(row, Unchecked)]


def shortfall(verdicts: list[dict]) -> float:
    """By how much forecasts of one model fall short, to compare models; 0 is perfect.

    It is the sum over the criteria of deviation / limit, at most `CLIP` each, averaged over the
    forecasts. A failed forecast counts `CLIP` for the failure, the same for each criterion that it
    could not show, and up to `CLIP` more the earlier it failed. A criterion without a number in a
    forecast that did not fail counts `CLIP` if it is missed, else 1. Verdicts of other numbers of
    criteria, such as with and without energies, cannot be compared.
    """
    parts = [{row["name"]: row for row in verdict["criteria"]} for verdict in verdicts]
    names = {name for part in parts for name in part} - {"failure", TOO_SHORT}
    missing = ALL - len(names) if all(TOO_SHORT in part for part in parts) else 0
    return fmean(
        _shortfall(verdict, part, names, missing)
        for verdict, part in zip(verdicts, parts, strict=True)
    )


def _shortfall(verdict: dict, rows: dict[str, dict], names: set[str], missing: int) -> float:
    failed = rows["failure"]["passed"] is False
    total = missing * (CLIP if failed else 1.0)
    if failed:
        total += CLIP * (2 - (verdict.get("survived") or 0.0))
    for name in names:
        row = rows.get(name, {"ratio": None, "passed": None})
        if row["ratio"] is not None:
            total += min(row["ratio"], CLIP)
        else:
            total += CLIP if failed or row["passed"] is False else 1.0
    return total


def _survived(report: dict) -> float:
    """The part of the planned duration before a failure."""
    time = report["failure"]["time_ps"]
    planned = report.get("planned_ps") or report.get("duration_ps")
    if time is None or not planned:
        return 1.0 if time is None else 0.0
    return min(1.0, time / planned)


def worst(verdicts: list[dict]) -> bool | None:
    """Combine `passed` of several verdicts: False before None before True."""
    states = [verdict["passed"] for verdict in verdicts]
    return False if False in states else None if None in states else True


def sentence(rows: list[Criterion], passed: bool | None, subject: str) -> str:
    """Say in words what a verdict is: which criteria are missed, or not decided."""
    if passed:
        return f"Passed: {subject} all {len(rows)} criteria."
    missed = [
        f"{row.name}: {row.found} (limit: {row.limit})" for row in rows if row.passed is False
    ]
    if missed:
        return f"NOT passed. {'; '.join(missed)}."
    unsure = [f"{row.name}: {row.why}" for row in rows if row.passed is None]
    return f"Not decided; no criterion is missed. {'; '.join(unsure)}."
