"""What trajectories show of the surroundings of atoms: neighbours, wandering, chains of bonds."""

from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols

from trajcast_jax.analysis.bonds import bonded_chain, bonded_pairs
from trajcast_jax.analysis.observables import select
from trajcast_jax.system import System

FARTHEST = 8.0
"""Å, largest distance of neighbours that are counted."""
BINS = 160
FRAMES = 12
"""Number of frames whose neighbours are counted."""
AT_ONCE = 500_000
"""Largest number of distances in memory at a time; in large cells some atoms are the centres."""
SMOOTH = 0.1
"""Å, width of the Gaussian that smooths g(r) before its minima are looked for."""
DEEP = 0.95
"""g(r) at a minimum over that at the lower one of the two maxima beside it, at most."""
SITE = 0.2
"""Root of the mean squared displacement over the mean distance of heavy atoms, below which atoms
stay at their sites: crystals melt above about 0.15 times the square root of 2 (Lindemann)."""
GROWTH = 0.3
"""Exponent of the mean squared displacement over time: 0 for atoms at sites, 1 for diffusion."""
LIGHT = 3.0
"""Da. Lighter atoms turn with their group without going anywhere."""
TORSIONS = 4
"""Largest number of dihedral angles."""


class Neighbours(NamedTuple):
    """Mean numbers of neighbours of an atom, of all elements together."""

    radii: tuple[float, ...]
    """Å."""
    counts: tuple[float, ...]
    """Mean number of atoms within each radius of an atom."""
    minima: tuple[float, ...]
    """Minima (Å) of the total g(r), where shells of neighbours end."""

    def radius_of(self, count: float) -> float:
        """Radius (Å) within which an atom has `count` neighbours on average; `FARTHEST` if more."""
        inside = np.searchsorted(self.counts, count)
        return self.radii[min(int(inside), len(self.radii) - 1)]

    def within(self, radius: float) -> float:
        """Mean number of neighbours within a radius (Å)."""
        return float(np.interp(radius, self.radii, self.counts))


