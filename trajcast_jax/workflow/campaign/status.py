"""What a campaign has done so far: a table of its steps, and a picture."""

import json
from itertools import accumulate
from pathlib import Path

from matplotlib.figure import Figure

from trajcast_jax import io
from trajcast_jax.analysis import plots
from trajcast_jax.workflow.campaign.journal import FILE, RUNNING, read
from trajcast_jax.workflow.metrics import read_curve

PICTURE = "status.png"


def show(home: Path) -> int:
    """Print the table of a campaign's steps and draw `status.png`; 1 if there is no campaign."""
    path = home / FILE
    if not path.exists():
        print(f"There is no training in {home}; start one without --status.")
        return 1
    records = read(path)
    print(text(records, running(home)))
    if judged(records):
        plots.save(home / PICTURE, lambda: draw(home, records))
        print(f"\nThe picture is {home / PICTURE}.")
    return 0


def running(home: Path) -> dict | None:
    """The step in progress, with its seconds and whether it is `alive`; None if there is none."""
    path = home / RUNNING
    if not path.exists():
        return None
    try:
        with io.locked(home, ""):
            alive = False
    except OSError:
        alive = True
    return json.loads(path.read_text()) | {"alive": alive}


def text(records: list[dict], now: dict | None) -> str:
    """The steps with their durations and results, one a line."""
    steps = timeline(records)
    lines = [f"{hours:6.2f} h  {told}" for hours, record in steps if (told := told_by(record))]
    if now:
        total = (steps[-1][0] if steps else 0.0) + now["seconds"] / 3600
        state = "running" if now["alive"] else "interrupted or failed; its output is in logs/"
        lines.append(f"{total:6.2f} h  {now['step']}: {state}")
    return "\n".join(lines)


def timeline(records: list[dict]) -> list[tuple[float, dict]]:
    """The records, each with the hours that had been used at its end."""
    seconds = accumulate(record.get("seconds", 0.0) for record in records)
    return [(x / 3600, record) for x, record in zip(seconds, records, strict=True)]


def told_by(record: dict) -> str:
    """What a record tells a reader, in a line; "" if nothing."""
    if record.get("event") == "end":
        words = "ACCEPTED" if record["accepted"] else "REJECTED"
        return f"{words}: {record['sentence']}"
    step, result = record.get("step", ""), record.get("result", {})
    if "outcomes" in result:
        failed = [o["message"] for o in result["outcomes"] if o["status"]]
        minutes = record.get("seconds", 0.0) / 60
        judging = step.endswith((": forecasts", ": verdict"))  # which fail where a model is bad
        ended = f"; it failed: {failed[0]}" if failed and not judging else ""
        return f"{step}: {minutes:.1f} min{ended}"
    if "shortfall" in result:
        return f"{step}: shortfall {result['shortfall']:.2f}. {result['sentence']}"
    if step == "trials":
        return f"trials: chosen {' '.join(result['chosen'])}"
    return ""


def judged(records: list[dict]) -> list[tuple[float, dict]]:
    """Hours at which models were judged, and the judgements."""
    return [
        (hours, record["result"] | {"step": record["step"]})
        for hours, record in timeline(records)
        if "shortfall" in record.get("result", {})
    ]


def trained(home: Path, records: list[dict]) -> list[tuple[float, float, float]]:
    """Hours at which trainings ended, with their errors (%) of displacements and velocities."""
    found = []
    for hours, record in timeline(records):
        for command in record.get("result", {}).get("commands", []):
            words = command.split()
            path = (
                Path(words[words.index("--out") + 1]) / "metrics.csv" if "--out" in words else home
            )
            if "experiments.fit" in words and path.exists():
                curve = read_curve(path)
                if len(curve["update"]):
                    names = ("displacement_error", "velocity_error")
                    found.append((hours, *(float(curve[name][-1]) for name in names)))
    return found


def draw(home: Path, records: list[dict]) -> Figure:
    """Shortfalls of all judged models, and errors of all trainings, over the hours."""
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for hours, result in judged(records):
        passed = result["passed"] is not False
        above.plot(hours, result["shortfall"], "o", color="tab:green" if passed else "tab:red")
        above.annotate(result["step"], (hours, result["shortfall"]), fontsize=6, rotation=20)
    above.set(ylabel="shortfall (green: passed)", ylim=(0, None))
    errors = trained(home, records)
    for column, name in ((1, "displacements"), (2, "velocities")):
        below.plot([row[0] for row in errors], [row[column] for row in errors], "o-", label=name)
    below.set(
        xlabel="time used (h)", ylabel="error of one stride (%)", xlim=(0, None), ylim=(0, None)
    )
    below.legend()
    return figure
