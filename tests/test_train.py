"""The command `train`: what it starts from, and the whole way on argon with real commands."""

import json
from pathlib import Path

import ase.build
import numpy as np
import pytest
from conftest import compiling_quickly
from test_reference import needs_lammps
from trajectories import make_trajectory, write

import experiments
from trajcast_jax.config import Experiment, ReferenceSettings, load
from trajcast_jax.config.writing import to_toml
from trajcast_jax.io import ReadOptions, write_extxyz
from trajcast_jax.network import checkpoint
from trajcast_jax.workflow.campaign import command, preflight
from trajcast_jax.workflow.campaign.journal import Journal
from trajcast_jax.workflow.campaign.sources import repetitions, source_of
from trajcast_jax.workflow.campaign.stages import Outcome, in_processes

ARGON = """
[reference]
repeat = [2, 2, 2]
lammps_atom_style = "atomic"
temperature = 15.0
npt_time = 1_000.0
nvt_time = 2_000.0
nve_time = 5_000.0
commands = '''
pair_style lj/smooth/linear 5.2
pair_coeff 1 1 0.0104 3.4
'''

[reference.structure]
spacegroup = 225
symbols = ["Ar"]
basis = [[0, 0, 0]]
cellpar = [5.4, 5.4, 5.4, 90, 90, 90]

[data]
train_pairs = 200
test_pairs = 50

[model]
channels = 2
blocks = 1
lmax = 1
substeps = 0
n_radial = 3
n_speed = 2
velocity_mlp = [4]

[training]
optimizer = "adam"
learning_rate = 0.003
validate_every = 100

[rollout]
duration = 5_000.0
"""
EMT = "ase.calculators.emt:EMT"


@pytest.fixture
def copper(tmp_path):
    path = tmp_path / "copper.cif"
    ase.build.bulk("Cu", cubic=True).write(path)
    return path


def test_a_structure_needs_a_calculator_and_a_temperature(copper):
    source = source_of(str(copper), (), EMT, 600.0, ("model.lmax=1",))
    reference = source.experiment.reference
    assert source.experiment.name == "copper"
    assert reference.calculator == EMT
    assert reference.temperature == source.experiment.rollout.temperature == 600.0
    assert reference.repeat == (3, 3, 3) == repetitions(copper)
    assert {"reference.repeat", "model.lmax", "rollout.temperature"} <= source.stated
    assert "model.cutoff" not in source.stated
    with pytest.raises(ValueError, match="does not tell the temperature; give it"):
        source_of(str(copper), (), EMT, None, ())


def test_a_file_without_a_calculator_is_a_trajectory(tmp_path):
    path = write(tmp_path / "mine.h5", make_trajectory()[0])
    source = source_of(str(path), (), "", None, ())
    assert source.trajectories == (path,)
    assert source.experiment.name == "mine"
    with pytest.raises(ValueError, match="leave one of them out"):
        source_of(str(path), (path,), EMT, 300.0, ())
    with pytest.raises(FileNotFoundError, match="There is no experiment quarz: did you mean"):
        source_of("quarz", (), "", None, ())
    with pytest.raises(FileNotFoundError, match="There is no file run"):
        source_of("run.lammpstrj", (), "", None, ())


def test_an_experiment_states_what_its_file_and_the_command_line_say():
    source = source_of("quartz", (), "", 400.0, ("model.channels=32",))
    assert source.experiment.reference.temperature == 400.0
    assert {"reference.temperature", "model.channels", "model.cutoff"} <= source.stated
    assert "model.blocks" not in source.stated


def test_options_of_readers_reach_the_command_that_reads():
    options = ReadOptions(("Si", "O"), units="metal", md_step=1.0, periodic=False, every=2)
    assert command.as_arguments(options) == (
        "--species", "Si", "O", "--units", "metal", "--md-timestep", "1.0", "--no-periodic",
        "--every", "2",
    )  # fmt: skip
    assert command.as_arguments(ReadOptions()) == ()


@pytest.mark.parametrize("name", ["quartz", "water", "paracetamol_xtb"])
def test_all_settings_survive_a_file(name, tmp_path):
    experiment = experiments.load(name)
    path = tmp_path / f"{name}.toml"
    path.write_text(to_toml(experiment, {"model.cutoff": "18 neighbours\non average"}))
    assert load(path) == experiment
    assert "# 18 neighbours on average" in path.read_text()


