"""A tiny system from reference MD to a report, by the commands a user gives."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_reference import needs_lammps

import experiments
from experiments import learning
from trajcast_jax import io, reference
from trajcast_jax.mechanics import degrees_of_freedom, temperature
from trajcast_jax.network import checkpoint
from trajcast_jax.reference import LammpsEngine
from trajcast_jax.system import heights
from trajcast_jax.workflow import evaluate, fit, generate, rollout, visit

TOML = Path(__file__).parent / "argon.toml"
pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("argon")


@pytest.fixture
def argon(folder, monkeypatch):
    """The experiment's folder as working directory, its model trained."""
    monkeypatch.chdir(folder)
    shutil.copy(TOML, folder)
    if not Path("runs/argon/train/best").exists():
        fit.main(fit.Arguments("argon.toml"))  # generates the reference by itself
    return folder


@needs_lammps
def test_training_generated_its_reference_and_learned(argon):
    assert json.loads(Path("runs/reference/argon/report.json").read_text())["passed"]
    rows = Path("runs/argon/train/metrics.csv").read_text().splitlines()
    assert rows[0] == "update,loss,displacement_error,velocity_error,seconds"
    assert int(rows[-1].split(",")[0]) == 1000
    seconds = [float(row.split(",")[-1]) for row in rows[1:]]
    assert seconds[0] > 0
    assert seconds == sorted(seconds)
    _, notes = checkpoint.describe("runs/argon/train/best")
    assert notes["experiment"]["data"]["time_step"] == 50.0
    for name in ("best", "ema"):
        card = checkpoint.restore(f"runs/argon/train/{name}").card
        assert (card.validity.species, card.validity.stride) == (("Ar",), 50.0)
        assert card.made.reference == "LAMMPS"
        assert card.made.engine_ns_per_day > 0
        assert card.measured.accepted is None
        assert bool(card.measured.one_step) == (name == "best")
    assert {p.name for p in Path("runs/argon/train").iterdir()} == {
        "best", "curve.png", "ema", "last", "metrics.csv",
    }  # fmt: skip


@needs_lammps
def test_a_finished_training_is_left_as_it_is(argon, capsys):
    before = Path("runs/argon/train/metrics.csv").read_text()
    fit.main(fit.Arguments("argon.toml"))
    assert Path("runs/argon/train/metrics.csv").read_text() == before
    assert "The best model is in runs/argon/train/best" in capsys.readouterr().out


@needs_lammps
def test_frames_of_another_cell_are_not_for_the_engine(argon):
    settings = experiments.load("argon.toml").reference
    frame, _ = io.read_trajectory("runs/reference/argon/run_000.h5", 0, 1)
    engine = reference.engine_for_frames(settings, frame.cell)
    twice = np.concatenate([frame.positions[0]] * 2)
    with pytest.raises(ValueError, match=r"--set reference\.repeat"):
        engine.set_frame(twice, 0 * twice)
    cell = np.asarray(frame.cell, float)
    turned = cell @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match="lower-triangular cell of positive diagonal"):
        engine.set_cell(turned)
    engine.set_cell(cell)
    engine.close()


@needs_lammps
def test_one_step_errors_beat_straight_lines(argon):
    evaluate.main("argon.toml", checkpoint=Path("runs/argon/train/best"), out=Path("one"))
    errors = json.loads(Path("one/one_step.json").read_text())["all"]
    for field in ("displacements", "velocities"):
        # d = v Δt and v' = v, which is what no network at all would say.
        assert errors[field]["relative_percent"] < 0.4 * errors[field]["persistence_percent"]


@pytest.mark.slow
@needs_lammps
def test_learning_curves_are_measured_kept_and_drawn(argon, monkeypatch):
    arguments = learning.Arguments(
        "argon.toml", pairs=(4, 300), set=("training.validate_every=50", "training.updates=100")
    )
    learning.main(arguments)
    few, many = json.loads(Path("runs/argon/learning/learning.json").read_text())
    assert (few["pairs"], many["pairs"]) == (4, 300)
    assert (few["updates"], many["updates"]) == (100, 100)
    assert 0.0 < many["velocities_error"] < 0.1 * many["velocities"] < 4.0
    assert few["velocities"] != many["velocities"]

    monkeypatch.setattr(learning, "train", None)  # what is trained is not trained again
    learning.main(arguments)
    with pytest.raises(FileNotFoundError, match="There is no learning curve in stored"):
        learning.draw(Path("stored"))
    Path("stored").mkdir()
    shutil.copy("runs/argon/learning/000300/metrics.csv", "stored/quartz_train.csv")
    shutil.copy("runs/argon/learning/learning.json", "stored/quartz_learning.json")
    learning.main(learning.Arguments(out=Path("stored")))
    assert Path("stored/learning.png").stat().st_size > 10_000


