"""Every format that ASE reads, and extended XYZ out."""

from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_masses, chemical_symbols
from ase.io.formats import UnknownFileTypeError
from jaxtyping import Float

from trajcast_jax.io.checks import Frames, unwrap_positions
from trajcast_jax.system import System
from trajcast_jax.units import ASE_FEMTOSECOND

VELOCITY_COLUMNS = ("velocities", "velo", "vel")
VELOCITY_UNITS = {"angstrom/fs": 1.0, "angstrom/ps": 1e-3, "ase": ASE_FEMTOSECOND}
"""Values of the key `velocity_unit` of an extended XYZ comment, in Å/fs."""
ASE_MOMENTA = "ASE's unit √(eV/u), as momenta"


def read_ase(
    path: Path, index: int | slice, time_step: float | None, still: bool = False
) -> Frames:
    """Frames of any file that ASE reads; positions unwrapped.

    Velocities are ASE's momenta, or an extended XYZ column `velocities`, `velo` or `vel`,
    which ASE keeps but does not use: in the unit of the comment's key `velocity_unit`,
    in Å/fs without one; 0 if `still`. Times (fs) are the key `time`, or multiples of `time_step`.
    """
    numbers, frames = _select(path, index)
    first = frames[0] if frames else Atoms()
    for number, atoms in zip(numbers, frames, strict=True):
        _check_same_atoms(first, atoms, int(number), path)
    cell, shape = _cell(first, path), (len(frames), len(first), 3)
    units = {"" if still else _velocity_unit(a, path) for a in frames}
    if len(units) > 1:
        raise ValueError(f"{path} gives velocities in several units ({', '.join(units)}); use one.")
    return Frames(
        positions=unwrap_positions(np.reshape([a.positions for a in frames], shape), cell),
        velocities=np.reshape([_velocities(a, still) for a in frames], shape),
        species=first.numbers,
        masses=first.get_masses(),
        cell=cell,
        times=_times(frames, numbers, path, time_step),
        index=numbers,
        velocity_unit=units.pop() if units else "",
    )


def write_extxyz(
    path: str | Path, trajectory: System, times: Float[np.ndarray, "time"] | None = None
) -> None:
    """A System, or a trajectory of them at `times` (fs), as extended XYZ.

    The column `velocities` is in Å/fs and says so; the column `momenta` is there too, as it
    is what ASE's own functions use.
    """
    real = np.asarray(trajectory.mask)
    positions = np.asarray(trajectory.positions, np.float64).reshape(-1, len(real), 3)[:, real]
    velocities = np.asarray(trajectory.velocities, np.float64).reshape(positions.shape[0], -1, 3)
    velocities, masses = velocities[:, real], np.asarray(trajectory.masses, np.float64)[real]
    momenta = masses[:, None] * velocities / ASE_FEMTOSECOND
    species = np.asarray(trajectory.species)[real]
    properties = "species:S:1:pos:R:3:velocities:R:3:momenta:R:3"
    columns = [positions, velocities, momenta]
    if not np.allclose(masses, atomic_masses[species], rtol=1e-5):
        properties += ":masses:R:1"
        columns.append(np.broadcast_to(masses[:, None], (len(positions), len(masses), 1)))
    head = f'Properties={properties} velocity_unit="angstrom/fs"'
    if trajectory.cell is None:
        head += ' pbc="F F F"'
    else:
        lattice = " ".join(f"{x:.10g}" for x in np.ravel(np.asarray(trajectory.cell)))
        head = f'Lattice="{lattice}" {head} pbc="T T T"'
    with open(path, "w") as file:
        for i, frame in enumerate(np.concatenate(columns, axis=-1)):
            time = "" if times is None else f" time={float(times[i]):.10g}"
            file.write(f"{len(species)}\n{head}{time}\n")
            for z, row in zip(species, frame, strict=True):
                file.write(f"{chemical_symbols[z]:2} " + " ".join(f"{x:.9g}" for x in row) + "\n")


def _select(path: Path, index: int | slice) -> tuple[np.ndarray, list[Atoms]]:
    """The selected frames and their numbers in the file."""
    if not isinstance(index, slice):
        return np.array([index]), _read_atoms(path, index)
    start, stop, step = index.start or 0, index.stop, index.step or 1
    if start < 0 or (stop or 0) < 0 or step < 0:  # counted from an end that ASE must find first
        frames = _read_atoms(path, slice(None))
        numbers = np.arange(len(frames))[index]
        return numbers, [frames[i] for i in numbers]
    frames = _read_atoms(path, slice(start, stop, step))
    return np.arange(len(frames)) * step + start, frames


