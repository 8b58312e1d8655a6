"""Training: optimiser rules against their sources, learning, bit-identical resume, checkpoints."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import forecaster
from test_dataset import trajectory

from trajcast_jax.config import DataSettings, Experiment, TrainingSettings
from trajcast_jax.data import frame_pairs, statistics
from trajcast_jax.learning import soap, training
from trajcast_jax.learning.losses import error_sums, pair_errors, pair_loss, unrolled_loss
from trajcast_jax.learning.optimizer import learning_rate, optimizer, scale_by_amsgrad
from trajcast_jax.learning.soap import scale_by_soap
from trajcast_jax.learning.training import fit, init_state, update_step, validated
from trajcast_jax.neighbors.graph import graph
from trajcast_jax.network import checkpoint
from trajcast_jax.network.forecast import Forecaster
from trajcast_jax.workflow import fit as fitting
from trajcast_jax.workflow import training_pairs

SETTINGS = TrainingSettings(
    updates=12, validate_every=6, batch_size=2, ema_decay=0.9,
    optimizer="adam", b2=0.999, learning_rate=0.01,
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    run = trajectory()
    return frame_pairs([run], 30.0, 3.5, 8), frame_pairs([run], 30.0, 3.5, 4, seed=1)


@pytest.fixture(scope="module")
def setup(data):
    fc = forecaster(channels=2, blocks=1)
    return Forecaster(fc.settings, statistics(data[0], baseline=False), 30.0)


def final(fc, data, state=None, settings=SETTINGS, chunk=3):
    state = init_state(fc, settings) if state is None else state
    rows = []
    last = None
    for last, metrics in fit(fc, settings, state, *data, chunk=chunk):  # noqa: B007
        rows.append(metrics)
    return last, rows


def assert_identical(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def turned_losses(rule, turn, updates=120):
    """Losses of ½|A (UᵀWV) B − C|², badly conditioned; W 4 × 4, turned by U and V or not."""
    rng = np.random.default_rng(0)
    scales = np.diag(10.0 ** np.linspace(-1, 0, 4))
    target = rng.normal(size=(4, 4))
    left, right = (np.linalg.qr(rng.normal(size=(4, 4)))[0] if turn else np.eye(4) for _ in "lr")

    @jax.jit
    def step(weights, state):
        loss = lambda w: 0.5 * jnp.sum((scales @ (left.T @ w @ right) @ scales - target) ** 2)  # noqa: E731
        value, gradient = jax.value_and_grad(loss)(weights)
        direction, state = rule.update(gradient, state)
        return weights - 0.1 * direction, state, value

    weights, losses = jnp.zeros((4, 4)), []
    state = rule.init(weights)
    for _ in range(updates):
        weights, state, value = step(weights, state)
        losses.append(float(value))
    return losses


def test_soap_does_not_care_how_channels_are_mixed_and_adam_does(x64):
    straight, turned = (turned_losses(scale_by_soap(), turn) for turn in (False, True))
    np.testing.assert_allclose(turned, straight, rtol=1e-6)
    adam, adam_turned = (turned_losses(optax.scale_by_adam(), turn) for turn in (False, True))
    assert abs(adam_turned[-1] / adam[-1] - 1) > 0.1
    assert turned[-1] < adam_turned[-1]


def test_soap_takes_weights_of_any_shape_and_long_sides(x64):
    shapes = {"scalar_list": (3,), "stack": (2, 3, 4), "long": (soap.LARGEST + 1, 2)}
    weights = {name: jnp.ones(shape) for name, shape in shapes.items()}
    rule = scale_by_soap()
    steps, _ = jax.jit(rule.update)(weights, rule.init(weights))
    assert {name: step.shape for name, step in steps.items()} == shapes
    assert all(np.isfinite(step).all() for step in steps.values())


def test_amsgrad_is_pytorchs(x64):
    """Against numbers of torch.optim.Adam(amsgrad=True), written out by hand."""
    gradients = [10.0, 0.1, -0.3, 0.2]
    rule = scale_by_amsgrad(0.9, 0.999)
    state = rule.init({"w": jnp.zeros(())})
    m = v = v_max = 0.0
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        v_max = max(v_max, v)
        step, state = rule.update({"w": jnp.asarray(g)}, state)
        expected = (m / (1 - 0.9**t)) / (np.sqrt(v_max) / np.sqrt(1 - 0.999**t) + 1e-8)
        np.testing.assert_allclose(step["w"], expected, rtol=1e-9)


def test_schedule_warms_up_and_falls_to_zero():
    settings = TrainingSettings(warmup=0.1, learning_rate=0.5)
    rates = [float(learning_rate(settings, jnp.asarray(k), jnp.asarray(100))) for k in range(101)]
    assert rates[0] == 0.0
    assert rates[:11] == pytest.approx(np.linspace(0, 0.5, 11))
    assert rates[55] == pytest.approx(0.25)
    assert rates[100] == pytest.approx(0.0, abs=1e-6)
    constant = dataclasses.replace(settings, schedule="constant")
    assert float(learning_rate(constant, jnp.asarray(0), jnp.asarray(100))) == 0.5


@pytest.mark.slow
def test_a_time_limit_ends_the_run_and_its_schedule(setup, data, monkeypatch):
    now = iter(np.arange(0.0, 100.0, 10.0))  # every look at the clock is 10 s later
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: next(now)))
    settings = dataclasses.replace(SETTINGS, updates=10_000)
    state = init_state(setup, settings)
    rows = [
        (metrics.update, int(state.total), metrics.velocity_error)
        for state, metrics in fit(setup, settings, state, *data, chunk=3, seconds=45.0)
    ]
    # 3 updates per 10 s: seen after the second chunk, when there are 25 s left.
    assert [row[:2] for row in rows] == [(3, 10_000), (6, 12), (9, 12), (12, 12)]
    assert rows[-1][2] is not None


def test_plateau_rule_and_best_weights(setup):
    settings = dataclasses.replace(SETTINGS, schedule="plateau", plateau_patience=2)
    state = init_state(setup, settings)
    for error in (0.5, 0.6, 0.7):
        state = validated(state, settings, jnp.asarray(error))
    assert float(state.rate_scale) == 1.0
    state = validated(state, settings, jnp.asarray(0.8))  # the third without improvement
    assert float(state.rate_scale) == pytest.approx(0.8)
    state = state.replace(ema_params=jax.tree.map(jnp.zeros_like, state.params))
    worse = validated(state, settings, jnp.asarray(0.9))
    better = validated(state, settings, jnp.asarray(0.1))
    assert_identical(worse.best_params, state.best_params)
    assert_identical(better.best_params, state.ema_params)
    assert (int(worse.stale[0]), int(better.stale[0])) == (4, 0)


def test_unknown_rules_are_named():
    with pytest.raises(ValueError, match=r"training\.optimizer must be one of adam, amsgrad, soap"):
        optimizer(dataclasses.replace(SETTINGS, optimizer="sgdd"))
    with pytest.raises(ValueError, match=r"training\.schedule must be one of cosine"):
        learning_rate(dataclasses.replace(SETTINGS, schedule="cosin"), 0, 1)


def test_loss_and_errors_are_those_of_the_paper(setup, data):
    pair = jax.tree.map(lambda x: jnp.asarray(x[0]), data[0])
    params = setup.init(0)
    d, v = jax.jit(pair_errors, static_argnums=0)(setup, params, pair)
    scales = np.asarray(setup.scales(pair.system.species))
    expected = 0.5 * np.mean((d / scales[:, :1]) ** 2) + 0.5 * np.mean((v / scales[:, 1:]) ** 2)
    loss = pair_loss(setup, SETTINGS, pair, (d, v))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    one = jax.tree.map(lambda x: x[:1], data[0])
    sums = jax.jit(error_sums, static_argnums=0)(setup, params, jax.tree.map(jnp.asarray, one))
    np.testing.assert_allclose(sums[1], [abs(v).sum(), abs(pair.velocities).sum()], rtol=1e-5)


@pytest.mark.slow
def test_the_loss_of_many_strides_is_that_of_a_forecast_from_its_own_states(setup, x64):
    pairs = frame_pairs([trajectory()], 30.0, 3.5, 2, strides=3)
    pairs = jax.tree.map(lambda x: jnp.asarray(x, float) if x.dtype.kind == "f" else x, pairs)
    params = setup.init(0)
    forecast = jax.jit(setup.on_graph)
    losses = []
    for sequence in range(2):
        state = None
        for k in range(3):
            pair = jax.tree.map(lambda x, row=3 * sequence + k: jnp.asarray(x[row]), pairs)
            state = pair.system if state is None else state
            state = forecast(params, state, graph(state, pair, setup.settings.cutoff))
            off = state.positions - pair.system.positions - pair.displacements
            losses.append(
                pair_loss(setup, SETTINGS, pair, (off, state.velocities - pair.velocities))
            )
    batch = jax.tree.map(lambda x: jnp.asarray(x.reshape(2, 3, *x.shape[1:])), pairs)
    found = jax.jit(unrolled_loss, static_argnums=(0, 1))(setup, SETTINGS, params, batch)
    np.testing.assert_allclose(found, np.mean(losses), rtol=1e-9)
    assert losses[2] > 1.5 * losses[0]  # errors add up


def test_balance_and_visits_are_of_single_strides(setup, tmp_path):
    settings = dataclasses.replace(SETTINGS, strides=2)
    with pytest.raises(ValueError, match=r"training\.strides is 2; set one of them"):
        update_step(setup, dataclasses.replace(settings, energy_balance=1.0))
    with pytest.raises(ValueError, match="leave --visited out"):
        training_pairs.load_visited(
            Experiment("quartz", training=settings), (tmp_path / "visited.h5",)
        )


@pytest.mark.slow
@pytest.mark.parametrize("strides", [1, 3])
def test_it_learns(setup, data, strides):
    settings = dataclasses.replace(SETTINGS, updates=300, validate_every=60, strides=strides)
    if strides > 1:
        data = frame_pairs([trajectory(spacing=10.0)], 30.0, 3.5, 8, strides=strides), data[1]
    _, rows = final(setup, data, settings=settings, chunk=60)
    assert rows[-1].loss < 0.3 * rows[0].loss
    assert rows[-1].velocity_error < rows[0].velocity_error


def test_resume_is_bit_identical(setup, data, tmp_path):
    whole, _ = final(setup, data)
    half = None
    for state, metrics in fit(setup, SETTINGS, init_state(setup, SETTINGS), *data, chunk=3):
        if metrics.update == 9:  # in the middle of an epoch and of a validation interval
            checkpoint.save_state(tmp_path / "last", setup, state)
            break
    half = checkpoint.restore_state(tmp_path / "last", init_state(setup, SETTINGS))
    resumed, rows = final(setup, data, half)
    assert rows[0].update == 12
    assert_identical(whole, resumed)


def test_all_updates_are_one_program(setup):
    """Were the type of a number weak, those before the first validation would be compiled too."""
    start = init_state(setup, SETTINGS)
    assert not [x for x in jax.tree.leaves(start) if x.weak_type]


def test_a_resumed_run_can_be_made_longer(setup, tmp_path):
    checkpoint.save_state(tmp_path / "last", setup, init_state(setup, SETTINGS))
    longer = dataclasses.replace(SETTINGS, updates=2 * SETTINGS.updates)
    experiment = Experiment("tiny", model=setup.settings, training=longer)
    _, state = fitting.start(experiment, None, tmp_path, None)
    assert int(state.total) == longer.updates


def test_a_resumed_run_keeps_the_sizes_it_began_with(setup, tmp_path):
    """Those of the checkpoint it began from, if the experiment has others by now; else it stops."""
    checkpoint.save(tmp_path / "shipped", setup, setup.init(0))
    other = dataclasses.replace(setup.settings, channels=3)
    experiment = Experiment("tiny", model=other, training=SETTINGS)
    resumed = training_pairs.going_on(experiment, tmp_path / "shipped")
    assert resumed.model == setup.settings  # and with them the cutoff of the pairs
    for _ in range(2):
        forecaster, state = fitting.start(resumed, None, tmp_path / "run", tmp_path / "shipped")
        assert forecaster.settings == setup.settings
        checkpoint.save_state(tmp_path / "run" / "last", forecaster, state)
    with pytest.raises(ValueError, match="was trained with other model settings"):
        fitting.start(experiment, None, tmp_path / "run", None)


def test_a_resumed_run_keeps_its_stride(setup, tmp_path):
    """Else weights of one stride would be trained on pairs of another, and labelled as before."""
    checkpoint.save(tmp_path / "shipped", setup, setup.init(0))
    data = DataSettings(time_step=2 * setup.time_step)
    experiment = Experiment("tiny", model=setup.settings, training=SETTINGS, data=data)
    with pytest.raises(ValueError, match=r"strides of 30 fs, but data\.time_step is 60; set it"):
        fitting.train(experiment, tmp_path / "new", paths=[], init_from=tmp_path / "shipped")
    checkpoint.save_state(tmp_path / "run" / "last", setup, init_state(setup, SETTINGS))
    with pytest.raises(ValueError, match="another folder"):
        fitting.train(experiment, tmp_path / "run", paths=[])


def test_a_training_state_is_no_model(setup, tmp_path):
    """`--resume runs/quartz/train/last` of another run: it says what to give instead."""
    checkpoint.save_state(tmp_path / "last", setup, init_state(setup, SETTINGS))
    experiment = Experiment("tiny", model=setup.settings, training=SETTINGS)
    with pytest.raises(ValueError, match="last holds the state of a training run, not a model"):
        fitting.start(experiment, None, tmp_path / "new", tmp_path / "last")


def test_checkpoint_holds_all_that_a_forecast_needs(setup, tmp_path):
    params = setup.init(3)
    checkpoint.save(tmp_path / "best", setup, params, {"origin": "a test"})
    trained = checkpoint.restore(tmp_path / "best")
    assert trained.forecaster == setup
    assert trained.species == (8, 14)
    assert trained.time_step == 30.0
    assert checkpoint.describe(tmp_path / "best")[1] == {"origin": "a test"}
    assert_identical(trained.params, params)
    for file in (tmp_path / "best").rglob("*"):  # a shipped checkpoint tells nothing of a machine
        assert file.is_dir() or str(tmp_path).encode() not in file.read_bytes(), file
    checkpoint.save(tmp_path / "best", setup, setup.init(4))  # replaces, leaves nothing behind
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


def test_a_failed_save_keeps_the_old_checkpoint(setup, tmp_path, monkeypatch):
    params = setup.init(3)
    checkpoint.save(tmp_path / "best", setup, params)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.ocp.StandardCheckpointer, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path / "best", setup, setup.init(4))
    assert_identical(checkpoint.restore(tmp_path / "best").params, params)
    # Tied to a device, a state of training would be compiled for twice.
    assert not any(x.committed for x in jax.tree.leaves(checkpoint.restore(tmp_path / "best")))
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


def test_foreign_checkpoints_are_refused(setup, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint: it has no model\.json"):
        checkpoint.restore(tmp_path)
    checkpoint.save(tmp_path / "best", setup, setup.init(3))
    file = tmp_path / "best" / "model.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"format": 99}))
    with pytest.raises(ValueError, match=r"has format 99 .* reads format 1"):
        checkpoint.restore(tmp_path / "best")
    values["model"]["channels"] = 5
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="does not hold the weights"):
        checkpoint.restore(tmp_path / "best")
    file.write_text("{")
    with pytest.raises(ValueError, match="not a model description"):
        checkpoint.restore(tmp_path / "best")


def test_a_diverging_loss_stops_with_the_update(setup, data):
    settings = dataclasses.replace(SETTINGS, learning_rate=float("inf"), warmup=0.0)
    with pytest.raises(FloatingPointError, match=r"updates 0 to \d+ had no finite gradient"):
        final(setup, data, settings=settings)


def test_a_frame_that_overflows_changes_nothing(setup, data):
    """The update of a broken pair is left out; the ones after it go on."""
    train, _ = data
    broken = jax.tree.map(lambda x: x[:1], train)
    broken = broken.replace(velocities=broken.velocities * jnp.nan)
    settings = dataclasses.replace(SETTINGS, batch_size=1, warmup=0.0)
    update = jax.jit(update_step(setup, settings))
    start = init_state(setup, settings)
    after, loss = update(start, broken)
    assert np.isnan(loss)
    assert int(after.update) == 1
    assert_identical(after.replace(update=start.update), start)
    after, loss = update(after, jax.tree.map(lambda x: x[1:2], train))
    assert np.isfinite(loss)
    assert not np.array_equal(*(jax.tree.leaves(s.params)[0] for s in (start, after)))
