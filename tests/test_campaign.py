"""Campaigns, with commands that only pretend: what is decided, recorded, and survives failures."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import as_system, quartz_atoms

from trajcast_jax import io
from trajcast_jax.config import DataSettings, Experiment, RolloutSettings
from trajcast_jax.workflow.campaign import conclusion, rounds, status
from trajcast_jax.workflow.campaign.course import Campaign, StageError
from trajcast_jax.workflow.campaign.journal import Journal
from trajcast_jax.workflow.campaign.plan import Plan
from trajcast_jax.workflow.campaign.stages import Outcome, Task, in_processes, last_words

EXPERIMENT = Experiment(
    "toy",
    data=DataSettings(train_runs=(0,), validation_runs=(1,), test_runs=(2,)),
    rollout=RolloutSettings(duration=1_000.0),
)
PLAN = Plan(EXPERIMENT, "solid", elements=2, engine=True, ns_per_day=10.0)
PASSED, MISSED = (True, 0.5, []), (False, 4.0, ["g(r)"])


class World:
    """Pretends to run commands; every command lasts 100 s of the campaign's clock.

    Args:
      verdict: (name of the model, friction) → (passed, shortfall, missed criteria).
      fails: verb or step in a command → the message with which it fails, once for each entry.
    """

    def __init__(self, verdict=lambda model, friction: PASSED, fails=()):
        self.verdict, self.fails, self.commands = verdict, list(fails), []

    def __call__(self, tasks, workers, tell):
        return [self.one(task) for task in tasks]

    def one(self, task: Task) -> Outcome:
        self.commands.append(task.command)
        for k, (part, message) in enumerate(self.fails):
            if part in task.command:
                del self.fails[k]
                if isinstance(message, BaseException):
                    raise message
                return Outcome(1, message)
        options = dict(itertools.pairwise(task.arguments))
        out = Path(options["--out"])
        if task.verb == "fit":
            (out / "best").mkdir(parents=True)
        if task.verb == "balance":
            out.mkdir(parents=True)
        if task.verb == "visit":
            out.touch()
        if task.verb == "rollout":
            out.mkdir(parents=True, exist_ok=True)
            (out / "model").write_text(options["--checkpoint"])
            (out / "trajectory.h5").touch()
        if task.verb == "evaluate":
            return self.evaluate(task, out)
        return Outcome(0, "")

    def evaluate(self, task: Task, out: Path) -> Outcome:
        model = (out / "forecast_0" / "model").read_text()
        friction = float(task.command.split("friction_time=")[1].split()[0])
        passed, shortfall, missed = self.verdict(model, friction)
        rows = [{"name": name, "passed": False} for name in missed]
        verdict = {"passed": passed, "shortfall": shortfall, "sentence": str(passed)}
        (out / "verdict.json").write_text(json.dumps(verdict | {"criteria": rows}))
        return Outcome(int(passed is False), "")


@pytest.fixture
def reference(tmp_path):
    """Three runs of eight frames."""
    system = as_system(quartz_atoms())
    for k in range(3):
        frames = system.replace(
            positions=np.stack([np.asarray(system.positions)] * 8),
            velocities=np.stack([np.asarray(system.velocities)] * 8),
        )
        (tmp_path / "reference").mkdir(exist_ok=True)
        with io.H5MDWriter(tmp_path / "reference" / f"run_{k:03d}.h5", system, 5.0) as writer:
            writer.append(frames)
    return tmp_path / "reference"


def campaign(reference: Path, run, hours=100.0) -> Campaign:
    home = reference.parent / "home"
    journal = Journal(home / "journal.jsonl")
    return Campaign(home, home / "toy.toml", reference, hours, 2, journal, run)


@pytest.fixture(autouse=True)
def no_cards(monkeypatch):
    """The models of this world have no weights, and so no cards."""
    monkeypatch.setattr("trajcast_jax.network.checkpoint.load_card", lambda path: None)


def finish(course: Campaign, plan: Plan = PLAN) -> int:
    return conclusion.conclude(course, plan, rounds.run_rounds(course, plan), "toy")


def test_two_rounds_that_pass_make_an_accepted_model(reference, capsys):
    world = World()
    assert finish(campaign(reference, world)) == 0
    assert (reference.parent / "home/model").is_dir()
    text = capsys.readouterr().out
    assert "ACCEPTED after 2 rounds" in text
    assert [c.split()[2] for c in world.commands if ".rollout" not in c] == [
        *("experiments.fit", "experiments.evaluate", "experiments.evaluate") * 2,
        "experiments.evaluate", "experiments.evaluate",
    ]  # fmt: skip
    judged = [c for c in world.commands if ".evaluate" in c]
    assert ["--energies 60" in c for c in judged] == [False] * 5 + [True]  # the confirmation
    starts = [c.split("--start ")[1].split()[0] for c in world.commands if ".rollout" in c]
    assert len(set(starts)) == len(starts) == 18


def test_without_gain_a_model_is_rejected_and_the_reason_said(reference, capsys):
    world = World(lambda model, friction: MISSED)
    course = campaign(reference, world)
    assert finish(course) == 2
    text = capsys.readouterr().out
    assert "REJECTED after 4 rounds" in text
    assert "3 rounds brought no gain" in text
    assert "--set data.time_step=15" in text  # what helps against g(r)
    assert course.journal.records[-1]["accepted"] is False


def test_the_best_model_is_kept_though_a_later_round_is_worse(reference):
    def verdict(model, friction):
        return (False, 1.0 if "round_2_fit" in model else 3.0, ["g(r)"])

    end = rounds.run_rounds(campaign(reference, World(verdict)), PLAN)
    assert "round_2_fit" in end.best.model
    assert end.best.shortfall == 1.0


def test_the_weakest_friction_that_passes_is_taken(reference):
    world = World(lambda model, friction: PASSED if 0 < friction <= 5_000 else MISSED)
    end = rounds.run_rounds(campaign(reference, world), PLAN)
    assert end.best.friction == 5_000.0
    tried = [c.split("friction_time=")[1].split()[0] for c in world.commands if "evaluate" in c]
    assert [float(x) for x in tried] == [0.0, 0.0, 0.0, 20_000.0, *4 * [5_000.0]]


def test_a_training_that_diverges_is_begun_again_at_a_lower_rate(reference):
    message = "50 of the updates 100 to 150 had no finite gradient; lower ..."
    world = World(fails=[("round_1_fit", message)])
    assert finish(campaign(reference, world)) == 0
    fits = [c for c in world.commands if ".fit" in c]
    assert "training.learning_rate=0.03" in fits[0]
    assert "training.learning_rate=0.015" in fits[1]
    world = World(fails=[(".fit", message)] * 3)
    home = reference.parent / "home"
    home.rename(home.with_name("other"))
    with pytest.raises(StageError, match="no finite gradient"):
        rounds.run_rounds(campaign(reference, world), PLAN)


def test_fine_tuning_begins_with_the_model_and_its_new_statistics(reference):
    candidates = (("model.lmax=1",), ("model.lmax=2",))
    world = World()
    plan = PLAN._replace(model="somewhere/model", candidates=candidates)
    rounds.run_rounds(campaign(reference, world), plan)
    fits = [c for c in world.commands if ".fit" in c]
    assert "--resume somewhere/model --new-statistics" in fits[0]
    assert "training.learning_rate=0.015" in fits[0]
    assert len(fits) == 2  # no trials
    assert "--new-statistics" not in fits[1]


def test_an_engine_that_crashes_in_a_visit_costs_only_the_visit(reference):
    world = World(
        lambda model, friction: PASSED if "balance" in model else MISSED,
        fails=[(".visit", "Segmentation fault")],
    )
    assert finish(campaign(reference, world)) == 0
    assert "--visited" not in next(c for c in world.commands if ".balance" in c)


def test_an_engine_that_crashes_in_the_reference_is_tried_again(reference):
    world = World(fails=[("generate", "Lost atoms")])
    course = campaign(reference, world)
    task = course.task("reference", "generate", "--out", reference)
    with pytest.raises(StageError, match="reference failed: Lost atoms"):
        course.need("reference", task)
    course = campaign(reference, world)
    course.need("reference", task)
    assert "reference" in course.journal


@pytest.mark.slow
def test_a_campaign_that_is_killed_at_any_command_ends_like_an_undisturbed_one(reference):
    def verdict(model, friction):
        return PASSED if "round_2" in model or "round_3" in model else MISSED

    def models(world):
        while True:
            try:
                course = campaign(reference, world)
                return rounds.run_rounds(course, PLAN), course.journal
            except KeyboardInterrupt:
                continue

    quiet = World(verdict)
    expected, journal = models(quiet)
    home = reference.parent / "home"
    for k in range(0, len(quiet.commands), 3):
        home.rename(reference.parent / f"home_{k}")
        parts = quiet.commands[k].split("--out ")[1].split()[0]
        disturbed, other = models(World(verdict, fails=[(parts, KeyboardInterrupt())]))
        assert disturbed == expected
        assert [r.get("step") for r in other.records] == [r.get("step") for r in journal.records]


def test_a_full_disk_loses_nothing(reference, monkeypatch):
    course = campaign(reference, World())
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(OSError, match="No space left"):
            rounds.run_rounds(course, PLAN)
    assert finish(campaign(reference, World())) == 0


def test_a_line_that_a_kill_has_cut_is_no_record(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    assert journal.once("a", lambda: {"x": (1, 2)}) == {"x": [1, 2]}
    with open(path, "a") as file:
        file.write('{"step": "b", "resu')
    again = Journal(path)
    assert "b" not in again
    assert again.once("a", lambda: 1 / 0) == {"x": [1, 2]}
    assert again.once("b", lambda: {}) == {}
    assert [r["step"] for r in Journal(path).records] == ["a", "b"]
    path.write_text('{"step": "a"}\n' + path.read_text())
    with pytest.raises(ValueError, match="Line 1 of"):
        Journal(path)


def test_the_time_of_an_interrupted_step_counts(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write(step="a", result={}, seconds=10.0)
    journal.beat("b", 25.0)
    again = Journal(tmp_path / "journal.jsonl")
    assert again.spent() == 35.0
    assert again.spent("b") == 25.0
    again.once("b", dict)
    assert Journal(tmp_path / "journal.jsonl").spent() == pytest.approx(35.0, abs=1)


def test_trials_choose_by_forecasts(reference):
    plan = PLAN._replace(candidates=(("model.lmax=1",), ("model.lmax=2",)))
    world = World(lambda model, friction: (False, 9.0, []) if "trial_1" in model else PASSED)
    course = campaign(reference, world)
    rounds.run_rounds(course, plan)
    assert course.journal.once("trials", dict)["chosen"] == ["model.lmax=2"]
    first = next(c for c in world.commands if "round_1_fit" in c)
    assert "trial_2/best" in first


def test_the_budget_ends_the_rounds(reference):
    course = campaign(reference, World(lambda model, friction: MISSED), hours=1e-9)
    end = rounds.run_rounds(course, PLAN)
    assert end.rounds == 1
    assert "does not fit into the hours" in end.reason


def test_more_hours_change_nothing_of_earlier_rounds(reference):
    """What they could not afford stays left out, for later rounds have begun without it."""
    course = campaign(reference, World())
    for step in ("round 1 fit", "round 2: affordable", "round 2 fit"):
        course.journal.write(step=step, result={}, seconds=1.0)
    assert not course.affords("round 1 cures", 1.0)
    assert course.affords("round 2 cures", 1.0)
    assert not course.affords("round 3", 1e9)
    assert course.affords("round 3", 1.0)


def test_status_tells_and_draws_what_was_done(reference, capsys):
    course = campaign(reference, World())
    finish(course)
    capsys.readouterr()
    assert status.show(course.home) == 0
    text = capsys.readouterr().out
    assert "round 1 judge: shortfall 0.50" in text
    assert "ACCEPTED" in text
    assert (course.home / "status.png").stat().st_size > 5_000
    assert status.show(reference) == 1


def test_processes_leave_a_log_and_their_last_words(tmp_path):
    task = Task("rollout", ("no_such_system",), tmp_path / "log.txt")
    told = []
    outcomes = in_processes([task], 2, lambda seconds, line: told.append(line))
    assert outcomes[0].status == 1
    assert outcomes[0].message.startswith("There is no experiment no_such_system")
    assert told
    assert (tmp_path / "log.txt").read_text().startswith("$ python -m experiments.rollout")
    assert last_words(tmp_path / "none.txt") == ""
