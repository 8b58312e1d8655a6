"""Tabulate campaigns of `train`: `python -m experiments.autonomy runs/silicon runs/copper`.

Writes autonomy.json (the journal, the settings and the card of each campaign) and autonomy.md (a
table) into the results. Nothing is measured anew.
"""

import dataclasses
import json
from pathlib import Path

import tyro

import experiments
from trajcast_jax.config.settings import ABOVE_0
from trajcast_jax.io import atomic_write
from trajcast_jax.workflow.campaign.journal import FILE, read
from trajcast_jax.workflow.campaign.status import timeline, told_by
from trajcast_jax.workflow.command_line import require_within

RESULTS = Path(__file__).parent / "results"
HEAD = """# Campaigns without a hand

Each row is one command, `python -m experiments.train`, from nothing but the files named, with no
setting by hand but those of the physics. Verdicts are of the confirmation: three forecasts from
frames, with seeds, that no round has seen. {machine}

"""
COLUMNS = (
    "system", "reference", "hours", "rounds", "verdict", "mean temperature", "g(r)",
    "vibrational spectrum", "friction", "ns/day: forecast, engine",
)  # fmt: skip


@dataclasses.dataclass
class Arguments:
    """Tabulate campaigns of `train`."""

    campaigns: tyro.conf.Positional[tuple[Path, ...]]
    """Their folders (runs/NAME)."""
    cores: float = 2
    """Cores that they had, to be told in the table."""
    note: str = ""
    """What a reader must know besides, in sentences."""
    out: Path = RESULTS


def main(arguments: Arguments) -> None:
    """Write autonomy.json and autonomy.md."""
    require_within("--cores", arguments.cores, ABOVE_0)
    path = arguments.out / "autonomy.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    for home in arguments.campaigns:
        known[home.name] = gathered(home) | {"cores": arguments.cores, "note": arguments.note}
    atomic_write(path, (json.dumps(known, indent=1, ensure_ascii=False) + "\n").encode())
    atomic_write(arguments.out / "autonomy.md", page(known).encode())
    print(f"The table is in {arguments.out / 'autonomy.md'}.")


def gathered(home: Path) -> dict:
    """Journal, settings and card of a campaign that has ended.

    Raises:
      ValueError: it has not.
    """
    records = read(home / FILE)
    if not records or records[-1].get("event") != "end":
        raise ValueError(f"The campaign in {home} has not ended; run its command again.")
    settings = [path for path in home.glob("*.toml") if path.stem != "preflight"]
    return {
        "hours": round(timeline(records)[-1][0], 2),
        "journal": records,
        "settings": settings[0].read_text() if settings else "",
        "card": json.loads((home / "model" / "card.json").read_text()),
    }


def page(known: dict) -> str:
    """The table of all campaigns, and what became of each in words."""
    made = [entry["card"]["made"] for entry in known.values()]
    machines = sorted({f"{m['processor']}, JAX {m['jax']}" for m in made})
    lines = [
        HEAD.format(machine=f"Made on {'; '.join(machines)}."),
        f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n",
        *(f"| {' | '.join(row(name, entry))} |\n" for name, entry in known.items()),
    ]
    for name, entry in known.items():
        note = f" {entry['note']}" if entry["note"] else ""
        lines += [f"\n## {name}\n\n", f"`{entry['card']['made']['command']}`{note}\n\n"]
        lines += [f"{told(entry)}\n"]
    return "".join(lines)


def row(name: str, entry: dict) -> list[str]:
    """Cells of a campaign in the table."""
    card, end = entry["card"], entry["journal"][-1]
    found = {c["name"]: c["found"] for c in card["measured"]["criteria"]}
    steps = [r["step"] for r in entry["journal"] if r.get("step", "").startswith("round ")]
    rounds = {step.split()[1].rstrip(":") for step in steps if " judge" in step}
    friction = card["rollout"]["friction_time"] if card.get("rollout") else 0
    speeds = [card["made"][k] for k in ("model_ns_per_day", "engine_ns_per_day")]
    return [
        name,
        card["made"]["reference"],
        f"{entry['hours']:.2f} on {entry['cores']:g} core{'s' * (entry['cores'] != 1)}",
        str(len(rounds)),
        "accepted" if end["accepted"] else "REJECTED",
        *(found.get(c, "–").replace("|", "/") for c in COLUMNS[5:8]),
        f"{friction * 1e-3:g} ps" if friction else "none",
        ", ".join(f"{x:.3g}" if x else "–" for x in speeds),
    ]


def told(entry: dict) -> str:
    """Every judgement of a campaign, and how it ended."""
    lines = [
        f"- {hours:.2f} h, {told_by(record)}"
        for hours, record in timeline(entry["journal"])
        if "shortfall" in record.get("result", {})
    ]
    return "\n".join([*lines, f"- The rounds ended because {entry['journal'][-1]['reason']}."])


if __name__ == "__main__":
    experiments.run(lambda: main(tyro.cli(Arguments)))
