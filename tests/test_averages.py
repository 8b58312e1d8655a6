"""Block averages and drifts of correlated noise against their known errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trajcast_jax import averages


def ar1(rng, n, length, memory):
    """n series with correlation memory^t and variance 1."""
    series = np.empty((length, n))
    series[0] = rng.normal(size=n)
    for t in range(1, length):
        series[t] = memory * series[t - 1] + np.sqrt(1 - memory**2) * rng.normal(size=n)
    return series


def test_block_average_of_correlated_noise(rng):
    """The error of the mean of AR(1) noise is √((1+φ)/(1−φ)/T), three times the naive one."""
    length, memory = 5_000, 0.8
    series = ar1(rng, 200, length, memory)
    mean, error = averages.block_average(jnp.asarray(series), 20)
    expected = np.sqrt((1 + memory) / (1 - memory) / length)
    np.testing.assert_allclose(mean, series.mean(axis=0), atol=1e-5)
    assert np.isclose(np.sqrt(np.mean(np.asarray(error) ** 2)), expected, rtol=0.06)
    assert np.isclose(np.std(mean), expected, rtol=0.2)


@pytest.mark.parametrize("n_blocks", [1, 11])
def test_block_average_without_blocks_has_no_error(n_blocks):
    mean, error = averages.block_average(jnp.arange(10.0), n_blocks)
    assert mean == 4.5
    assert np.isnan(error)


def test_drift_is_the_slope_and_its_error_covers(rng):
    times = jnp.arange(2_000.0)
    slope, error = averages.drift(0.25 * times + 3, times)
    assert np.isclose(slope, 0.25, rtol=1e-5)
    assert error < 1e-4
    noise = ar1(rng, 100, 2_000, 0.9)
    slopes, errors = jax.vmap(lambda s: averages.drift(s, times), in_axes=1)(jnp.asarray(noise))
    assert 0.7 < np.std(slopes) / np.sqrt(np.mean(np.asarray(errors) ** 2)) < 1.3
