"""What weights are worth on pairs that are not learned from, and which of them are kept."""

import dataclasses

import jax
import numpy as np
import pytest
from conftest import as_system, quartz_atoms

from trajcast_jax.config import DataSettings, Experiment
from trajcast_jax.data.pairs import frame_pairs
from trajcast_jax.learning.held_out import (
    Measured,
    better,
    clearly_less,
    kept,
    mean_square,
    resolution,
    rms,
    scatter,
    swing,
)
from trajcast_jax.workflow import balance_pairs
from trajcast_jax.workflow.balance import updates_between


def made_up(mean, noise, errors=(2.0, 3.0), n=64):
    """Gains of some kinds that scatter about `mean` like `noise`, a part of it in common."""
    gains = mean + noise
    return Measured(np.array(errors), gains, np.full(n, 1 / n))


def noise_of(rng, n=64, kinds=5):
    """Scatter of single pairs, not alike in all kinds nor independent between them."""
    mix = np.eye(kinds) + 0.4 * np.tri(kinds)
    return rng.normal(size=(n, kinds)) @ mix * np.linspace(0.5, 2.0, kinds)


def test_mean_squares_are_those_of_the_true_gains_and_scatter_is_left_out():
    rng, mean = np.random.default_rng(0), np.array([0.3, -0.2, 0.1, 0.0, 0.4])
    found = [made_up(mean, noise_of(rng)) for _ in range(3_000)]
    error = np.std([mean_square(x) for x in found]) / len(found) ** 0.5
    assert np.mean([mean_square(x) for x in found]) == pytest.approx(mean @ mean, abs=3 * error)
    biased = np.mean([np.sum(x.gains.mean(0) ** 2) for x in found])
    assert biased > mean @ mean + 20 * error
    noise = np.mean([resolution(x) ** 2 for x in found])
    assert biased - mean @ mean == pytest.approx(noise, rel=0.1)
    assert np.mean([scatter(x) for x in found]) == pytest.approx(64 * noise, rel=0.03)
    assert rms(made_up(0.0 * mean, 0.0 * noise_of(rng) + [[-1e-3], [1e-3]] * 32)) == 0.0


@pytest.mark.parametrize("shared", [0.0, 0.9])
@pytest.mark.parametrize(("size", "least"), [(0.0, 0.0), (0.3, 0.0), (1.0, 0.01)])
def test_equal_gains_differ_clearly_as_seldom_as_two_standard_errors_are(size, least, shared):
    """Two standard errors of a normal variable are 2.3 % of cases, whatever pairs have in common.

    Of gains near 0 it is fewer: such squares differ only where both means are far off, and the
    variance that is found with them is large.
    """
    rng, mean, cases = np.random.default_rng(1), size * np.ones(5), 1_000
    less = 0
    for _ in range(cases):
        common = noise_of(rng)
        x, y = (
            made_up(mean, shared**0.5 * common + (1 - shared) ** 0.5 * noise_of(rng))
            for _ in range(2)
        )
        less += clearly_less(x, y)
        assert not (clearly_less(x, y) and clearly_less(y, x))
    assert least <= less / cases < 0.035


def test_differences_are_seen_on_the_same_pairs_that_are_lost_on_others():
    rng, one, seen = np.random.default_rng(2), np.ones(5), []
    for shared in (True, False):
        noise = 0.8 * noise_of(rng), 0.8 * noise_of(rng)
        high, low = (
            made_up(mean * one, noise[0 if shared else k] + 0.02 * noise_of(rng))
            for k, mean in enumerate((1.0, 0.95))
        )
        seen.append(clearly_less(low, high))
        assert not clearly_less(high, low)
    assert seen == [True, False]


def test_only_what_gains_clearly_less_at_errors_within_the_tolerance_is_kept():
    rng, one = np.random.default_rng(3), np.ones(5)
    noise = 0.3 * noise_of(rng)

    def found(gain, errors=(2.0, 3.0)):
        return made_up(gain * one, noise + 0.01 * noise_of(rng), errors)

    def after(old, gain, errors=(2.0, 3.0), update=10):
        new = kept({"w": np.full(1, gain)}, found(gain, errors), update, 2.0)
        return better(old, new, first)

    first = found(1.0)
    begun = kept({"w": np.ones(1)}, first, 0, 2.0)
    assert after(begun, 1.0) is begun
    assert after(begun, 1.3, (1.0, 1.0)) is begun
    assert after(begun, 0.5, (2.21, 3.0)) is begun
    assert after(begun, 0.5, (2.0, 3.31)) is begun
    assert after(begun, np.nan) is begun
    assert after(begun, 0.5, (np.inf, 3.0)) is begun
    good = after(begun, 0.5, (2.19, 3.29))
    assert good.update == 10
    assert good.params["w"] == 0.5
    assert after(good, 0.6, (1.0, 1.0)) is good  # fewer errors do not make up for larger gains
    best = after(good, 0.2)
    assert best.params["w"] == 0.2
    # Ties that gain a little more and err less do not add up to what gains clearly more.
    creeping, now = best, 0.2
    for k in range(200):
        now += 0.0005
        creeping = after(creeping, now, (1.9 - 1e-3 * k, 2.9))
    assert creeping.params["w"] < 0.25


