"""What errors of a forecast add to kinds of motion, and that training leads it to 0."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from conftest import as_system, forecaster, quartz_atoms

import experiments
from trajcast_jax import io
from trajcast_jax.analysis.modes import InternalModes, NormalModes
from trajcast_jax.data.pairs import FramePairs, frame_pairs
from trajcast_jax.learning.balancing import (
    CHUNK,
    REDUCTIONS,
    BalanceSettings,
    average_gain,
    average_swings,
    balance,
    balance_updates,
    begin,
    usual_gain,
)
from trajcast_jax.learning.energy_gains import (
    InternalVibrations,
    Motions,
    OfMesh,
    Together,
    Vibrations,
    kinds,
)
from trajcast_jax.learning.held_out import HeldOut, clearly_less, measurement
from trajcast_jax.network import checkpoint
from trajcast_jax.network.forecast import Forecaster, TrainedForecast
from trajcast_jax.system import make_system
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV, WAVENUMBER_PER_INVERSE_FEMTOSECOND
from trajcast_jax.workflow import balance as verb


def test_kinds_hold_every_mode_once_and_slow_ones_almost_alone():
    groups = kinds(483)
    np.testing.assert_array_equal(np.concatenate(groups), np.arange(483))
    assert [len(group) for group in groups[:3]] == [2, 2, 3]
    assert max(len(group) for group in groups) == 24


def test_gains_are_what_the_harmonic_energies_differ_by():
    rng = np.random.default_rng(0)
    masses = np.array([28.0, 16.0, 16.0, 28.0])
    rigid = np.linalg.qr(np.kron(np.sqrt(masses)[:, None], np.eye(3)))[0]
    vectors = np.linalg.qr(np.hstack([rigid, rng.normal(size=(12, 9))]))[0][:, 3:]
    centers = rng.normal(size=(4, 3)) * 3
    centers -= masses @ centers / masses.sum()
    cell = 12.0 * np.eye(3)
    modes = NormalModes(np.linspace(50.0, 900.0, 9), vectors, centers, cell)
    r, d, dd = centers + 5 + 0.1 * rng.normal(size=(4, 3)), *0.1 * rng.normal(size=(2, 4, 3))
    v, dv = 0.003 * rng.normal(size=(2, 4, 3))
    dd -= masses @ dd / masses.sum()
    errors = jnp.asarray(dd), jnp.asarray(dv)
    nothing = jnp.zeros((4, 0), jnp.int32)

    def pair_in(cell):
        system = make_system(r, v, [14, 8, 8, 14], cell=cell, masses=masses)
        return FramePairs(system, jnp.asarray(d), jnp.asarray(v), nothing, nothing)

    pair, elsewhere = pair_in(cell), pair_in(1.01 * cell)
    both = jax.tree.map(lambda *x: jnp.stack(x), pair, elsewhere)
    gains = Vibrations(modes, [both], 300.0)
    assert not gains(elsewhere, None, errors).any()
    found = gains(pair, None, errors) / 2  # the mean over both pairs is that of the one in the cell
    with pytest.raises(ValueError, match=r"No pair is in the cell of 12\.12 x"):
        Vibrations(modes._replace(cell=1.01 * cell), [jax.tree.map(lambda x: x[:1], both)], 300.0)
    with pytest.raises(ValueError, match="of 3 atoms, but some pairs have 4"):
        Vibrations(NormalModes(modes.wavenumbers, vectors[:9], centers[:3], cell), [both], 300.0)

    def energies(positions, velocities):
        weights = np.sqrt(masses)[:, None]
        moved = positions - masses @ positions / masses.sum() - centers
        q, p = ((x * weights).ravel() @ vectors for x in (moved, velocities))
        omega = 2 * np.pi * modes.wavenumbers / WAVENUMBER_PER_INVERSE_FEMTOSECOND
        return 0.5 * (p**2 + (omega * q) ** 2) * KINETIC_TO_EV / (BOLTZMANN * 300.0)

    added = energies(r + d + dd, v + dv) - energies(r + d, v)
    expected = [added[group].mean() for group in kinds(9)]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4 * np.abs(expected).max())


def test_gains_of_a_molecule_are_what_the_energies_of_its_modes_differ_by():
    rng, numbers = np.random.default_rng(0), [1, 7, 7, 1]
    sites = np.array([[-1.0, 0.95, 0.0], [-0.62, 0.0, 0.0], [0.62, 0.0, 0.0], [1.0, -0.95, 0.0]])
    r, d, dd = sites + 0.05 * rng.normal(size=(4, 3)), *0.02 * rng.normal(size=(2, 4, 3))
    v, dv = 0.01 * rng.normal(size=(2, 4, 3))
    pairs, chain = np.array([[0, 1], [1, 2], [2, 3]]), [0, 1, 2, 3]
    centers = np.array([1.0, 1.2, 1.0, np.pi])
    wavenumbers, vectors = np.array([800.0, 1600.0, 3600.0, 3700.0]), rng.normal(size=(4, 4))
    modes = InternalModes(wavenumbers, pairs, np.array([chain]), vectors, centers)
    nothing = jnp.zeros((4, 0), jnp.int32)
    system = make_system(r, v, numbers)
    pair = FramePairs(system, jnp.asarray(d), jnp.asarray(v), nothing, nothing)
    errors = jnp.asarray(dd), jnp.asarray(dv)

    def coordinates(positions):
        atoms = Atoms(numbers, positions)
        lengths = [atoms.get_distance(*some) for some in pairs]
        return np.array([*lengths, np.radians(atoms.get_dihedral(*chain))]) - centers

    def energies(positions, velocities):
        step = 1e-3 * velocities
        rates = (coordinates(positions + step) - coordinates(positions - step)) / 2e-3
        omega = 2 * np.pi * modes.wavenumbers / WAVENUMBER_PER_INVERSE_FEMTOSECOND
        q, p = coordinates(positions) @ modes.vectors, rates @ modes.vectors
        return 0.5 * (p**2 + (omega * q) ** 2) * KINETIC_TO_EV / (BOLTZMANN * 300.0)

    expected = energies(r + d + dd, v + dv) - energies(r + d, v)
    gains = InternalVibrations(modes, 300.0)
    found = gains(pair, None, errors)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4 * np.abs(expected).max())
    both = Together(gains, gains)
    np.testing.assert_array_equal(both(pair, None, errors), np.tile(found, 2))
    assert both.weights.sum() == pytest.approx(1.0)


@pytest.mark.slow
def test_motions_gain_as_much_in_copies_of_a_cell():
    """What a stride adds is told by the atom: a cell twice as long has no other kinds or sizes."""
    rng, model = np.random.default_rng(0), forecaster()
    velocities = 0.003 * rng.normal(size=(3, 27, 3)).astype(np.float32)
    start, both = as_system(quartz_atoms((3, 1, 1))), []
    places, cell = start.positions + 20.0 * np.cumsum(velocities, axis=0), np.asarray(start.cell)
    for n in (1, 2):
        copies = np.concatenate([places + k * cell[0] for k in range(n)], axis=1)
        frames = make_system(copies, np.tile(velocities, (1, n, 1)),
                             np.tile(start.species, n), cell=cell * [[n], [1], [1]])  # fmt: skip
        both.append(frame_pairs([(frames, 30.0 * np.arange(3))], 30.0, 3.5, 2, seed=1))
    few, found = Motions(model, both[0]), []
    for pairs in both:
        one = jax.tree.map(lambda x: jnp.asarray(x[0]), pairs)
        errors = 0.1 * one.displacements, 0.1 * one.velocities
        found.append(few(one, one.edges(3.5), errors))
    assert abs(found[0]).max() > 0.1
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-3)


@dataclasses.dataclass(frozen=True)
class Fading(Forecaster):
    """Atoms that stay where they are; of their velocities so much is left as the weights say."""

    def init(self, seed):
        return {"left": jnp.ones(2)}

    def batch_changes(self, params, systems, edges):
        left = params["left"][self.species_index(systems.species)]
        return jnp.zeros_like(systems.positions), left[..., None] * systems.velocities


@dataclasses.dataclass(frozen=True)
class Drifting(Fading):
    """Atoms that go where their velocities lead them, which these forget likewise."""

    def batch_changes(self, params, systems, edges):
        velocities = super().batch_changes(params, systems, edges)[1]
        return self.time_step * systems.velocities, velocities


REMEMBERED = 0.8
"""Of velocities, at each stride. What is best for squares is to leave the rest out."""


def forgetful(moving=False, n=400, seed=0):
    """A trajectory whose velocities forget a fifth at each stride."""
    rng, atoms = np.random.default_rng(seed), 27
    start = as_system(quartz_atoms((3, 1, 1)))
    velocities = [start.velocities]
    for _ in range(n):
        noise = 0.003 * rng.normal(size=(atoms, 3))
        velocities.append(REMEMBERED * velocities[-1] + (1 - REMEMBERED**2) ** 0.5 * noise)
    velocities = np.array(velocities, np.float32)
    moved = 30.0 * np.cumsum(velocities, axis=0) - 30.0 * velocities if moving else 0.0
    frames = start.replace(
        positions=np.asarray(start.positions + moved + 0.0 * velocities), velocities=velocities
    )
    return frames, 30.0 * np.arange(n + 1)


def settings_of(updates=1_000, rate=0.02):
    given = experiments.load("quartz").training
    return dataclasses.replace(given, optimizer="adam", learning_rate=rate, updates=updates)


@pytest.mark.parametrize(("rms", "first"), [(2.1, 0.1), (150.0, 150.0), (float("nan"), 0.1)])
def test_a_balance_that_swings_is_seen_from_the_first_update_on(rms, first):
    assert average_swings(1.9, 0.1) is None
    assert "have grown to" in average_swings(rms, first)


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_training_keeps_the_energy_that_squared_errors_lose(weight):
    """Velocities forget a fifth at each stride; what is best for squares is to leave that out."""
    pairs = frame_pairs([forgetful()], 30.0, 3.5, 400)
    made = forecaster()
    model = Fading(made.settings, made.statistics, made.time_step)
    settings, how = settings_of(), BalanceSettings(weight, memory=10.0, patience=200.0)
    gains = Motions(model, pairs)
    check_that_other_cells_count_for_nothing(pairs, gains)
    chunk = balance_updates(model, settings, how, gains)
    run = begin(model, settings, gains, model.init(0), weight)
    for _ in range(1_000 // CHUNK):
        run = chunk(run, pairs)
    left = run.state.ema_params["left"]
    expected = 1.0 if weight else REMEMBERED
    np.testing.assert_allclose(left, expected, atol=0.03)


def check_that_other_cells_count_for_nothing(pairs, gains):
    """Two pairs of three are in cells of this mesh: their gains in the mean over all are theirs."""
    one = jax.tree.map(lambda x: jnp.asarray(x[0]), pairs)
    edges, errors = one.edges(3.5), (0.1 * one.displacements, 0.1 * one.velocities)
    some = OfMesh(gains, pairs.mesh, 2 / 3)
    found = gains(one, edges, errors)
    assert abs(found).max() > 0.01
    np.testing.assert_allclose(some(one, edges, errors) * 2 / 3, found, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(some.weights, gains.weights * 2 / 3, rtol=1e-5)
    elsewhere = one.replace(mesh=tuple(2 * points for points in pairs.mesh))
    assert not some(elsewhere, edges, errors).any()


@pytest.fixture(scope="module")
def drifting():
    """A model, its gains, what it learns from, and what tells its worth."""
    made = forecaster()
    model = Drifting(made.settings, made.statistics, made.time_step)
    learned, others = (
        frame_pairs([forgetful(moving=True, seed=seed)], 30.0, 3.5, 100) for seed in (0, 1)
    )
    gains = Motions(model, learned)
    held = HeldOut(others, np.full(100, 0.01), np.ones(100))
    return model, gains, learned, measurement(model, gains, [held])


def course(drifting, left, weight, settings):
    model, gains, learned, measure = drifting
    params = {"left": jnp.full(2, left)}
    how = BalanceSettings(weight, memory=10.0, patience=200.0, every=40)
    reports = list(balance(model, settings, how, gains, [learned], measure, params))
    assert params["left"] == pytest.approx(left)  # not used up
    return reports


@pytest.mark.slow
@pytest.mark.parametrize(
    ("left", "weight", "rate"),
    [(1.0, 1e6, 0.2), (0.8, 5.0, 1e4), (1.0, 5.0, 1e30)],
)
def test_weights_are_never_worse_whatever_the_settings(drifting, left, weight, rate):
    reports = course(drifting, left, weight, settings_of(1_000, rate))
    first, last = reports[0], reports[-1]
    assert last.best.update == 0
    np.testing.assert_array_equal(last.best.params["left"], np.float32(left))
    messages = [report.message for report in reports if report.message]
    assert len(messages) == REDUCTIONS + 1
    assert "It restarts from the first weights" in messages[0]
    assert f"a weight of {weight / 2:g} and a learning rate of {rate / 2:g}" in messages[0]
    assert "It stops, because 4 reductions gave no better weights." in messages[-1]
    assert last.update < 1_000
    assert last.weight == pytest.approx(weight / 2**REDUCTIONS)
    assert first.measured is last.best.measured


@pytest.mark.slow
def test_a_swing_is_made_good_by_a_smaller_weight_and_rate(drifting):
    reports = course(drifting, 0.8, 40.0, settings_of(400, 0.4))
    best, messages = reports[-1].best, [report.message for report in reports if report.message]
    assert messages
    assert best.weight < 40.0
    assert clearly_less(best.measured, reports[0].measured)
    assert np.all(best.measured.errors <= 1.1 * reports[0].measured.errors)
    np.testing.assert_allclose(best.params["left"], 1.0, atol=0.05)


def test_running_averages_are_as_large_as_expected_from_the_first_updates_on(drifting):
    """Of a model that stays as it is: else a swing could hide while the averages are filling."""
    model, gains, learned, measure = drifting
    settings = settings_of(rate=1e-9)
    for left in (0.8, 1.0):
        run = begin(model, settings, gains, {"left": jnp.full(2, left)}, 0.0)
        chunk = balance_updates(model, settings, BalanceSettings(0.0, 60.0, 1e9), gains)
        first, ratios = measure(run.state.params), []
        for _ in range(20):
            run = chunk(run, learned)
            usual = usual_gain(first, int(run.age), 60.0, settings.batch_size)
            ratios.append(average_gain(run, gains, 60.0) / usual)
        assert 0.5 < min(ratios) < max(ratios) < 2.0
        assert np.mean(ratios) == pytest.approx(1.0, abs=0.25)


@pytest.fixture
def command(drifting, tmp_path, monkeypatch):
    """Runs the command on two runs of reference and a model in a folder; its exit status."""
    model, paths = drifting[0], []
    for seed in (0, 1):
        frames, _ = forgetful(moving=True, seed=seed)
        paths.append(tmp_path / f"run_{seed}.h5")
        with io.H5MDWriter(paths[-1], frames, 30.0) as writer:
            writer.append(frames)
    params = {"left": jnp.full(2, 0.8)}
    checkpoint.save(tmp_path / "first", model, params)
    monkeypatch.setattr(verb, "ensure_reference", lambda *_: paths)
    monkeypatch.setattr(verb.checkpoint, "restore", lambda _: TrainedForecast(params, model))
    data = ("train_runs=[0]", "validation_runs=[1]", "train_pairs=100", "validation_pairs=8")

    def run(rate, weight, updates=400):
        changes = ("optimizer='adam'", f"learning_rate={rate}", "batch_size=2")
        arguments = verb.Arguments(
            "quartz", tmp_path / "first", tmp_path / "out", weight=weight, updates=updates,
            memory=10.0, patience=200.0,
            set=(*(f"data.{x}" for x in data), *(f"training.{x}" for x in changes)),
        )  # fmt: skip
        return verb.main(arguments)

    return run


@pytest.mark.slow
def test_the_command_saves_what_got_better_and_says_by_how_much(command, tmp_path, capsys):
    assert command(rate=0.02, weight=5.0) == 0
    said = capsys.readouterr().out
    assert "The model got better: " in said
    notes = checkpoint.describe(tmp_path / "out")[1]
    assert notes["balanced_updates"] == 400
    columns, history = notes["balance"]["columns"], notes["balance"]["history"]
    first, last = (dict(zip(columns, row, strict=True)) for row in (history[0], history[-1]))
    assert (first["update"], last["update"]) == (0, 400)
    assert last["gain"] < 0.3 * first["gain"]
    table = [line.split()[-2:] for line in said.splitlines()[:4]]
    assert table[0] == ["before", "after"]
    for row, name in zip(table[1:], columns[1:4], strict=True):
        np.testing.assert_allclose(np.array(row, float), [first[name], last[name]], atol=0.006)
    assert last["velocity_error"] < 1.1 * first["velocity_error"]
    assert notes["balance"]["weight"] == 5.0


def test_the_command_writes_nothing_where_nothing_got_better(command, tmp_path, capsys):
    assert command(rate=50.0, weight=1e6) == 1
    said = capsys.readouterr().out
    assert "The model did not get better: " in said
    assert f"{tmp_path / 'first'} (--resume) is still the best model" in said
    assert not (tmp_path / "out").exists()
