"""Velocities of every single atom against its positions, along the run."""

import itertools

import numpy as np
from ase.data import chemical_symbols

from trajcast_jax.reference.check import Check
from trajcast_jax.system import System

FEWEST = 8
"""Intervals in which an atom is looked at."""
N_BLOCKS = 10
UNLIKE = 0.1
"""Residual by which an atom is unlike the others at least; 1 if velocities are 0 or another's."""
SPREADS = 10.0
SHOWN = 8


def residuals(run: System, spacing: float) -> np.ndarray:
    """Σ (d − h v̄)² over Σ d² + (h v̄)² of each atom in each block of time (block, atom).

    d is the displacement over an interval h, v̄ the mean velocity of both frames. What an atom moves
    less than a hundredth of the usual counts as that, so that frozen atoms have 0.
    """
    n = len(run.positions) - 1
    edges = np.linspace(0, n, max(1, min(N_BLOCKS, n // FEWEST)) + 1).astype(int)
    left, size = [], []
    for start, stop in itertools.pairwise(edges):
        sums = np.zeros((2, run.positions.shape[1]))
        for first in range(start, stop, 1000):
            rows = slice(first, min(first + 1000, stop) + 1)
            r, v = (np.asarray(x[rows], np.float64) for x in (run.positions, run.velocities))
            d, mean = np.diff(r, axis=0), spacing * (v[1:] + v[:-1]) / 2
            sums += [np.sum((d - mean) ** 2, axis=(0, 2)), np.sum(d**2 + mean**2, axis=(0, 2))]
        left.append(sums[0])
        size.append(sums[1])
    left, size = np.array(left), np.array(size)
    return left / np.maximum(size, max(1e-30, 1e-2 * float(np.median(size))))


def unlike(found: np.ndarray, species: np.ndarray) -> np.ndarray:
    """Which atoms (atom,) are unlike the others of their element, in any block of time.

    Of elements with few atoms, all atoms are the others.
    """
    flags = np.zeros(found.shape[1], bool)
    for z in np.unique(species):
        here = species == z
        others = found[:, here] if here.sum() >= FEWEST else found
        middle = np.median(others)
        spread = 1.4826 * np.median(np.abs(others - middle))
        allowed = middle + max(SPREADS * spread, middle + UNLIKE)
        flags[here] = (found[:, here] > allowed).any(axis=0)
    return flags


def check_atoms(run: System, times: np.ndarray) -> list[Check]:
    """No atom's velocities are another's, 0, or in another unit."""
    if len(times) <= FEWEST:
        return []
    species = np.asarray(run.species)
    flags = unlike(residuals(run, float(times[1] - times[0])), species)
    expected = "0 whose velocities do not fit their positions"
    if flags.any():
        atoms = np.flatnonzero(flags)
        names = ", ".join(f"{chemical_symbols[species[i]]} {i}" for i in atoms[:SHOWN])
        expected += f"; atoms {names}{', …' if len(atoms) > SHOWN else ''} (from 0)"
    return [Check("odd atoms", float(flags.sum()), "", expected, not flags.any())]
