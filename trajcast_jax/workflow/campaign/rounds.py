"""Rounds: train, judge by forecasts, visit, balance, judge again, until the model is accepted.

Every choice follows from recorded results, so that an interrupted campaign makes it again.
"""

from pathlib import Path
from typing import NamedTuple

from trajcast_jax.workflow.campaign.course import Campaign, StageError
from trajcast_jax.workflow.campaign.cures import balance, balances, visit
from trajcast_jax.workflow.campaign.judging import Judgement, judge
from trajcast_jax.workflow.campaign.plan import Plan

FIRST, LATER = 0.3, 0.15
"""Shares of the time left that the trainings of the first and of later rounds take."""
TRIALS = 0.12
"""Share of the time left that all trials together take."""
SHORTEST_TRIAL = 120.0
"""Seconds; shorter trials tell nothing, and are left out."""
ENOUGH_PASSES = 2
"""Rounds in a row that pass, after which a campaign ends."""
PATIENCE = 3
"""Rounds without gain, after which it ends."""
LATER_RATE = 0.5
"""Factor on the learning rate in rounds after the first."""
RATES = (1.0, 0.5, 0.25)
"""Factors on the learning rate that are tried in turn where a training diverges."""
FRICTIONS = (20_000.0, 5_000.0, 1_000.0)
"""Friction times (fs) that are tried in turn, the weakest first."""
BRIEFLY = 0.25
"""Share of the duration of forecasts of those by which bad models are recognised."""
TRIAL_SEED, BRIEFLY_SEED = 1_000, 2_000
"""Seeds of forecasts; those of full length have the number of their round."""


class End(NamedTuple):
    """How the rounds ended: the best model, the number of rounds, and the reason in words."""

    best: Judgement
    rounds: int
    reason: str


def run_rounds(campaign: Campaign, plan: Plan) -> End:
    """Run rounds until two in a row pass, the budget is spent, or three bring no gain."""
    best, passes, stale, visited = None, 0, 0, []
    model, number = plan.model or try_sizes(campaign, plan), 0
    while True:
        ok = best is not None and best.passed is not False
        friction = best.friction if ok else plan.experiment.rollout.friction_time
        number += 1
        found = one_round(campaign, plan, number, model, visited, friction)
        passes = passes + 1 if found.passed is not False else 0
        better = best is None or rank(found) < rank(best)
        best, stale = (found, 0) if better else (best, stale + 1)
        print(f"Round {number}: {found.sentence}", flush=True)
        if passes >= ENOUGH_PASSES:
            return End(best, number, f"{passes} rounds in a row passed")
        if stale >= PATIENCE:
            return End(best, number, f"{PATIENCE} rounds brought no gain")
        model = best.model
        if not another_fits(campaign, number):
            return End(best, number, "another round does not fit into the hours that are left")


def rank(found: Judgement) -> tuple[bool, float]:
    """Order of models: those that pass first, then by the shortfall."""
    return found.passed is False, found.shortfall


def judging(campaign: Campaign) -> float:
    """Seconds that the longest judgement so far has taken."""
    records = [r for r in campaign.journal.records if "seconds" in r]
    kinds = (": forecasts", ": verdict")
    longest = [
        max((r["seconds"] for r in records if r["step"].endswith(k)), default=0.0) for k in kinds
    ]
    return sum(longest)


def another_fits(campaign: Campaign, number: int) -> bool:
    """Whether half of the last round, and a confirmation, fit into the time that is left."""
    records = [r for r in campaign.journal.records if "seconds" in r]
    last = sum(r["seconds"] for r in records if r["step"].startswith(f"round {number} "))
    return campaign.affords(f"round {number + 1}", 0.5 * last + judging(campaign))


def one_round(
    campaign: Campaign, plan: Plan, number: int, model: str | None, visited: list[str],
    friction: float,
) -> Judgement:  # fmt: skip
    """Train, then cure what the forecasts show; adds files of visited pairs to `visited`.

    `friction` (fs) is that with which the model has passed before, or the experiment's.
    """
    name = f"round {number}"
    share = FIRST if number == 1 else LATER
    rate = plan.experiment.training.learning_rate
    if number > 1 or plan.model:
        rate *= LATER_RATE
    seconds, adapt = share * campaign.left(), number == 1 and bool(plan.model)
    fitted = train(campaign, f"{name} fit", model, visited, seconds, rate, adapt)
    best = judge_model(campaign, plan, f"{name} judge", fitted, number, friction)
    if best.passed is not False:
        return best
    if not campaign.affords(f"{name} cures", 2 * judging(campaign)):
        return best
    if plan.engine and (file := visit(campaign, plan, f"{name} visit", best.model, number)):
        visited.append(file)
    for modes in balances(plan):
        step = f"{name} balance{' modes' if modes else ''}"
        if not campaign.affords(step, 2 * judging(campaign)):
            return best
        balanced = balance(campaign, plan, step, best.model, visited, modes)
        if balanced is not None:
            found = judge_model(campaign, plan, f"{step} judge", balanced, number, friction)
            best = min(best, found, key=rank)
        if best.passed is not False:
            return best
    return with_friction(campaign, plan, name, best, number)


