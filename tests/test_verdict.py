"""What a verdict says of a forecast: passed, missed or not decided, each for its reason."""

import json

import pytest

from trajcast_jax.analysis.criteria import decide
from trajcast_jax.analysis.report import render_verdict
from trajcast_jax.analysis.verdict import judge, worst
from trajcast_jax.config import Experiment, ReferenceSettings
from trajcast_jax.workflow import judgement


def report(**changes) -> dict:
    """That of a good forecast of 100 ps, held against 600 ps of reference in six blocks."""
    values = {
        "mean": 300.4, "error": 0.5, "target": 300.0, "reference_mean": 299.0, "nve": False,
        "drift": 0.001, "Si": 299.0, "O": 301.0, "species_error": 0.5, "rdf": 1.0, "rdf_noise": 0.5,
        "overlap": 0.96, "overlap_noise": 0.98, "failed": None, "duration": 100.0, "blocks": 6,
        "reference": 600.0,
    } | changes  # fmt: skip
    v = values
    species = {
        s: {"mean_K": v[s], "mean_K_error": v["species_error"], "reference_mean_K": 299.0}
        for s in ("Si", "O")
    }
    return {
        "failure": {"time_ps": v["failed"], "reason": "a velocity is not a number"},
        "measured_from_ps": 0.0,
        "measured_to_ps": v["duration"],
        "reference": {"duration_ps": v["reference"], "blocks": v["blocks"]},
        "temperature": {
            "mean_K": v["mean"], "mean_K_error": v["error"], "target_K": v["target"],
            "constant_energy": v["nve"], "drift_K_per_ps": v["drift"],
            "drift_K_per_ps_error": 0.001, "reference_mean_K": v["reference_mean"],
            "reference_mean_K_error": 0.1, "by_species": species,
        },
        "rdf": {
            "Si-O": {
                "deviation_percent": v["rdf"], "deviation_percent_error": 0.1,
                "deviation_percent_among_reference": v["rdf_noise"],
            }
        },
        "vdos": {
            "overlap": {
                "O": {
                    "overlap": v["overlap"], "overlap_error": 0.002,
                    "overlap_among_reference": v["overlap_noise"],
                }
            }
        },
    }  # fmt: skip


def test_a_good_forecast_passes_all():
    verdict = judge(report())
    assert verdict["passed"] is True
    assert verdict["sentence"] == "Passed: the forecast meets all 5 criteria."
    assert "MISSED" not in render_verdict(verdict)
    json.dumps(verdict)


MISSED = {
    "mean temperature": [{"mean": 1066.0, "target": 1000.0, "reference_mean": 1000.0}],
    "failure": [{"failed": 3.0}],
    "temperatures of elements": [{"Si": 252.0, "O": 323.0}],
    "g(r)": [{"rdf": 17.0}, {"rdf": 30.0, "rdf_noise": 8.0}],
    "vibrational spectrum": [{"overlap": 0.4}],
    "drift at constant energy": [{"nve": True, "target": None, "drift": 0.5}],
}


@pytest.mark.parametrize(
    ("name", "changes"), [(name, change) for name, cases in MISSED.items() for change in cases]
)
def test_what_is_off_is_missed_by_name(name, changes):
    verdict = judge(report(**changes))
    assert verdict["passed"] is False
    assert verdict["sentence"].startswith("NOT passed.")
    assert name in verdict["sentence"]
    assert judgement.missed([verdict]) == {name}
    assert "MISSED" in render_verdict(verdict)


UNDECIDED = {
    "the reference is too short to judge by": [{"rdf_noise": 6.0}, {"overlap_noise": 0.85}],
    "the forecast is too short; it needs": [{"duration": 2.0, "rdf_noise": 2.0, "rdf": 6.0}],
    "too short for a mean so exact": [{"error": 8.0}],
    "too short for means so exact": [{"species_error": 20.0}],
    "the deviation is at the limit within its error": [{"rdf": 5.1}],
    "the reference is a single stretch": [{"rdf_noise": None, "blocks": 1}],
    "the reference is at 299 K, and the forecast is not": [
        {"mean": 500.0, "target": 500.0, "Si": 500.0, "O": 500.0, "rdf": 40.0}
    ],
}


@pytest.mark.parametrize(
    ("why", "changes"), [(why, change) for why, cases in UNDECIDED.items() for change in cases]
)
def test_what_cannot_be_told_is_said_and_not_passed(why, changes):
    verdict = judge(report(**changes))
    assert verdict["passed"] is None
    assert why in verdict["sentence"]


def test_a_forecast_that_failed_at_once_is_not_passed():
    short = {k: x for k, x in report(failed=0.03).items() if k != "temperature"}
    verdict = judge(short)
    assert verdict["passed"] is False
    assert "failure: after 0.03 ps, a velocity is not a number" in verdict["sentence"]


def test_without_a_reference_temperatures_are_judged():
    alone = report(Si=252.0, O=323.0) | {"reference": None}
    for section in ("rdf", "vdos"):
        del alone[section]
    alone["temperature"]["reference_mean_K"] = None
    assert judge(alone)["passed"] is False
    alone["temperature"]["by_species"]["O"]["mean_K"] = 253.0
    verdict = judge(alone)
    assert verdict["passed"] is None
    assert "there is no reference g(r)" in verdict["sentence"]


def test_decisions_and_the_worst_of_several():
    assert decide(1.0, 0.5, 3.0) is True
    assert decide(5.0, 0.5, 3.0) is False
    assert decide(3.5, 0.5, 3.0) is None
    assert decide(1.0, 4.0, 3.0) is None
    verdicts = [{"passed": x} for x in (True, None, False)]
    assert worst(verdicts) is False
    assert worst(verdicts[:2]) is None
    assert worst(verdicts[:1]) is True


@pytest.mark.parametrize(
    ("lmax", "changes", "status", "words"),
    [
        (1, {}, 0, "two more seeds"),
        (1, {"mean": 1066.0, "target": 1000.0}, 1, "--set model.lmax=2"),
        (2, {"mean": 1066.0, "target": 1000.0}, 1, "experiments.visit mine.toml --checkpoint"),
        (2, {"rdf_noise": 6.0}, 0, "--resume --duration"),
    ],
)
def test_the_end_tells_the_next_command_and_the_exit_status(
    tmp_path, capsys, lmax, changes, status, words
):
    (tmp_path / "model.json").write_text(json.dumps({"model": {"lmax": lmax}}))
    judged = report(**changes)
    judged["verdict"] = judge(judged)
    assert (
        judgement.conclude(
            Experiment("mine", reference=ReferenceSettings(commands="pair_style sw")),
            [judged],
            tmp_path,
        )
        == status
    )
    assert words in capsys.readouterr().out
