"""The command `convert`: its questions and its checks, and what its checkpoints can do."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from test_dataset import trajectory
from test_parity import DATA
from test_torch_import import SMALL, random_state

import trajcast_jax as tj
from trajcast_jax.analysis.evaluation import evaluate_one_step
from trajcast_jax.config import TrainingSettings
from trajcast_jax.data.pairs import frame_pairs
from trajcast_jax.learning.training import init_state, train_updates
from trajcast_jax.mechanics import momentum
from trajcast_jax.pytorch import parity
from trajcast_jax.workflow import convert


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A configuration and a state dict on disk, as published."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "config_e3nn.yaml").write_text(yaml.safe_dump({"model": SMALL}))
    np.savez(folder / "state_dict_e3nn.npz", **random_state(SMALL))
    return folder / "config_e3nn.yaml", folder / "state_dict_e3nn.npz"


@pytest.fixture(scope="module")
def converted(files, tmp_path_factory):
    """A checkpoint that the command wrote, restored."""
    out = tmp_path_factory.mktemp("checkpoints") / "converted"
    convert.main(*files, out=out, species=("O", "14"), time_step=30.0)
    return tj.restore(out)


def test_the_command_asks_for_what_the_files_leave_open(files, tmp_path):
    with pytest.raises(ValueError, match="--species H C N O"):
        convert.main(*files, out=tmp_path / "a", time_step=30.0)
    with pytest.raises(ValueError, match="--time-step 7"):
        convert.main(*files, out=tmp_path / "a", species=("O", "Si"))
    with pytest.raises(ValueError, match="'Xx' is neither"):
        convert.main(*files, out=tmp_path / "a", species=("O", "Xx"), time_step=30.0)
    with pytest.raises(ValueError, match="--check ORACLE"):
        convert.main(*files)


def test_a_converted_checkpoint_rolls_out_like_a_native_one(converted):
    assert (converted.species, converted.time_step, converted.cutoff) == ((8, 14), 30.0, 3.5)
    run, _ = trajectory()
    start = run.replace(positions=run.positions[0], velocities=run.velocities[0])
    converted.check(start)
    neighbors = tj.neighbor_list(start.cell, converted.cutoff, skin=0.5)
    sim = tj.simulator(converted.forecast, neighbors, tj.nve(), time_step=30.0)
    state, frames = jax.jit(tj.rollout(sim.step, 3))(sim.init(jax.random.key(0), start))
    assert np.isfinite(frames.positions).all()
    # Its momentum is imposed, whatever the start had.
    np.testing.assert_allclose(momentum(state.system), 0.0, atol=1e-5)


def test_a_converted_checkpoint_evaluates_and_learns_like_a_native_one(converted):
    pairs = frame_pairs([trajectory()], 30.0, converted.cutoff, 4)
    assert evaluate_one_step(converted, pairs)
    settings = TrainingSettings(
        updates=1, batch_size=2, schedule="constant", optimizer="adam", learning_rate=0.01
    )
    start = jax.tree.map(np.array, converted.params)
    # A copy: an update reuses the buffers of the state it is given.
    state = init_state(converted.forecaster, settings, jax.tree.map(jnp.asarray, start))
    state, losses = train_updates(converted.forecaster, settings, 1)(state, pairs)
    assert np.isfinite(losses).all()
    changed = jax.tree.map(lambda a, b: bool((a != np.asarray(b)).any()), start, state.params)
    assert all(jax.tree.leaves(changed))


def test_the_check_reports_and_fails(tmp_path, monkeypatch, capsys):
    oracle = DATA / "parity_molecule.npz"
    monkeypatch.setattr(parity, "errors", lambda _: iter([("float64/frame0/raw_target", 1e-12)]))
    convert.main(check=oracle, json=str(tmp_path / "report.json"))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == {"float64/frame0/raw_target": 1e-12}
    monkeypatch.setattr(parity, "errors", lambda _: iter([("float32/frame0/raw_target", 1e-3)]))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        convert.main(check=oracle, json="-")
    assert stopped.value.code == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"float32/frame0/raw_target": 1e-3}
    assert "MISS" in printed.err
