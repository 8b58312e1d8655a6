"""What trajectories show of a system, as far as settings depend on it.

The trajectories are a preflight of a few ps of reference dynamics, or those that were brought.
"""

from typing import NamedTuple

import jax
import numpy as np
from ase.data import atomic_numbers

from trajcast_jax import averages
from trajcast_jax.analysis.block_observables import elements
from trajcast_jax.analysis.bonds import NONMETALS
from trajcast_jax.analysis.observables import cut, select
from trajcast_jax.system import System
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV
from trajcast_jax.workflow.campaign.surroundings import (
    Neighbours,
    Wandering,
    extent,
    neighbours,
    torsions,
    wandering,
)
from trajcast_jax.workflow.campaign.vibrations import Stiffest, stiffest

FEWEST = 32
"""Smallest number of frames of a trajectory."""
BLOCKS = 5
"""Number of blocks of each run for the error of the temperature."""
POLAR = 0.5
"""Difference of electronegativities from which a pair of elements is polar (C–H: 0.35)."""
SMALL = 11.4
"""Å. A cell with a smaller height is shorter than twice a cutoff of 4.4 Å and a skin of 1.3 Å."""
GRAM_PER_CUBIC_CENTIMETRE = 1.66053906660
"""1 Da/Å³ in g/cm³."""
# Pauling's scale: Allred, J. Inorg. Nucl. Chem. 17, 215 (1961); 0 where nothing is known.
_PAULING = (
    "0 2.20 0 0.98 1.57 2.04 2.55 3.04 3.44 3.98 0 0.93 1.31 1.61 1.90 2.19 2.58 3.16 0 0.82 1.00 "
    "1.36 1.54 1.63 1.66 1.55 1.83 1.88 1.91 1.90 1.65 1.81 2.01 2.18 2.55 2.96 3.00 0.82 0.95 "
    "1.22 1.33 1.6 2.16 1.9 2.2 2.28 2.20 1.93 1.69 1.78 1.96 2.05 2.1 2.66 2.6 0.79 0.89 1.10 "
    "1.12 1.13 1.14 1.13 1.17 1.2 1.2 1.1 1.22 1.23 1.24 1.25 1.1 1.27 1.3 1.5 2.36 1.9 2.2 2.20 "
    "2.28 2.54 2.00 1.62 2.33 2.02 2.0 2.2 0 0.7 0.9 1.1 1.3 1.5 1.38 1.36 1.28"
)
ELECTRONEGATIVITY = tuple(float(x) for x in _PAULING.split())
"""Electronegativities by atomic number, from 0 to 94."""


class Findings(NamedTuple):
    """What trajectories show. Lengths are in Å, times in fs, masses in Da."""

    counts: dict[str, int]
    """Number of atoms by chemical symbol, heaviest first."""
    masses: dict[str, float]
    n_atoms: int
    kind: str
    """"molecule" (no cell), "fluid" (atoms diffuse) or "solid" (they stay at their sites)."""
    temperature: float
    """Mean over all runs, K."""
    temperature_error: float
    """Standard error, from blocks; NaN if the runs are too short for blocks."""
    density: float | None
    """g/cm³; None without a cell."""
    number_density: float | None
    """1/Å³."""
    heights: tuple[float, float, float] | None
    """Distances between opposite faces of the cell."""
    extent: float | None
    """Largest distance of two atoms of a molecule; None with a cell."""
    interval: float
    """Time between frames."""
    durations: tuple[float, ...]
    """Length of each run."""
    vibration: Stiffest
    wandering: Wandering
    neighbours: Neighbours
    polarity: float
    """Largest difference of electronegativities of two elements, of which one is no metal."""
    rms_speed: float
    """RMS velocity component (Å/fs) of the lightest element in the runs."""
    torsions: tuple[tuple[str, str, str, str], ...]
    """Dihedral angles of a molecule that can turn, by element."""

    @property
    def lightest(self) -> str:
        """Symbol of the element with the smallest mass."""
        return min(self.masses, key=self.masses.get)

    @property
    def rarest(self) -> str:
        """Symbol of the element with the fewest atoms."""
        return min(self.counts, key=self.counts.get)

    @property
    def polar(self) -> bool:
        """Whether charges are to be expected."""
        return self.polarity >= POLAR

    @property
    def small(self) -> bool:
        """Whether atoms see images of their neighbours, which needs the multi-image list."""
        return self.heights is not None and min(self.heights) < SMALL

    @property
    def periodic(self) -> bool:
        """Whether there is a cell."""
        return self.heights is not None


