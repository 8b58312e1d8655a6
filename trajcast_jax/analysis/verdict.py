"""Verdict on a forecast: criteria for a report, each with a limit and the reference's noise.

A criterion is passed, missed, or not decided. It is missed if the deviation exceeds its limit by
more than three standard errors. It is not decided if the forecast or the reference is too short:
the standard error is larger than the limit, or parts of the reference differ from each other by
more than the limit.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

TEMPERATURE = 0.01
"""Largest deviation of the mean temperature, relative to the target (3 K at 300 K)."""
SPECIES = 1 / 30
"""Largest difference of the mean temperatures of two elements, relative to the mean of all atoms
(10 K at 300 K)."""
DRIFT = 1 / 30
"""Largest temperature change over a forecast at constant energy, relative to the mean."""
STRUCTURE = 5.0
"""Largest deviation of g(r), %."""
SPECTRUM = 0.9
"""Smallest overlap of the vibrational densities of states of an element."""
SAME_TEMPERATURE = 0.05
"""Largest relative difference of forecast and reference temperature. Beyond it, structures and
spectra cannot be compared."""
CERTAIN = 3.0
"""Number of standard errors by which a missed criterion must exceed its limit. The errors come from
five blocks: chance exceeds three of them in one case of 25 (Student's t, four degrees of freedom),
and two in one case of eight."""


class Criterion(NamedTuple):
    """One row of a verdict; `passed` is None if it is not decided."""

    name: str
    found: str
    limit: str
    noise: str
    """Value of the reference, or the difference among its parts, in words."""
    passed: bool | None
    why: str = ""
    """Why it is not decided."""


def judge(report: dict) -> dict:
    """Judge a report of `evaluation.compare`.

    Returns:
      A dict of `passed` (True; False if a criterion is missed; None if none is missed but one is
      not decided), `sentence`, and `criteria`, a list of `Criterion` as dicts.
    """
    rows = [_failure(report["failure"])]
    if "temperature" in report:
        rows += [*_temperature(report), *_species(report["temperature"])]
        rows += [*_structure(report), *_spectrum(report)]
    else:
        why = "there are too few frames before the end of the forecast"
        rows.append(Criterion("all others", "–", "–", "–", None, why))
    states = [row.passed for row in rows]
    passed = False if False in states else None if None in states else True
    return {
        "passed": passed,
        "sentence": _sentence(rows, passed),
        "criteria": [row._asdict() for row in rows],
    }


def worst(verdicts: list[dict]) -> bool | None:
    """Combine `passed` of several verdicts: False before None before True."""
    states = [verdict["passed"] for verdict in verdicts]
    return False if False in states else None if None in states else True


def _sentence(rows: list[Criterion], passed: bool | None) -> str:
    if passed:
        return f"Passed: the forecast meets all {len(rows)} criteria."
    missed = [
        f"{row.name}: {row.found} (limit: {row.limit})" for row in rows if row.passed is False
    ]
    if missed:
        return f"NOT passed. {'; '.join(missed)}."
    unsure = [f"{row.name}: {row.why}" for row in rows if row.passed is None]
    return f"Not decided; no criterion is missed. {'; '.join(unsure)}."


def _failure(failure: dict) -> Criterion:
    time = failure["time_ps"]
    found = "none" if time is None else f"after {time:.2f} ps, {failure['reason']}"
    return Criterion("failure", found, "none", "–", time is None)


def decide(deviation: float, error: float | None, limit: float) -> bool | None:
    """Whether a deviation is within its limit; None if its standard error is too large to tell."""
    error = error or 0.0
    if deviation - CERTAIN * error > limit:
        return False
    return True if deviation <= limit and error <= limit else None


def _temperature(report: dict) -> Iterator[Criterion]:
    """Judge the mean temperature, or the drift at constant energy; a ramp is not judged."""
    part = report["temperature"]
    mean, error, target = part["mean_K"], part["mean_K_error"], part["target_K"]
    noise = _with_error(part["reference_mean_K"], part["reference_mean_K_error"], ".1f", " K")
    if target is not None:
        limit = TEMPERATURE * target
        passed = decide(abs(mean - target), error, limit)
        yield Criterion(
            "mean temperature",
            _with_error(mean, error, ".1f", " K"),
            f"{target:g} ± {limit:.3g} K",
            noise,
            passed,
            "" if passed is not None else "the forecast is too short for a mean so exact",
        )
    elif part["constant_energy"] and part["drift_K_per_ps"] is not None:
        duration = report["measured_to_ps"] - report["measured_from_ps"]
        change, limit = duration * part["drift_K_per_ps"], DRIFT * mean
        passed = decide(abs(change), duration * (part["drift_K_per_ps_error"] or 0.0), limit)
        yield Criterion(
            "drift at constant energy",
            f"{change:+.1f} K in {duration:.4g} ps",
            f"± {limit:.3g} K",
            noise,
            passed,
            "" if passed is not None else "fluctuations are larger than the drift allowed",
        )


def _species(part: dict) -> Iterator[Criterion]:
    """Judge the two elements with the largest difference of means minus `CERTAIN` errors."""
    own = {k: (x["mean_K"], x["mean_K_error"] or 0.0) for k, x in part["by_species"].items()}
    found = []
    for (a, (hot, e)), (b, (cold, f)) in combinations(own.items(), 2):
        error = (e**2 + f**2) ** 0.5
        found.append((abs(hot - cold) - CERTAIN * error, abs(hot - cold), error, a, b))
    if not found:
        return
    _, difference, error, a, b = max(found)
    limit = SPECIES * part["mean_K"]
    passed = decide(difference, error, limit)
    yield Criterion(
        "temperatures of elements",
        f"{a} {own[a][0]:.1f}, {b} {own[b][0]:.1f} K: {difference:.1f} ± {error:.1f} K apart",
        f"{limit:.3g} K apart",
        ", ".join(
            f"{k} {x['reference_mean_K']:.1f}"
            for k, x in part["by_species"].items()
            if x["reference_mean_K"] is not None
        )
        or "–",
        passed,
        "" if passed is not None else "the forecast is too short for means so exact",
    )


def _structure(report: dict) -> Iterator[Criterion]:
    scores = {
        pair: (
            own["deviation_percent"],
            own["deviation_percent_error"],
            own["deviation_percent_among_reference"],
        )
        for pair, own in report.get("rdf", {}).items()
    }
    yield _held("g(r)", scores, STRUCTURE, report, "{0:.1f}{1} % off", f"{STRUCTURE:g} % off")


def _spectrum(report: dict) -> Iterator[Criterion]:
    scores = {
        name: (
            1 - own["overlap"],
            own["overlap_error"],
            None if own["overlap_among_reference"] is None else 1 - own["overlap_among_reference"],
        )
        for name, own in report.get("vdos", {}).get("overlap", {}).items()
        if name != "all" or len(report["vdos"]["overlap"]) == 1
    }
    words = "{2:.3f}{1} overlap"
    yield _held("vibrational spectrum", scores, 1 - SPECTRUM, report, words, f"{SPECTRUM} overlap")


def _held(
    name: str, scores: dict, limit: float, report: dict, words: str, stated: str
) -> Criterion:
    """Judge the worst of several scores (deviation, error, deviation among reference parts).

    `words` is a format for results: {0} is the deviation, {1} its error, {2} 1 − deviation.
    """
    if not scores:
        why = (
            f"there is no reference {name}"
            if not report["reference"]
            else "the reference was measured at another interval between frames"
        )
        return Criterion(name, "–", stated, "–", None, why)
    rows = [(_state(score, limit, report), key, score) for key, score in scores.items()]
    order = {False: 0, None: 1, True: 2}
    (passed, why), key, (value, error, noise) = min(
        rows, key=lambda row: (order[row[0][0]], -row[2][0])
    )
    return Criterion(
        name,
        f"{key}: {words.format(value, '' if error is None else f' ± {error:.2g}', 1 - value)}",
        stated,
        "–" if noise is None else words.format(noise, "", 1 - noise),
        passed,
        why,
    )


def _state(score: tuple, limit: float, report: dict) -> tuple[bool | None, str]:
    """Whether one deviation is within the limit, and why it is not decided."""
    value, error, noise = score
    part, reference = report["temperature"], report["reference"]
    at, held = part["reference_mean_K"], part["mean_K"]
    if at is not None and abs(at - (part["target_K"] or held)) > SAME_TEMPERATURE * at:
        return None, f"the reference is at {at:.0f} K, and the forecast is not"
    if noise is None:
        return None, (
            "the reference is a single stretch, so that nothing tells its noise; make at least two "
            "runs"
        )
    # The noise is that of one reference block against the others; shorter forecasts have more.
    block = reference["duration_ps"] / reference["blocks"]
    duration = report["measured_to_ps"] - report["measured_from_ps"]
    own = noise * max(1.0, block / duration) ** 0.5
    if own > limit:
        if value - CERTAIN * (error or 0.0) > 2 * own:
            return False, ""
        if noise > limit:
            needed = reference["duration_ps"] * (noise / limit) ** 2
            return None, (
                "the reference is too short to judge by, for its parts differ from each other by "
                f"more than the limit; it needs about {needed:.2g} ps"
            )
        return (
            None,
            f"the forecast is too short; it needs about {block * (noise / limit) ** 2:.2g} ps",
        )
    passed = decide(value, error, limit)
    return passed, "" if passed is not None else "the deviation is at the limit within its error"


def _with_error(value: float | None, error: float | None, digits: str, unit: str) -> str:
    if value is None:
        return "–"
    return f"{value:{digits}}" + ("" if error is None else f" ± {error:{digits}}") + unit
