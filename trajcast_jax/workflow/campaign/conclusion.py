"""The end of a campaign: a last test on fresh starts and seeds, the model's card, the verdict."""

import dataclasses
import shlex
import shutil
import sys
from pathlib import Path

from trajcast_jax.network import card as cards
from trajcast_jax.network import checkpoint
from trajcast_jax.reading import load_json
from trajcast_jax.workflow.campaign.course import Campaign
from trajcast_jax.workflow.campaign.judging import FORECASTS, Judgement
from trajcast_jax.workflow.campaign.plan import Plan
from trajcast_jax.workflow.campaign.rounds import End, improvements, judge_model
from trajcast_jax.workflow.forecasts import known_of

FRESH = 10_000
"""Seed of the last test; those of rounds are their numbers."""
ENERGIES, ENERGY_TIME = 60, 300.0
"""Most frames of a forecast of the last test whose energies are computed, and seconds for all."""
REJECTED = 2
"""Exit status of a campaign whose model was rejected."""


def conclude(campaign: Campaign, plan: Plan, end: End, name: str) -> int:
    """Test the best model anew, keep it with its card, and say what came of it.

    Returns:
      0 if the model is accepted, 2 if it is rejected.
    """
    best = end.best
    if best.passed is not False:
        step = f"confirmation after round {end.rounds}"
        best = judge_model(
            campaign, plan, step, best.model, FRESH + end.rounds, best.friction, energies(plan)
        )
    accepted = best.passed is not False
    home = keep(campaign, best)
    write_card(campaign, plan, best, accepted, home)
    text = sentences(campaign, plan, end, best, accepted)
    campaign.journal.write(
        event="end", accepted=accepted, model=str(home), reason=end.reason, sentence=best.sentence
    )
    report = (Path(best.folder) / "summary.md").exists()
    print("\n".join([
        "", text, "",
        f"The model is in {home}, the verdict in {best.folder}"
        f"{'/summary.md' if report else ''}, the journal in {campaign.journal.path}.",
        f"Forecast by: python -m experiments.rollout {campaign.settings} --checkpoint {home}",
    ]))  # fmt: skip
    return 0 if accepted else REJECTED


def energies(plan: Plan) -> int:
    """Frames of each forecast whose energies the engine computes in the last test.

    Up to `ENERGIES`, so many as it computes in `ENERGY_TIME` if a frame costs an integration step.
    """
    seconds = plan.engine_seconds(plan.experiment.reference.time_step)
    if not plan.engine or seconds is None:
        return 0
    return min(ENERGIES, int(ENERGY_TIME / seconds / FORECASTS))


def keep(campaign: Campaign, best: Judgement) -> Path:
    """Copy the best checkpoint to `model/`; its folder."""
    home, unfinished = campaign.home / "model", campaign.home / ".model"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(best.model, unfinished)
    shutil.rmtree(home, ignore_errors=True)
    unfinished.rename(home)
    return home


def write_card(campaign: Campaign, plan: Plan, best: Judgement, accepted: bool, home: Path) -> None:
    """Add to the card of a model what its forecasts were measured to do, and how."""
    card = checkpoint.load_card(home)
    if card is None:
        return
    verdict = load_json(Path(best.folder) / "verdict.json")
    known = {field.name for field in dataclasses.fields(cards.Criterion)}
    rows = tuple(
        cards.Criterion(**{k: v for k, v in row.items() if k in known})
        for row in verdict["criteria"]
    )
    folders = sorted(Path(best.folder).glob("forecast_*"))
    settings = dataclasses.replace(plan.experiment.rollout, friction_time=best.friction)
    defaults = {
        f.name: getattr(settings, f.name) for f in dataclasses.fields(cards.RolloutDefaults)
    }
    measured = dataclasses.replace(
        card.measured, accepted=accepted, sentence=best.sentence, criteria=rows,
        forecasts=len(folders), duration=best.duration, source=str(campaign.journal.path),
    )  # fmt: skip
    made = dataclasses.replace(
        card.made,
        command=f"{sys.argv[0]} {shlex.join(sys.argv[1:])}",
        hours=campaign.journal.spent() / 3600,
        model_ns_per_day=speed_of(folders),
    )
    new = dataclasses.replace(
        card, measured=measured, made=made, rollout=cards.RolloutDefaults(**defaults)
    )
    checkpoint.save_card(home, new)


def speed_of(folders: list[Path]) -> float | None:
    """The speed (ns/day) of the fastest of several forecasts; None if it is unknown."""
    found = [known_of(folder / "trajectory.h5") for folder in folders]
    return max((x["ns_per_day"] for x in found if "ns_per_day" in x), default=None)


def sentences(campaign: Campaign, plan: Plan, end: End, best: Judgement, accepted: bool) -> str:
    """What came of a campaign, the most important first."""
    hours = campaign.journal.spent() / 3600
    spent = f"{end.rounds} round{'s' * (end.rounds != 1)} and {hours:.2g} hours"
    ended = f"The rounds ended because {end.reason}."
    if not accepted:
        missed = best.sentence.removeprefix("NOT passed. ")
        return (
            f"REJECTED after {spent}: do not use this model. {missed}\n"
            f"{improvements(best, plan)}\n{ended} The same command with more --hours goes on."
        )
    friction = (
        f" Its forecasts have a friction of {best.friction * 1e-3:g} ps." if best.friction else ""
    )
    undecided = (
        f"\nNot decided, because the reference or the forecasts are too short: "
        f"{', '.join(best.undecided)}."
        if best.undecided
        else ""
    )
    if best.unchecked:
        undecided += f"\nNot checked: {', '.join(best.unchecked)}."
    return (
        f"ACCEPTED after {spent}. On fresh starts and seeds: {best.sentence}{friction}"
        f"{undecided}\n{ended}"
    )