def _read_atoms(path: Path, index: int | slice) -> list[Atoms]:
    """The selected frames, or an error that says why ASE cannot read them."""
    try:
        frames = ase.io.read(path, index=index)
    except UnknownFileTypeError as error:
        raise ValueError(
            f"{path} is of no known trajectory format; give extended XYZ (.extxyz), H5MD (.h5) or "
            "another file that ASE reads."
        ) from error
    except (IndexError, StopIteration) as error:
        raise IndexError(f"Frame {index} is not in {path}.") from error
    except Exception as error:  # ASE's readers raise whatever the parser meets
        raise ValueError(
            f"ASE cannot read {path} ({type(error).__name__}: {error}); is it complete?"
        ) from error
    return frames if isinstance(frames, list) else [frames]


def _check_same_atoms(first: Atoms, atoms: Atoms, number: int, path: Path) -> None:
    if len(atoms) != len(first):
        raise ValueError(
            f"Frame {number} of {path} has {len(atoms)} atoms, but the first has {len(first)}; "
            "a trajectory must keep its atoms: split the file."
        )
    if (atoms.numbers != first.numbers).any():
        atom = int(np.argmax(atoms.numbers != first.numbers))
        raise ValueError(
            f"Atom {atom} in frame {number} of {path} is {atoms.symbols[atom]}, but "
            f"{first.symbols[atom]} in the first; a trajectory must keep the order of its atoms."
        )
    if (atoms.pbc != first.pbc).any() or not np.allclose(atoms.cell, first.cell, atol=1e-4):
        raise ValueError(
            f"The cell of frame {number} of {path} is not that of the first; only trajectories "
            "at constant volume can be used."
        )


def _cell(atoms: Atoms, path: Path) -> np.ndarray | None:
    """The cell of periodic atoms, None of isolated ones."""
    if atoms.pbc.any() and not atoms.pbc.all():
        raise ValueError(
            f"{path} is periodic in some directions only (pbc = {atoms.pbc.tolist()}); give "
            "atoms that are periodic in all three or in none."
        )
    if not atoms.pbc.all():
        return None
    cell = atoms.cell.array
    if abs(np.linalg.det(cell)) < 1e-6:
        raise ValueError(f"{path} is periodic, but its cell {cell.tolist()} has no volume.")
    return cell


def _velocity_column(atoms: Atoms) -> str | None:
    return next((name for name in VELOCITY_COLUMNS if name in atoms.arrays), None)


def _velocity_unit(atoms: Atoms, path: Path) -> str:
    """The unit that this frame's velocities are read in."""
    if _velocity_column(atoms) is None:
        if "momenta" not in atoms.arrays:
            raise ValueError(
                f"{path} has no velocities; give a trajectory with a column 'velocities' (Å/fs) or "
                "with ASE momenta, for a forecast starts from positions and velocities (rollout "
                "draws these with --thermalize)."
            )
        return ASE_MOMENTA
    unit = str(atoms.info.get("velocity_unit", "angstrom/fs"))
    if unit not in VELOCITY_UNITS:
        raise ValueError(
            f"{path} gives velocities in '{unit}'; known are {', '.join(VELOCITY_UNITS)}."
        )
    return unit


def _velocities(atoms: Atoms, still: bool) -> np.ndarray:
    """(atom, 3) Å/fs."""
    if still:
        return np.zeros_like(atoms.positions)
    column = _velocity_column(atoms)
    if column is None:
        return atoms.get_velocities() * ASE_FEMTOSECOND
    return (
        atoms.arrays[column] * VELOCITY_UNITS[str(atoms.info.get("velocity_unit", "angstrom/fs"))]
    )


def _times(frames: list[Atoms], numbers, path: Path, time_step: float | None) -> np.ndarray:
    """(time,) fs."""
    if time_step is not None:
        return numbers * float(time_step)
    if all("time" in atoms.info for atoms in frames):
        return np.array([float(atoms.info["time"]) for atoms in frames])
    if len(frames) == 1:
        return np.zeros(1)
    raise ValueError(
        f"{path} does not tell the times of its frames; give the fs between them as time_step "
        "(--time-step)."
    )
