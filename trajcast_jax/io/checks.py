"""What a trajectory must fulfil before anything is computed from it."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.neighborlist import neighbor_list
from jaxtyping import Float, Int

from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV

PLAUSIBLE_TEMPERATURES = (1.0, 20_000.0)  # K
CLOSEST_ATOMS = 0.5  # Å
CONTACT_FRAMES = 10
"""Frames of a trajectory that are searched for atoms on top of each other."""


class Frames(NamedTuple):
    """Frames as read from a file, on the host, in Å, fs, Da."""

    positions: Float[np.ndarray, "time atom 3"]  # Å, unwrapped
    velocities: Float[np.ndarray, "time atom 3"]  # Å/fs
    species: Int[np.ndarray, "atom"]  # atomic numbers
    masses: Float[np.ndarray, "atom"]  # Da
    cell: Float[np.ndarray, "3 3"] | None  # Å
    times: Float[np.ndarray, "time"]  # fs
    index: Int[np.ndarray, "time"]
    """The number of each frame in its file."""
    velocity_unit: str
    """The unit that the velocities were read in; "" of atoms at rest."""


def check_frames(frames: Frames, path: Path, trusted: bool = False) -> Frames:
    """The frames, or an error.

    `trusted` files are our own: their units are known, and a forecast that has gone wild
    must remain readable.
    """
    _check_numbers(frames, path)
    if not trusted:
        _check_temperature(frames, path)
        n_frames = len(frames.positions)
        for i in np.unique(np.linspace(0, n_frames - 1, CONTACT_FRAMES, dtype=int)):
            _check_contacts(frames, int(i), path)
    return frames


def temperatures(frames: Frames) -> Float[np.ndarray, "time"]:
    """Temperature of each frame (time,) in K, centre of mass at rest."""
    masses = frames.masses[:, None]
    velocities = frames.velocities.astype(np.float64)
    n_atoms = len(masses)
    if n_atoms > 1:
        mean = np.sum(masses * velocities, axis=1, keepdims=True) / masses.sum()
        velocities = velocities - mean
    kinetic = 0.5 * KINETIC_TO_EV * np.sum(masses * velocities**2, axis=(1, 2))
    return 2 * kinetic / (max(3 * n_atoms - 3, 3) * BOLTZMANN)


def _check_numbers(frames: Frames, path: Path) -> None:
    for name in ("positions", "velocities"):
        bad = ~np.isfinite(getattr(frames, name)).all(axis=-1)
        if bad.any():
            i, atom = np.argwhere(bad)[0]
            raise ValueError(
                f"The {name} of atom {atom} in frame {frames.index[i]} of {path} are not finite; "
                f"read only the frames before it (stop={frames.index[i]}) or mend the file."
            )


def _check_temperature(frames: Frames, path: Path) -> None:
    if not frames.velocity_unit:  # none were read
        return
    low, high = PLAUSIBLE_TEMPERATURES
    values = temperatures(frames)
    bad = (values < low) | (values > high)
    if bad.any():
        i = int(np.argmax(bad))
        raise ValueError(
            f"The velocities in frame {frames.index[i]} of {path}, read in {frames.velocity_unit}, "
            f"mean a temperature of {values[i]:.3g} K, and {low:g} to {high:g} K are plausible; "
            "say their right unit in the comment lines of an extended XYZ file: "
            'velocity_unit="ase", "angstrom/ps" or "angstrom/fs".'
        )


def _check_contacts(frames: Frames, i: int, path: Path) -> None:
    periodic = frames.cell is not None
    atoms = Atoms(frames.species, frames.positions[i], cell=frames.cell, pbc=periodic)
    atoms.wrap()
    first, second, distance = neighbor_list("ijd", atoms, CLOSEST_ATOMS)
    if len(distance):
        k = int(np.argmin(distance))
        a, b = (f"{chemical_symbols[frames.species[j]]} {j}" for j in (first[k], second[k]))
        raise ValueError(
            f"Atoms {a} and {b} in frame {frames.index[i]} of {path} are {distance[k]:.2f} Å "
            f"apart, below {CLOSEST_ATOMS} Å; check the positions' unit and the cell."
        )


def unwrap_positions(
    positions: Float[np.ndarray, "time atom 3"], cell: Float[np.ndarray, "3 3"] | None
) -> Float[np.ndarray, "time atom 3"]:
    """(time, atom, 3) positions without jumps over the cell's faces.

    In whole cells and double precision, unlike `system.unwrap`, so that nothing adds up
    over long trajectories.
    """
    if cell is None or len(positions) < 2:
        return positions
    jumps = np.round(np.diff(positions, axis=0) @ np.linalg.inv(cell))
    shifts = np.cumsum(jumps, axis=0) @ cell
    return np.concatenate([positions[:1], positions[1:] - shifts])
