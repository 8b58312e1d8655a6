"""Bonds and angles of a trajectory: do molecules stay whole, and have they their shape?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from ase.neighborlist import neighbor_list
from jaxtyping import Float, Int

from trajcast_jax.system import System

BONDED = 1.25
"""Atoms are bonded that start closer than this, over the sum of their covalent radii."""
BROKEN = 1.5
"""A bond is broken that has become longer than this, in the same unit."""
FRAMES = 1000
"""Frames looked at together."""


class Geometry(NamedTuple):
    """Bonds and angles of a trajectory; the keys are symbols, as "O–H" and "H–O–H"."""

    lengths: dict[str, float]
    """Mean bond lengths, Å."""
    angles: dict[str, float]
    """Mean angles, degrees."""
    stretch: float
    """The longest that a bond has been, over the sum of covalent radii; NaN without bonds."""


def geometry(run: System) -> Geometry:
    """Mean bond lengths and angles of a trajectory, by the bonds of its first frame."""
    bonds, numbers = bonded_pairs(run), np.asarray(run.species)
    if not len(bonds):
        return Geometry({}, {}, float("nan"))
    angles = _angles(bonds)
    radii = covalent_radii[numbers[bonds]].sum(axis=1)
    lengths, cosines, stretch = [], [], 0.0
    for start in range(0, len(run.positions), FRAMES):
        positions = np.asarray(run.positions[start : start + FRAMES], np.float64)
        distances = np.linalg.norm(_vectors(positions, bonds, run.cell), axis=-1)
        stretch = max(stretch, float(np.max(distances / radii)))
        lengths.append(distances.sum(axis=0))
        cosines.append(_angle(positions, angles, run.cell).sum(axis=0))
    return Geometry(
        _by_name(bonds, numbers, np.sum(lengths, axis=0) / len(run.positions)),
        _by_name(angles, numbers, np.sum(cosines, axis=0) / len(run.positions)),
        stretch,
    )


def bonded_pairs(run: System) -> Int[np.ndarray, "bond 2"]:
    """Atoms that are bonded in the first frame, each pair once."""
    atoms = Atoms(
        np.asarray(run.species),
        np.asarray(run.positions[0]),
        cell=None if run.cell is None else np.asarray(run.cell),
        pbc=run.cell is not None,
    )
    first, second = neighbor_list("ij", atoms, (BONDED * covalent_radii[atoms.numbers]).tolist())
    # Of several images (tiny cells) the minimum image below sees one.
    return np.unique(np.stack([first, second], axis=1)[first < second], axis=0)


def bonded_chain(system: System, symbols: Sequence[str]) -> tuple[int, ...]:
    """The first chain of different atoms of these elements, each bonded to the next, in a frame."""
    bonds = bonded_pairs(system.replace(positions=system.positions[None]))
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
    """Atoms i, j, k with j bonded to both i and k."""
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
    """Degrees."""
    a, b = (_vectors(positions, angles[:, [1, side]], cell) for side in (0, 2))
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(np.clip(np.sum(a * b, axis=-1) / norms, -1, 1)))


def _by_name(groups, numbers, values) -> dict[str, float]:
    """Means over the groups of atoms with the same symbols; the heavier end comes first."""
    symbols = Atoms(numbers).get_chemical_symbols()
    found: dict[str, list[float]] = {}
    for group, value in zip(groups.tolist(), values, strict=True):
        if numbers[group[0]] < numbers[group[-1]]:
            group = group[::-1]
        found.setdefault("–".join(symbols[i] for i in group), []).append(value)
    return {name: float(np.mean(found[name])) for name in sorted(found)}
