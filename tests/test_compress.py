"""Fewer radial functions, the same forecasts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import as_system, forecaster, quartz_atoms

from trajcast_jax.neighbors.graph import neighbor_list
from trajcast_jax.network import checkpoint
from trajcast_jax.network.compress import compress
from trajcast_jax.network.forecast import TrainedForecast


def model(**changes) -> TrainedForecast:
    fc = forecaster(**({"edge_mlp": (32, 48), "n_radial": 6} | changes))
    return TrainedForecast(fc.init(0), fc)


def forecast(model: TrainedForecast, system):
    listed = neighbor_list(system.cell, model.cutoff, 0.0).allocate(system)
    return jax.jit(model.forecaster)(model.params, system, listed)


def moved(after, system):
    return np.asarray(after.positions - system.positions)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_forecasts_change_by_no_more_than_the_tolerance(tolerance, x64):
    whole = model()
    whole = whole.replace(params=jax.tree.map(lambda x: x.astype(jnp.float64), whole.params))
    system = as_system(quartz_atoms((3, 1, 1)))
    short = compress(whole, tolerance)
    assert 0 < short.settings.edge_rank < 48
    before, after = forecast(whole, system), forecast(short, system)
    size = np.sqrt((moved(before, system) ** 2).mean())
    # Messages, blocks and the read-out amplify what is left out by a few times.
    assert abs(moved(after, system) - moved(before, system)).max() < 20 * tolerance * size


def test_a_compressed_model_is_saved_and_restored(tmp_path):
    short = compress(model())
    checkpoint.save(tmp_path / "short", short.forecaster, short.params)
    again = checkpoint.restore(tmp_path / "short")
    assert again.settings == short.settings
    system = as_system(quartz_atoms((3, 1, 1)))
    one, other = forecast(short, system), forecast(again, system)
    np.testing.assert_array_equal(one.positions, other.positions)


@pytest.mark.parametrize(
    "changes", [{"edge_mlp": ()}, {"edge_mlp": (3,)}], ids=["linear", "already few"]
)
def test_what_cannot_be_shortened_comes_back_as_it_is(changes):
    whole = model(**changes)
    assert compress(whole) is whole


def test_a_compressed_model_is_not_compressed_again():
    short = compress(model())
    assert compress(short) is short


@pytest.mark.parametrize("tolerance", [0.0, 1.0, -1e-6])
def test_a_tolerance_that_makes_no_sense_is_an_error(tolerance):
    with pytest.raises(ValueError, match="between 0 and 1"):
        compress(model(), tolerance)
