"""Write extended XYZ; read what ASE reads of it but does not use: masses, ids, units.

LAMMPS's `dump extxyz` writes in the units of its run without a word.
"""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, chemical_symbols
from jaxtyping import Float

from trajcast_jax.io.files import suffix
from trajcast_jax.io.options import ReadOptions, note
from trajcast_jax.io.times import AGREE, typical
from trajcast_jax.system import System
from trajcast_jax.units import ASE_FEMTOSECOND, LAMMPS_UNITS, VELOCITY_UNITS

MASSES = "masses"
"""ASE's name of masses; LAMMPS and GPUMD write `mass`."""
OTHER_TIMES = {"ps": 1e3, "ASE's unit of time (10.18 fs)": 1 / ASE_FEMTOSECOND}
"""Units (fs) in which times may be that state none, by name."""
SAME_MASS = 1e-3
"""Share by which masses that stand twice, or in two frames, may differ."""


def understood(
    frames: list[Atoms], isotopes: np.ndarray | None, options: ReadOptions, path: Path
) -> list[Atoms]:
    """The frames with the masses of their column, sorted by their ids, in Å and Da.

    `isotopes` are masses (atom,) in Da of those that symbols (D, T) tell, 0 of others.

    Raises:
      ValueError: masses or ids are none, contradict one another, or change.
    """
    length, _, _, mass = LAMMPS_UNITS.get(options.units, (1.0, 1.0, 1.0, 1.0))
    for number, atoms in enumerate(frames):
        _take_masses(atoms, number, path)
        if MASSES in atoms.arrays:
            atoms.arrays[MASSES] = mass * atoms.arrays[MASSES]
        elif isotopes is not None and len(isotopes) == len(atoms):
            atoms.set_masses(np.where(isotopes > 0, isotopes, atoms.get_masses()))
        atoms.positions *= length
        atoms.cell *= length
    frames = _by_ids(frames, path)
    for number, atoms in enumerate(frames):
        _require_same_masses(frames[0], atoms, number, path)
    return frames


def _column(atoms: Atoms, names: tuple[str, ...]) -> str | None:
    """The name of the first column of one number or word for each atom that is called so."""
    fit = (n for n in atoms.arrays if n.lower() in names and atoms.arrays[n].ndim == 1)
    return next(fit, None)


def _take_masses(atoms: Atoms, number: int, path: Path) -> None:
    name = _column(atoms, ("mass",))
    if name is None:
        return
    try:
        masses = np.asarray(atoms.arrays[name], float)
    except ValueError as error:
        raise ValueError(
            f"The column '{name}' in frame {number} of {path} is no number ({error}); mend it, or "
            "give it another name."
        ) from error
    known = atoms.arrays.get(MASSES)
    if known is not None and not np.allclose(known, masses, rtol=SAME_MASS):
        i = int(np.argmax(np.abs(known - masses)))
        raise ValueError(
            f"{path} has masses twice, and they disagree: atom {i} has {known[i]:.5g} in the "
            f"column 'masses', but {masses[i]:.5g} in '{name}'; leave one of them out."
        )
    atoms.arrays[MASSES] = masses


def _require_same_masses(first: Atoms, atoms: Atoms, number: int, path: Path) -> None:
    mine, its = first.arrays.get(MASSES), atoms.arrays.get(MASSES)
    if len(atoms) != len(first) or (mine is None and its is None):
        return
    if mine is None or its is None or not np.allclose(mine, its, rtol=SAME_MASS):
        raise ValueError(
            f"The masses in frame {number} of {path} are not those of the first; a trajectory "
            "must keep its atoms and their order."
        )


def _by_ids(frames: list[Atoms], path: Path) -> list[Atoms]:
    """The frames with their atoms in the order of their ids, as those of dumps.

    A column of this name in which numbers stand twice, the same in all frames, is another.
    """
    name = _column(frames[0], ("id", "ids")) if frames else None
    if name is None:
        return frames
    first, ordered = frames[0].arrays[name], []
    unique = len(np.unique(first)) == len(first)
    for number, atoms in enumerate(frames):
        ids = atoms.arrays.get(name)
        if len(atoms) != len(first) or (not unique and np.array_equal(ids, first)):
            ordered.append(atoms)  # a check of atoms follows
            continue
        if ids is None or not unique or not np.array_equal(np.sort(ids), np.sort(first)):
            raise ValueError(
                f"The column '{name}' in frame {number} of {path} does not number the same atoms "
                "as in the first; a trajectory must keep its atoms: split the file."
            )
        ordered.append(atoms[np.argsort(ids, kind="stable")])
    return ordered


def unit_of_style(told: str, style: str, path: Path) -> str:
    """The unit of velocities of a LAMMPS unit style, if what is `told` does not contradict it.

    Raises:
      ValueError: it does.
    """
    if told and not np.isclose(VELOCITY_UNITS[told], LAMMPS_UNITS[style][2], rtol=1e-4):
        raise ValueError(
            f"{path} has velocities in {told}, which are not those of units {style}: one of the "
            "two is wrong; if the file is right, leave --units out."
        )
    return f"units {style}"


def speed(unit: str) -> float:
    """Factor to Å/fs of a unit of velocity, of a LAMMPS unit style, or of ASE's momenta."""
    if unit.startswith("units "):
        return LAMMPS_UNITS[unit.removeprefix("units ")][2]
    return VELOCITY_UNITS.get(unit, ASE_FEMTOSECOND)


def unit_of_times(times, options: ReadOptions, path: Path) -> float:
    """The unit (fs) of times (time,): LAMMPS's of a unit style, fs, or what the options confirm.

    Extended XYZ states no unit, and fs are usual; if `options.time_step` is the spacing in ps or in
    ASE's unit of time (`dyn.get_time()`, CASTEP's .md by ASE), that it is, with a word.
    """
    if options.units:
        return LAMMPS_UNITS[options.units][1]
    if options.time_step is not None and len(times) > 1:
        spacing = typical(times)
        for name, unit in OTHER_TIMES.items():
            if abs(unit * spacing / options.time_step - 1) < AGREE:
                note(f"{path}: times are read in {name}, as the fs between frames tell.")
                return unit
    return 1 / ASE_FEMTOSECOND if suffix(path) == ".md" else 1.0


def write_extxyz(
    path: str | Path, trajectory: System, times: Float[np.ndarray, "time"] | None = None
) -> None:
    """Write a System, or a trajectory at `times` (fs), as extended XYZ.

    The column `velocities` is in Å/fs, which the key `velocity_unit` states. The column `momenta`
    is for ASE's own functions.
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
