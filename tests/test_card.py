"""Cards of models: written, read, refused; what they warn of; what a rollout takes from them."""

import dataclasses
import json
import pickle
import shutil
import warnings

import jax
import numpy as np
import pytest
from conftest import as_system, forecaster, quartz_atoms

import trajcast_jax as tj
from trajcast_jax.config import load, stated
from trajcast_jax.network import card as cards
from trajcast_jax.network import checkpoint
from trajcast_jax.network.familiar import strangeness
from trajcast_jax.network.forecast import TrainedForecast
from trajcast_jax.system import make_system
from trajcast_jax.workflow import command_line, rollout_runs
from trajcast_jax.workflow.shipped_cards import shipped_card

SHIPPED = ("quartz", "water", "paracetamol", "paracetamol_xtb")


@pytest.fixture(scope="module")
def shipped():
    """Models with their start frames, by name."""
    folders = {name: tj.pretrained(name) for name in SHIPPED}
    return {k: (tj.restore(path), tj.read(path / "start.extxyz")) for k, path in folders.items()}


@pytest.fixture(scope="module")
def small():
    model = forecaster(channels=2, blocks=1)
    return TrainedForecast(model.init(0), model)


@pytest.fixture
def card():
    judged = cards.Measured(
        True, "Accepted.", (cards.Criterion("g(r)", "O-Si: 1.2 % off", "5 % off", "1 %", True),),
        {"displacements": 1.0}, forecasts=3, duration=1e5, seeds=(0, 1, 2),
    )  # fmt: skip
    return cards.Card(
        cards.validity_of(as_system(quartz_atoms()), 30.0, 3.5),
        "small",
        judged,
        cards.RolloutDefaults(ensemble="csvr", skin=0.7, friction_time=1234.0),
        cards.Made("python -m experiments.train small", hours=0.5),
    )