def test_visits_take_every_state_before_a_failure(quartz):
    """Forecasts that heat up threefold within four strides, of which every third is asked for."""
    kelvin = float(temperature(quartz, degrees_of_freedom(quartz)))
    changes = f"rollout.temperature={kelvin}", "rollout.time_constant=1e9"
    experiment, start = experiments.load(TOML, changes), quartz
    model = SimpleNamespace(
        forecast=lambda system, _: system.replace(velocities=1.2 * system.velocities),
        cutoff=4.0, time_step=1.0,
    )  # fmt: skip
    states = list(visit.visited_states(model, experiment, [start], strides=30, every=3))
    speeds = [np.abs(velocities).max() / np.abs(start.velocities).max() for _, velocities in states]
    np.testing.assert_allclose(speeds, [1.2, 1.2**2, 1.2**3], rtol=1e-5)


@pytest.mark.slow
@needs_lammps
def test_rollout_holds_up_against_the_reference(argon):
    status = rollout.main(rollout.Arguments("argon.toml", out=Path("forecast"), extxyz=True))
    report = json.loads(Path("forecast/report.json").read_text())
    missed = {row["name"] for row in report["verdict"]["criteria"] if row["passed"] is False}
    assert missed <= {"temperatures of modes"}  # which take much more training
    assert status == bool(missed)
    assert report["checkpoint"] == "runs/argon/train/best"  # what was trained is what is taken
    assert report["failure"]["time_ps"] is None
    assert abs(report["temperature"]["mean_K"] - 15.0) < 2.0
    assert report["rdf"]["Ar-Ar"]["deviation_percent"] < 25.0
    assert {p.name for p in Path("forecast").glob("*.png")} >= {"rdf.png", "temperature.png"}
    trajectory, times = io.read_trajectory("forecast/trajectory.h5")
    start = io.read("runs/reference/argon/run_002.h5")
    np.testing.assert_allclose(trajectory.positions[0], start.positions, atol=1e-5)
    assert trajectory.positions.shape == (501, 32, 3)
    np.testing.assert_allclose(np.diff(times), 50.0)
    momenta = np.einsum("a,tai->ti", trajectory.masses, trajectory.velocities)
    assert np.abs(momenta - momenta[0]).max() < 1e-4


@needs_lammps
def test_several_forecasts_are_judged_together_against_held_out_runs(argon, capsys):
    for seed in (1, 2):
        asked = rollout.Arguments("argon.toml", seed=seed, out=Path(f"again/{seed}"), held_out=True)
        rollout.main(asked)
        report = json.loads(Path(f"again/{seed}/report.json").read_text())
        assert report["reference"]["duration_ps"] == pytest.approx(20.0, rel=0.01)  # of 30
        assert report["planned_ps"] == 25.0
    paths = Path("again/1"), Path("again/2")
    evaluate.main(
        "argon.toml", rollout=paths, out=Path("joint"), energies=10, held_out=True,
        constant_energy=paths[0],
    )  # fmt: skip
    verdict = json.loads(Path("joint/verdict.json").read_text())
    rows = {row["name"]: row for row in verdict["criteria"]}
    assert {"failure", "g(r)", "temperatures of modes", "potential energy"} <= rows.keys()
    assert {row["of"] for row in rows.values()} == {2}
    assert 0 < verdict["shortfall"] < 50
    assert verdict["constant_energy"]["failure_ps"] is None
    said = capsys.readouterr().out
    assert "mean over forecasts" in said
    assert "At constant energy (stated, not judged): " in said
    assert json.loads(Path("again/1/verdict.json").read_text())["criteria"][0]["of"] == 1


