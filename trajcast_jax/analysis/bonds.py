"""Bonds and angles of a trajectory, to test that molecules stay intact and keep their shape."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from ase.geometry.dimensionality.rank_determination import RDA
from ase.neighborlist import neighbor_list
from jaxtyping import Float, Int

from trajcast_jax.system import System

BONDED = 1.25
"""Two atoms are bonded if their initial distance is below this, in units of the sum of their
covalent radii."""
BROKEN = 1.5
"""A bond is broken if it is longer than this, in the same unit."""
NONMETALS = (1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 33, 34, 35, 36, 52, 53, 54, 85, 86)
"""Atomic numbers of nonmetals and semimetals, which form covalent bonds."""
FRAMES = 1000
"""Number of frames that are processed together."""


class Geometry(NamedTuple):
    """Bonds and angles of a trajectory. The keys are symbols, such as "O–H" and "H–O–H"."""

    lengths: dict[str, float]
    """Mean bond lengths, Å."""
    angles: dict[str, float]
    """Mean angles, degrees."""
    stretch: float
    """Largest bond length in units of the sum of covalent radii; NaN without bonds."""
    length_widths: dict[str, float]
    """Standard deviations of the length of a bond, Å: root mean squares over the bonds."""
    angle_widths: dict[str, float]
    """Standard deviations of an angle, degrees, likewise."""


def geometry(run: System, bonds: Int[np.ndarray, "bond 2"]) -> Geometry:
    """Bond lengths (Å) and angles (degrees), their widths, and the largest stretch, in a run."""
    numbers = np.asarray(run.species)
    if not len(bonds):
        return Geometry({}, {}, float("nan"), {}, {})
    angles = _angles(bonds)
    radii = covalent_radii[numbers[bonds]].sum(axis=1)
    sums, stretch = [], 0.0
    for start in range(0, len(run.positions), FRAMES):
        positions = np.asarray(run.positions[start : start + FRAMES], np.float64)
        distances = np.linalg.norm(_vectors(positions, bonds, run.cell), axis=-1)
        stretch = max(stretch, float(np.max(distances / radii)))
        bent = _angle(positions, angles, run.cell)
        sums.append([x.sum(axis=0) for x in (distances, distances**2, bent, bent**2)])
    length, length2, angle, angle2 = (
        np.sum(x, 0) / len(run.positions) for x in zip(*sums, strict=True)
    )
    return Geometry(
        _by_name(bonds, numbers, length),
        _by_name(angles, numbers, angle),
        stretch,
        _widths(bonds, numbers, length2 - length**2),
        _widths(angles, numbers, angle2 - angle**2),
    )


def _widths(groups, numbers, variances) -> dict[str, float]:
    """Root mean squares of the widths of groups of atoms with the same symbols."""
    means = _by_name(groups, numbers, np.maximum(variances, 0.0))
    return {name: value**0.5 for name, value in means.items()}


def bonded_pairs(system: System) -> Int[np.ndarray, "bond 2"]:
    """Bonded pairs of atoms in a frame, each once. Two metal atoms are never bonded."""
    first, second, _ = _bonds(system)
    # In tiny cells, several images are bonded; only the minimum image is used for lengths.
    return np.unique(np.stack([first, second], axis=1)[first < second], axis=0)


def is_network(system: System) -> bool:
    """Whether bonds form a periodic network (crystal, glass or melt) instead of molecules."""
    counts = RDA(len(system.masses))
    for first, second, shift in zip(*_bonds(system), strict=True):
        counts.insert_bond(int(first), int(second), tuple(shift.tolist()))
    return sum(counts.check()[1:]) > 0  # components that are periodic in one dimension or more


def _bonds(system: System) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both atoms (bond,), (bond,) and the image shift (bond, 3) of the second; both directions."""
    atoms = Atoms(
        np.asarray(system.species),
        np.asarray(system.positions),
        cell=None if system.cell is None else np.asarray(system.cell),
        pbc=system.cell is not None,
    )
    reach = (BONDED * covalent_radii[atoms.numbers]).tolist()
    first, second, shifts = neighbor_list("ijS", atoms, reach)
    metal = ~np.isin(atoms.numbers, NONMETALS)
    kept = ~(metal[first] & metal[second])
    return first[kept], second[kept], shifts[kept]


def bonded_chain(system: System, symbols: Sequence[str]) -> tuple[int, ...]:
    """Find the first chain of different atoms of these elements, each bonded to the next.

    Raises:
      ValueError: there is no such chain.
    """
    bonds = bonded_pairs(system)
    bonded = set(map(tuple, np.concatenate([bonds, bonds[:, ::-1]]).tolist()))
    kinds = [np.flatnonzero(np.asarray(system.species) == atomic_numbers[s]) for s in symbols]
    chains = [(i,) for i in kinds[0].tolist()]
    for kind in kinds[1:]:
        longer = [(*chain, j) for chain in chains for j in kind.tolist() if j not in chain]
        chains = [chain for chain in longer if chain[-2:] in bonded]
    if not chains:
        raise ValueError(f"No atoms are bonded as {'–'.join(symbols)}; give their indices.")
    return chains[0]


def _angles(bonds: Int[np.ndarray, "bond 2"]) -> Int[np.ndarray, "angle 3"]:
    """All triples of atoms i, j, k with j bonded to both i and k."""
    neighbors: dict[int, list[int]] = {}
    for i, j in bonds.tolist():
        neighbors.setdefault(i, []).append(j)
        neighbors.setdefault(j, []).append(i)
    found = [(i, j, k) for j, others in neighbors.items() for i in others for k in others if i < k]
    return np.array(found, int).reshape(-1, 3)


def _vectors(positions, pairs, cell) -> Float[np.ndarray, "time pair 3"]:
    vectors = positions[:, pairs[:, 1]] - positions[:, pairs[:, 0]]
    if cell is None:
        return vectors
    cell = np.asarray(cell, np.float64)
    return vectors - np.round(vectors @ np.linalg.inv(cell)) @ cell


def _angle(positions, angles, cell) -> Float[np.ndarray, "time angle"]:
    """Angles (degrees) of triples of atoms in every frame."""
    a, b = (_vectors(positions, angles[:, [1, side]], cell) for side in (0, 2))
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(np.clip(np.sum(a * b, axis=-1) / norms, -1, 1)))


def _by_name(groups, numbers, values) -> dict[str, float]:
    """Mean values of groups of atoms with the same symbols; names start with the heavier end."""
    symbols = Atoms(numbers).get_chemical_symbols()
    found: dict[str, list[float]] = {}
    for group, value in zip(groups.tolist(), values, strict=True):
        if numbers[group[0]] < numbers[group[-1]]:
            group = group[::-1]
        found.setdefault("–".join(symbols[i] for i in group), []).append(value)
    return {name: float(np.mean(found[name])) for name in sorted(found)}