def find(runs: list[System], interval: float) -> Findings:
    """Measure what settings depend on in trajectories of one system.

    Args:
      runs: unwrapped, with a time axis. If they differ, cell and numbers of atoms are those of the
        first.
      interval: time between frames, fs.

    Raises:
      ValueError: there are no runs, or one has fewer than `FEWEST` frames.
    """
    if not runs:
        raise ValueError("There are no trajectories to measure; give at least one.")
    shortest = min(len(run.positions) for run in runs)
    if shortest < FEWEST:
        raise ValueError(
            f"A trajectory has {shortest} frames, too few to measure anything; give at least "
            f"{FEWEST}, {interval:g} fs apart."
        )
    runs = [jax.tree.map(np.asarray, run) for run in runs]  # no programs for single operations
    first = cut(runs[0], 0)
    own = elements(first)
    atoms = {symbol: select(first, z) for symbol, z in own.items()}
    masses = {
        symbol: round(float(np.mean(first.masses[chosen])), 4) for symbol, chosen in atoms.items()
    }
    moved = wandering(runs)
    isolated = first.cell is None
    mean, error = _temperature(runs)
    density, per_volume, sizes = _cell(first)
    light = min(masses, key=masses.get)
    return Findings(
        counts={symbol: len(chosen) for symbol, chosen in atoms.items()},
        masses=masses,
        n_atoms=len(select(first)),
        kind="molecule" if isolated else "fluid" if moved.diffuses else "solid",
        temperature=mean,
        temperature_error=error,
        density=density,
        number_density=per_volume,
        heights=sizes,
        extent=extent(runs) if isolated else None,
        interval=interval,
        durations=tuple(len(run.positions) * interval for run in runs),
        vibration=stiffest(runs, interval),
        wandering=moved,
        neighbours=neighbours(runs),
        polarity=polarity(own),
        rms_speed=float(np.mean([_rms(run, own[light]) for run in runs])),
        torsions=torsions(first) if isolated else (),
    )


def _temperature(runs: list[System]) -> tuple[float, float]:
    """Mean temperature (K) and its standard error over all runs."""
    found = []
    for run in runs:
        squares = (np.asarray(run.velocities, np.float64) ** 2).sum(axis=-1)
        kelvin = squares @ run.masses * KINETIC_TO_EV / (BOLTZMANN * max(1, _dof(run)))
        found.append([float(x) for x in averages.block_average(kelvin, BLOCKS)])
    means, errors = np.array(found).T
    error = np.sqrt((errors**2).mean() / len(runs))
    if len(runs) > 1:
        error = max(error, means.std(ddof=1) / np.sqrt(len(runs)))
    return float(means.mean()), float(error)


def _dof(run: System) -> int:
    """Degrees of freedom without translation, and without rotation if isolated.

    It is `mechanics.degrees_of_freedom` without programs to compile.
    """
    atoms = select(run)
    if run.cell is not None:
        return 3 * len(atoms) - 3
    places = np.asarray(run.positions[0], np.float64)[atoms]
    shape = np.linalg.matrix_rank(places - places.mean(axis=0), tol=1e-2)
    return 3 * len(atoms) - 3 - (0, 2, 3, 3)[int(shape)]


def _cell(frame: System) -> tuple[float, float, tuple] | tuple[None, None, None]:
    """Density (g/cm³), number density (1/Å³) and heights (Å) of the cell."""
    if frame.cell is None:
        return None, None, None
    cell = np.asarray(frame.cell, np.float64)
    volume = float(abs(np.linalg.det(cell)))
    density = float(np.sum(frame.masses)) / volume * GRAM_PER_CUBIC_CENTIMETRE
    sizes = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    return density, len(select(frame)) / volume, tuple(sizes.tolist())


def _rms(run: System, species: int) -> float:
    chosen = np.asarray(run.velocities)[:, select(run, species)]
    return float(np.sqrt(np.mean(chosen.astype(np.float64) ** 2)))


def polarity(symbols) -> float:
    """Largest difference of electronegativities (Pauling's) of two elements, one a nonmetal.

    Elements without a value (noble gases) are left out.
    """
    numbers = [atomic_numbers[symbol] for symbol in symbols]
    known = {z: ELECTRONEGATIVITY[z] for z in numbers if z < len(ELECTRONEGATIVITY)}
    return max(
        (
            abs(x - y)
            for a, x in known.items()
            for b, y in known.items()
            if x and y and (a in NONMETALS or b in NONMETALS)
        ),
        default=0.0,
    )


def as_dict(findings: Findings) -> dict:
    """The findings as nested dicts of plain values, for JSON."""
    return {
        name: value._asdict() if isinstance(value, Stiffest | Wandering | Neighbours) else value
        for name, value in findings._asdict().items()
    }


def formula(counts: dict[str, int]) -> str:
    """Numbers of atoms in words, such as "Si54 O108"."""
    return " ".join(f"{symbol}{n}" for symbol, n in counts.items())
