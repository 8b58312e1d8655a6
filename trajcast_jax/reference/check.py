"""One quantity of a run that is checked, and how checks are shown."""

from typing import NamedTuple


class Check(NamedTuple):
    """One quantity of a run; `passed` is None where there is nothing to hold it against."""

    name: str
    value: float
    unit: str
    expected: str
    passed: bool | None
    serious: bool = True
    """Whether a run that does not pass is of no use."""


def minor(check: Check) -> bool:
    """Whether a check fails, but by so little that the run is fit to learn from."""
    return check.passed is False and not check.serious


def failed(check: Check) -> bool:
    """Whether a check fails so that the run must not be used before one knows why."""
    return check.passed is False and check.serious


def format_checks(checks: list[Check]) -> str:
    """A table of the checks; those that fail say so in capitals."""
    words = {True: "ok", False: "FAILED", None: ""}
    return "\n".join(
        f"  {'minor' if minor(c) else words[c.passed]:6} {c.name:28} {c.value:10.4g} {c.unit:12} "
        f"{c.expected}"
        for c in checks
    )