def test_a_card_is_read_as_it_was_written(card, tmp_path):
    assert cards.read(tmp_path) is None
    cards.write(tmp_path, card)
    assert cards.read(tmp_path) == card
    assert hash(cards.read(tmp_path)) == hash(card)
    assert pickle.loads(pickle.dumps(card)) == card
    text = (tmp_path / "card.md").read_text()
    for words in (
        "# Model card: small",
        "O2Si",
        "| stride | 30 fs |",
        "1.2 % off",
        "friction_time",
    ):
        assert words in text
    assert "| pairs learned from | not recorded |" in text
    endless = dataclasses.replace(card.measured, duration=float("inf"))
    with pytest.raises(ValueError, match=r"measured\.duration' must be a finite number"):
        cards.write(tmp_path, dataclasses.replace(card, measured=endless))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.pop("validity"), "'validity' is missing"),
        (lambda x: x.update(format=7), "format 7"),
        (lambda x: x["validity"].update(temperatur=[1, 2]), "did you mean 'temperature'"),
        (lambda x: x["validity"].update(temperature=[400, 300]), r"temperature.*\(smallest, larg"),
        (lambda x: x["rollout"].update(skin=-1), r"rollout\.skin"),
        (lambda x: x["measured"]["criteria"].append({"name": "x"}), "missing"),
        (lambda x: x["made"].update(hours="long"), r"made\.hours"),
    ],
)
def test_a_damaged_card_is_a_sentence(card, tmp_path, change, message):
    cards.write(tmp_path, card)
    values = json.loads((tmp_path / "card.json").read_text())
    change(values)
    (tmp_path / "card.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message) as error:
        cards.read(tmp_path)
    assert "card.json" in str(error.value)
    (tmp_path / "card.json").write_bytes(b'{"validity": {')
    with pytest.raises(ValueError, match=r"card\.json"):
        cards.read(tmp_path)


def test_a_card_stays_with_its_weights(small, card, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    checkpoint.save(a, small.forecaster, small.params, card=card)
    checkpoint.save(b, small.forecaster, small.forecaster.init(1))
    assert tj.restore(b).card is None
    assert checkpoint.load_card(b) is None
    kept = tj.restore(a).card
    assert kept == checkpoint.load_card(a) == dataclasses.replace(card, weights=kept.weights)
    jax.jit(lambda model: model.params)(tj.restore(a))  # it is static
    shutil.copy(a / "card.json", b)
    for read in (tj.restore, checkpoint.load_card):
        with pytest.raises(ValueError, match=r"card\.json is one of other weights"):
            read(b)
    checkpoint.save_card(b, card)
    assert tj.restore(b).card.weights == checkpoint.load_card(b).weights != kept.weights
    checkpoint.save(b, small.forecaster, small.params)  # the old card is not that of these weights
    assert not (b / "card.json").exists()
    values = json.loads((a / "model.json").read_text())
    values["model"]["speed_limit"] = 4.0
    del values["digest"]
    (a / "model.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="other weights or settings"):
        checkpoint.load_card(a)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_cards_of_shipped_models_are_made_from_what_is_shipped(name, shipped):
    model, start = shipped[name]
    made = shipped_card(command_line.load(name), tj.pretrained(name))
    text = json.loads(json.dumps(dataclasses.asdict(model.card)))
    again = json.loads(json.dumps(dataclasses.asdict(made)))
    for part in ("name", "measured", "rollout", "made"):
        assert again[part] == text[part]
    assert again["validity"].keys() == text["validity"].keys()
    assert model.card.measured.accepted
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.check(start)
        model.check(start, temperature=300.0)
        drawn = tj.maxwell_boltzmann(jax.random.key(1), start, 300.0, start.cell is None)
        model.check(start.replace(velocities=drawn))
        model.check(start.replace(velocities=0 * start.velocities), temperature=310.0)


def spaced(system, factor):
    """The system with all distances times a factor."""
    return system.replace(positions=factor * system.positions, cell=factor * system.cell)


def only(system, z):
    here = np.asarray(system.species) == z
    parts = (np.asarray(x)[here] for x in (system.positions, system.velocities, system.species))
    return make_system(*parts, cell=system.cell)


def collided(system):
    return system.replace(positions=system.positions.at[1].set(system.positions[0] + 0.3))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("water", lambda s: s.replace(velocities=2.25 * s.velocities), r"temperature of 14\d\d K"),
        ("paracetamol", lambda s: s.replace(velocities=2.2 * s.velocities), "temperature of 16"),
        ("quartz", lambda s: spaced(s, 1.13 ** (1 / 3)), r"density.* 0\.068. .*0\.0770 atoms"),
        ("water", lambda s: spaced(s, 0.87 ** (1 / 3)), r"density.*1\.149 g/cm³.*1\.000 g/cm³"),
        ("water", lambda s: spaced(s, 0.87 ** (1 / 3)), "neighbours within 4.5 Å"),
        ("water", lambda s: only(s, 8), r"0 % of the atoms are H, but 66\.7 % in .*\(H2O\)"),
        ("quartz", lambda s: s.replace(masses=1.03 * s.masses), r"mass of atom 3 .* 16\.479 Da"),
        ("quartz", lambda s: s.replace(cell=None), "no cell"),
        ("quartz", collided, r"Two atoms Si and Si are 0\.52 Å apart.*2\.85 Å"),
        ("water", lambda s: s.replace(cell=5 * s.cell), r"62\.1 Å long, but .* at most 49\.7 Å"),
    ],
)  # fmt: skip
def test_a_card_warns_of_every_quantity_outside(shipped, name, change, message):
    model, start = shipped[name]
    with pytest.warns(UserWarning, match=message):
        model.check(change(start))
    with pytest.warns(UserWarning, match="temperature of 1500 K, .* at about [23]"):
        model.check(start, temperature=1500.0)


def test_molecules_and_thin_cells_and_fast_atoms(shipped):
    model, molecule = shipped["paracetamol"]
    learned = dataclasses.replace(model.card.validity, fastest={"H": 0.03})
    box = molecule.replace(cell=20 * np.eye(3, dtype=np.float32))
    assert any("isolated molecules alone" in x for x in strangeness(box, learned, 4.0))
    found = strangeness(molecule, learned, 4.0)
    assert len(found) == (float(np.linalg.norm(molecule.velocities, axis=1).max()) > 0.0375)
    learned = dataclasses.replace(learned, fastest={"H": 0.02}, atoms=(30, 40), fractions={})
    found = "\n".join(strangeness(molecule, learned, 4.0))
    assert "20 atoms, but those in the training set of the checkpoint have 30 to 40" in found
    assert "none in the training set of the checkpoint is faster than 0.02 Å/fs" in found
    quartz = as_system(quartz_atoms((3, 3, 2)))
    thin = as_system(quartz_atoms((1, 3, 2)))
    assert any("4.3 Å thin" in x for x in strangeness(thin, cards.validity_of(quartz), 4.4))


def test_a_molecule_that_turns_is_no_hotter(shipped):
    model, start = shipped["paracetamol"]
    turning = np.cross([0.0, 0.0, 0.02], np.asarray(start.positions))
    moved = start.replace(velocities=start.velocities + turning + 0.01)
    kelvins = [cards.validity_of(s).temperature[0] for s in (start, moved)]
    np.testing.assert_allclose(kelvins[1], kelvins[0], rtol=1e-3)
    model = model.replace(card=None)  # by the statistics alone
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.check(start, temperature=300.0)
        model.check(start, temperature=355.0)
    with pytest.warns(UserWarning, match="trained at about 298 K"):
        model.check(start, temperature=400.0)


def test_validity_is_measured_on_pairs_and_on_trajectories_alike():
    start = as_system(quartz_atoms((2, 2, 2)), speed=0.003)
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(20, *start.positions.shape)) * 0.03
    heat = np.sqrt(np.linspace(0.5, 1.5, 20))[:, None, None]
    run = start.replace(
        positions=np.asarray(start.positions + steps, np.float32),
        velocities=np.asarray(heat * start.velocities, np.float32),
    )
    times = np.arange(20.0)
    pairs = tj.frame_pairs([(run, times)], 1.0, 3.5, 19)
    a, b = cards.validity_of(pairs, 1.0, 3.5), cards.validity_of(run, 1.0, 3.5)
    mean = float(np.mean(b.temperature))
    np.testing.assert_allclose(b.temperature, (0.5 * mean, 1.5 * mean), rtol=0.12)
    begin = run.replace(positions=run.positions[:19], velocities=run.velocities[:19])
    cut = cards.validity_of(begin, 1.0, 3.5)
    assert a.closest == pytest.approx(cut.closest, rel=1e-4)
    assert a.neighbors == pytest.approx(cut.neighbors)
    assert a.fastest == pytest.approx(b.fastest)
    assert (a.formulas, a.atoms, a.periodic) == (("O2Si",), (72, 72), True)
    other = as_system(quartz_atoms((3, 2, 2)))
    both = cards.validity_of([pairs, other], 1.0, 3.5)
    assert both.atoms == (72, 108)
    assert both.longest_cell > a.longest_cell
    assert both.shortest_cell == a.shortest_cell
    metal = make_system(3.0 * np.eye(3), np.eye(3) * 1e-3, [29, 29, 8], cell=9 * np.eye(3))
    both = cards.joined(a, cards.validity_of(metal))
    assert both.species == ("O", "Si", "Cu")
    assert both.fractions["Cu"][0] == both.fractions["Si"][0] == 0.0


