"""What every reader of files of other programs returns, before its clock is checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.cell import Cell
from jaxtyping import Float, Int

from trajcast_jax.io.options import ReadOptions, note


class Recording(NamedTuple):
    """Frames of a file in Å, fs, Da, on the host, as they stand in it."""

    positions: Float[np.ndarray, "time atom 3"]
    velocities: Float[np.ndarray, "time atom 3"]
    species: Int[np.ndarray, "atom"]
    masses: Float[np.ndarray, "atom"]
    cell: Float[np.ndarray, "3 3"] | None
    index: Int[np.ndarray, "time"]
    """Number of each frame in its file, from 0."""
    velocity_unit: str
    """Unit in which the velocities were read; "" if they were set to 0."""
    steps: Int[np.ndarray, "time"] | None = None
    """Integration step of each frame, where the file tells."""
    times: Float[np.ndarray, "time"] | None = None
    """Time of each frame (fs), where the file tells."""
    rounding: float = 0.0
    """Largest error (fs) of a time by how the file rounds it."""
    unwrapped: bool = False
    """Whether positions are known to be unwrapped."""
    factor: float = 1.0
    """Factor to Å/fs by which the velocities were read."""
    unit_hint: str = "give the right one as velocity_unit (--velocity-unit)."
    """What to do about a wrong unit, in a file of this format."""


def select(frames: Sequence, selection: slice | int, path: Path) -> list:
    """The selected ones of all frames of a file, or of their numbers.

    Raises:
      IndexError: there is no such frame.
      ValueError: no frame is selected.
    """
    if isinstance(selection, int):
        if not -len(frames) <= selection < len(frames):
            raise IndexError(f"Frame {selection} is not in {path}, which has {len(frames)} frames.")
        return [frames[selection]]
    if not frames[selection]:
        raise ValueError(
            f"{path} has no frames from {selection.start} to {selection.stop}, for it has "
            f"{len(frames)}; select frames that it has."
        )
    return list(frames[selection])


def without_cut(n_whole: int, path: Path) -> None:
    """A word on a last frame that is left out, for it may be cut short; `n_whole` are before it.

    Raises:
      ValueError: there is no other.
    """
    if not n_whole:
        raise ValueError(
            f"{path} ends in the middle of a line, so that its only frame may be cut short and "
            "its last number may lack digits; if it is whole, end its last line (echo >> "
            f"{path.name})."
        )
    note(f"{path}: frame {n_whole}, the last, is cut short (by a killed run?) and was left out.")


def without_massless(recording: Recording, path: Path) -> Recording:
    """Leave out the sites without mass (species 0), with a word.

    Raises:
      ValueError: nothing else is there.
    """
    real = recording.species > 0
    if real.all():
        return recording
    if not real.any():
        raise ValueError(
            f"No atom of {path} has an element (all are X); name them by species (--species)."
        )
    note(f"{path}: {np.sum(~real)} sites without an element and mass were left out.")
    return recording._replace(
        positions=recording.positions[:, real],
        velocities=recording.velocities[:, real],
        species=recording.species[real],
        masses=recording.masses[real],
    )


def said_cell(options: ReadOptions) -> np.ndarray | None:
    """The cell (3, 3) in Å that the options give, if any."""
    if not options.cell:
        return None
    values = np.array(options.cell, float)
    cell = values.reshape(3, 3) if len(values) == 9 else _from_parameters(values, options)
    if abs(np.linalg.det(cell)) < 1e-6:
        raise ValueError(f"The cell {options.cell} has no volume; give a b c in Å (--cell).")
    return cell


def _from_parameters(values: np.ndarray, options: ReadOptions) -> np.ndarray:
    """Cell (3, 3) of three lengths and, unless they are right, three angles."""
    lengths, angles = values[:3], values[3:]
    if (lengths <= 0).any():
        raise ValueError(f"The cell {options.cell} has a length that is not above 0 (--cell).")
    if (angles <= 0).any() or (angles >= 180).any():
        raise ValueError(f"The cell {options.cell} has an angle outside of 0 to 180° (--cell).")
    try:
        cell = Cell.fromcellpar(_six(values)).array
    except (AssertionError, ValueError, ZeroDivisionError):
        cell = np.full((3, 3), np.nan)
    if not np.isfinite(cell).all():
        raise ValueError(
            f"The cell {options.cell} cannot be: no three vectors have these angles to one "
            "another; give a b c (Å) α β γ (°), with α between b and c (--cell)."
        )
    return cell


def _six(values: Sequence[float]) -> list[float]:
    return [*values, 90.0, 90.0, 90.0] if len(values) == 3 else list(values)


def decide_cell(
    cell: np.ndarray | None, stated: bool | None, options: ReadOptions, path: Path, why: str = ""
) -> np.ndarray | None:
    """The cell (3, 3) of periodic atoms, or None of isolated ones.

    `stated` is what the file says of its boundaries, None if it does not; a cell of zeros is no
    cell. `why` is how the file left it open.

    Raises:
      ValueError: the file leaves it open and `options.periodic` does too, they disagree, or the
        cell is singular.
    """
    said = said_cell(options)
    if cell is not None and not np.any(cell):
        cell = None
    if cell is not None and said is not None and not np.allclose(cell, said, atol=1e-2):
        raise ValueError(
            f"{path} has the cell {_text(cell)} Å, but {_text(said)} was given; leave --cell out."
        )
    cell = said if cell is None else cell
    periodic = options.periodic if stated is None else stated
    if said is not None and stated is None and periodic is None:
        periodic = True
    if stated is False and options.periodic:
        raise ValueError(
            f"{path} says that its atoms are not periodic, but they should be by --periodic or "
            "by the experiment's structure; give the trajectory of a periodic system, or an "
            "experiment of isolated atoms."
        )
    if cell is None:
        if periodic:
            raise ValueError(
                f"{path} has no cell, but its atoms should be periodic; give the cell as --cell a "
                "b c (Å), or a b c α β γ."
            )
        return None
    if periodic is None:
        raise ValueError(
            f"{path} has a cell of {_text(cell)} Å, but {why or 'does not say if it is used'}; "
            "say whether the atoms are periodic (--periodic or --no-periodic)."
        )
    if not np.isfinite(cell).all() or abs(np.linalg.det(cell)) < 1e-6:
        if not periodic:
            return None
        raise ValueError(
            f"{path} is periodic, but its cell {cell.tolist()} has no volume; give a cell of three "
            "independent vectors (--cell)."
        )
    return cell if periodic else None


def _text(cell: np.ndarray) -> str:
    return " ".join(f"{x:.4g}" for x in np.linalg.norm(cell, axis=1))
