"""Numbers of a report: means, standard errors and scores of observables that come in blocks."""

from collections.abc import Callable

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from trajcast_jax import averages
from trajcast_jax.analysis.block_observables import Measured


def number(x) -> float | None:
    """Convert to a plain float; None if it is not finite."""
    return float(x) if np.isfinite(x) else None


def jackknife(blocks: Float[ArrayLike, "block ..."], function: Callable) -> tuple:
    """`function` of the mean of the blocks, and its jackknife (leave-one-out) standard error.

    For functions that are not linear in the blocks (overlaps). The error of one block is NaN.
    """
    blocks = np.asarray(blocks)
    n, total = len(blocks), blocks.sum(axis=0)
    left = np.asarray([function((total - block) / max(n - 1, 1)) for block in blocks])
    error = ((n - 1) / n * ((left - left.mean(axis=0)) ** 2).sum(axis=0)) ** 0.5
    return function(total / n), error if n > 1 else np.full_like(error, np.nan)


def pair(name: str, value, error) -> dict:
    """Entries `name` and `name_error` of a report."""
    return {name: number(value), f"{name}_error": number(error)}


def of_blocks(blocks) -> tuple:
    """Mean and standard error of independent blocks; NaN if `blocks` is None."""
    return (
        (np.nan, np.nan)
        if blocks is None
        else averages.block_average(np.asarray(blocks), len(blocks))
    )


def common(prefix: str, a: Measured, b: Measured, but: str = "") -> list[str]:
    """Keys that begin with `prefix` in both; not `prefix` + `but`."""
    return [key for key in a if key.startswith(prefix) and key in b and key != prefix + but]


def onto(grid, old_grid, curves) -> np.ndarray:
    """Interpolate curves (block, point) from one grid to another."""
    return np.stack([np.interp(grid, old_grid, curve) for curve in curves])


def score(name: str, function: Callable, ours, theirs) -> dict:
    """Compute `function(forecast, reference)` for two sets of curves (block, point).

    `…_among_reference` is the noise: the mean score (its absolute value) of each reference block
    against the mean of the other reference blocks. Scores that are not finite become None.
    """
    target = theirs.mean(axis=0)
    n, total = len(theirs), theirs.sum(axis=0)
    alike = [function(block, (total - block) / (n - 1)) for block in theirs] if n > 1 else [np.nan]
    value = jackknife(ours, lambda curve: function(curve, target))
    noise = np.mean(np.abs(alike))
    return pair(name, *value) | {f"{name}_among_reference": number(noise)}
