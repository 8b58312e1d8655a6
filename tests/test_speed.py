"""The reference's engine beside the forecast: what is kept of its speed, and what is said of it."""

import time

import pytest

from trajcast_jax.config import Experiment, ReferenceSettings
from trajcast_jax.reference import engine_speed, processor, speed
from trajcast_jax.workflow import folders, forecasts, judgement


def test_what_is_known_adds_up_and_starts_anew_with_another_size(tmp_path):
    assert engine_speed(tmp_path) is None
    settings = ReferenceSettings(calculator="ase.calculators.emt:EMT")
    for n_atoms, total in ((32, 10.0), (32, 20.0), (108, 10.0)):
        with speed.timed_engine(tmp_path, settings, n_atoms, 10.0):
            time.sleep(0.01)
        found = engine_speed(tmp_path)
        assert found["n_atoms"] == n_atoms
        assert found["simulated_fs"] == total
        assert found["engine"] == "ase.calculators.emt:EMT"
        assert found["wall_s"] >= 0.01
        assert found["ns_per_day"] > 0


def test_the_shorter_of_wall_clock_and_cpu_time_counts(tmp_path):
    text = '{"simulated_fs": 86400000.0, "wall_s": %s, "cpu_s": %s}'
    for wall, cpu in ((2.0, 1.0), (1.0, 2.0)):
        (tmp_path / speed.FILE).write_text(text % (wall, cpu))
        assert engine_speed(tmp_path)["ns_per_day"] == pytest.approx(86400 * 86.4)


@pytest.mark.parametrize(
    ("ours", "n_atoms", "replicas", "words"),
    [
        (200.0, 20, 1, "The forecast is 2 times as fast."),
        (50.0, 20, 1, "THE FORECAST IS SLOWER, 0.50 times as fast: use"),
        (50.0, 40, 1, "sizes differ"),
        (800.0, 20, 4, "each of 4 replicas 200 ns/day of 20 atoms (800 ns/day together)"),
        (800.0, 20, 4, "forecast is 2 times as fast (all replicas together: 8 times)."),
        (200.0, 20, 4, "SLOWER, 0.50 times as fast (all replicas together: 2 times): use"),
    ],
)
def test_each_forecast_is_held_against_the_engine(
    tmp_path, monkeypatch, ours, n_atoms, replicas, words
):
    found = {"ns_per_day": 100.0, "n_atoms": 20, "engine": "LAMMPS", "processor": processor()}
    monkeypatch.setattr(judgement, "engine_speed", lambda _: found)
    monkeypatch.chdir(tmp_path)
    assert words in judgement.compare_speeds(Experiment("mine"), ours, n_atoms, replicas)


def test_nothing_is_said_where_no_runs_tell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not folders.reference(Experiment("mine")).exists()
    assert judgement.compare_speeds(Experiment("mine"), 1.0, 20) == ""


def test_evaluate_knows_the_speed_that_rollout_measured(tmp_path):
    assert forecasts.known_of(tmp_path / "trajectory.h5") == {}
    (tmp_path / "report.json").write_text('{"ns_per_day": 12.5, "seconds": 3.0}')
    assert forecasts.known_of(tmp_path / "trajectory.h5") == {"ns_per_day": 12.5}
    (tmp_path / "report.json").write_text('{"ns_per_day": 12.5, "replicas": 3}')
    assert forecasts.known_of(tmp_path / "trajectory.h5") == {"ns_per_day": 12.5, "replicas": 3}


def test_visits_are_suggested_only_where_an_engine_can_label_them():
    engine = ReferenceSettings(calculator="ase.calculators.emt:EMT")
    with_engine = judgement.next_step(Experiment("x", reference=engine), False, {"g(r)"}, "none")
    assert "experiments.visit" in with_engine
    without = judgement.next_step(Experiment("x"), False, {"g(r)"}, "none")
    assert "visit " not in without
    assert "There is no engine" in without
