"""Compare a system with the training set of a model.

The model's card holds the ranges of the training set. Without a card, they are guessed from the
`Statistics`. Differences give warnings, not errors.
"""

import dataclasses

import numpy as np
from ase.data import atomic_masses, chemical_symbols

from trajcast_jax.config import Statistics
from trajcast_jax.network.validity import (
    Validity,
    closest_pairs,
    kinetic_temperature,
    pairs_within,
)
from trajcast_jax.system import System, heights, known
from trajcast_jax.units import BOLTZMANN, DALTON_PER_CUBIC_ANGSTROM, KINETIC_TO_EV

LONGER = 1.05
"""Factor to the longest (or shortest) cell of the training set that gives a warning."""
OTHER_TEMPERATURE = 0.1
"""Relative distance from the range of the training set that gives a warning. Four standard
deviations of the system's own temperature are added."""
GUESSED = 0.1
"""Relative uncertainty of a temperature that is guessed from statistics."""
OTHER_DENSITY = 0.05
"""Relative distance from the range of densities that gives a warning."""
OTHER_NEIGHBORS = {True: 0.08, False: 0.25}
"""Relative distance from the range of neighbours that gives a warning. Periodic systems (True)
have a constant density; isolated ones have not."""
OTHER_FRACTION = 0.01
"""Distance from the range of the fraction of an element that gives a warning."""
OTHER_MASS = 0.01
"""Relative distance from the range of masses that gives a warning."""
CLOSER, FASTER = 0.9, 1.25
"""Factors to the closest distances and fastest speeds of the training set that give a warning."""
EQUIPARTITION = 0.3
"""Largest relative difference between the temperatures of species. Above it the training set has no
known temperature: imported models have one velocity scale for all species."""
LARGEST = 20_000
"""Largest number of atoms for which neighbours are counted."""


def strangeness(
    system: System, learned: Validity, cutoff: float, temperature: float | None = None
) -> list[str]:
    """Compare a system with a training set; return a sentence for each quantity out of range.

    A sentence names the quantity, its value and the range of the training set. There are none for
    systems that are traced or have a time axis.

    Args:
      system: one frame.
      learned: ranges of the training set; those that are not recorded are not compared.
      cutoff: of the model's neighbours, Å.
      temperature: that of the thermostat (K); by default it is computed from the velocities.
    """
    if not known(system.positions, system.velocities, system.species, system.masses, system.cell):
        return []
    mask = np.asarray(system.mask)
    if not mask.any() or np.asarray(system.positions).ndim != 2:
        return []
    species = np.asarray(system.species)[mask]
    names = np.array(chemical_symbols)[species]
    said = [
        *_boundary(system, learned),
        *_masses(names, np.asarray(system.masses, float)[mask], learned),
        *_composition(names, system.cell is not None, learned),
        *_temperature(system, learned, temperature),
        *_speeds(names, np.asarray(system.velocities, float)[mask], learned),
    ]
    if system.cell is not None and learned.periodic is not False:
        said += [*_cell(system, learned), *_density(system, learned)]
    return [*said, *_neighbors(system, species, learned, cutoff)]


def guessed(
    statistics: Statistics, cutoff: float, system: System, unsure: float = GUESSED
) -> Validity:
    """Guess the ranges of a training set from its statistics.

    The temperature is that of a system with the degrees of freedom of `system`; `unsure` is its
    relative uncertainty.
    """
    numbers, counts = np.unique(np.asarray(system.species), return_counts=True)
    kelvin = training_temperature(statistics, dict(zip(numbers.tolist(), counts, strict=True)))
    if kelvin is not None and known(system.positions, system.velocities):
        freedom = int(kinetic_temperature(system)[1]) if np.ndim(system.positions) == 2 else 0
        kelvin = kelvin * 3 * int(np.sum(system.mask)) / freedom if freedom else None
    standard = {chemical_symbols[z]: float(atomic_masses[z]) for z in statistics.species}
    neighbors = statistics.average_neighbors
    return Validity(
        species=tuple(standard),
        masses={name: (mass, mass) for name, mass in standard.items()},
        temperature=kelvin and ((1 - unsure) * kelvin, (1 + unsure) * kelvin),
        cutoff=cutoff,
        neighbors=(neighbors, neighbors) if neighbors else None,
        longest_cell=statistics.longest_cell or None,
        periodic=True if statistics.longest_cell else None,
    )


