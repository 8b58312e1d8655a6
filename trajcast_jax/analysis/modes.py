"""Temperatures of normal modes, to test the equipartition of energy in a forecast.

At equilibrium, every vibration of a solid has the energy k_B T. A forecast that systematically
loses energy in some modes and gains it in others has hot and cold modes at the right mean
temperature; averages over atoms do not show this. Molecules are treated likewise. Because a
molecule rotates, its modes are those of internal coordinates (distances and dihedral angles).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from trajcast_jax.analysis.observables import cut
from trajcast_jax.analysis.soft_observables import dihedrals
from trajcast_jax.system import System, minimum_image
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV, WAVENUMBER_PER_INVERSE_FEMTOSECOND

STIFF = 1e-3
"""Coordinates with eigenvalues of Wilson's G below this fraction of the largest hardly move."""
ROUNDING = 1e-10
"""Eigenvalues of G of one frame below this fraction of the largest are treated as 0."""
STILL = 0.25
"""rad, largest standard deviation of a dihedral angle that stays in one minimum. Four times this
is less than half the distance to the next minimum of a rotating bond."""
FRAMES = 20_000
"""Number of frames whose coordinates are computed together."""
NEAR = 0.8
"""Å, tolerance for a mean position and its image under a lattice translation. It can be this large
because atoms of one species are not so close, and the mapping must be one-to-one."""


class NormalModes(NamedTuple):
    """Normal modes of a solid, sorted by wavenumber.

    Attributes:
      wavenumbers: (mode,) cm⁻¹.
      vectors: (3·atom, mode) orthonormal vectors in mass-weighted coordinates √m·x.
      centers: (atom, 3) Å, mean positions relative to the centre of mass.
      cell: (3, 3) Å, rows are lattice vectors; None for a solid without periodic boundaries.
    """

    wavenumbers: Float[np.ndarray, "mode"]
    vectors: Float[np.ndarray, "coordinate mode"]
    centers: Float[np.ndarray, "atom 3"]
    cell: Float[np.ndarray, "3 3"] | None = None


