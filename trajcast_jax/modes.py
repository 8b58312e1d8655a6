"""Temperatures of normal modes: does a forecast share out its energy as it should?

In a solid at equilibrium every vibration holds k_B T. A forecast that loses more in one mode than
in another, stride by stride, runs with some modes hot and others cold at the right mean
temperature, which no average over atoms shows. So are the vibrations of a molecule, which turns:
its modes are those of distances and torsions within it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from trajcast_jax.observables import cut
from trajcast_jax.soft_observables import dihedrals
from trajcast_jax.system import System, minimum_image
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV, WAVENUMBER_PER_INVERSE_FEMTOSECOND

STIFF = 1e-3
"""Of Wilson's G: smaller eigenvalues, over the largest, are of combinations that hardly move."""
ROUNDING = 1e-10
"""Of G in one frame: what is smaller, over the largest eigenvalue, is 0."""
STILL = 0.25
"""rad, the spread of a torsion that stays in one place: four times it is less than half the way
to the next place of bonds that turn."""
FRAMES = 20_000
"""Whose coordinates are computed together."""
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
    """Bends, stretches and twists of a molecule, by rising wavenumber.

    Attributes:
      wavenumbers: (mode,) cm⁻¹.
      pairs: (pair, 2) atoms, whose distances (Å) are the first coordinates.
      chains: (chain, 4) atoms, whose torsions (rad) are the others.
      vectors: (coordinate, mode), such that ½ ((dx/dt)·e)² is the kinetic energy of a mode.
      centers: (coordinate,) mean distances and torsions.
    """

    wavenumbers: Float[np.ndarray, "mode"]
    pairs: Int[np.ndarray, "pair 2"]
    chains: Int[np.ndarray, "chain 4"]
    vectors: Float[np.ndarray, "coordinate mode"]
    centers: Float[np.ndarray, "coordinate"]

    def deviations(self, frames: System) -> Float[Array, "*time coordinate"]:
        """Of the coordinates from their centres, in one frame or in all; differentiable."""
        return deviations(frames, self.pairs, self.chains, self.centers)


def deviations(frames: System, pairs, chains, centers) -> Float[Array, "*time coordinate"]:
    """Distances (Å) and torsions (rad, −π…π) of a molecule, less `centers`."""
    vectors = frames.positions[..., pairs[:, 1], :] - frames.positions[..., pairs[:, 0], :]
    lengths = jnp.linalg.norm(vectors, axis=-1) - centers[: len(pairs)]
    turned = dihedrals(frames, chains) - centers[len(pairs) :]
    turned -= 2 * jnp.pi * jnp.round(turned / (2 * jnp.pi))
    return jnp.concatenate([lengths, turned], axis=-1)


def internal_modes(
    trajectories: list[System],
    bonds: Int[np.ndarray, "bond 2"],
    frames: int = 20_000,
    torsions: bool = True,
) -> InternalModes:
    """Modes of the distances and torsions that say what shape an isolated molecule has.

    Distances are those between atoms one or two bonds apart: however the molecule turns, and its
    parts turn about bonds, they are what bonds and angles are. Torsions are those that stay in one
    place (`STILL`): of rings and double bonds, and all that bends out of a plane.
    Wilson's G, the mean of B M⁻¹ Bᵀ with B the slopes of the coordinates (Wilson, Decius, Cross,
    Molecular Vibrations, 1955, ch. 4), makes them mass-weighted; the rest is as in
    `normal_modes`. Combinations that hardly move at given momenta are left out, and of more
    coordinates than are independent those that move least, as they close a ring or turn an atom.

    Where parts turn about a bond into another place, what is bent out of plane on both sides of it
    keeps its coordinates, but not its modes: these are those of the places in the trajectories.

    Args:
      trajectories: with a time axis; of each about `frames` frames are used.
      bonds: pairs of atoms.
      torsions: else distances are all there is: bends and stretches.
    """
    runs = [_thinned(run, frames) for run in trajectories]
    pairs, chains = _within_two_bonds(bonds), _chains(bonds)[: None if torsions else 0]
    circles = np.concatenate([np.exp(1j * np.asarray(dihedrals(run, chains))) for run in runs])
    mean = circles.mean(axis=0)
    # The spread of angles: Mardia, Jupp, Directional Statistics, 2000, ch. 2.
    still = -2 * np.log(np.abs(mean)) < STILL**2
    chains, twists = chains[still], np.angle(mean[still])
    centers = np.concatenate([np.zeros(len(pairs)), twists])
    found = [_with_rates(run, pairs, chains, centers) for run in runs]
    values, rates = (np.concatenate(both) for both in zip(*found, strict=True))
    mean = values.mean(axis=0)
    inertia = np.concatenate([_wilson_g(_thinned(run, 100), pairs, chains) for run in runs])
    sizes, basis = np.linalg.eigh(inertia.mean(axis=0))
    moving = (sizes > STIFF * sizes[-1]) & (np.arange(len(sizes))[::-1] < _independent(inertia))
    basis = basis[:, moving] * sizes[moving] ** -0.5
    wavenumbers, vectors = _from_fluctuations(
        *(x.T @ x / len(x) for x in ((values - mean) @ basis, rates @ basis))
    )
    return InternalModes(wavenumbers, pairs, chains, basis @ vectors, centers + mean)