def neighbours(runs: list[System]) -> Neighbours:
    """Count the neighbours of atoms in frames spread over all runs."""
    edges = np.linspace(0.0, FARTHEST, BINS + 1)
    total, frames = np.zeros(BINS), -(-FRAMES // len(runs))
    for run in runs:
        atoms = select(run)
        for k in np.linspace(0, len(run.positions) - 1, frames).astype(int).tolist():
            distances, centers = _distances(
                np.asarray(run.positions[k], np.float64)[atoms], run.cell
            )
            total += np.histogram(distances, edges)[0] / centers / frames / len(runs)
    density = total / np.diff(edges**3)
    return Neighbours(
        tuple(edges[1:].tolist()),
        tuple(np.cumsum(total).tolist()),
        tuple(_minima((edges[1:] + edges[:-1]) / 2, density)),
    )


def _distances(positions, cell) -> tuple[np.ndarray, int]:
    """Distances (Å) below `FARTHEST` from some atoms to all images of all; number of these atoms.

    `neighbors.distances` has a program for this, but to compile it takes longer than a few frames.
    """
    vectors, shifts = positions, np.zeros((1, 3))
    if cell is not None:
        cell = np.asarray(cell, np.float64)
        inverse = np.linalg.inv(cell)
        most = np.floor(FARTHEST * np.linalg.norm(inverse, axis=0) + 0.5).astype(int)
        grid = np.meshgrid(*[np.arange(-n, n + 1) for n in most], indexing="ij")
        shifts, vectors = np.stack(grid, axis=-1).reshape(-1, 3) @ cell, positions @ inverse
    centers = max(1, min(len(positions), AT_ONCE // (len(positions) * len(shifts))))
    chosen = np.linspace(0, len(positions) - 1, centers).astype(int)
    vectors = vectors - vectors[chosen][:, None]
    if cell is not None:
        vectors = (vectors - np.round(vectors)) @ cell
    distances = np.linalg.norm(vectors[:, :, None] + shifts, axis=-1)
    return distances[(distances < FARTHEST) & (distances > 1e-6)], centers


def _minima(radii, density) -> list[float]:
    """Radii (Å) of the minima of a density of neighbours that are deep enough to be no noise."""
    width = SMOOTH / (radii[1] - radii[0])
    kernel = np.exp(-0.5 * (np.arange(-12, 13) / width) ** 2)
    weights = np.convolve(np.ones_like(density), kernel, "same")
    smooth = np.convolve(density, kernel, "same") / weights
    slopes = np.sign(np.diff(smooth))
    low = np.flatnonzero((slopes[:-1] < 0) & (slopes[1:] > 0)) + 1
    high = np.flatnonzero((slopes[:-1] > 0) & (slopes[1:] < 0)) + 1
    found = []
    for k in low:
        before, after = high[high < k], high[high > k]
        if (
            len(before)
            and len(after)
            and smooth[k] <= DEEP * min(smooth[before[-1]], smooth[after[0]])
        ):
            found.append(float(radii[k]))
    return found


class Wandering(NamedTuple):
    """How far heavy atoms move from where they were, relative to the centre of mass."""

    distance: float
    """Root mean squared displacement in half a run over the mean distance of heavy atoms."""
    growth: float
    """Exponent of the mean squared displacement over time, from a quarter to half of a run."""

    @property
    def diffuses(self) -> bool:
        """Whether atoms leave their sites."""
        return self.distance > SITE and self.growth > GROWTH


def wandering(runs: list[System]) -> Wandering:
    """Measure how far the atoms heavier than `LIGHT` move in a quarter and in half of a run."""
    squares = np.zeros(2)
    for run in runs:
        masses = np.asarray(run.masses, np.float64)
        positions = np.asarray(run.positions, np.float64)
        positions = positions - (masses @ positions / masses.sum())[:, None]
        heavy = masses > LIGHT if (masses > LIGHT).any() else masses > 0
        positions = positions[:, heavy]
        for place, part in enumerate((4, 2)):
            lag = max(1, len(positions) // part)
            moved = positions[lag:] - positions[:-lag]
            squares[place] += (moved**2).sum(axis=-1).mean() / len(runs)
    distance = np.sqrt(squares[1]) / spacing(runs[0])
    return Wandering(
        float(distance), float(np.log2(max(squares[1], 1e-12) / max(squares[0], 1e-12)))
    )


def spacing(run: System) -> float:
    """Mean distance (Å) of heavy atoms: the edge of the cube that each has for itself.

    Without a cell, it is the mean distance of each to the next one.
    """
    masses = np.asarray(run.masses)
    heavy = masses > LIGHT if (masses > LIGHT).any() else masses > 0
    if run.cell is not None:
        return float((abs(np.linalg.det(np.asarray(run.cell))) / heavy.sum()) ** (1 / 3))
    places = np.asarray(run.positions[0])[heavy]
    if len(places) < 2:
        return 1.5
    distances = np.linalg.norm(places[:, None] - places, axis=-1) + np.diag([np.inf] * len(places))
    return float(distances.min(axis=1).mean())


def extent(runs: list[System]) -> float:
    """Largest distance (Å) of two atoms of a molecule in frames spread over all runs."""
    largest = 0.0
    for run in runs:
        places = np.asarray(run.positions)[:: max(1, len(run.positions) // FRAMES)]
        places = places[:, np.asarray(run.mask)]
        vectors = places[:, :, None] - places[:, None]
        largest = max(largest, float(np.linalg.norm(vectors, axis=-1).max()))
    return largest


def torsions(frame: System) -> tuple[tuple[str, str, str, str], ...]:
    """Chains of elements about the bonds of a molecule that can turn, as `bonded_chain` finds them.

    A bond in a ring cannot turn. Of the neighbours at both ends the heaviest is taken. Bonds to a
    methyl group, whose three minima are alike, are taken only if there are no others.
    """
    species = np.asarray(frame.species)
    near: dict[int, set[int]] = {}
    for i, j in bonded_pairs(frame).tolist():
        near.setdefault(i, set()).add(j)
        near.setdefault(j, set()).add(i)
    found = []
    for j, others in near.items():
        for k in others:
            if j > k or len(others) < 2 or len(near[k]) < 2 or _in_ring(near, j, k):
                continue
            sides = [sorted(near[a] - {b}, key=lambda i: species[i]) for a, b in ((j, k), (k, j))]
            methyl = any(len(side) == 3 and species[side[-1]] == 1 for side in sides)
            atoms = (sides[0][-1], j, k, sides[1][-1])
            chain = tuple(chemical_symbols[species[i]] for i in atoms)
            if bonded_chain(frame, chain)[1:3] in ((j, k), (k, j)):
                found.append((methyl, -int(species[list(atoms)].sum()), chain))
    kept = [x for x in found if not x[0]] or found
    return tuple(dict.fromkeys(chain for _, _, chain in sorted(kept)))[:TORSIONS]


def _in_ring(near: dict[int, set[int]], j: int, k: int) -> bool:
    """Whether another way than their bond leads from atom j to atom k."""
    reached, ways = {j}, [i for i in near[j] if i != k]
    while ways:
        i = ways.pop()
        if i == k:
            return True
        if i not in reached:
            reached.add(i)
            ways.extend(near[i])
    return False