def normal_modes(trajectories: list[System]) -> NormalModes:
    """Compute normal modes from the fluctuations in trajectories of one solid.

    The covariance ⟨u uᵀ⟩ of mass-weighted displacements is Σ e_k E_k/ω_k² e_kᵀ, and that of the
    velocities is Σ e_k E_k e_kᵀ (Dove, Introduction to Lattice Dynamics, 1993, ch. 4). So the
    second times the inverse of the first is the (effective) dynamical matrix for any distribution
    of the mode energies E_k. This matters because 100 ps at constant energy hardly equilibrate
    them. Both covariances are averaged over the lattice translations of the crystal, which are
    detected. For 162 atoms of quartz this is 18 times more data, and 10 ps are enough. The
    translation of the whole solid is not among the modes.

    Args:
      trajectories: unwrapped, with a time axis, and all in one cell. The number of frames times
        the number of unit cells should be about a hundred times the number of modes.
    """
    parts = [_mass_weighted(run) for run in trajectories]
    positions, velocities = (np.concatenate(both) for both in zip(*parts, strict=True))
    # Subtract the mean over all runs: means of single runs would remove slow modes.
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
    """Find the translations that map a crystal onto itself, including the identity.

    Returns (translation, atom) the index of the atom to whose position each atom is moved.

    Args:
      centers: mean positions, Å. Positions match if they are within `NEAR`.
      cell: rows are lattice vectors, Å. With None, there is only the identity.
      species: atomic numbers.
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
    """Average a covariance (3·atom, 3·atom) over the permutations of atoms in `moves`."""
    by_atom = covariance.reshape(moves.shape[1], 3, moves.shape[1], 3)
    # Sum one by one: all permutations of a thousand atoms together would take 17 GB.
    total = sum(by_atom[to][:, :, to] for to in moves)
    return (total / len(moves)).reshape(covariance.shape)


def _from_fluctuations(displacements, velocities, free: int = 0):
    """Wavenumbers (cm⁻¹) and vectors of modes from covariances of mass-weighted coordinates.

    The `free` directions with the smallest displacements (whole-body translations) are omitted.
    """
    variances, basis = np.linalg.eigh(displacements)
    variances, basis = variances[free:], basis[:, free:]
    dynamical = basis.T @ velocities @ basis / variances
    squares, vectors = np.linalg.eigh((dynamical + dynamical.T) / 2)
    wavenumbers = np.sqrt(np.maximum(squares, 0)) / (2 * np.pi) * WAVENUMBER_PER_INVERSE_FEMTOSECOND
    return wavenumbers, basis @ vectors


class InternalModes(NamedTuple):
    """Internal vibrations (stretches, bends, torsions) of a molecule, sorted by wavenumber.

    Attributes:
      wavenumbers: (mode,) cm⁻¹.
      pairs: (pair, 2) atoms whose distances (Å) are the first coordinates.
      chains: (chain, 4) atoms whose dihedral angles (rad) are the other coordinates.
      vectors: (coordinate, mode) vectors e; ½ ((dx/dt)·e)² is the kinetic energy of a mode.
      centers: (coordinate,) mean distances and dihedral angles.
    """

    wavenumbers: Float[np.ndarray, "mode"]
    pairs: Int[np.ndarray, "pair 2"]
    chains: Int[np.ndarray, "chain 4"]
    vectors: Float[np.ndarray, "coordinate mode"]
    centers: Float[np.ndarray, "coordinate"]

    def deviations(self, frames: System) -> Float[Array, "*time coordinate"]:
        """Deviations of the coordinates from `centers`, in one frame or in all; differentiable."""
        return deviations(frames, self.pairs, self.chains, self.centers)


def deviations(frames: System, pairs, chains, centers) -> Float[Array, "*time coordinate"]:
    """Distances (Å) and dihedral angles (rad, −π…π) of a molecule minus `centers`."""
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
    """Compute the vibrational modes of an isolated molecule in internal coordinates.

    The coordinates are distances between atoms one or two bonds apart, which do not depend on
    rotations of the molecule or about its bonds, and dihedral angles that stay in one minimum
    (`STILL`): those of rings, double bonds and out-of-plane bends. Wilson's G, the mean of
    B M⁻¹ Bᵀ with B the derivatives of the coordinates (Wilson, Decius, Cross, Molecular
    Vibrations, 1955, ch. 4), makes them mass-weighted; the rest is as in `normal_modes`.
    Combinations that hardly move are omitted. If the coordinates are redundant, as in rings,
    those combinations that move least are omitted too.

    If a bond rotates to another minimum, the coordinates of out-of-plane bends at its ends remain
    valid, but their modes do not. Modes are those of the minima in the trajectories.

    Args:
      trajectories: with a time axis.
      bonds: (bond, 2) atoms.
      frames: approximate number of frames to use of each trajectory.
      torsions: whether to include dihedral angles; otherwise only stretches and bends.
    """
    runs = [_thinned(run, frames) for run in trajectories]
    pairs, chains = _within_two_bonds(bonds), _chains(bonds)[: None if torsions else 0]
    circles = np.concatenate([np.exp(1j * np.asarray(dihedrals(run, chains))) for run in runs])
    mean = circles.mean(axis=0)
    # Circular variance of angles: Mardia, Jupp, Directional Statistics, 2000, ch. 2.
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
    """Select about `frames` evenly spaced frames of a run."""
    return cut(run, slice(None, None, max(1, len(run.positions) // frames)))


def _within_two_bonds(bonds: Int[np.ndarray, "bond 2"]) -> Int[np.ndarray, "pair 2"]:
    """Pairs of atoms that are bonded to each other or to a common atom, each pair once."""
    bonded = _bonded(bonds)
    return np.argwhere(np.triu(bonded | (bonded @ bonded), 1))


def _chains(bonds: Int[np.ndarray, "bond 2"]) -> Int[np.ndarray, "chain 4"]:
    """Chains of four atoms for dihedral angles, each in one of its two directions.

    Either each atom is bonded to the next one, or one atom is bonded to exactly three others.
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
    """`deviations` of every frame and their time derivatives (per fs), both (time, coordinate)."""
    parts = [cut(run, slice(k, k + FRAMES)) for k in range(0, len(run.positions), FRAMES)]
    found = [_with_rates_at_once(part, pairs, chains, centers) for part in parts]
    return [np.concatenate(both).astype(np.float64) for both in zip(*found, strict=True)]


@jax.jit
def _with_rates_at_once(run: System, pairs, chains, centers):
    def at(positions):
        return deviations(run.replace(positions=positions), pairs, chains, centers)

    return jax.jvp(at, (run.positions,), (run.velocities,))


def _independent(inertia: Float[np.ndarray, "time coordinate coordinate"]) -> int:
    """Number of independent coordinates in a frame; the rank of a mean over frames is higher."""
    sizes = np.linalg.eigvalsh(inertia)
    return int(np.median((sizes > ROUNDING * sizes[:, -1:]).sum(axis=1)))


def _wilson_g(run: System, pairs, chains) -> Float[np.ndarray, "time coordinate coordinate"]:
    """Wilson's G = B M⁻¹ Bᵀ of every frame."""
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
    """Mean kinetic temperature (K) of every mode in a trajectory."""
    if isinstance(modes, InternalModes):
        rates = _with_rates(trajectory, modes.pairs, modes.chains, modes.centers)[1]
    else:
        rates = _mass_weighted(trajectory)[1]
    return KINETIC_TO_EV / BOLTZMANN * ((rates @ modes.vectors) ** 2).mean(axis=0)


def _mass_weighted(run: System) -> tuple[np.ndarray, np.ndarray]:
    """Positions relative to the centre of mass, and velocities, times √m; (time, 3·atom)."""
    masses = np.asarray(run.masses, np.float64)
    positions = np.asarray(run.positions, np.float64)
    velocities = np.asarray(run.velocities, np.float64)
    centre = masses @ positions / masses.sum()
    weights = np.sqrt(masses)[:, None]
    shape = (len(positions), -1)
    moved = (positions - centre[:, None]) * weights
    return moved.reshape(shape), (velocities * weights).reshape(shape)
