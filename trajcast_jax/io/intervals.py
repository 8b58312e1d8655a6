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
TURNING = 4.0
"""Over the degrees of freedom: the share of the usual move below which an interval tells little."""
APART = (0.35, 1.3)
"""Share of the median scale below which a frame stands twice, and above which some are missing."""


class Intervals(NamedTuple):
    """How displacements between frames follow from velocities."""

    scale: Float[np.ndarray, "interval"]
    """Σ d·m v̄ / (h Σ m v̄²): about 1; 0 of a frame that stands twice, n where n − 1 are missing."""
    residual: Float[np.ndarray, "interval"]
    """|d − h v̄| over √(|d|² + |h v̄|²), weighted by mass, from 0 to about 1."""
    correlation: float
    """Of velocities from frame to frame, the median over intervals."""


def intervals(positions, velocities, masses, spacing: float) -> Intervals:
    """Compare displacements with velocities, for each two frames in a row.

    Positions (time, atom, 3) in Å are unwrapped, velocities in Å/fs, masses (atom,) in Da,
    `spacing` in fs.
    """
    scales, lefts, sizes, alike = [], [], [], []
    m = np.asarray(masses, np.float64)[:, None]
    for start in range(0, len(positions) - 1, 1000):
        r, v = (np.asarray(x[start : start + 1001], np.float64) for x in (positions, velocities))
        d, mean = np.diff(r, axis=0), spacing * (v[1:] + v[:-1]) / 2
        moved, expected = ((m * x**2).sum((1, 2)) for x in (d, mean))
        scales.append((m * d * mean).sum((1, 2)) / np.maximum(expected, 1e-30))
        lefts.append((m * (d - mean) ** 2).sum((1, 2)))
        sizes.append(moved + expected)
        square = (m * (v[1:] ** 2 + v[:-1] ** 2)).sum((1, 2)) / 2
        alike.append((m * v[1:] * v[:-1]).sum((1, 2)) / np.maximum(square, 1e-30))
    if not scales:
        return Intervals(np.zeros(0), np.zeros(0), 0.0)
    alike = float(np.median(np.concatenate(alike)))
    size = np.concatenate(sizes)
    floor = min(1.0, TURNING / (3 * len(m))) * np.median(size)  # all of few atoms may turn at once
    residual = np.sqrt(np.concatenate(lefts) / np.maximum(size, max(floor, 1e-30)))
    return Intervals(np.concatenate(scales), residual, alike)


def odd(found: Intervals) -> Bool[np.ndarray, "interval"]:
    """Which intervals are unlike the others: their frames do not follow one another.

    The residual is held against the median of all intervals, in robust standard deviations, so
    that neither long strides nor the large fluctuations of small molecules count as odd. Where
    scales are alike, they tell more, however many are odd: 0 of a double, n of n − 1 missing.
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
    if len(residual) < FEWEST:  # too few for a spread: only what cannot be otherwise
        return by_scale | (residual > 3 * middle + 2 * UNLIKE)
    spread = 1.4826 * np.median(np.abs(residual - middle))
    tail = np.quantile(residual, 0.95) - middle
    return by_scale | (residual > middle + max(SPREADS * spread, 2 * tail, UNLIKE))