def completed(card: Validity, guess: Validity) -> Validity:
    """Fill what a card does not record with a guess."""
    missing = {
        field.name: getattr(guess, field.name)
        for field in dataclasses.fields(Validity)
        if getattr(card, field.name) in (None, {}, ())
    }
    return dataclasses.replace(card, **missing)


def training_temperature(statistics: Statistics, counts: dict[int, int]) -> float | None:
    """Compute the temperature (K) of a training set, weighted by the atoms of each species.

    It follows from the RMS velocity components, the standard masses and 3N degrees of freedom. It
    is None if the species have different temperatures.
    """
    masses = atomic_masses[list(statistics.species)]
    squares = np.square(statistics.velocity_rms)
    kelvins = masses * squares * KINETIC_TO_EV / BOLTZMANN
    weights = np.array([counts.get(z, 0) for z in statistics.species], float)
    if not weights.sum() or not kelvins.all() or np.ptp(kelvins) > EQUIPARTITION * kelvins.mean():
        return None
    return float(kelvins @ weights / weights.sum())


def _outside(value: float, span: tuple[float, float], share: float) -> bool:
    return not (1 - share) * span[0] <= value <= (1 + share) * span[1]


def _words(span: tuple[float, float], digits: str) -> str:
    low, high = (f"{x:{digits}}" for x in span)
    return low if low == high else f"{low} to {high}"


def _boundary(system: System, learned: Validity):
    if learned.periodic and system.cell is None:
        yield (
            "The system has no cell, but the checkpoint has learned from periodic matter alone; "
            "give the cell if there is one."
        )
    if learned.periodic is False and system.cell is not None:
        yield (
            "The system is periodic, but the checkpoint has learned from isolated molecules alone: "
            "it does not know what neighbouring molecules do. Train on periodic systems too."
        )


def _masses(names: np.ndarray, masses: np.ndarray, learned: Validity):
    for name, span in learned.masses.items():
        off = [k for k in np.flatnonzero(names == name) if _outside(masses[k], span, OTHER_MASS)]
        if off:
            yield (
                f"The mass of atom {off[0]} ({name}) is {masses[off[0]]:.5g} Da, and "
                f"{_words(span, '.5g')} Da. The network does not see "
                "masses: it moves atoms like those of its training set."
            )
            return


def _composition(names: np.ndarray, periodic: bool, learned: Validity):
    for name, (low, high) in learned.fractions.items():
        share = float((names == name).mean())
        if not low - OTHER_FRACTION <= share <= high + OTHER_FRACTION:
            yield (
                f"The composition differs: {100 * share:.3g} % of the atoms are {name}, but "
                f"{_words((100 * low, 100 * high), '.3g')} % in the training set of the checkpoint "
                f"({', '.join(learned.formulas)}). Train on such systems too."
            )
            return
    if not periodic and learned.atoms and _outside(len(names), learned.atoms, 0.0):
        yield (
            f"The molecule has {len(names)} atoms, but those in the training set of the checkpoint "
            f"have {_words(learned.atoms, 'd')}. Train on such molecules too."
        )


