"""Settings: TOML in, validated; every shipped experiment loads."""

import dataclasses
import json
import typing
from pathlib import Path

import pytest

import experiments
from trajcast_jax.config import (
    Experiment,
    ModelSettings,
    changed,
    from_dict,
    load,
    stated,
    to_json,
)
from trajcast_jax.workflow.training_pairs import load_pairs

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


def numbers(kind, where=""):
    """Dotted names and annotations of all numbers among the settings."""
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        inner = [a for a in typing.get_args(hint) if a is not type(None)]
        if dataclasses.is_dataclass(hint):
            yield from numbers(hint, f"{where}{name}.")
        elif hint in (int, float) or typing.Annotated in map(typing.get_origin, (hint, *inner[:1])):
            yield f"{where}{name}", hint


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "-1.0", "-1", "9" * 400, "true"])
def test_no_number_is_infinite_or_out_of_range(value):
    names = [name for name, _ in numbers(Experiment)]
    assert len(names) > 60
    assert {"rollout.max_temperature", "rollout.friction_time", "training.seed"} <= set(names)
    for name in names:
        if (value, name) in (("-1.0", "reference.pressure"), ("-1", "reference.pressure")):
            continue  # water under tension
        with pytest.raises(ValueError, match=rf"Setting '{name}"):
            changed(Experiment("x"), (f"{name}={value}",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\xfe", "no TOML"),
        (b"[model]\ncutoff = 1\0", "no TOML"),
        (b"model = 3", "'model' must be a table"),
        (b"[[model]]\ncutoff = 1.0", "'model' must be a table"),
        (b"base = 3", "'base' of"),
        (b"base = 'x'", "its own base"),
        (b"base = 'none'", "none.toml"),
        (b"base = '../../secret'", "secret"),
        (b"[reference.expected]\ndensity = 'high'", "reference.expected.density"),
        (b"[reference]\nrepeat = [1, 2]", "reference.repeat"),
        (b"a = " + b"[" * 5000, "RecursionError|no TOML"),
        (b"[training]\nupdates = " + b"9" * 5000, "4300 digits|training.updates"),
    ],
)
def test_broken_files_are_named(text, message, tmp_path):
    file = tmp_path / "x.toml"
    file.write_bytes(text)
    with pytest.raises((ValueError, OSError), match=message) as caught:
        load(file)
    assert "x.toml" in str(caught.value) or isinstance(caught.value, FileNotFoundError)


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


def test_defaults_are_what_the_shipped_models_share_and_the_paper_is_a_file():
    for name in ("quartz", "water", "paracetamol", "paracetamol_xtb"):
        experiment, defaults = experiments.load(name), Experiment("mine")
        shared = ("parity", "edge_mlp", "velocity_mlp", "velocity_vector", "gate_activation")
        for field in (*shared, "relative_speeds", "even_activation", "velocity_activation"):
            assert getattr(experiment.model, field) == getattr(defaults.model, field)
        for field in ("optimizer", "b2", "learning_rate", "ema_decay", "updates"):
            assert getattr(experiment.training, field) == getattr(defaults.training, field)
    assert ModelSettings().lmax == 2
    paper = experiments.load("quartz_paper").model
    assert (paper.lmax, paper.channels, paper.blocks, paper.parity) == (2, 64, 4, "both")
    assert (paper.n_radial, paper.n_speed, paper.envelope_power) == (8, 8, 6)
    assert paper.edge_mlp == paper.velocity_mlp == (64, 64, 64)
    with pytest.raises(dataclasses.FrozenInstanceError):
        paper.channels = 3


def test_missing_setting_is_named():
    with pytest.raises(ValueError, match="'name' is missing"):
        from_dict(Experiment, {})


def test_auto_is_not_stated(tmp_path):
    (tmp_path / "auto.toml").write_text(
        "[reference]\ntemperature = 500.0\nstructure = {name = 'auto'}\n"
        "[model]\ncutoff = 5.0\nlmax = 'auto'\n"
    )
    (tmp_path / "mine.toml").write_text(
        "base = 'auto'\nrollout = 'auto'\n[model]\ncutoff = 'auto'\nblocks = 2\n"
    )
    assert load(tmp_path / "auto.toml").name == "auto"
    assert load(tmp_path / "auto.toml").model.lmax == ModelSettings().lmax
    mine = load(tmp_path / "mine.toml")
    assert (mine.model.cutoff, mine.model.blocks) == (ModelSettings().cutoff, 2)
    assert mine.reference.structure == {"name": "auto"}  # not a setting
    names = {"reference.temperature", "reference.structure", "model.blocks"}
    assert stated(tmp_path / "mine.toml") == names
    changes = ("model.blocks=auto", "training.updates=7")
    assert stated(tmp_path / "mine.toml", changes) == names - {"model.blocks"} | {
        "training.updates"
    }
    assert stated({"name": "x", "data": {"time_step": 3.0}}) == {"data.time_step"}
    assert changed(mine, ("model.blocks=auto",)).model.blocks == ModelSettings().blocks
    with pytest.raises(ValueError, match=r"model\.cutof'"):
        changed(mine, ("model.cutof=auto",))


def test_every_setting_may_be_auto():
    for table in dataclasses.fields(Experiment("x")):
        if dataclasses.is_dataclass(table.default):
            for setting in dataclasses.fields(table.default):
                change = (f"{table.name}.{setting.name}=auto",)
                assert changed(Experiment("x"), change) == Experiment("x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.train_runs=0", r"must be a list of whole numbers, but is 0; write \[0\]\.$"),
        ("data.train_runs=x", 'must be a list of whole numbers, but is "x"\\.$'),
        ("reference.repeat=2", r"must be a list of 3 whole numbers, but is 2\.$"),
        ("reference.expected={a=1}", r"'reference\.expected\.a' must be a list of 2 numbers"),
        ("reference.structure=3", r"must be a table, but is 3\.$"),
        ("model.lmax=true", r"must be a whole number, but is true\.$"),
        ("data.time_reversal=1", r"must be true or false, but is 1\.$"),
        ("reference.commands=3", r"must be a text in quotes, but is 3\.$"),
        ("rollout.final_temperature=x", 'must be a number, but is "x"\\.$'),
        ("rollout.duration=2020-01-01", r"must be a number, but is datetime"),
    ],
)
def test_types_are_said_in_words(change, message):
    with pytest.raises(ValueError, match=message):
        changed(Experiment("any"), (change,))


def test_no_runs_to_learn_from():
    experiment = changed(Experiment("any"), ("data.train_runs=[]",))
    with pytest.raises(ValueError, match=r"data\.train_runs is empty; name one"):
        load_pairs(experiment, [Path("run_000.h5")], "train")
