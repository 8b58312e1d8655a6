"""The card of a model: where it is valid, what it was measured to do, how it was made.

It is `card.json` in the folder of a checkpoint, with the same in words as `card.md`. What is not
known is None, and reads "not recorded".
"""

import dataclasses
import json
from pathlib import Path

from trajcast_jax.config import from_dict, to_json
from trajcast_jax.config.settings import Count, Natural, NonNegative, Positive
from trajcast_jax.io import atomic_write
from trajcast_jax.network.validity import Validity, joined, validity_of
from trajcast_jax.reading import load_json, reading

__all__ = [
    "Card",
    "Criterion",
    "Made",
    "Measured",
    "RolloutDefaults",
    "Validity",
    "joined",
    "read",
    "render",
    "summary",
    "validity_of",
    "write",
]

FORMAT = 1
"""Version of the format; increased when older cards would be read wrongly."""
JSON, MARKDOWN = "card.json", "card.md"
UNKNOWN = "not recorded"
NOT_JUDGED = "Not judged: no forecast of this model was held against a reference."


@dataclasses.dataclass(frozen=True)
class Criterion:
    """A row of a verdict, as `analysis.verdict` gives it."""

    name: str
    found: str
    limit: str
    noise: str = "–"
    passed: bool | None = None
    """None if it was not decided, for the reason `why`."""
    why: str = ""
    ratio: float | None = None
    """Deviation over limit."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a model was measured to do."""

    accepted: bool | None = None
    """None if its forecasts were not judged, or could not be."""
    sentence: str = NOT_JUDGED
    criteria: tuple[Criterion, ...] = ()
    one_step: dict[str, NonNegative] = dataclasses.field(default_factory=dict)
    """Mean absolute one-step errors in % of the mean absolute value: of "displacements" and
    "velocities"."""
    one_step_pairs: str = ""
    """Of which pairs, in words."""
    forecasts: Count | None = None
    duration: Positive | None = None  # fs, of each forecast
    seeds: tuple[Natural, ...] = ()
    source: str = ""
    """Where the numbers are, if not in a journal beside the model."""