def test_runs_that_are_there_state_their_settings(tmp_path, monkeypatch):
    known = {"time_step": 2.0, "save_every": 10.0, "temperature": 300.0}
    monkeypatch.setattr(preflight, "known_settings", lambda path: known)
    source = source_of("quartz", (), "", None, ())._replace(
        experiment=Experiment("x", reference=ReferenceSettings(temperature=500.0)),
        stated=frozenset({"reference.temperature"}),
    )
    course = type("Course", (), {"reference": tmp_path})
    found = preflight.with_runs(course, source)
    assert found.experiment.reference.time_step == 2.0
    assert found.experiment.reference.temperature == 500.0  # `generate` says that they differ
    assert "reference.save_every" in found.stated


@pytest.mark.slow
@needs_lammps
def test_the_whole_way_on_argon(tmp_path, monkeypatch, capsys):
    """Far too little training to be accepted: it is rejected, with a card and a reason."""
    monkeypatch.chdir(tmp_path)
    Path("argon.toml").write_text(ARGON)
    arguments = command.Arguments("argon.toml", hours=0.008)
    with compiling_quickly():
        assert command.main(arguments) == 2
    text = capsys.readouterr().out
    assert "Ar32: a solid" in text
    assert "4 √(k_B T/m) of Ar" in text  # why max_speed is what it is
    assert "REJECTED after 1 round" in text
    card = checkpoint.restore("runs/argon/model").card
    assert card.measured.accepted is False
    assert card.measured.forecasts == 3
    assert card.rollout.temperature == 15.0
    assert np.isclose(card.validity.stride, load("runs/argon/argon.toml").data.time_step)
    lines = Path("runs/argon/journal.jsonl").read_text().splitlines()
    steps = [json.loads(line).get("step") for line in lines]
    assert {
        "preflight",
        "settings for 0.008 hours",
        "reference",
        "round 1 fit",
        "round 1 judge briefly",
    } <= set(steps)

    course = type("Course", (), {"journal": Journal(Path("runs/argon/journal.jsonl")), "hours": 4})
    assert preflight.settings_step(course) == "settings for 0.008 hours"
    course.journal = Journal(Path("none.jsonl"))
    assert preflight.settings_step(course) == "settings for 4 hours"

    def nothing(tasks, workers, tell):
        raise AssertionError(f"{tasks} have been run before")

    assert command.main(arguments, nothing) == 2  # again: all is recorded
    other = command.Arguments("argon.toml", hours=1.0, set=("model.lmax=2",))
    with pytest.raises(ValueError, match="training of another system or of other settings"):
        command.main(other, nothing)


def test_an_engine_that_cannot_start_is_said(copper, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = command.Arguments(str(copper), calculator=EMT, temperature=600.0)

    def fails(tasks, workers, tell):
        return [Outcome(1, "The calculator could not be loaded.")]

    assert command.main(arguments, fails) == 1
    assert "preflight failed: The calculator could not be loaded." in capsys.readouterr().err
    other = command.Arguments(str(copper), calculator=EMT, temperature=700.0)
    assert command.main(other, fails) == 1  # nothing was done yet, so that one may correct oneself
    assert "preflight failed" in capsys.readouterr().err


@pytest.mark.parametrize("interval", [20.0, 35.0])
def test_an_import_can_be_corrected_and_any_interval_is_imported(tmp_path, monkeypatch, interval):
    """A mistake in the options costs no more than the same command with the right ones."""
    monkeypatch.chdir(tmp_path)
    run, times = make_trajectory(60)
    write_extxyz("mine.extxyz", run, times / 10 * interval)
    wrong = command.Arguments("mine.extxyz", reading=ReadOptions(time_step=3.0))
    right = command.Arguments("mine.extxyz", set=("reference.runs=1",))
    done = []

    def imports(tasks, workers, tell):
        outcomes = in_processes(tasks, workers, tell)
        done.append(outcomes[0])
        raise KeyboardInterrupt

    assert command.main(wrong, imports) == 130
    assert command.main(right, imports) == 130
    assert done[0].status == 1
    assert "time" in done[0].message
    assert "no whole number of frames" not in done[1].message