TOML = """
base = "above"
[rollout]
skin = 0.9
"""


def test_a_rollout_takes_from_the_card_what_is_stated_nowhere(small, card, tmp_path, capsys):
    checkpoint.save(tmp_path / "model", small.forecaster, small.params, card=card)
    (tmp_path / "above.toml").write_text("[rollout]\ntime_constant = 50.0\n")
    (tmp_path / "own.toml").write_text(TOML)
    path = tmp_path / "own.toml"
    assert stated(path, ("model.lmax=1",)) == {
        "rollout.time_constant", "rollout.skin", "model.lmax"
    }  # fmt: skip
    arguments = rollout_runs.Arguments(
        str(path), checkpoint=tmp_path / "model", start=tmp_path, out=tmp_path / "out"
    )

    def settings(*changes):
        return rollout_runs.new_run(dataclasses.replace(arguments, set=changes))[0].experiment

    found = settings()
    taken = dataclasses.replace(load(path).rollout, friction_time=1234.0, ensemble="csvr")
    assert found.rollout == taken
    assert found.rollout.skin == 0.9
    said = capsys.readouterr().out
    assert "From the model's card" in said
    assert "rollout.friction_time = 1234.0" in said
    assert "skin" not in said
    assert f"data.time_step = {card.validity.stride}" in said
    assert found.data.time_step == card.validity.stride
    assert settings("rollout.friction_time=7").rollout.friction_time == 7
    for option in ("rollout.friction_time=1", "rollout.ensemble=nve"):
        capsys.readouterr()
        settings(option)
        assert option.partition("=")[0] not in capsys.readouterr().out
    settings("rollout.friction_time=1", "rollout.ensemble=nve", "data.time_step=30")
    assert not capsys.readouterr().out
