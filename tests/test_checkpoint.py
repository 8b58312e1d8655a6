"""Checkpoints: damage is found, kills lose nothing, models go to other processes."""

import gc
import json
import multiprocessing
import os
import pickle
import shutil

import jax
import numpy as np
import pytest
from conftest import as_system, forecaster, quartz_atoms

from trajcast_jax.config import TrainingSettings
from trajcast_jax.dynamics.ensemble import csvr
from trajcast_jax.dynamics.rollout import simulator
from trajcast_jax.learning.training import init_state
from trajcast_jax.neighbors.graph import neighbor_list
from trajcast_jax.network import checkpoint
from trajcast_jax.network.forecast import TrainedForecast


@pytest.fixture(scope="module")
def model():
    small = forecaster(channels=2, blocks=1)
    return TrainedForecast(small.init(0), small)


def assert_identical(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_no_flipped_bit_gives_other_weights(model, tmp_path):
    """Each is an error that names the checkpoint, or in bytes that decide nothing."""
    path = tmp_path / "best"
    checkpoint.save(path, model.forecaster, model.params)
    random, found = np.random.default_rng(0), 0
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.stat().st_size)
    for file in 4 * files:
        content = file.read_bytes()
        mutant = bytearray(content)
        mutant[int(random.integers(len(mutant)))] ^= 1 << int(random.integers(8))
        file.write_bytes(mutant)
        try:
            restored = checkpoint.restore(path)
        except ValueError as error:
            assert "best" in str(error)  # noqa: PT017 (most flips do no harm)
            found += 1
        else:
            assert restored.forecaster == model.forecaster
            assert_identical(restored.params, model.params)
        file.write_bytes(content)
    assert found > 3


def test_damaged_weights_are_one_error_and_no_noise(model, tmp_path, capfd):
    """Orbax would print "Event loop is closed" for each array that it had begun to read."""
    path = tmp_path / "best"
    checkpoint.save(path, model.forecaster, model.params)
    params = path / "params"
    for file in (params / "manifest.ocdbt", *(params / "d").iterdir()):
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 3] ^= 4
        for damaged in (bytes(flipped), content[: len(content) // 2]):
            file.write_bytes(damaged)
            with pytest.raises(ValueError, match="does not hold the weights"):
                checkpoint.restore(path)
        file.write_bytes(content)
    assert_identical(checkpoint.restore(path).params, model.params)
    gc.collect()
    assert capfd.readouterr().err == ""


def test_weights_and_settings_of_different_moments_are_told_apart(model, tmp_path):
    """As after a copy that was interrupted: each file is whole, and they do not belong together."""
    for name, seed in (("a", 0), ("b", 1)):
        checkpoint.save(tmp_path / name, model.forecaster, model.forecaster.init(seed))
    state = init_state(model.forecaster, TrainingSettings(updates=3))
    checkpoint.save_state(tmp_path / "last", model.forecaster, state)
    checkpoint.restore_state(tmp_path / "last", state)
    shutil.copy(tmp_path / "a" / "model.json", tmp_path / "b" / "model.json")
    with pytest.raises(ValueError, match="b is damaged or was edited"):
        checkpoint.restore(tmp_path / "b")
    for name, load in (("a", checkpoint.restore),
                       ("last", lambda path: checkpoint.restore_state(path, state))):  # fmt: skip
        file = tmp_path / name / "model.json"
        values = json.loads(file.read_text())
        file.write_text(json.dumps(values | {"time_step": 31.0}))
        with pytest.raises(ValueError, match=f"{name} is damaged or was edited"):
            load(tmp_path / name)
        del values["digest"]  # an older checkpoint
        file.write_text(json.dumps(values))
        load(tmp_path / name)


def test_every_shipped_model_has_a_digest():
    for name in ("quartz", "water", "paracetamol", "paracetamol_xtb"):
        path = checkpoint.pretrained(name)
        values = json.loads((path / "model.json").read_text())
        assert checkpoint.digest(checkpoint.restore(path).params, values) == values["digest"]


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_kill_while_a_checkpoint_is_replaced_loses_neither(model, tmp_path, monkeypatch, moment):
    path = tmp_path / "last"
    new = model.forecaster.init(1)
    checkpoint.save(path, model.forecaster, model.params)
    calls = []

    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        # A process that is killed does not clean up, either.
        patch.setattr(checkpoint.shutil, "rmtree", kill if moment == "after" else calls.append)
        if moment == "before":
            patch.setattr(checkpoint.Path, "rename", kill)
        if moment == "between":
            patch.setattr(checkpoint.os, "replace", kill)
        patch.setattr(checkpoint, "_sweep", lambda path: None)
        patch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)
        try:
            checkpoint.save(path, model.forecaster, new)
        except Killed:
            assert moment != "after"
    assert path.exists() == (moment != "between")
    assert checkpoint.exists(path)
    found = checkpoint.restore(path).params
    assert_identical(found, new if moment == "after" else model.params)
    assert len(os.listdir(tmp_path)) > 1
    checkpoint.save(path, model.forecaster, model.params)
    assert os.listdir(tmp_path) == ["last"]


def forecast_energy(model, state):
    """Something that needs all of a model and of a state."""
    moved = jax.jit(model.forecast)(state.system, state.neighbors)
    return float((moved.velocities**2).sum()), np.asarray(jax.random.normal(state.key, 3)).tolist()


@pytest.mark.parametrize("repeat", [(1, 1, 1), (3, 3, 2)], ids=["all images", "nearest image"])
def test_a_model_and_a_state_go_to_another_process_after_their_use(model, repeat):
    system = as_system(quartz_atoms(repeat))
    neighbors = neighbor_list(system.cell, model.cutoff, 0.3)
    sim = simulator(model.forecast, neighbors, csvr(300.0, 75.0), model.time_step)
    state = jax.jit(sim.step)(sim.init(jax.random.key(0), system))
    expected = forecast_energy(model, state)
    again = pickle.loads(pickle.dumps((model, state)))
    assert forecast_energy(*again) == expected
    np.testing.assert_array_equal(
        jax.jit(sim.step)(again[1]).system.positions, jax.jit(sim.step)(state).system.positions
    )


def test_a_model_is_spawned(model):
    system = as_system(quartz_atoms())
    neighbors = neighbor_list(system.cell, model.cutoff, 0.3)
    sim = simulator(model.forecast, neighbors, csvr(300.0, 75.0), model.time_step)
    state = jax.jit(sim.step)(sim.init(jax.random.key(0), system))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(forecast_energy, (model, state)) == forecast_energy(model, state)
