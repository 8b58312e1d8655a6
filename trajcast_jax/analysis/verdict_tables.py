"""Render verdicts as Markdown."""

from collections.abc import Sequence

WORDS = {True: "passed", False: "MISSED", None: "not decided"}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Make a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def render_verdict(verdict: dict) -> str:
    """Render a verdict as Markdown: its sentence, a row for each criterion, what is unchecked."""
    rows = [
        [row["name"], row["found"], row["limit"], row["noise"], WORDS[row["passed"]]]
        for row in verdict["criteria"]
    ]
    head = ["criterion", "forecast", "limit", "reference, or its noise", ""]
    return f"**{verdict['sentence']}**\n\n{table(head, rows)}{_unchecked(verdict)}"


def render_joint(verdict: dict) -> str:
    """Render a verdict on several forecasts: means, the worst forecast, and how many passed."""
    rows = [
        [
            row["name"],
            row["found"],
            row["worst"],
            row["limit"],
            row["noise"],
            f"{WORDS[row['passed']]} ({row['passed_in']} of {row['of']})",
        ]
        for row in verdict["criteria"]
    ]
    head = ["criterion", "mean over forecasts", "worst", "limit", "reference, or its noise", ""]
    return (
        f"**{verdict['sentence']}**\n\n{table(head, rows)}{_unchecked(verdict)}\n\n"
        f"Shortfall: {verdict['shortfall']:.2f} (0 is perfect)."
    )


def _unchecked(verdict: dict) -> str:
    names: dict[str, list[str]] = {}
    for part in verdict.get("unchecked", ()):
        names.setdefault(part["why"], []).append(part["name"])
    parts = [f"{', '.join(own)} ({why})" for why, own in names.items()]
    return f"\n\nNot checked: {'; '.join(parts)}." if parts else ""
