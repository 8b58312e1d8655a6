"""Verdict on several forecasts together, and the runs that they are compared with."""

import dataclasses
import json
from pathlib import Path

import pytest
from test_criteria import early, full
from test_verdict import report

from trajcast_jax.analysis.evaluation import write_verdict
from trajcast_jax.analysis.joint_verdict import judge_together, mean_report
from trajcast_jax.analysis.verdict import judge
from trajcast_jax.analysis.verdict_tables import render_joint
from trajcast_jax.config import DataSettings, Experiment
from trajcast_jax.workflow import reference_runs


def row(verdict: dict, name: str) -> dict:
    return next(row for row in verdict["criteria"] if row["name"] == name)


def test_means_over_forecasts_are_judged_with_their_errors():
    reports = [full(mean=m, rdf=g) for m, g in ((298.0, 1.0), (302.0, 2.0), (301.5, 3.0))]
    verdict = judge_together(reports)
    assert verdict["passed"] is True
    assert verdict["sentence"] == "Passed: 3 forecasts meet all 12 criteria."
    found = row(verdict, "mean temperature")
    assert found["found"] == "300.5 ± 1.3 K"
    assert found["worst"] == "forecast 1: 298.0 ± 0.5 K"
    assert (found["passed_in"], found["of"]) == (3, 3)
    assert row(verdict, "g(r)")["found"] == "Si-O: 2.0 ± 0.58 % off"
    assert row(verdict, "failure")["found"] == "none in 3"
    text = render_joint(verdict)
    assert "passed (3 of 3)" in text
    assert f"Shortfall: {verdict['shortfall']:.2f}" in text


def test_one_forecast_that_misses_a_criterion_makes_it_missed():
    verdict = judge_together([full(), full(), full(rdf=9.0)])
    assert verdict["passed"] is False
    found = row(verdict, "g(r)")
    assert found["passed"] is False
    assert found["found"].endswith("forecast 3: Si-O: 9.0 ± 0.1 % off")
    assert (found["passed_in"], found["of"]) == (2, 3)
    assert row(verdict, "angles")["passed"] is True


def test_forecasts_that_are_off_alike_are_missed_together():
    """Each alone is not decided: it is off by less than three of its own errors."""
    reports = [full(mean=305.5 + k / 10, error=1.2, duration=30.0) for k in range(9)]
    assert {row(judge(r), "mean temperature")["passed"] for r in reports} == {None}
    found = row(judge_together(reports), "mean temperature")
    assert found["passed"] is False
    assert found["passed_in"] == 0


def test_a_failure_of_one_is_a_failure_and_the_others_are_compared():
    broken = {k: x for k, x in report(failed=0.5).items() if k != "temperature"}
    verdict = judge_together([full(), full(), broken])
    assert verdict["passed"] is False
    assert row(verdict, "failure")["found"].startswith("1 of 3, the first after 0.50 ps, a")
    assert (row(verdict, "g(r)")["passed_in"], row(verdict, "g(r)")["of"]) == (2, 3)
    assert judge_together([broken, broken])["passed"] is False
    assert early(0.5)["passed"] is False


def test_errors_of_means_are_never_smaller_than_those_of_the_parts():
    same = mean_report([{"x": 1.0, "x_error": 0.2, "name": "a", "b": True}] * 4)
    assert same == {"x": 1.0, "x_error": pytest.approx(0.1), "name": "a", "b": True}
    apart = mean_report([{"x": 1.0, "x_error": None}, {"x": 3.0, "x_error": 0.1}])
    assert apart == {"x": 2.0, "x_error": pytest.approx(1.0)}
    assert mean_report([{"x": None, "x_error": None}, {"x": 3.0, "x_error": 0.1}])["x"] == 3.0


@pytest.mark.parametrize("count", [1, 2])
def test_programs_can_read_the_verdict_from_a_file(tmp_path, count):
    written = write_verdict(tmp_path, [full() for _ in range(count)])
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert verdict == written
    assert set(verdict) == {"passed", "sentence", "criteria", "unchecked", "shortfall"}
    assert {"worst", "passed_in", "of", "ratio"} <= verdict["criteria"][0].keys()


def test_held_out_runs_are_those_of_validation_and_test_alone(monkeypatch):
    folder = Path("runs/reference/mine")
    there = [folder / f"run_{k:03d}.h5" for k in range(6)]
    monkeypatch.setattr(reference_runs, "complete_runs", lambda _: there)
    mine = Experiment("mine")
    assert reference_runs.held_out_runs(mine, folder) == there[4:]
    monkeypatch.setattr(reference_runs, "complete_runs", lambda _: there[:5])
    with pytest.raises(FileNotFoundError, match=r"no complete run .*run_005\.h5; make it by"):
        reference_runs.held_out_runs(mine, folder)
    overlapping = dataclasses.replace(mine, data=DataSettings(train_runs=(0, 4)))
    with pytest.raises(ValueError, match="Nothing is held out"):
        reference_runs.held_out_runs(overlapping, folder)