def _temperature(system: System, learned: Validity, temperature: float | None):
    if learned.temperature is None:
        return
    spread = 0.0
    if temperature is None:
        kelvin, freedom = kinetic_temperature(system)
        temperature, spread = float(kelvin), (2 / max(int(freedom), 1)) ** 0.5
    if not temperature:  # at rest before velocities are drawn
        return
    if _outside(temperature, learned.temperature, OTHER_TEMPERATURE + 4 * spread):
        middle = sum(learned.temperature) / 2
        near = max(learned.temperature) - min(learned.temperature) < 0.25 * middle
        at = f"about {middle:.0f}" if near else _words(learned.temperature, ".0f")
        yield (
            f"The system has a temperature of {temperature:.0f} K, but the checkpoint was trained "
            f"at {at} K: its forecasts are extrapolations. Train on reference runs at this "
            "temperature too."
        )


def _speeds(names: np.ndarray, velocities: np.ndarray, learned: Validity):
    speeds = np.linalg.norm(velocities, axis=-1)
    for name, most in learned.fastest.items():
        found = speeds[names == name].max(initial=0.0)
        if found > FASTER * most:
            yield (
                f"An atom of {name} moves by {found:.3g} Å/fs, but none in the training set of "
                f"the checkpoint is faster than {most:.3g} Å/fs. Check the unit of velocities and "
                "the temperature."
            )
            return


def _cell(system: System, learned: Validity):
    lengths = np.asarray(heights(system.cell), float)
    if learned.longest_cell and lengths.max() > LONGER * learned.longest_cell:
        yield (
            f"The cell is {lengths.max():.1f} Å long, but the checkpoint has learned from cells of "
            f"at most {learned.longest_cell:.1f} Å: longer waves may heat or grow until the "
            "forecast fails. Hold its first picoseconds against reference MD, or train on pairs "
            "from longer cells too (experiments/results/larger_cells.md)."
        )
    if learned.shortest_cell and lengths.min() < learned.shortest_cell / LONGER:
        yield (
            f"The cell is {lengths.min():.1f} Å thin, but the checkpoint was trained on cells of "
            f"at least {learned.shortest_cell:.1f} Å: atoms and their images move together. Repeat "
            "the cell."
        )


def _density(system: System, learned: Validity):
    if learned.number_density is None:
        return
    volume = abs(np.linalg.det(np.asarray(system.cell, float)))
    density = float(np.sum(system.mask)) / volume
    if _outside(density, learned.number_density, OTHER_DENSITY):
        grams = float(np.sum(system.masses)) / volume * DALTON_PER_CUBIC_ANGSTROM
        own = learned.mass_density
        beside = f" ({_words(own, '.3f')} g/cm³)" if own else ""
        yield (
            f"The density of the system is {density:.4f} atoms/Å³ ({grams:.3f} g/cm³), but "
            f"{_words(learned.number_density, '.4f')} atoms/Å³{beside} in the training set of the "
            f"checkpoint. Train on reference runs at this density too."
        )


def _neighbors(system: System, species: np.ndarray, learned: Validity, cutoff: float):
    positions = np.asarray(system.positions)[np.asarray(system.mask)]
    wanted = learned.neighbors or learned.closest
    if not wanted or len(species) > LARGEST or not np.isfinite(positions).all():
        return
    periodic = system.cell is not None
    atoms, other, lengths = pairs_within(system, cutoff)
    count = len(atoms) / len(species)
    if learned.neighbors and _outside(count, learned.neighbors, OTHER_NEIGHBORS[periodic]):
        yield (
            f"An atom of the system has {count:.1f} neighbours within {cutoff:g} Å on average, "
            f"but {_words(learned.neighbors, '.1f')} in the training set of the checkpoint: the "
            "density or the composition differs. Train on reference runs of such systems too."
        )
    if not learned.closest:
        return
    for pair, distance in closest_pairs(species, atoms, other, lengths).items():
        least = learned.closest.get(pair, cutoff)
        if distance < CLOSER * least:
            a, b = pair.split("-")
            yield (
                f"Two atoms {a} and {b} are {distance:.2f} Å apart, but never closer than "
                f"{least:.2f} Å in the training set of the checkpoint. Relax the structure, or "
                "check whether it holds atoms twice."
            )
            return
