"""Block averages and linear trends of correlated time series, with standard errors.

Series that are NumPy arrays are averaged by NumPy, because XLA would compile for every length.
"""

import functools

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float


def block_average(
    series: Float[ArrayLike, "time ..."], n_blocks: int
) -> tuple[Float[ArrayLike, "..."], Float[ArrayLike, "..."]]:
    """Mean of a correlated time series and its standard error from block averages.

    The standard error is that of the mean of `n_blocks` block means (Flyvbjerg and Petersen,
    J. Chem. Phys. 91, 461 (1989), doi:10.1063/1.457480). It is valid when a block is longer
    than the correlation time. Frames after the last full block enter the mean only. The error
    is NaN with fewer than two blocks or with fewer frames than blocks.
    """
    average = _block_average if isinstance(series, np.ndarray) else _compiled_average
    return average(series, n_blocks)


def _block_average(series, n_blocks: int):
    length = series.shape[0] // n_blocks
    mean = series.mean(axis=0)
    if n_blocks < 2 or length < 1:
        return mean, np.nan * mean
    blocks = series[: length * n_blocks].reshape(n_blocks, length, *series.shape[1:]).mean(axis=1)
    return mean, blocks.std(axis=0, ddof=1) / n_blocks**0.5


def drift(
    series: Float[ArrayLike, "time"], times: Float[ArrayLike, "time"], n_blocks: int = 10
) -> tuple[Float[ArrayLike, ""], Float[ArrayLike, ""]]:
    """Slope of the least-squares line through a time series, and its standard error.

    The error comes from the scatter of block means about the line, because block means are
    less correlated than single frames. It is NaN with fewer than three blocks or with fewer
    frames than blocks.
    """
    fit = _drift if isinstance(series, np.ndarray) else _compiled_drift
    return fit(series, times, n_blocks)


def _drift(series, times, n_blocks: int):
    times = times - times.mean()
    slope = times @ (series - series.mean()) / (times @ times)
    length = len(series) // n_blocks
    if n_blocks < 3 or length < 1:
        return slope, np.nan * slope
    t, y = (x[: length * n_blocks].reshape(n_blocks, length).mean(axis=1) for x in (times, series))
    t = t - t.mean()
    residuals = y - y.mean() - slope * t
    return slope, (residuals @ residuals / (n_blocks - 2) / (t @ t)) ** 0.5


_compiled_average = functools.partial(jax.jit, static_argnames="n_blocks")(_block_average)
_compiled_drift = functools.partial(jax.jit, static_argnames="n_blocks")(_drift)
