"""Verdict on several forecasts of one system together.

Each criterion is judged on the mean over the forecasts, and is missed too if one of them misses it.
"""

from collections.abc import Sequence
from statistics import fmean, stdev

from trajcast_jax.analysis.criteria import Criterion
from trajcast_jax.analysis.verdict import criteria, judge, sentence, shortfall


def judge_together(reports: Sequence[dict]) -> dict:
    """Judge several reports of `evaluation.compare` together.

    A criterion is missed if the mean over the forecasts misses it, or one forecast does. Standard
    errors are those over the forecasts, or those of the blocks in them if these are larger.

    Returns:
      A dict as of `verdict.judge`, without `survived`. Rows have three more entries: `worst` (the
      worst forecast, numbered from 1, and its value), `passed_in` and `of` (numbers of forecasts).
    """
    verdicts = [judge(report) for report in reports]
    if len(reports) == 1:
        alone = verdicts[0]
        rows = [_alone(row) for row in alone["criteria"]]
        return {k: x for k, x in alone.items() if k != "survived"} | {"criteria": rows}
    compared = [report for report in reports if "temperature" in report]
    rows, unchecked = criteria(mean_report(compared or reports))
    rows[0] = _failures(reports)
    own = [{row["name"]: row for row in verdict["criteria"]} for verdict in verdicts]
    joint = [_joint(row, [rows.get(row.name) for rows in own]) for row in rows]
    states = [row["passed"] for row in joint]
    passed = False if False in states else None if None in states else True
    fields = [Criterion(**{k: row[k] for k in Criterion._fields}) for row in joint]
    return {
        "passed": passed,
        "sentence": sentence(fields, passed, f"{len(reports)} forecasts meet"),
        "criteria": joint,
        "unchecked": [part._asdict() for part in unchecked],
        "shortfall": shortfall(verdicts),
    }


def _alone(row: dict) -> dict:
    return row | {"worst": row["found"], "passed_in": int(row["passed"] is True), "of": 1}


def _failures(reports: Sequence[dict]) -> Criterion:
    """The row of failures: how many failed, and the earliest of them."""
    failed = [r["failure"] for r in reports if r["failure"]["time_ps"] is not None]
    if not failed:
        return Criterion("failure", f"none in {len(reports)}", "none", "–", True, ratio=0.0)
    first = min(failed, key=lambda part: part["time_ps"])
    found = f"{len(failed)} of {len(reports)}, the first after {first['time_ps']:.2f} ps, "
    return Criterion("failure", found + first["reason"], "none", "–", False)


def _joint(row: Criterion, own: list[dict | None]) -> dict:
    """A row for the mean, made a miss if one of the forecasts' `own` rows is one."""
    order = {False: 0, None: 1, True: 2}
    shown = [(k, part) for k, part in enumerate(own, 1) if part is not None]
    worst, text = None, "–"
    if shown:
        k, worst = min(shown, key=lambda x: (order[x[1]["passed"]], -(x[1]["ratio"] or 0.0)))
        text = f"forecast {k}: {worst['found']}"
    if row.passed is not False and worst and worst["passed"] is False:
        row = row._replace(passed=False, why="", found=f"{row.found}; {text}")
    passed_in = sum(part["passed"] is True for _, part in shown)
    return row._asdict() | {"worst": text, "passed_in": passed_in, "of": len(own)}


def mean_report(reports: Sequence[dict]) -> dict:
    """The mean of reports: of every number `x`, with its standard error as `x_error`.

    The error is that over the reports, or that of their own errors if this is larger. A number that
    one of the reports lacks is the mean of the others.
    """
    merged = {}
    for name in dict.fromkeys(name for report in reports for name in report):
        values = [report.get(name) for report in reports]
        there = [value for value in values if value is not None]
        if there and all(isinstance(value, dict) for value in there):
            merged[name] = mean_report(there)
        elif there and all(_is_number(value) for value in there):
            merged[name] = fmean(there)
        else:
            merged[name] = there[0] if there else None
    for name in merged:
        if f"{name}_error" in merged and merged[name] is not None:
            merged[f"{name}_error"] = _error(reports, name)
    return merged


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _error(reports: Sequence[dict], name: str) -> float | None:
    """Standard error of the mean of `name` over reports; None if it is unknown."""
    values = [report[name] for report in reports if report.get(name) is not None]
    errors = [report.get(f"{name}_error") for report in reports]
    known = [error for error in errors if error is not None]
    found = []
    if len(values) > 1:
        found.append(stdev(values) / len(values) ** 0.5)
    if known:
        found.append(sum(error**2 for error in known) ** 0.5 / len(known))
    return max(found, default=None)
