"""Temperatures of normal modes: does a forecast share out its energy as it should?

In a solid at equilibrium every vibration holds k_B T. A forecast that loses more in one mode than
in another, stride by stride, runs with some modes hot and others cold at the right mean
temperature, which no average over atoms shows. So are the bends and stretches of a molecule,
which turns and twists: its modes are those of distances within it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from trajcast_jax.system import System, minimum_image
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV, WAVENUMBER_PER_INVERSE_FEMTOSECOND

STIFF = 1e-3
"""Of Wilson's G: smaller eigenvalues, over the largest, are of combinations that hardly move."""
NEAR = 0.8
"""Å, between a mean position and that of the atom that a translation of the lattice takes there.
It may be large: no two atoms of one species are so close, and every atom must find its own."""


class NormalModes(NamedTuple):
    """Vibrations of a solid, by rising wavenumber.

    Attributes:
      wavenumbers: (mode,) cm⁻¹.
      vectors: (3·atom, mode), orthonormal, of mass-weighted coordinates √m·x.
      centers: (atom, 3) Å, mean positions about the centre of mass.
      cell: (3, 3) Å, rows are cell vectors; None for a solid without periodic boundaries.
    """

    wavenumbers: Float[np.ndarray, "mode"]
    vectors: Float[np.ndarray, "coordinate mode"]
    centers: Float[np.ndarray, "atom 3"]
    cell: Float[np.ndarray, "3 3"] | None = None


def normal_modes(trajectories: list[System]) -> NormalModes:
    """Modes from the fluctuations of trajectories of one solid.

    The covariance ⟨u uᵀ⟩ of mass-weighted displacements is Σ e_k E_k/ω_k² e_kᵀ, that of the
    velocities Σ e_k E_k e_kᵀ (Dove, Introduction to Lattice Dynamics, 1993, ch. 4), so that the
    second times the inverse of the first is the (effective) dynamical matrix, however unevenly
    the energies E_k are shared: in 100 ps at constant energy they hardly come to equilibrium.
    Both are averaged over the translations of the crystal's lattice, which are found: of 162 atoms
    of quartz, 18 times as much to average over, so that 10 ps are enough.
    Translation as a whole is left out.

    Args:
      trajectories: unwrapped, with a time axis, all of one cell; together, times the number of unit
        cells, some hundred times as many frames as there are modes.
    """
    parts = [_mass_weighted(run) for run in trajectories]
    positions, velocities = (np.concatenate(both) for both in zip(*parts, strict=True))
    # About one common mean: modes slower than a run would be cut otherwise.
    mean = positions.mean(axis=0)
    positions -= mean
    first = trajectories[0]
    centers = mean.reshape(-1, 3) / np.sqrt(np.asarray(first.masses, np.float64))[:, None]
    cell = None if first.cell is None else np.asarray(first.cell, np.float64)
    moves = lattice_translations(centers, cell, np.asarray(first.species))
    covariances = (_averaged(x.T @ x / len(x), moves) for x in (positions, velocities))
    wavenumbers, vectors = _from_fluctuations(*covariances, free=3)
    return NormalModes(wavenumbers, vectors, centers, cell)


def lattice_translations(
    centers: Float[np.ndarray, "atom 3"],
    cell: Float[np.ndarray, "3 3"] | None,
    species: Int[np.ndarray, "atom"],
) -> Int[np.ndarray, "translation atom"]:
    """Where translations that map a crystal onto itself take each atom, the identity among them.

    Args:
      centers: mean positions, Å; an atom within `NEAR` of another's counts as there.
      cell: rows are cell vectors, Å; None: there is only the identity.
    """
    identity = np.arange(len(centers))
    if cell is None:
        return identity[None]
    found = []
    for target in np.flatnonzero(species == species[0]):
        vectors = centers[:, None] + centers[target] - centers[0] - centers
        distances = np.linalg.norm(minimum_image(vectors, cell), axis=-1)
        distances[species[:, None] != species] = np.inf
        to = distances.argmin(axis=1)
        if distances.min(axis=1).max() < NEAR and np.array_equal(np.sort(to), identity):
            found.append(to)
    return np.stack(found)


def _averaged(covariance, moves: Int[np.ndarray, "translation atom"]):
    """The mean of a covariance (3·atom, 3·atom) over exchanges of atoms that leave it the same."""
    by_atom = covariance.reshape(moves.shape[1], 3, moves.shape[1], 3)
    # One by one: together those of a thousand atoms would take 17 GB.
    total = sum(by_atom[to][:, :, to] for to in moves)
    return (total / len(moves)).reshape(covariance.shape)


def _from_fluctuations(displacements, velocities, free: int = 0):
    """Wavenumbers and vectors of modes, from the covariances of mass-weighted coordinates.

    So many directions as are `free`, of the smallest displacements, are left out.
    """
    variances, basis = np.linalg.eigh(displacements)
    variances, basis = variances[free:], basis[:, free:]
    dynamical = basis.T @ velocities @ basis / variances
    squares, vectors = np.linalg.eigh((dynamical + dynamical.T) / 2)
    wavenumbers = np.sqrt(np.maximum(squares, 0)) / (2 * np.pi) * WAVENUMBER_PER_INVERSE_FEMTOSECOND
    return wavenumbers, basis @ vectors


