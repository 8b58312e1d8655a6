"""Criteria of a verdict: the rules by which a deviation is passed, missed, or not decided.

A criterion is missed if the deviation exceeds its limit by more than three standard errors. It is
not decided if the forecast or the reference is too short: the standard error is larger than the
limit, or parts of the reference differ from each other by more than the limit.
"""

from collections.abc import Mapping
from typing import NamedTuple

SAME_TEMPERATURE = 0.05
"""Largest relative difference of forecast and reference temperature. Beyond it, structures and
spectra cannot be compared."""
CERTAIN = 3.0
"""Number of standard errors by which a missed criterion must exceed its limit. The errors come from
five blocks: chance exceeds three of them in one case of 25 (Student's t, four degrees of freedom),
and two in one case of eight."""
NOISES = 3.0
"""A limit that is widened by noise is at least this multiple of what parts of the reference differ
by among each other."""


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
    ratio: float | None = None
    """Deviation in units of its limit, so 1 at the limit; None if there is no finite deviation, as
    for a failure."""


class Unchecked(NamedTuple):
    """A criterion that could not be checked."""

    name: str
    why: str


class Score(NamedTuple):
    """The deviation of one quantity (a pair, an element, a bond) from the reference, any unit."""

    value: float
    """Its size counts; infinite if the forecast never shows what the reference shows."""
    error: float | None
    noise: float | None
    """Deviation of one part of the reference from the others."""
    limit: float
    widened: bool = False
    """Whether the limit is at least `NOISES` times the noise, and so never tighter than it."""

    @classmethod
    def of(cls, part: Mapping, name: str, limit: float, widened: bool = False) -> "Score":
        """The score in a part of a report: `name`, `name_error` and `name_among_reference`."""
        value = part[name]
        noise = part.get(f"{name}_among_reference")
        value = float("inf") if value is None else value
        return cls(value, part.get(f"{name}_error"), noise, limit, widened)

    def scaled(self, factor: float) -> "Score":
        """The score in another unit; the limit is in the new unit already."""
        return self._replace(
            value=self.value * factor,
            error=None if self.error is None else self.error * factor,
            noise=None if self.noise is None else self.noise * factor,
        )


def decide(deviation: float, error: float | None, limit: float) -> bool | None:
    """Whether a deviation is within its limit; None if its standard error is too large to tell."""
    error = error or 0.0
    if deviation - CERTAIN * error > limit:
        return False
    return True if deviation <= limit and error <= limit else None


def held(name: str, scores: Mapping[str, Score], report: dict, words: str) -> Criterion:
    """Judge the worst of several scores against the noise of the reference.

    Args:
      name: of the criterion.
      scores: by what they are of.
      report: the report that they are in.
      words: format of a deviation {0}, or {1} = 1 − deviation, and {2}, its error in words.
    """
    if not scores:
        why = (
            f"there is no reference {name}"
            if not report["reference"]
            else "the reference was measured at another interval between frames"
        )
        return Criterion(name, "–", "–", "–", None, why)

    rows = []
    for key, score in scores.items():
        limit = _limit(score, report)
        rows.append((*_state(score, limit, report), abs(score.value) / limit, limit, key, score))
    order = {False: 0, None: 1, True: 2}
    passed, why, ratio, limit, key, score = min(rows, key=lambda row: (order[row[0]], -row[2]))

    def say(value: float, words: str, error: float | None = None) -> str:
        return words.format(value, 1 - value, "" if error is None else f" ± {error:.2g}")

    unsigned = words.replace(":+", ":")
    return Criterion(
        name,
        f"{key}: {say(score.value, words, score.error)}",
        say(limit, unsigned),
        "–" if score.noise is None else say(score.noise, unsigned),
        passed,
        why,
        ratio if ratio < float("inf") else None,
    )


def _own_noise(score: Score, report: dict) -> float:
    """Noise of one reference block, or of the forecast if that is shorter."""
    return score.noise * max(1.0, _block(report) / _duration(report)) ** 0.5


def _block(report: dict) -> float:
    return report["reference"]["duration_ps"] / report["reference"]["blocks"]


def _duration(report: dict) -> float:
    return report["measured_to_ps"] - report["measured_from_ps"]


def _limit(score: Score, report: dict) -> float:
    """The limit, widened by noise; not where noise above the limit leaves it undecided."""
    own = 0.0 if score.noise is None or not score.widened else _own_noise(score, report)
    return score.limit if own > score.limit else max(score.limit, NOISES * own)


def _state(score: Score, limit: float, report: dict) -> tuple[bool | None, str]:
    """Whether one deviation is within `limit`, and why it is not decided."""
    value, error, noise = abs(score.value), score.error, score.noise
    part, reference = report["temperature"], report["reference"]
    at, own_at = part["reference_mean_K"], part["mean_K"]
    if at is not None and abs(at - (part["target_K"] or own_at)) > SAME_TEMPERATURE * at:
        return None, f"the reference is at {at:.0f} K, and the forecast is not"
    if noise is None and reference["blocks"] > 1:
        return None, "the reference is too short, for its parts do not reach what others reach"
    if noise is None:
        return None, (
            "the reference is a single stretch, so that nothing tells its noise; make at least two "
            "runs"
        )
    # The noise is that of one reference block against the others; shorter forecasts have more.
    block, own = _block(report), _own_noise(score, report)
    if own > score.limit:
        beyond = (NOISES if score.widened else 2) * own
        if beyond < value - CERTAIN * (error or 0.0) < float("inf"):
            return False, ""
        if noise > score.limit:
            needed = reference["duration_ps"] * (noise / score.limit) ** 2
            return None, (
                "the reference is too short to judge by, for its parts differ from each other by "
                f"more than the limit; it needs about {needed:.2g} ps"
            )
        needed = block * (noise / score.limit) ** 2
        return None, f"the forecast is too short; it needs about {needed:.2g} ps"
    if value == float("inf"):
        why = "the forecast is too short to reach what the reference reaches"
        return (False, "") if _duration(report) >= block else (None, why)
    passed = decide(value, error, limit)
    return passed, "" if passed is not None else "the deviation is at the limit within its error"


def with_error(value: float | None, error: float | None, digits: str, unit: str) -> str:
    """Format as "x ± error unit"."""
    if value is None:
        return "–"
    return f"{value:{digits}}" + ("" if error is None else f" ± {error:{digits}}") + unit
