"""Files of other programs on command lines: `rollout` and `evaluate` read what `generate` reads."""

import json
import warnings

import numpy as np
import pytest
import tyro
from conftest import forecaster
from dumps import SYMBOLS, TYPES, write_dump

import experiments
from trajcast_jax import io
from trajcast_jax.io import ReadOptions
from trajcast_jax.io.options import note
from trajcast_jax.network import checkpoint
from trajcast_jax.workflow import evaluate, generate, rollout
from trajcast_jax.workflow.command_line import notes_printed
from trajcast_jax.workflow.rollout_runs import old_run, read_run, start_frame

SAID = ("--species", "Si", "O", "--units", "metal", "--md-timestep", "1")
TOML = """
[data]
time_step = 10.0
[rollout]
chunk = 2
max_temperature = 1e6
skin = 0.3
[reference.structure]
symbols = ["Si", "O"]
spacegroup = 154
basis = [[0.47, 0, 0.6667], [0.41, 0.27, 0.79]]
cellpar = [5.3, 5.3, 5.85, 90.0, 90.0, 120.0]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An experiment, an untrained model and a dump that numbers its elements."""
    folder = tmp_path_factory.mktemp("reading")
    (folder / "mine.toml").write_text(TOML)
    small = forecaster(time_step=10.0, blocks=1, channels=2, cutoff=2.5)
    checkpoint.save(folder / "model", small, small.init(0))
    write_dump(folder / "run.dump", "id type x y z ix iy iz vx vy vz", flags="", n_frames=60)
    return folder


def arguments_of(folder, *more):
    line = [folder / "mine.toml", "--checkpoint", folder / "model", "--start", folder / "run.dump"]
    return tyro.cli(rollout.Arguments, args=[str(word) for word in (*line, *more)])


@pytest.mark.parametrize("command", [generate.main, rollout.Arguments, evaluate.main])
def test_all_commands_have_the_same_options(command, capsys):
    with pytest.raises(SystemExit):
        tyro.cli(command, args=["--help"])
    said = capsys.readouterr().out
    names = ("--time-step", "--md-timestep", "--species", "--units", "--velocity-unit", "--cell",
             "--periodic", "--no-periodic", "--first", "--last", "--every", "--velocities",
             "--topology")  # fmt: skip
    for name in names:
        assert f" {name} " in said, name
    assert "--timestep" not in said


def test_a_rollout_starts_from_a_dump_and_goes_on(folder, tmp_path, capsys):
    frames, _ = io.read_trajectory(
        folder / "run.dump",
        options=ReadOptions(("Si", "O"), "metal", md_step=1.0, periodic=True),
    )
    given = arguments_of(folder, *SAID, "--duration", "20", "--out", tmp_path / "out")
    run, out = rollout.new_run(given)
    first = start_frame(run)
    np.testing.assert_array_equal(first.species, np.where(TYPES == 1, 14, 8))
    assert first.cell is not None  # the structure is a crystal
    np.testing.assert_allclose(first.velocities, frames.velocities[-1])
    rollout.forecast(run, out)
    assert read_run(out / "run.json") == run
    longer = tyro.cli(rollout.Arguments, args=[str(folder / "mine.toml"), "--resume", "--out",
                                               str(out), "--duration", "40"])  # fmt: skip
    rollout.forecast(*old_run(longer))
    found, _ = io.read_trajectory(out / "trajectory.h5")
    assert len(found.positions) == 5
    tenth, _ = rollout.new_run(arguments_of(folder, *SAID, "--last", 10))
    np.testing.assert_allclose(start_frame(tenth).velocities, frames.velocities[10])


def test_options_of_a_start_that_mean_nothing_are_refused(folder):
    asked, _ = rollout.new_run(arguments_of(folder))
    with pytest.raises(ValueError, match="does not tell their elements"):
        start_frame(asked)
    several, _ = rollout.new_run(arguments_of(folder, *SAID, "--every", 2))
    with pytest.raises(ValueError, match=r"--first and --every select nothing; .* by --last"):
        start_frame(several)
    with pytest.raises(ValueError, match="options of how to read --start have no effect"):
        old_run(tyro.cli(rollout.Arguments, args=["quartz", "--resume", *SAID]))
    with pytest.raises(ValueError, match="give --periodic or --no-periodic"):
        arguments_of(folder, *SAID, "--periodic", "--no-periodic")


@pytest.mark.slow
def test_dumps_are_evaluated_against_dumps(folder, tmp_path, capsys):
    dump = folder / "run.dump"
    line = [folder / "mine.toml", "--rollout", dump, "--reference", dump, "--out", tmp_path / "out"]
    with pytest.raises(ValueError, match="does not tell their elements"):
        tyro.cli(evaluate.main, args=[*map(str, line)])
    assert tyro.cli(evaluate.main, args=[*map(str, line), *SAID, "--periodic"]) in (0, 1)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["n_atoms"] == len(SYMBOLS)
    assert report["frames"] == 60
    assert set(report["rdf"]) == {"Si-Si", "Si-O", "O-O"}
    with pytest.raises(ValueError, match="--energies needs potential energies of reference runs"):
        evaluate.compare_energies(None, dump, dump, tmp_path, 3)
    assert evaluate.one_step(experiments.load(line[0]), folder / "model", dump, 0) is None
    assert "skipped" in capsys.readouterr().out


def test_notes_are_said_once_and_other_warnings_stay(capsys):
    def read():
        with notes_printed():
            for _ in range(2):
                note("The last frame was left out.")
            warnings.warn("hot", stacklevel=1)

    with pytest.warns(UserWarning, match="hot") as caught:
        read()
    assert len(caught) == 1
    assert capsys.readouterr().out == "note: The last frame was left out.\n"
