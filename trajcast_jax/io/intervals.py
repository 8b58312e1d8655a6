"""Every interval between frames is like the others, or its frames do not follow one another.

Over an interval h, the displacement d of the atoms is about h v̄, with v̄ the mean velocity of both
frames.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

FEWEST = 8
"""Intervals of which a spread can be told."""
SPREADS = 8.0
UNLIKE = 0.15
"""By how many robust standard deviations, and by how much, the residual of an interval is larger
than the median one if its frames do not follow one another."""
LEAST = 0.3
"""Usual scale below which vibrations turn between frames, and scales tell nothing."""
FEW = 20.0
"""Modes below which all may turn at once, so that ratios to an interval's own moves tell little."""
BEYOND = 2.0
USUAL = 0.9
"""By how much an odd interval of few modes is beyond this quantile of all."""
APART = (0.35, 1.3)
"""Share of the median scale below which a frame stands twice, and above which some are missing."""


class Intervals(NamedTuple):
    """How displacements between frames follow from velocities."""

    scale: Float[np.ndarray, "interval"]
    """Σ d·m v̄ / (h Σ m v̄²): about 1; 0 of a frame that stands twice, n where n − 1 are missing."""
    residual: Float[np.ndarray, "interval"]
    """|d − h v̄| over √(|d|² + |h v̄|²), weighted by mass, from 0 to about 1."""
    left: Float[np.ndarray, "interval"]
    """|d − h v̄|², weighted by mass, over the mean of |h v̄|²."""
    correlation: float
    """Of velocities from frame to frame, the median over intervals."""
    modes: float
    """Number of independent motions, by how |h v̄|² varies from interval to interval."""


def intervals(positions, velocities, masses, spacing: float) -> Intervals:
    """Compare displacements with velocities, for each two frames in a row.

    Positions (time, atom, 3) in Å are unwrapped, velocities in Å/fs, masses (atom,) in Da,
    `spacing` in fs.
    """
    scales, lefts, moves, means, alike = [], [], [], [], []
    m = np.asarray(masses, np.float64)[:, None]
    for start in range(0, len(positions) - 1, 1000):
        r, v = (np.asarray(x[start : start + 1001], np.float64) for x in (positions, velocities))
        d, mean = np.diff(r, axis=0), spacing * (v[1:] + v[:-1]) / 2
        moved, expected = ((m * x**2).sum((1, 2)) for x in (d, mean))
        scales.append((m * d * mean).sum((1, 2)) / np.maximum(expected, 1e-30))
        lefts.append((m * (d - mean) ** 2).sum((1, 2)))
        moves.append(moved)
        means.append(expected)
        square = (m * (v[1:] ** 2 + v[:-1] ** 2)).sum((1, 2)) / 2
        alike.append((m * v[1:] * v[:-1]).sum((1, 2)) / np.maximum(square, 1e-30))
    if not scales:
        return Intervals(np.zeros(0), np.zeros(0), np.zeros(0), 0.0, 0.0)
    scale, left, moved, expected = map(np.concatenate, (scales, lefts, moves, means))
    usual = max(float(expected.mean()), 1e-30)
    residual = np.sqrt(left / np.maximum(moved + expected, 1e-30))
    modes = 2 * usual**2 / max(float(np.var(expected)), 1e-30)
    return Intervals(scale, residual, left / usual, float(np.median(np.concatenate(alike))), modes)


def odd(found: Intervals) -> Bool[np.ndarray, "interval"]:
    """Which intervals are unlike the others: their frames do not follow one another.

    The residual is held against the median of all intervals, in robust standard deviations, so
    that neither long strides nor the large fluctuations of small molecules count as odd; of few
    modes, odd intervals are beyond the others in absolute terms too. Where scales are alike, they
    tell more, however many are odd: 0 of a double, n of n − 1 missing.
    """
    residual = found.residual
    if len(residual) < 3:
        return np.zeros(len(residual), bool)
    middle = np.median(residual)
    ordered, half = np.sort(found.scale), len(residual) // 2
    first = int(np.argmin(ordered[half:] - ordered[: len(ordered) - half]))
    usual = (ordered[first] + ordered[first + half]) / 2  # amid the narrowest half
    width = ordered[first + half] - ordered[first]  # wide of a few atoms, which turn at once
    low, high = (share * usual for share in APART)
    by_scale = ((found.scale < low) | (found.scale > high)) & (residual > UNLIKE)
    by_scale &= np.abs(found.scale - usual) > 2 * SPREADS * width
    by_scale &= usual > LEAST
    beyond = found.modes >= FEW or found.left > BEYOND * np.quantile(found.left, USUAL)
    if len(residual) < FEWEST:  # too few for a spread: only what cannot be otherwise
        return beyond & (by_scale | (residual > 3 * middle + 2 * UNLIKE))
    spread = 1.4826 * np.median(np.abs(residual - middle))
    tail = np.quantile(residual, 0.95) - middle
    return beyond & (by_scale | (residual > middle + max(SPREADS * spread, 2 * tail, UNLIKE)))