class InternalModes(NamedTuple):
    """Bends and stretches of a molecule, by rising wavenumber.

    Attributes:
      wavenumbers: (mode,) cm⁻¹.
      pairs: (pair, 2) atoms, whose distances r are the coordinates.
      vectors: (pair, mode), such that ½ ((dr/dt)·e)² is the kinetic energy of a mode.
      centers: (pair,) Å, mean distances.
    """

    wavenumbers: Float[np.ndarray, "mode"]
    pairs: Int[np.ndarray, "pair 2"]
    vectors: Float[np.ndarray, "pair mode"]
    centers: Float[np.ndarray, "pair"]


def internal_modes(
    trajectories: list[System], bonds: Int[np.ndarray, "bond 2"], frames: int = 20_000
) -> InternalModes:
    """Modes of the distances between atoms one or two bonds apart, in an isolated molecule.

    However it turns, and however its parts turn about bonds, they are what bonds and angles are.
    Wilson's G, the mean of B M⁻¹ Bᵀ with B the slopes of the distances (Wilson, Decius, Cross,
    Molecular Vibrations, 1955, ch. 4), makes them mass-weighted; the rest is as in
    `normal_modes`. Combinations that hardly move at given momenta, as those that close a ring or
    keep it flat, are left out.

    Args:
      trajectories: with a time axis; of each about `frames` frames are used.
      bonds: pairs of atoms.
    """
    pairs = _within_two_bonds(bonds)
    masses = np.asarray(trajectories[0].masses, np.float64)
    lengths, rates, inertia = [], [], []
    for run in trajectories:
        length, rate, units = _distances(run, pairs, max(1, len(run.positions) // frames))
        lengths.append(length)
        rates.append(rate)
        inertia.append(_wilson_g(units[:: max(1, len(units) // 100)], pairs, masses))
    length, rate = np.concatenate(lengths), np.concatenate(rates)
    sizes, basis = np.linalg.eigh(np.mean(inertia, axis=0))
    moving = sizes > STIFF * sizes[-1]
    basis = basis[:, moving] * sizes[moving] ** -0.5
    mean = length.mean(axis=0)
    wavenumbers, vectors = _from_fluctuations(
        *(x.T @ x / len(x) for x in ((length - mean) @ basis, rate @ basis))
    )
    return InternalModes(wavenumbers, pairs, basis @ vectors, mean)


def _within_two_bonds(bonds: Int[np.ndarray, "bond 2"]) -> Int[np.ndarray, "pair 2"]:
    """Pairs of atoms that are bonded to each other or to a common one, each once."""
    bonded = np.zeros((bonds.max() + 1,) * 2, bool)
    bonded[bonds[:, 0], bonds[:, 1]] = True
    bonded |= bonded.T
    return np.argwhere(np.triu(bonded | (bonded @ bonded), 1))


def _distances(run: System, pairs, every: int = 1):
    """Distances, their rates (time, pair) and unit vectors, of each `every`-th frame."""
    positions, velocities = (
        np.asarray(x[::every], np.float64) for x in (run.positions, run.velocities)
    )
    vectors, relative = (x[:, pairs[:, 1]] - x[:, pairs[:, 0]] for x in (positions, velocities))
    lengths = np.linalg.norm(vectors, axis=-1)
    units = vectors / lengths[..., None]
    return lengths, np.sum(units * relative, axis=-1), units


def _wilson_g(units, pairs, masses) -> Float[np.ndarray, "pair pair"]:
    """The mean of B M⁻¹ Bᵀ over frames, from unit vectors (time, pair, 3) along the pairs."""
    ends = np.zeros((len(pairs), len(masses)))
    rows = np.arange(len(pairs))
    ends[rows, pairs[:, 0]], ends[rows, pairs[:, 1]] = -1.0, 1.0
    shared = (ends / masses) @ ends.T
    return shared * np.einsum("tax,tbx->ab", units, units) / len(units)


def mode_temperatures(
    trajectory: System, modes: NormalModes | InternalModes
) -> Float[np.ndarray, "mode"]:
    """Mean kinetic temperature (K) of every mode in a trajectory (with a time axis)."""
    if isinstance(modes, InternalModes):
        rates = _distances(trajectory, modes.pairs)[1]
    else:
        rates = _mass_weighted(trajectory)[1]
    return KINETIC_TO_EV / BOLTZMANN * ((rates @ modes.vectors) ** 2).mean(axis=0)


def _mass_weighted(run: System) -> tuple[np.ndarray, np.ndarray]:
    """Positions about the centre of mass and velocities, times √m; (time, 3·atom)."""
    masses = np.asarray(run.masses, np.float64)
    positions = np.asarray(run.positions, np.float64)
    velocities = np.asarray(run.velocities, np.float64)
    centre = masses @ positions / masses.sum()
    weights = np.sqrt(masses)[:, None]
    shape = (len(positions), -1)
    moved = (positions - centre[:, None]) * weights
    return moved.reshape(shape), (velocities * weights).reshape(shape)
