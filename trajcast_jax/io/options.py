"""What a person says about a trajectory file that the file does not say itself."""

import dataclasses
import math
import warnings
from pathlib import Path

from trajcast_jax.units import LAMMPS_UNITS, VELOCITY_UNITS


class FileNote(UserWarning):
    """Something that was done with a file and that its owner should know, in a sentence."""


def note(text: str) -> None:
    """Tell the reader of a file what was done with it; commands print these sentences."""
    warnings.warn(text, FileNote, stacklevel=3)


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """What a file leaves open. Nothing here overrules what a file states: the two must agree."""

    species: tuple[str, ...] = ()
    """Elements of a file that numbers or names its atoms: of types 1, 2, … in order ("Si", "O"),
    by name ("1=Si", "CA=C", "MW=X" for a site without mass), or one for each atom."""
    units: str = ""
    """LAMMPS's unit style of a dump: metal, real, …"""
    velocity_unit: str = ""
    """Unit of the velocities: angstrom/fs, angstrom/ps, nm/ps, m/s, ase, bohr/atu, amber."""
    time_step: float | None = None
    """fs between the frames of the file."""
    md_step: float | None = None
    """fs of an integration step, where a file tells only the numbers of steps."""
    periodic: bool | None = None
    """Whether the atoms are periodic, where a file has a cell but does not say."""
    cell: tuple[float, ...] = ()
    """Cell where a file has none: a b c (Å), a b c and three angles (°), or three vectors."""
    first: int = 0
    """Number of the first frame to read, from 0."""
    last: int | None = None
    """Number of the last frame to read; by default the file's last."""
    every: int = 1
    """Read every n-th frame."""
    velocities: Path | None = None
    """A second file, with the velocities (CP2K's -vel-1.xyz, i-PI's)."""
    topology: Path | None = None
    """A file with the atoms of a trajectory that has only coordinates (.tpr, .gro, .prmtop)."""

    def __post_init__(self):
        for name, known in (("units", LAMMPS_UNITS), ("velocity_unit", VELOCITY_UNITS)):
            value = getattr(self, name)
            if name == "units" and value == "lj":
                raise ValueError(
                    "units lj have no Å and no fs; multiply the dump by its σ, ε and mass first, "
                    "and give it as extended XYZ."
                )
            if value and value not in known:
                raise ValueError(f"{name} is '{value}'; known are {', '.join(known)}.")
        for name in ("time_step", "md_step"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; it is a time in fs, above 0.")
        if self.every < 1:
            raise ValueError(f"every is {self.every}; it is at least 1.")
        if self.last is not None and 0 <= self.last < self.first:
            raise ValueError(f"last is {self.last}, before first, which is {self.first}.")
        if len(self.cell) not in (0, 3, 6, 9) or not all(map(math.isfinite, self.cell)):
            raise ValueError(
                f"cell has {len(self.cell)} numbers; give a b c, a b c α β γ, or three vectors."
            )

    @property
    def frames(self) -> slice:
        """The frames to read, as a slice."""
        stop = None if self.last in (None, -1) else self.last + 1
        return slice(self.first, stop, self.every)


def read_options(
    time_step: float | None = None,
    md_timestep: float | None = None,
    species: tuple[str, ...] = (),
    units: str = "",
    velocity_unit: str = "",
    periodic: bool = False,
    no_periodic: bool = False,
    cell: tuple[float, ...] = (),
    first: int = 0,
    last: int | None = None,
    every: int = 1,
    velocities: Path | None = None,
    topology: Path | None = None,
) -> ReadOptions:
    """Make `ReadOptions` from the options of a command line.

    Args:
      time_step: fs between the frames of a file, if the file does not store times.
      md_timestep: fs of an integration step, where a file tells only the numbers of steps.
      species: elements of types 1, 2, … in order (Si O), or by name (CA=C MW=X).
      units: LAMMPS's unit style of dumps: metal, real, ...
      velocity_unit: angstrom/fs, angstrom/ps, nm/ps, m/s, ase, bohr/atu or amber.
      periodic: atoms are periodic, where a file has a cell but does not say.
      no_periodic: atoms are isolated.
      cell: a b c (Å), with α β γ (°) or as three vectors, where a file has no cell.
      first: number of the first frame to take, from 0.
      last: number of the last frame to take.
      every: take every n-th frame.
      velocities: a second file, with the velocities (CP2K's -vel-1.xyz).
      topology: a file with the atoms of a trajectory (.tpr, .gro, .prmtop), for MDAnalysis.

    Raises:
      ValueError: an option is out of range, or two contradict each other.
    """
    if periodic and no_periodic:
        raise ValueError("Atoms are periodic or not: give --periodic or --no-periodic.")
    return ReadOptions(
        species, units, velocity_unit, time_step, md_timestep,
        True if periodic else False if no_periodic else None,
        cell, first, last, every, velocities, topology,
    )  # fmt: skip
