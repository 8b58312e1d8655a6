"""Masses that files state: of elements, of isotopes, and repartitioned onto hydrogen (HMR).

Hydrogen mass repartitioning (Hopkins et al., J. Chem. Theory Comput. 11, 1864 (2015),
doi:10.1021/ct5010406) makes hydrogens heavier, mostly three times, and the atoms that they are
bonded to lighter by as much.
"""

import numpy as np
from ase.data import atomic_masses
from jaxtyping import Bool, Float, Int

HYDROGEN = float(atomic_masses[1])
HEAVY_HYDROGENS = (1.008, 2.014, 3.024, 4.032)
"""Da: of the element, deuterium, and repartitioned; tritium weighs as much as helium-3."""
HYDROGENS = (0.9, 4.1)
"""Da between which the mass of a stated hydrogen may be, repartitioned or not."""
LIGHTER = (2, 9)
"""Least and largest atomic number (C, N, O are meant) of an element that gives mass to hydrogen."""
ISOTOPES = {
    2: (3.016, 4.003), 3: (6.015, 7.016), 5: (10.013, 11.009), 6: (13.003, 14.003), 7: (15.0,),
    8: (16.999, 17.999), 10: (19.992, 20.994, 21.991), 12: (23.985, 24.986, 25.983),
    14: (27.977, 28.976, 29.974), 16: (32.971, 33.968, 35.967), 17: (34.969, 36.966),
    18: (35.968, 37.963, 39.962), 19: (38.964, 39.964, 40.962),
    20: (39.963, 41.959, 42.959, 43.955, 45.954, 47.952), 22: (45.953, 46.952, 48.948, 49.945),
    24: (49.946, 52.941, 53.939), 26: (53.94, 56.935, 57.933), 28: (57.935, 59.931, 63.928),
    32: (69.924, 71.922, 73.921, 75.921), 34: (73.922, 75.919, 76.92, 77.917, 81.917),
    36: (77.92, 79.916, 81.913, 85.911), 48: (105.906, 107.904, 115.905),
    50: (111.905, 113.903, 121.903, 123.905), 54: (123.906, 125.904, 133.905, 135.907),
}  # fmt: skip
"""Masses (Da) of isotopes by atomic number, where they are far from the element's mean."""
NEAR = 0.02
"""Da by which the mass of an isotope may be rounded."""
SURE = 0.0051
"""Da by which a mass that alone tells the element may differ from it."""
KEPT = 1e-3
"""Share by which the total mass may differ from that of the elements if it was repartitioned."""
MOST = 4
"""Largest number of hydrogens that an atom gives mass to."""


def plausible(
    species: Int[np.ndarray, "atom"], masses: Float[np.ndarray, "atom"], tolerance: float
) -> Bool[np.ndarray, "atom"]:
    """Which masses (Da) may be those of elements: near them, of isotopes, or repartitioned.

    `tolerance` is the share by which they may differ from the element's mean.
    """
    species, masses = np.asarray(species), np.asarray(masses, float)
    standard = np.where(species > 0, atomic_masses[np.maximum(species, 0)], 0.0)
    fine = np.abs(masses - standard) <= tolerance * standard
    for z, isotopes in ISOTOPES.items():
        near = np.abs(masses[:, None] - np.array(isotopes)).min(axis=1) < NEAR
        fine |= (species == z) & near
    fine |= (species == 1) & (masses > HYDROGENS[0]) & (masses < HYDROGENS[1])
    return fine | _repartitioned(species, masses, standard)


def _repartitioned(species, masses, standard) -> Bool[np.ndarray, "atom"]:
    """Which atoms have given a whole number of shares of mass to hydrogens."""
    heavy = masses[(species == 1) & (masses > 1.1 * HYDROGEN)]
    total = standard.sum()
    if not len(heavy) or abs(masses.sum() - total) > KEPT * total:
        return np.zeros(len(masses), bool)
    share = (standard - masses) / (np.median(heavy) - HYDROGEN)
    whole = np.round(share)
    return (species > 1) & (whole >= 1) & (whole <= MOST) & (np.abs(share - whole) < NEAR)


def is_hydrogen(masses: Float[np.ndarray, "atom"]) -> Bool[np.ndarray, "atom"]:
    """Which masses (Da) are hydrogen's and no other element's."""
    away = np.abs(np.asarray(masses, float)[:, None] - np.array(HEAVY_HYDROGENS))
    return away.min(axis=1) < SURE


def element_of(mass: float, others: Float[np.ndarray, "mass"]) -> int:
    """Atomic number of the one element that a mass (Da) tells; 0 if it is not certain.

    `others` are the other masses in the file: beside hydrogens of three times the mass, one may be
    that of an atom that is bonded to them.
    """
    if is_hydrogen(np.array([mass]))[0]:
        return 1
    away = np.abs(atomic_masses[2:99] - mass)
    if away.min() < SURE:
        return int(np.argmin(away)) + 2
    found = {
        z
        for z, isotopes in ISOTOPES.items()
        for other in isotopes
        if abs(mass - other) < SURE and mass > 5  # below, tritium and helium-3
    }
    extra = 3.024 - HYDROGEN
    if np.any(np.abs(np.asarray(others) - 3.024) < SURE):
        found |= {
            z
            for z in range(*LIGHTER)
            for n in range(1, MOST)
            if abs(atomic_masses[z] - n * extra - mass) < SURE
        }
    return found.pop() if len(found) == 1 else 0