def _thinned(run: System, frames: int) -> System:
    """About so many frames of a run, evenly spread."""
    return cut(run, slice(None, None, max(1, len(run.positions) // frames)))


def _within_two_bonds(bonds: Int[np.ndarray, "bond 2"]) -> Int[np.ndarray, "pair 2"]:
    """Pairs of atoms that are bonded to each other or to a common one, each once."""
    bonded = _bonded(bonds)
    return np.argwhere(np.triu(bonded | (bonded @ bonded), 1))


def _chains(bonds: Int[np.ndarray, "bond 2"]) -> Int[np.ndarray, "chain 4"]:
    """Four atoms whose torsions are looked at.

    Each bonded to the next, in one of the two directions; or one atom and all three bonded to it.
    """
    bonded = _bonded(bonds)
    near = [np.flatnonzero(row).tolist() for row in bonded]
    found = [
        (i, j, k, m)
        for j, k in np.argwhere(np.triu(bonded, 1)).tolist()
        for i in near[j]
        for m in near[k]
        if len({i, j, k, m}) == 4
    ]
    found += [(ends[0], j, *ends[1:]) for j, ends in enumerate(near) if len(ends) == 3]
    return np.array(found, int).reshape(-1, 4)


def _bonded(bonds: Int[np.ndarray, "bond 2"]) -> Bool[np.ndarray, "atom atom"]:
    bonded = np.zeros((bonds.max() + 1,) * 2, bool)
    bonded[bonds[:, 0], bonds[:, 1]] = True
    return bonded | bonded.T


def _with_rates(run: System, pairs, chains, centers):
    """`deviations` of every frame and their rates in time (1/fs), both (time, coordinate)."""
    parts = [cut(run, slice(k, k + FRAMES)) for k in range(0, len(run.positions), FRAMES)]
    found = [_with_rates_at_once(part, pairs, chains, centers) for part in parts]
    return [np.concatenate(both).astype(np.float64) for both in zip(*found, strict=True)]


@jax.jit
def _with_rates_at_once(run: System, pairs, chains, centers):
    def at(positions):
        return deviations(run.replace(positions=positions), pairs, chains, centers)

    return jax.jvp(at, (run.positions,), (run.velocities,))


def _independent(inertia: Float[np.ndarray, "time coordinate coordinate"]) -> int:
    """How many coordinates are independent in a frame: a mean over frames seems to have more."""
    sizes = np.linalg.eigvalsh(inertia)
    return int(np.median((sizes > ROUNDING * sizes[:, -1:]).sum(axis=1)))


def _wilson_g(run: System, pairs, chains) -> Float[np.ndarray, "time coordinate coordinate"]:
    """B M⁻¹ Bᵀ of every frame."""
    slopes = np.asarray(_slopes(run, pairs, chains), np.float64)
    slopes /= np.sqrt(np.asarray(run.masses, np.float64))[:, None]
    light = slopes.reshape(*slopes.shape[:2], -1)
    return light @ light.swapaxes(1, 2)


@jax.jit
def _slopes(run: System, pairs, chains) -> Float[Array, "time coordinate atom 3"]:
    centers = jnp.zeros(len(pairs) + len(chains))

    def at(positions):
        return deviations(run.replace(positions=positions), pairs, chains, centers)

    return jax.vmap(jax.jacrev(at))(run.positions)


def mode_temperatures(
    trajectory: System, modes: NormalModes | InternalModes
) -> Float[np.ndarray, "mode"]:
    """Mean kinetic temperature (K) of every mode in a trajectory (with a time axis)."""
    if isinstance(modes, InternalModes):
        rates = _with_rates(trajectory, modes.pairs, modes.chains, modes.centers)[1]
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
