"""The scale of displacements to velocities, where frames are dense enough to resolve it.

Over an interval h, the displacement is the integral of the velocity, which is interpolated through
4 or 6 frames: d ≈ m₄ = h (−v₋₁ + 13 v₀ + 13 v₁ − v₂)/24 and d ≈ m₆ = h (11 v₋₂ − 93 v₋₁ + 802 v₀ +
802 v₁ − 93 v₂ + 11 v₃)/1440 (Adams, as in Abramowitz and Stegun, 25.2). The scale is Σ d·m/Σ m².
What limits it is told by the data: the difference of both orders is larger than the error of m₆ as
long as a phase advances by less than about 1.8 rad per frame, and the share 1 − ρ² of displacements
that velocities do not explain (ρ: their correlation) is that of motion that is faster.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

FEWEST = 6
"""Frames that are needed."""
FINEST = 0.02
"""Error of the scale that is always allowed, as of rounded constants of nature."""
FOURTH = np.array([0, -1, 13, 13, -1, 0]) / 24
SIXTH = np.array([11, -93, 802, 802, -93, 11]) / 1440
WEIGHTS = (3.0, 2.0, 4.0, 1 / 6)
"""Of the difference of both orders, the unexplained share, its statistical error, and that of
velocity Verlet, whose velocities are (ω Δt)²/6 below those of its path."""
LARGEST = 0.3
RANGE = (0.5, 2.0)
"""Largest error of a scale that is resolved, and between what it may be: a vibration that turns
faster than that from frame to frame has another."""
STEP = 1.0
"""fs, the longest integration step Δt of the fast motion that this may be; at most the spacing."""


class Scale(NamedTuple):
    """Displacements over what velocities mean, 1 if both are right, and its largest error."""

    value: float
    error: float


def resolved_scale(positions, velocities, species, spacing: float) -> Scale:
    """The scale of the element that resolves it best; of infinite error with too few frames.

    Positions (time, atom, 3) in Å are unwrapped, velocities in Å/fs, `spacing` in fs.
    """
    best = Scale(1.0, np.inf)
    if len(positions) < FEWEST:
        return best
    sums = _sums(positions, velocities, spacing)
    for z in np.unique(species):
        here = np.asarray(species) == z
        along4, square4, along6, square6, moved, changed, moving = sums[:, here].sum(axis=1)
        if min(square4, square6, moved) <= 1e-30 or along6 <= 0:
            continue
        value, coarser = along6 / square6, along4 / square4
        unexplained = max(0.0, 1 - along6**2 / (square6 * moved))
        by_chance = np.sqrt(unexplained / (3 * here.sum()))
        verlet = changed / max(moving, 1e-30) * min(1.0, STEP / spacing) ** 2
        terms = abs(value - coarser) / value, unexplained, by_chance, verlet
        error = FINEST + sum(w * x for w, x in zip(WEIGHTS, terms, strict=True))
        if RANGE[0] < value < RANGE[1] and error < min(LARGEST, best.error):
            best = Scale(float(value), float(error))
    return best


def _sums(positions, velocities, spacing: float) -> Float[np.ndarray, "7 atom"]:
    """Σ d·m₄, Σ m₄², Σ d·m₆, Σ m₆², Σ d², Σ (Δv)², Σ v² of each atom."""
    found = np.zeros((7, positions.shape[1]))
    for start in range(0, len(positions) - FEWEST + 1, 1000):
        rows = slice(start, start + 1000 + FEWEST - 1)
        r, v = (np.asarray(x[rows], np.float64) for x in (positions, velocities))
        n = len(r) - FEWEST + 1
        d = r[3 : n + 3] - r[2 : n + 2]
        fourth, sixth = (
            spacing * sum(w * v[k : n + k] for k, w in enumerate(weights))
            for weights in (FOURTH, SIXTH)
        )
        later, now = v[3 : n + 3], v[2 : n + 2]
        pairs = ((d, fourth), (fourth, fourth), (d, sixth), (sixth, sixth), (d, d),
                 (later - now, later - now), (now, now))  # fmt: skip
        found += [np.sum(a * b, axis=(0, 2)) for a, b in pairs]
    return found
