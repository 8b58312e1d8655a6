"""Compare temperature, density and masses of a system with those of a model's training set.

The checkpoint holds only the `Statistics` of the training set. So differences give warnings, not
errors.
"""

import warnings

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, chemical_symbols
from ase.neighborlist import neighbor_list as ase_neighbor_list

from trajcast_jax.config import Statistics
from trajcast_jax.system import System, known
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV

OTHER_TEMPERATURE = 0.2
"""Relative difference from the temperature of the training set that gives a warning. Four standard
deviations of the system's own temperature are added."""
OTHER_DENSITY = {True: 0.08, False: 0.25}
"""Relative difference of the number of neighbours that gives a warning. Periodic systems (True)
have a constant density; isolated ones have not."""
OTHER_MASS = 0.01
"""Relative difference from the standard mass that gives a warning."""
EQUIPARTITION = 0.3
"""Largest relative difference between the temperatures of species. Above it the training set has no
known temperature: imported models have one velocity scale for all species."""
LARGEST = 20_000
"""Largest number of atoms for which neighbours are counted."""


def training_temperature(statistics: Statistics, counts: dict[int, int]) -> float | None:
    """Compute the temperature (K) of a training set, weighted by the atoms of each species.

    It follows from the RMS velocity components and the standard masses. It is None if the species
    have different temperatures.
    """
    masses = atomic_masses[list(statistics.species)]
    squares = np.square(statistics.velocity_rms)
    kelvins = masses * squares * KINETIC_TO_EV / BOLTZMANN
    weights = np.array([counts.get(z, 0) for z in statistics.species], float)
    if not weights.sum() or not kelvins.all() or np.ptp(kelvins) > EQUIPARTITION * kelvins.mean():
        return None
    return float(kelvins @ weights / weights.sum())


def warn_of_strangeness(
    system: System, statistics: Statistics, cutoff: float, temperature: float | None = None
) -> None:
    """Warn of a temperature, density or masses that differ from those of the training set.

    `temperature` (K) is that of the thermostat; by default it is computed from the velocities.
    """
    if not known(system.positions, system.velocities, system.species, system.masses, system.cell):
        return
    mask = np.asarray(system.mask)
    species = np.asarray(system.species)[mask]
    masses = np.asarray(system.masses, float)[mask]
    if len(species) == 0 or np.asarray(system.positions).ndim != 2:
        return
    _warn_of_masses(species, masses)
    _warn_of_temperature(system, mask, species, masses, statistics, temperature)
    _warn_of_density(system, mask, species, statistics, cutoff)


def _warn(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=5)


def _warn_of_masses(species, masses) -> None:
    standard = atomic_masses[species]
    off = np.abs(masses / standard - 1)
    if off.max() > OTHER_MASS:
        atom = int(np.argmax(off))
        _warn(
            f"The mass of atom {atom} ({chemical_symbols[species[atom]]}) is {masses[atom]:.4g} Da,"
            f" and the standard one {standard[atom]:.4g} Da. The network does not see masses: it "
            "moves atoms like those of its training set."
        )


def _warn_of_temperature(system, mask, species, masses, statistics, temperature) -> None:
    numbers, counts = np.unique(species, return_counts=True)
    learned = training_temperature(statistics, dict(zip(numbers.tolist(), counts, strict=True)))
    spread = 0.0
    if temperature is None:
        velocities = np.asarray(system.velocities, float)[mask]
        momentum = (masses[:, None] * velocities).sum(0) / masses.sum()
        squares = np.square(velocities - momentum).sum(-1)
        freedom = max(3 * len(species) - 3, 1)
        temperature = float(masses @ squares * KINETIC_TO_EV / BOLTZMANN / freedom)
        spread = (2 / freedom) ** 0.5
    if not temperature or not learned:  # at rest before velocities are drawn, or unknown
        return
    if abs(temperature / learned - 1) > OTHER_TEMPERATURE + 4 * spread:
        _warn(
            f"The system has a temperature of {temperature:.0f} K, but the checkpoint was trained "
            f"at about {learned:.0f} K: its forecasts are extrapolations. Train on reference runs "
            "at this temperature too."
        )


def _warn_of_density(system, mask, species, statistics, cutoff) -> None:
    learned = statistics.average_neighbors
    if not learned or len(species) > LARGEST:
        return
    positions = np.asarray(system.positions, float)[mask]
    periodic = system.cell is not None
    if not np.isfinite(positions).all():
        return
    atoms = Atoms(species, positions, cell=system.cell, pbc=periodic)
    if periodic:
        atoms.wrap()
    neighbors = len(ase_neighbor_list("i", atoms, cutoff)) / len(species)
    if abs(neighbors / learned - 1) > OTHER_DENSITY[periodic]:
        _warn(
            f"An atom of the system has {neighbors:.1f} neighbours within {cutoff:g} Å on average, "
            f"but {learned:.1f} in the training set of the checkpoint: the density or the "
            "composition differs. Train on reference runs of such systems too."
        )