def judge_model(
    campaign: Campaign, plan: Plan, step: str, model: str, seed: int, friction: float,
    energies: int = 0,
) -> Judgement:  # fmt: skip
    """Judge a model with a friction time (fs), by forecasts of the experiment's duration.

    Shorter ones come first, and suffice if they miss a criterion. The engine computes the energies
    of so many frames of each long one.
    """
    duration = plan.experiment.rollout.duration
    short = judge(
        campaign, f"{step} briefly", plan.experiment, model,
        seed=BRIEFLY_SEED + seed, duration=BRIEFLY * duration, friction=friction,
    )  # fmt: skip
    if short.passed is False:
        return short
    return judge(
        campaign, step, plan.experiment, model,
        seed=seed, duration=duration, friction=friction, energies=energies,
    )  # fmt: skip


def with_friction(
    campaign: Campaign, plan: Plan, name: str, found: Judgement, seed: int
) -> Judgement:
    """The weakest friction with which a model passes; without any, what is best."""
    settings = plan.experiment.rollout
    if settings.friction_time or settings.ensemble == "nve":
        return found
    tried = [found]
    for friction in FRICTIONS:
        if 0 < found.friction <= friction:  # it has been tried
            continue
        step = f"{name} friction {friction:g}"
        if not campaign.affords(step, 2 * judging(campaign)):
            break
        tried.append(judge_model(campaign, plan, step, found.model, seed, friction))
        if tried[-1].passed is not False:
            break
    return min(tried, key=rank)


def train(
    campaign: Campaign, step: str, start: str | None, visited: list[str], seconds: float,
    rate: float, adapt: bool = False,
) -> str:  # fmt: skip
    """Train for a time, from a checkpoint or from random weights; the best checkpoint's folder.

    With `adapt`, the statistics of the checkpoint are measured anew on this system. A training that
    diverges is begun again at a lower learning rate.

    Raises:
      StageError: it failed for another reason, or diverged at all rates.
    """
    planned = campaign.journal.once(f"{step}: time", lambda: {"seconds": round(seconds)})["seconds"]
    for k, factor in enumerate(RATES):
        attempt = step if k == 0 else f"{step} at {factor:g} of the rate"
        out = campaign.place(attempt)
        minutes = max(0.1, (planned - campaign.journal.spent(attempt)) / 60)
        task = campaign.task(
            attempt, "fit", "--out", out, "--reference", campaign.reference,
            "--minutes", f"{minutes:.3f}",
            *(["--resume", start] if start else []),
            *(["--new-statistics"] if adapt else []),
            *(["--visited", *visited] if visited else []),
            "--set", f"training.learning_rate={rate * factor:g}",
        )  # fmt: skip
        outcome = campaign.stage(attempt, task)[0]
        if not outcome.status and (out / "best").exists():
            return str(out / "best")
        if "no finite gradient" not in outcome.message:
            break
    raise StageError(f"{attempt} failed: {outcome.message} (The whole output is in {task.log}.)")


def try_sizes(campaign: Campaign, plan: Plan) -> str | None:
    """Train each candidate for a short time, and take the one whose forecasts are best.

    Its checkpoint is where the first round starts from; None if there was no trial.

    Raises:
      StageError: no candidate could be trained.
    """
    candidates = plan.candidates
    planned = campaign.journal.once(
        "trials: time", lambda: {"seconds": round(TRIALS * campaign.left())}
    )["seconds"]
    seconds = planned / max(1, -(-len(candidates) // campaign.workers))
    if len(candidates) < 2 or seconds < SHORTEST_TRIAL:
        return None
    names = [f"trial {k + 1}" for k in range(len(candidates))]
    outs = [campaign.place(name) for name in names]
    tasks = [
        campaign.task(
            name, "fit", "--out", out, "--reference", campaign.reference,
            "--minutes", f"{seconds / 60:.3f}", "--set", *changes,
        )
        for name, out, changes in zip(names, outs, candidates, strict=True)
    ]  # fmt: skip
    outcomes = campaign.stage("trials: fit", *tasks)
    found = [
        (judge_trial(campaign, plan, name, changes, out / "best"), changes, str(out / "best"))
        for name, out, changes, outcome in zip(names, outs, candidates, outcomes, strict=True)
        if not outcome.status and (out / "best").exists()
    ]
    if not found:
        raise StageError(f"No trial brought a model: {outcomes[0].message}")
    shortfalls = {" ".join(changes): shortfall for shortfall, changes, _ in found}
    _, chosen, model = min(found)
    campaign.journal.once("trials", lambda: {"chosen": chosen, "shortfalls": shortfalls})
    return model


def judge_trial(
    campaign: Campaign, plan: Plan, name: str, changes: tuple[str, ...], model: Path
) -> float:
    """Shortfall of a candidate in two short forecasts."""
    settings = plan.experiment.rollout
    result = judge(
        campaign, f"{name} judge", plan.experiment, model,
        seed=TRIAL_SEED, duration=BRIEFLY * settings.duration, friction=settings.friction_time,
        forecasts=2,
    )  # fmt: skip
    print(f"{name} ({' '.join(changes)}): {result.sentence}", flush=True)
    return result.shortfall


def improvements(best: Judgement, plan: Plan) -> str:
    """What helps most against the criteria that a model misses, in a sentence."""
    missed, settings = set(best.missed), plan.experiment
    stored = settings.reference.save_every
    shorter = settings.data.time_step / 2 // stored * stored
    stride = f"a shorter stride (--out FOLDER --set data.time_step={shorter:g})" * (shorter > 0)
    if "failure" in missed:
        return f"Forecasts fail: more --hours{f', or {stride}' if stride else ''} help."
    if missed & {"g(r)", "vibrational spectrum", "temperatures of modes"}:
        larger = "a larger network (--out FOLDER --set model.channels=64)"
        return f"More --hours help most; then {larger}{f' or {stride}' if stride else ''}."
    return "More --hours help most; then longer reference runs."