@needs_lammps
def test_reference_md_goes_on_from_any_frame(argon):
    """What `visit` relies on: a frame put into the engine leads where the run itself went."""
    run, _ = io.read_trajectory("runs/reference/argon/run_001.h5", 50, 60)
    settings = experiments.load("argon.toml").reference
    engine = LammpsEngine(settings)
    engine.create(seed=1)
    engine.set_cell(np.asarray(run.cell, np.float64))
    engine.constant_energy()
    shifted = np.asarray(run.positions[0], np.float64) + np.asarray(run.cell)[1]
    engine.set_frame(shifted, np.asarray(run.velocities[0], np.float64))
    before, _ = engine.frame()
    engine.advance(round(50.0 / settings.time_step))
    positions, velocities = engine.frame()
    engine.close()
    np.testing.assert_allclose(positions - before, run.positions[5] - run.positions[0], atol=2e-5)
    np.testing.assert_allclose(velocities, run.velocities[5], atol=1e-6)


@needs_lammps
def test_potential_energies_of_reference_frames_are_those_that_were_stored(argon):
    """The engine, asked anew, says of a run's frames what it said when it made them."""
    path, settings = Path("runs/reference/argon/run_002.h5"), experiments.load("argon.toml")
    found = evaluate.compare_energies(settings, path, path.parent, Path("energy"), n_frames=40)
    n_frames = io.n_frames(path)
    start = int(n_frames * settings.evaluation.equilibration)
    stored = io.read_observables(path)["potential_energy"]
    stored = stored[np.linspace(start, n_frames - 1, 40).astype(int)]
    assert found["potential_energy_eV"] == pytest.approx(stored.mean(), rel=1e-5)
    assert found["potential_energy_deviation_eV"] == pytest.approx(stored.std(), rel=1e-2)
    assert Path("energy/energy.png").stat().st_size > 5_000


@pytest.mark.slow
@needs_lammps
def test_visited_states_are_labelled_and_trained_on(argon):
    best = Path("runs/argon/train/best")
    visit.main("argon.toml", best, Path("visited.h5"), starts=3, strides=20, every=5)
    assert io.n_frames("visited.h5") == 2 * 3 * 4
    longer = ("reference.repeat=[4,2,1]", "reference.runs=1", "data.train_runs=[0]")
    visit.main(
        "argon.toml", best, Path("longer.h5"), 1, 10, 5, reference=Path("longer"), set=longer
    )
    cells = [io.read_trajectory(f"{name}.h5", 0, 1)[0].cell for name in ("visited", "longer")]
    assert cells[1][0, 0] > 1.8 * cells[0][0, 0]
    arguments = fit.Arguments(
        "argon.toml", out=Path("tuned"), resume=best,
        visited=(Path("visited.h5"), Path("longer.h5")),
        set=("training.updates=20", "training.validate_every=10"),
    )  # fmt: skip
    fit.main(arguments)
    tuned, former = (checkpoint.describe(p)[0].statistics for p in ("tuned/best", best))
    longest = [float(heights(np.asarray(cell)).max()) for cell in cells]
    assert former.longest_cell == pytest.approx(longest[0])
    assert tuned == dataclasses.replace(former, longest_cell=pytest.approx(longest[1]))
    with pytest.raises(ValueError, match=r"visited\.h5 exists already"):
        visit.main("argon.toml", best, Path("visited.h5"))


@needs_lammps
def test_states_from_which_the_reference_explodes_are_left_out(argon):
    """Two atoms put into each other, then a state that is well, then atoms far out of the box."""
    settings = experiments.load("argon.toml").reference
    run, _ = io.read_trajectory("runs/reference/argon/run_000.h5", 0, 1)
    start = run.replace(positions=run.positions[0], velocities=run.velocities[0])
    well, still = np.asarray(start.positions), np.asarray(start.velocities)
    collided = well.copy()
    collided[1] = collided[0] + 0.2
    states = [(collided, still), (well, still), (well, still + np.eye(len(well), 3) * 1e6)]
    broken, frames, thrown = visit.labelled(settings, start, states, 10)
    assert broken is None and thrown is None  # noqa: PT018
    assert np.isfinite(frames.positions).all()
    assert frames.positions.shape == (2, *well.shape)


@needs_lammps
def test_generate_takes_somebodys_trajectory(argon):
    run, times = io.read_trajectory("runs/reference/argon/run_000.h5", 0, 300)
    io.write_extxyz("mine.extxyz", run, times)
    generate.main("argon.toml", sources=(Path("mine.extxyz"),), out=Path("imported"), runs=3)
    again, _ = io.read_trajectory("imported/run_000.h5")
    np.testing.assert_allclose(again.positions[0], run.positions[0], atol=1e-4)
