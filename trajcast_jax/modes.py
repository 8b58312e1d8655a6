"""Temperatures of normal modes: does a forecast of a crystal share out its energy as it should?

In a solid at equilibrium every vibration holds k_B T. A forecast that loses more in one mode than
in another, stride by stride, runs with some modes hot and others cold at the right mean
temperature, which no average over atoms shows.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from trajcast_jax.system import System
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV, WAVENUMBER_PER_INVERSE_FEMTOSECOND


class NormalModes(NamedTuple):
    """Vibrations of a solid, by rising wavenumber.

    Attributes:
      wavenumbers: (mode,) cm⁻¹.
      vectors: (3·atom, mode), orthonormal, of mass-weighted coordinates √m·x.
      centers: (atom, 3) Å, mean positions about the centre of mass.
    """

    wavenumbers: Float[np.ndarray, "mode"]
    vectors: Float[np.ndarray, "coordinate mode"]
    centers: Float[np.ndarray, "atom 3"]


def normal_modes(trajectories: list[System]) -> NormalModes:
    """Modes from the fluctuations of trajectories of one solid.

    The covariance ⟨u uᵀ⟩ of mass-weighted displacements is Σ e_k E_k/ω_k² e_kᵀ, that of the
    velocities Σ e_k E_k e_kᵀ (Dove, Introduction to Lattice Dynamics, 1993, ch. 4), so that the
    second times the inverse of the first is the (effective) dynamical matrix, however unevenly
    the energies E_k are shared: in 100 ps at constant energy they hardly come to equilibrium.
    Translation as a whole is left out.

    Args:
      trajectories: unwrapped, with a time axis; together some hundred times as many frames as
        there are modes.
    """
    parts = [_mass_weighted(run) for run in trajectories]
    positions, velocities = (np.concatenate(both) for both in zip(*parts, strict=True))
    # About one common mean: modes slower than a run would be cut otherwise.
    mean = positions.mean(axis=0)
    positions -= mean
    variances, basis = np.linalg.eigh(positions.T @ positions / len(positions))
    variances, basis = variances[3:], basis[:, 3:]
    velocities = velocities @ basis
    dynamical = velocities.T @ velocities / len(velocities) / variances
    squares, vectors = np.linalg.eigh((dynamical + dynamical.T) / 2)
    wavenumbers = np.sqrt(np.maximum(squares, 0)) / (2 * np.pi) * WAVENUMBER_PER_INVERSE_FEMTOSECOND
    weights = np.sqrt(np.asarray(trajectories[0].masses, np.float64))[:, None]
    return NormalModes(wavenumbers, basis @ vectors, mean.reshape(-1, 3) / weights)


def mode_temperatures(trajectory: System, modes: NormalModes) -> Float[np.ndarray, "mode"]:
    """Mean kinetic temperature (K) of every mode in a trajectory (with a time axis)."""
    _, velocities = _mass_weighted(trajectory)
    return KINETIC_TO_EV / BOLTZMANN * ((velocities @ modes.vectors) ** 2).mean(axis=0)


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
