"""Settings: TOML in, validated; every shipped experiment loads."""

import dataclasses
import json
from pathlib import Path

import pytest

import experiments
from trajcast_jax.config import Experiment, ModelSettings, changed, from_dict, load, to_json

TOMLS = sorted(Path(experiments.__file__).parent.glob("*.toml"))


@pytest.mark.parametrize("path", TOMLS, ids=lambda p: p.stem)
def test_shipped_experiments_load(path):
    assert experiments.load(path.stem) == load(path)


def test_settings_survive_json():
    experiment = experiments.load("quartz")
    assert from_dict(Experiment, json.loads(to_json(experiment))) == experiment


def test_misspelt_setting_names_the_nearest(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text("[model]\ncutof = 4.0\n")
    with pytest.raises(ValueError, match=r"Unknown setting 'model\.cutof': did you mean 'cutoff'"):
        load(file)
    with pytest.raises(ValueError, match=r"did you mean 'training'"):
        changed(experiments.load("quartz"), ("trainin.updates=3",))
    with pytest.raises(FileNotFoundError, match="did you mean 'quartz'"):
        experiments.load("quarz")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cutoff = 'far'", "cutoff"),
        ("channels = 1.5", "channels"),
        ("edge_mlp = [1, 'a']", "edge_mlp"),
        ("velocity_vector = 1", "velocity_vector"),
        ("blocks = 0", "blocks"),
        ("cutoff = -4", "cutoff"),
        ("max_speed = nan", "max_speed"),
    ],
)
def test_values_that_cannot_be_are_named(text, name, tmp_path):
    file = tmp_path / "x.toml"
    file.write_text(f"[model]\n{text}\n")
    with pytest.raises(ValueError, match=rf"Setting 'model\.{name}' must be"):
        load(file)


def test_changes_on_the_command_line():
    experiment = changed(
        experiments.load("quartz"),
        ("training.updates=7", "model.edge_mlp=[3, 4]", "rollout.ensemble=nve"),
    )
    assert experiment.training.updates == 7
    assert experiment.model.edge_mlp == (3, 4)
    assert experiment.rollout.ensemble == "nve"
    with pytest.raises(ValueError, match=r"write table\.name=value"):
        changed(experiment, ("updates 7",))


def test_defaults_of_the_model_are_the_papers():
    paper = ModelSettings()
    assert (paper.lmax, paper.channels, paper.blocks, paper.parity) == (2, 64, 4, "both")
    assert (paper.n_radial, paper.n_speed, paper.envelope_power) == (8, 8, 6)
    assert paper.edge_mlp == paper.velocity_mlp == (64, 64, 64)
    with pytest.raises(dataclasses.FrozenInstanceError):
        paper.channels = 3


def test_missing_setting_is_named():
    with pytest.raises(ValueError, match="'name' is missing"):
        from_dict(Experiment, {})
