"""Checks of trajectories that were read from files."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.neighborlist import neighbor_list
from jaxtyping import Float, Int

from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV, VELOCITY_UNITS

PLAUSIBLE_TEMPERATURES = (1.0, 20_000.0)  # K
CLOSEST_ATOMS = 0.5  # Å
CONTACT_FRAMES = 10
"""Number of frames of a trajectory that are checked for overlapping atoms."""


class Frames(NamedTuple):
    """Frames as read from a file, on the host, in Å, fs, Da."""

    positions: Float[np.ndarray, "time atom 3"]  # Å, unwrapped
    velocities: Float[np.ndarray, "time atom 3"]  # Å/fs
    species: Int[np.ndarray, "atom"]  # atomic numbers
    masses: Float[np.ndarray, "atom"]  # Da
    cell: Float[np.ndarray, "3 3"] | None  # Å
    times: Float[np.ndarray, "time"]  # fs
    index: Int[np.ndarray, "time"]
    """Index of each frame in its file."""
    velocity_unit: str
    """Unit in which the velocities were read; "" if they were set to 0."""
    factor: float = 1.0
    """Factor to Å/fs by which the velocities were read."""
    unit_hint: str = "mend the file."
    """What to do about a wrong unit, in a file of this format."""


def check_frames(frames: Frames, path: Path, trusted: bool = False) -> Frames:
    """Return the frames if they pass all checks.

    Files that trajcast_jax wrote are `trusted`: only non-finite numbers are errors there. Their
    units are known, and a forecast that became unstable must remain readable.

    Raises:
      ValueError: numbers are not finite; or, unless `trusted`, the temperature is implausible or
        atoms overlap.
    """
    _check_numbers(frames, path)
    if not trusted:
        _check_temperature(frames, path)
        n_frames = len(frames.positions)
        for i in np.unique(np.linspace(0, n_frames - 1, CONTACT_FRAMES, dtype=int)):
            _check_contacts(frames, int(i), path)
    return frames


def temperatures(frames: Frames) -> Float[np.ndarray, "time"]:
    """Temperature (K) of each frame (time,), without the motion of the centre of mass."""
    return temperatures_in(frames.velocities, frames.masses)


def temperatures_in(
    velocities: Float[np.ndarray, "time atom 3"], masses: Float[np.ndarray, "atom"]
) -> Float[np.ndarray, "time"]:
    """Temperature (K) of velocities (Å/fs) of masses (Da), without the centre of mass's motion."""
    velocities, masses = np.asarray(velocities, np.float64), masses[:, None]
    n_atoms = int(np.sum(masses > 0))
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
    if not bad.any():
        return
    i = int(np.argmax(bad))
    warm = np.flatnonzero(values >= low)
    if values[i] < low and len(warm) > 0 and i == 0:
        cure = (
            f"the {warm[0]} frames before frame {frames.index[warm[0]]} are at rest or cold: leave "
            f"them out by first (--first {frames.index[warm[0]]})."
        )
    elif values[i] < 1e-9:
        cure = "its atoms are at rest; give frames of a simulation (rollout has --thermalize)."
    else:
        cure = frames.unit_hint + other_units(
            frames.velocities[i : i + 1], frames.masses, frames.factor
        )
    raise ValueError(
        f"The velocities in frame {frames.index[i]} of {path}, read in {frames.velocity_unit}, "
        f"mean a temperature of {values[i]:.3g} K, and {low:g} to {high:g} K are plausible; {cure}"
    )


def other_units(velocities, masses, read_in: float = 1.0) -> str:
    """What velocities (Å/fs, read by the factor `read_in`) mean in other units, where plausible."""
    told = []
    for name, factor in VELOCITY_UNITS.items():
        kelvin = float(np.median(temperatures_in(velocities * factor / read_in, masses)))
        if 10.0 < kelvin < 5000.0:
            told.append(f"{name} {kelvin:.3g} K")
    return f" The same numbers mean, in {', in '.join(told)}." if told else ""


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
    """Unwrap positions (time, atom, 3): remove the jumps across cell faces.

    Unlike `system.unwrap`, this sums integer shifts in double precision, so that errors do not
    accumulate over long trajectories.
    """
    if cell is None or len(positions) < 2:
        return positions
    jumps = np.round(np.diff(positions, axis=0) @ np.linalg.inv(cell))
    shifts = np.cumsum(jumps, axis=0) @ cell
    return np.concatenate([positions[:1], positions[1:] - shifts])
