"""Cures of a model whose forecasts miss a criterion: pairs that it has visited, and balances."""

from pathlib import Path

from trajcast_jax.workflow.campaign.course import Campaign
from trajcast_jax.workflow.campaign.plan import Plan
from trajcast_jax.workflow.metrics import read_curve

BALANCE, VISITS = 0.1, 0.04
"""Shares of the time left that a balance, and the labels of a visit, take."""
MOST_PAIRS, STARTS, VISITED_TIME = 1_200, 8, 20_000.0
"""Of a visit: pairs, forecasts, and fs of each."""
UPDATES = (500, 8_000)
"""Fewest and most updates of a balance."""


def balances(plan: Plan) -> tuple[bool, ...]:
    """Which balances a system needs: of elements and shells of neighbours; of modes, too."""
    several = plan.elements > 1 or plan.kind == "molecule"
    return (False,) * several + (True,) * (plan.kind in ("solid", "molecule"))


def visit(campaign: Campaign, plan: Plan, step: str, model: str, seed: int) -> str | None:
    """Label states that forecasts of a model reach; the file of pairs, None if it failed."""
    stride = plan.experiment.data.time_step
    strides = max(10, round(VISITED_TIME / stride))
    allowed = MOST_PAIRS
    if cost := plan.engine_seconds(stride):
        allowed = int(min(allowed, VISITS * max(campaign.left(), 0.0) / cost))
    every = max(1, STARTS * strides // max(allowed, 50))
    out = campaign.place(step, ".h5")
    task = campaign.task(
        step, "visit", "--checkpoint", model, "--out", out, "--reference", campaign.reference,
        "--starts", STARTS, "--strides", every * (strides // every), "--every", every,
        "--seed", seed,
    )  # fmt: skip
    failed = campaign.stage(step, task)[0].status or not out.exists()
    return None if failed else str(out)


def balance(
    campaign: Campaign, plan: Plan, step: str, model: str, visited: list[str], modes: bool
) -> str | None:
    """Balance a model; the folder of the better one, or None if it did not get better."""
    out = campaign.place(step)
    batch = 2 * plan.experiment.training.batch_size
    task = campaign.task(
        step, "balance", "--resume", model, "--out", out, "--reference", campaign.reference,
        *(["--modes"] if modes else []), "--weight", 1.0 if modes else 2.0,
        "--updates", updates(campaign, step, model),
        *(["--visited", *visited] if visited else []),
        "--set", "training.learning_rate=0.006", f"training.batch_size={batch}",
    )  # fmt: skip
    failed = campaign.stage(step, task)[0].status or not out.exists()
    return None if failed else str(out)


def updates(campaign: Campaign, step: str, model: str) -> int:
    """Updates of a balance that fit into its share of the time left.

    An update has twice as many frames as one of training, and measures what it adds.
    """

    def make() -> dict:
        rate = _updates_per_second(campaign)
        wanted = BALANCE * max(campaign.left(), 0.0) * rate / 2.5
        return {"updates": int(min(max(wanted, UPDATES[0]), UPDATES[1]) // 50 * 50)}

    return campaign.journal.once(f"{step}: updates", make)["updates"]


def _updates_per_second(campaign: Campaign) -> float:
    rates = []
    for path in sorted(Path(campaign.home).glob("*/metrics.csv")):
        curve = read_curve(path)
        if len(curve["update"]) and curve["seconds"][-1] > 0:
            rates.append(curve["update"][-1] / curve["seconds"][-1])
    return max(rates, default=10.0)