def test_a_swing_is_told_in_words():
    rng, one = np.random.default_rng(4), np.ones(5)
    noise = 0.1 * noise_of(rng)
    first = made_up(0.3 * one, noise)
    assert swing(first, first) is None
    errs = made_up(0.3 * one, noise, (2.3, 3.0))
    assert swing(errs, first, rate=1.0) is None  # a high learning rate costs some, which passes
    assert swing(errs, first, rate=0.5) is None
    assert "rose from 2.00 / 3.00 % to 2.30 / 3.00 %, by more than 10 %" in swing(errs, first)
    gains = made_up(0.7 * one, noise)
    assert "more than 2 times the" in swing(gains, first)
    assert "not finite" in swing(made_up(np.nan * one, noise), first)
    # Of weights that gain nothing, what scatters by chance is no swing.
    nothing = made_up(0.0 * one, noise)
    assert swing(made_up(0.01 * one, noise), nothing) is None


@pytest.fixture(scope="module")
def visited():
    """Pairs with their mirror images in time, as `load_visited` gives them."""
    start = as_system(quartz_atoms((3, 1, 1)))
    moves = 0.01 * np.random.default_rng(0).normal(size=(61, 27, 3))
    frames = start.replace(
        positions=np.asarray(start.positions + moves, np.float32),
        velocities=np.asarray(start.velocities + moves, np.float32),
    )
    return frame_pairs([(frames, 30.0 * np.arange(61))], 30.0, 3.5, 50, time_reversal=True)


def test_visited_pairs_are_set_apart_with_their_mirror_images(visited):
    learned, held = balance_pairs.set_apart(visited, mirrored=True)
    assert (len(visited), len(learned), len(held)) == (100, 90, 5)
    np.testing.assert_array_equal(held.displacements, visited.displacements[45:50])
    seen = np.abs(learned.displacements)[:, None] - np.abs(held.displacements)
    assert np.abs(seen).max(axis=(2, 3)).min() > 1e-4
    once = jax.tree.map(lambda x: x[:50], visited)
    learned, held = balance_pairs.set_apart(once, mirrored=False)
    assert (len(learned), len(held)) == (45, 5)
    few = jax.tree.map(lambda x: x[:8], visited)
    learned, held = balance_pairs.set_apart(few, mirrored=True)
    assert (len(learned), len(held)) == (8, 0)


def test_held_out_pairs_stand_for_those_that_are_learned_from(visited):
    parts = [jax.tree.map(lambda x, n=n: x[:n], visited) for n in (20, 5, 0, 10)]
    parts[3] = parts[3].replace(mesh=(99, 99, 99))
    groups = balance_pairs.held_out(parts, [600, 300, 50, 100])
    assert [len(group.pairs) for group in groups] == [25, 10]
    assert sum(group.shares.sum() for group in groups) == pytest.approx(1.0)
    assert groups[0].shares[:20].sum() == pytest.approx(0.6)
    assert groups[0].shares[20:].sum() == pytest.approx(0.3)
    assert groups[0].counts.tolist() == [1.0] * 20 + [0.0] * 5
    assert not groups[1].counts.any()
    # 35 forecasts, beside three for each pair of a batch.
    assert updates_between(groups, 1) == 120
    assert updates_between(groups, 4) == 30


def test_validation_pairs_are_enough_for_gains_where_there_are_as_many(monkeypatch):
    frames = {"short": 31, "long": 5_000}
    monkeypatch.setattr(balance_pairs.io, "n_frames", frames.get)
    monkeypatch.setattr(
        balance_pairs.io, "read_trajectory", lambda *_: (None, np.array([0.0, 10.0]))
    )
    monkeypatch.setattr(
        balance_pairs, "load_pairs", lambda experiment, *_: experiment.data.validation_pairs
    )
    data = DataSettings(time_step=30.0, validation_runs=(0,), validation_pairs=8)
    asked = Experiment("any", data=data)
    many = dataclasses.replace(asked, data=dataclasses.replace(data, validation_pairs=999))
    assert balance_pairs.validation_pairs(asked, ["short"]) == 28
    assert balance_pairs.validation_pairs(asked, ["long"]) == balance_pairs.ENOUGH
    assert balance_pairs.validation_pairs(many, ["long"]) == 999
