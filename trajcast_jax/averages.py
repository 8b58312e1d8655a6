"""Block averages and linear trends of correlated time series, with standard errors."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.jit, static_argnames="n_blocks")
def block_average(
    series: Float[Array, "time ..."], n_blocks: int
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Mean of a correlated time series and its standard error from block averages.

    The standard error is that of the mean of `n_blocks` block means (Flyvbjerg and Petersen,
    J. Chem. Phys. 91, 461 (1989), doi:10.1063/1.457480). It is valid when a block is longer
    than the correlation time. Frames after the last full block enter the mean only. The error
    is NaN with fewer than two blocks or with fewer frames than blocks.
    """
    length = series.shape[0] // n_blocks
    mean = series.mean(axis=0)
    if n_blocks < 2 or length < 1:
        return mean, jnp.full_like(mean, jnp.nan)
    blocks = series[: length * n_blocks].reshape(n_blocks, length, *series.shape[1:]).mean(axis=1)
    return mean, blocks.std(axis=0, ddof=1) / n_blocks**0.5


@functools.partial(jax.jit, static_argnames="n_blocks")
def drift(
    series: Float[Array, "time"], times: Float[Array, "time"], n_blocks: int = 10
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Slope of the least-squares line through a time series, and its standard error.

    The error comes from the scatter of block means about the line, because block means are
    less correlated than single frames. It is NaN with fewer than three blocks or with fewer
    frames than blocks.
    """
    times = times - times.mean()
    slope = times @ (series - series.mean()) / (times @ times)
    length = len(series) // n_blocks
    if n_blocks < 3 or length < 1:
        return slope, jnp.full_like(slope, jnp.nan)
    t, y = (x[: length * n_blocks].reshape(n_blocks, length).mean(axis=1) for x in (times, series))
    t = t - t.mean()
    residuals = y - y.mean() - slope * t
    return slope, jnp.sqrt(residuals @ residuals / (n_blocks - 2) / (t @ t))
