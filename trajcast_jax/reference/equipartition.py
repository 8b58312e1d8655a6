"""Kinetic temperatures of each element, which are equal if the masses are right.

At equilibrium, each component of the velocity of an atom of mass m has ⟨v²⟩ = k_B T/m. With the
mass of another element, its temperature comes out m_assumed/m_true times too high: names that are
interchanged show, even where the stoichiometry does not tell them.
"""

from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.data import atomic_masses, chemical_symbols

from trajcast_jax import averages
from trajcast_jax.reference.check import Check
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV

N_BLOCKS = 10
FEWEST = 20
"""Frames of which temperatures of elements are told."""
CLEAR = 4.0
"""Standard errors beyond which temperatures differ."""
AGREE = 2.5
"""Standard errors within which they agree."""
LEAST = 0.1
"""Share by which they differ at least."""
MOST = 5
"""Largest number of elements of which all orders are tried."""


class Temperatures(NamedTuple):
    """Of each element: its atomic number, temperature, and relative standard error."""

    species: np.ndarray
    kelvin: np.ndarray
    error: np.ndarray


def temperatures_of_elements(velocities, species, masses) -> Temperatures:
    """Kinetic temperatures (K) by velocities (time, atom, 3) in Å/fs and masses (atom,) in Da.

    The error is at least that of a crystal whose modes keep their energies: 1/√(number of
    degrees of freedom). Frozen atoms do not count.
    """
    species, m = np.asarray(species), np.asarray(masses, np.float64)
    squares = np.zeros((len(velocities), len(m)))
    for start in range(0, len(velocities), 1000):
        v = np.asarray(velocities[start : start + 1000], np.float64)
        v = v - np.einsum("tai,a->ti", v, m / m.sum())[:, None]
        squares[start : start + 1000] = KINETIC_TO_EV * m * np.sum(v**2, axis=-1)
    usual = squares.mean(axis=0)
    moving = usual > 1e-6 * np.median(usual)
    found = []
    for z in np.unique(species[moving]):
        here = moving & (species == z)
        freedom = 3 * float(np.sum(1 - m[here] / m.sum()))
        series = squares[:, here].sum(axis=1) / (max(freedom, 1.0) * BOLTZMANN)
        mean, error = (float(x) for x in averages.block_average(series, N_BLOCKS))
        by_blocks = float(np.nan_to_num(error)) / max(mean, 1e-30)
        found.append((z, mean, np.hypot(by_blocks, 1 / np.sqrt(max(freedom, 1.0)))))
    z, kelvin, error = zip(*found, strict=True) if found else ((), (), ())
    return Temperatures(np.array(z, int), np.array(kelvin), np.array(error))


def off(logs: np.ndarray, error: np.ndarray) -> np.ndarray:
    """How far logarithms of temperatures are from their mean, in standard errors."""
    weights = 1 / error**2
    mean = np.sum(weights * logs) / weights.sum()
    return np.abs(logs - mean) / error


def interchanged(found: Temperatures) -> dict[int, int]:
    """The element that each should be, if elements in another order clearly explain all; or {}."""
    n = len(found.species)
    if not 2 <= n <= MOST or (found.kelvin <= 0).any():
        return {}
    logs, masses = np.log(found.kelvin), np.log(atomic_masses[found.species])
    if off(logs, found.error).max() < CLEAR / np.sqrt(2) or np.ptp(logs) < LEAST:
        return {}
    before = np.sum(off(logs, found.error) ** 2)
    fits = []
    for order in permutations(range(n)):
        away = off(logs + masses[list(order)] - masses, found.error)
        if order != tuple(range(n)) and away.max() < AGREE / np.sqrt(2):
            fits.append((np.sum(away**2), order))
    if not fits or before - min(fits)[0] < CLEAR**2 / 2:
        return {}
    return {int(a): int(found.species[k]) for a, k in zip(found.species, min(fits)[1], strict=True)}


def require_equipartition(velocities, species, masses, source: Path) -> None:
    """The elements are not interchanged.

    Raises:
      ValueError: their temperatures differ, and in another order they would not.
    """
    if len(velocities) < FEWEST:
        return
    found = temperatures_of_elements(velocities, species, masses)
    other = interchanged(found)
    if other:
        told = ", ".join(
            f"{chemical_symbols[z]} {kelvin:.4g} K"
            for z, kelvin in zip(found.species, found.kelvin, strict=True)
        )
        right = ", ".join(f"{chemical_symbols[b]} for {chemical_symbols[a]}"
                         for a, b in other.items() if a != b)  # fmt: skip
        raise ValueError(
            f"The elements of {source} have different temperatures, {told}, and would have the "
            f"same if they were interchanged ({right}); check their order (--species, or "
            "dump_modify element where the file was written)."
        )


def check_equipartition(velocities, species, masses) -> list[Check]:
    """Each element has the temperature of the others; rigid bonds and cold starts change that."""
    if len(velocities) < FEWEST:
        return []
    found = temperatures_of_elements(velocities, species, masses)
    if len(found.species) < 2 or (found.kelvin <= 0).any():
        return []
    weights = 1 / found.error**2
    usual = float(np.exp(np.sum(weights * np.log(found.kelvin)) / weights.sum()))
    checks, swapped = [], bool(interchanged(found))
    for z, kelvin, error in zip(*found, strict=True):
        allowed = max(LEAST, CLEAR * error)
        passed = bool(abs(np.log(kelvin / usual)) < allowed)
        expected = f"{usual:.4g} ± {100 * allowed:.2g} %, as others, if no bonds are rigid"
        if not passed:
            name = f"temperature of {chemical_symbols[z]}"
            checks.append(Check(name, kelvin, "K", expected, False, swapped))
    return checks