@dataclasses.dataclass(frozen=True)
class RolloutDefaults:
    """Settings (`RolloutSettings`) of the forecasts that were judged; None if not recorded."""

    ensemble: str | None = None
    temperature: Positive | None = None  # K
    time_constant: Positive | None = None  # fs
    friction_time: NonNegative | None = None  # fs; 0 for none
    skin: NonNegative | None = None  # Å
    max_temperature: Positive | None = None  # K
    zero_momentum_every: Natural | None = None  # strides; 0 for never

    def stated(self) -> dict:
        """Those that are recorded, by name."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


@dataclasses.dataclass(frozen=True)
class Made:
    """How a model was made; None and "" where it is not recorded."""

    command: str = ""
    date: str = ""
    version: str = ""
    """Of trajcast_jax."""
    jax: str = ""
    hours: NonNegative | None = None
    processor: str = ""
    reference: str = ""
    """Where the reference comes from: an engine, or trajectories."""
    fingerprint: str = ""
    """Digest of the settings of the reference, or of its sources."""
    pairs: Count | None = None
    """Pairs that were learned from, with those reversed in time."""
    atoms: Count | None = None
    """In the system of which speeds are."""
    engine_ns_per_day: Positive | None = None
    model_ns_per_day: Positive | None = None


@dataclasses.dataclass(frozen=True)
class Card:
    """The card of a model. It is static, so models under `jit` can hold it."""

    validity: Validity
    name: str = ""
    measured: Measured = Measured()
    rollout: RolloutDefaults = RolloutDefaults()
    made: Made = Made()
    weights: str = ""
    """Digest of the weights and settings that it is of (`checkpoint.digest`)."""
    format: int = FORMAT

    def __hash__(self):
        return hash(to_json(self))


def read(folder: str | Path) -> Card | None:
    """Read the card in the folder of a model; None if there is none.

    Raises:
      ValueError: it is damaged, or of another format.
    """
    path = Path(folder) / JSON
    if not path.exists():
        return None
    with reading(path):
        values = load_json(path)
        found = values.get("format")
        if found != FORMAT:
            raise ValueError(
                f"it has format {found!r}, but this version reads cards of format {FORMAT}; "
                "install the version that wrote it, or remove it: a model needs no card."
            )
        return from_dict(Card, values)


def write(folder: str | Path, card: Card) -> None:
    """Write card.json and card.md into the folder of a model.

    Raises:
      ValueError: a value is out of range or not finite.
    """
    text = to_json(card)
    card = from_dict(Card, json.loads(text))
    atomic_write(Path(folder) / JSON, f"{text}\n".encode())
    atomic_write(Path(folder) / MARKDOWN, render(card).encode())


def summary(card: Card) -> str:
    """The first lines of a card: whether it was accepted, and where it is valid."""
    verdict = {True: "Accepted", False: "REJECTED", None: "Not accepted or rejected"}
    known = card.validity
    where = [*known.formulas[:3], _range(known.temperature, "K"), _density(known)]
    where += [f"strides of {known.stride:g} fs" if known.stride else UNKNOWN]
    where = [x for x in where if x != UNKNOWN]
    return (
        f"# Model card{f': {card.name}' if card.name else ''}\n\n"
        f"**{verdict[card.measured.accepted]}.** {card.measured.sentence}\n\n"
        f"Valid for {', '.join(where)}.\n"
    )


def render(card: Card) -> str:
    """A page (Markdown) that a chemist reads once."""
    parts = [
        summary(card),
        "## Where it is valid\n\n" + _table(_valid(card.validity)),
        "Outside of these ranges it has learned nothing, and `rollout` warns.\n",
        "## What it was measured to do\n\n" + _performance(card.measured),
    ]
    settings = card.rollout.stated()
    if settings:
        listed = "\n".join(f"{k} = {json.dumps(v)}" for k, v in settings.items())
        parts.append(
            "## Settings of these forecasts\n\n`rollout` takes those that neither the experiment "
            f"nor an option states.\n\n```toml\n[rollout]\n{listed}\n```\n"
        )
    parts.append("## How it was made\n\n" + _table(_history(card)))
    return "\n".join(parts)


def _valid(known: Validity) -> list[tuple[str, str]]:
    kind = {True: "periodic", False: "isolated", None: UNKNOWN}[known.periodic]
    masses = (f"{x} {_range(known.masses.get(x), 'Da', 5)}" for x in known.species)
    shares = (
        f"{x} {_range(tuple(100 * y for y in share), '%')}" for x, share in known.fractions.items()
    )
    cells = known.shortest_cell and known.longest_cell
    cells = (known.shortest_cell, known.longest_cell) if cells else None
    rows = [
        ("elements and masses", ", ".join(masses)),
        ("composition", ", ".join(known.formulas)),
        ("of the atoms", ", ".join(shares)),
        ("atoms", f"{_range(known.atoms, '')}, {kind}".strip(" ")),
        ("temperature", _range(known.temperature, "K")),
        ("density", _density(known)),
        ("heights of the cell", _range(cells, "Å")),
        (
            f"neighbours within {known.cutoff:g} Å" if known.cutoff else "neighbours",
            _range(known.neighbors, ""),
        ),
        ("closest distances (Å)", _listed(known.closest)),
        ("fastest atoms (Å/fs)", _listed(known.fastest)),
        ("stride", f"{known.stride:g} fs" if known.stride else UNKNOWN),
    ]
    if known.periodic is False:
        rows = [row for row in rows if row[0] not in ("density", "heights of the cell")]
    return rows


def _performance(measured: Measured) -> str:
    lines = []
    if measured.one_step:
        errors = ", ".join(f"{name} {x:.2f} %" for name, x in measured.one_step.items())
        pairs = f" ({measured.one_step_pairs})" if measured.one_step_pairs else ""
        lines.append(f"Errors of one stride{pairs}: {errors}.")
    if measured.forecasts:
        length = f" of {measured.duration * 1e-3:.4g} ps" if measured.duration else ""
        seeds = ", ".join(map(str, measured.seeds))
        lines.append(f"Forecasts: {measured.forecasts}{length}{seeds and f' (seeds {seeds})'}.")
    if measured.source:
        lines.append(f"Numbers are from {measured.source}.")
    if not measured.criteria:
        return "\n".join([*lines, measured.sentence]) + "\n"
    state = {True: "yes", False: "**no**", None: "not decided"}
    head = ("criterion", "found", "limit", "reference", "passed")
    rows = [
        (c.name, c.found, c.limit, c.noise, state[c.passed] + (f": {c.why}" if c.why else ""))
        for c in measured.criteria
    ]
    return "\n".join([*lines, "", _table(rows, head)])


def _history(card: Card) -> list[tuple[str, str]]:
    made = card.made
    of = f" ({made.atoms} atoms)" if made.atoms else ""
    return [
        ("command", f"`{made.command}`" if made.command else ""),
        ("date", made.date),
        ("trajcast_jax; JAX", "; ".join(x for x in (made.version, made.jax) if x)),
        ("hours", "" if made.hours is None else f"{made.hours:.2g}"),
        ("processor", made.processor),
        ("reference", made.reference),
        ("digest of its settings", made.fingerprint[:19]),
        ("pairs learned from", "" if made.pairs is None else f"{made.pairs:,}"),
        (f"speed of the reference's engine{of}", _speed(made.engine_ns_per_day)),
        (f"speed of the model{of}", _speed(made.model_ns_per_day)),
        ("digest of the weights", card.weights[:19]),
    ]


def _speed(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f} ns/day" if value >= 1000 else f"{value:.3g} ns/day"


def _density(known: Validity) -> str:
    if known.number_density is None:
        return UNKNOWN
    atoms = _range(known.number_density, "atoms/Å³")
    return (
        atoms if known.mass_density is None else f"{_range(known.mass_density, 'g/cm³')} ({atoms})"
    )


def _range(values: tuple[float, float] | None, unit: str, digits: int = 4) -> str:
    if values is None:
        return UNKNOWN
    low, high = (f"{x:.{digits}g}" for x in values)
    return f"{low if low == high else f'{low} to {high}'} {unit}".strip()


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('-', '–')} {x:.3g}" for name, x in values.items())


def _table(rows: list[tuple], head: tuple[str, ...] = ("", "")) -> str:
    lines = [head, ("---",) * len(head), *rows]
    texts = [[x.replace("|", "\\|").replace("\n", " ") or UNKNOWN for x in row] for row in lines]
    texts[0] = list(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in texts) + "\n"
