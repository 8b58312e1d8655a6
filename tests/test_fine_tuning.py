"""Fine-tuning: a model becomes one of another temperature, density or force field."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import forecaster
from test_dataset import trajectory
from trajectories import make_trajectory, write

from trajcast_jax.config import Experiment, TrainingSettings
from trajcast_jax.data import frame_pairs, statistics
from trajcast_jax.data.statistics import updated
from trajcast_jax.network import checkpoint
from trajcast_jax.workflow import fit as fitting
from trajcast_jax.workflow.campaign import preflight
from trajcast_jax.workflow.campaign.course import StageError
from trajcast_jax.workflow.campaign.sources import source_of


def test_fine_tuning_measures_the_statistics_anew(tmp_path):
    """Only they change: the weights, the species and the settings are the model's."""
    run, times = trajectory(n_frames=60)
    pairs = frame_pairs([(run, times)], 30.0, 3.5, 50)
    setup = forecaster(blocks=1)
    more = dataclasses.replace(
        setup.statistics, velocity_rms=(1.0, 2.0), average_neighbors=3.0, longest_cell=99.0
    )
    checkpoint.save(tmp_path / "hot", dataclasses.replace(setup, statistics=more), setup.init(0))
    experiment = Experiment("tiny", model=setup.settings, training=TrainingSettings(updates=20))
    tuned, state = fitting.start(experiment, pairs, tmp_path, tmp_path / "hot", True)
    expected = statistics(pairs)
    assert tuned.statistics.velocity_rms == expected.velocity_rms
    assert tuned.statistics.average_neighbors == expected.average_neighbors
    assert tuned.settings == setup.settings
    jax.tree.map(np.testing.assert_array_equal, state.params, setup.init(0))
    kept, _ = fitting.start(experiment, pairs, tmp_path, tmp_path / "hot")
    assert kept.statistics == more


def test_statistics_of_absent_species_stay():
    run, times = trajectory(n_frames=60)
    measured = statistics(frame_pairs([(run, times)], 30.0, 3.5, 50))
    names = ("displacement_scale", "velocity_scale", "displacement_baseline",
             "velocity_baseline", "velocity_rms")  # fmt: skip
    others = dict.fromkeys(names, (7.0, 8.0, 9.0))
    known = dataclasses.replace(measured, species=(1, 8, 14), **others)
    new = updated(known, measured)
    assert new.species == (1, 8, 14)
    assert new.velocity_rms == (7.0, *measured.velocity_rms)
    assert new.displacement_baseline == (7.0, *measured.displacement_baseline)
    with pytest.raises(ValueError, match=r"have H, but the model knows O, Si only"):
        updated(measured, known)


def test_training_starts_from_a_model_with_its_settings(tmp_path):
    path = write(tmp_path / "mine.h5", make_trajectory()[0])
    source = source_of(str(path), (Path("water"),), "", None, ())
    model = checkpoint.pretrained("water")
    assert source.model == model
    assert source.trajectories == (path,)
    forecaster, _ = checkpoint.describe(model)
    assert source.experiment.model == forecaster.settings
    assert source.experiment.data.time_step == forecaster.time_step
    assert {"model.channels", "model.cutoff", "data.time_step"} <= source.stated
    assert source_of(str(path), (model,), "", None, ()).model == model
    with pytest.raises(ValueError, match=r"model.lmax = 1, but 2 is stated; leave it out"):
        source_of(str(path), (model,), "", None, ("model.lmax=2",))
    with pytest.raises(ValueError, match="names 2 models"):
        source_of(str(path), (model, Path("quartz")), "", None, ())
    with pytest.raises(StageError, match=r"knows H, O only, but the system has Ar, O, Si"):
        preflight.require_known(model, {"Ar", "O", "Si"})
