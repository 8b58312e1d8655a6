"""Read all formats that ASE knows."""

from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_masses
from ase.io.formats import UnknownFileTypeError

from trajcast_jax.io.checks import PLAUSIBLE_TEMPERATURES, other_units, temperatures_in
from trajcast_jax.io.extxyz import speed, understood, unit_of_style, unit_of_times
from trajcast_jax.io.files import open_text, suffix
from trajcast_jax.io.options import ReadOptions, note
from trajcast_jax.io.recording import Recording, decide_cell, without_massless
from trajcast_jax.io.species import TINY, Elements, check_masses, from_labels, from_names
from trajcast_jax.io.times import rounding
from trajcast_jax.io.unreadable import looks_like
from trajcast_jax.io.xyz import one_clock, says_periodicity
from trajcast_jax.io.xyz_text import SUFFIXES, readable
from trajcast_jax.units import ASE_FEMTOSECOND, VELOCITY_UNITS

VELOCITY_COLUMNS = ("velocities", "velo", "vel")
ASE_MOMENTA = "ASE's unit √(eV/u), as momenta"
MOMENTA_HINT = (
    "their unit is ASE's, √(eV/u); check the program that wrote them, which may have left them in "
    "another one."
)
RESOLVED = "trajcast_jax_elements"
"""Key of frames whose species the options have already told."""
USUAL = (50.0, 1000.0)
"""K; if velocities of unstated unit mean less or more, they may well be in another than Å/fs."""
HINT = (
    "say their right unit by velocity_unit (--velocity-unit), or in the comment lines of an "
    'extended XYZ file: velocity_unit="ase", "angstrom/ps" or "angstrom/fs"; of one that '
    "LAMMPS wrote, say its unit style by units (--units metal)."
)


def read_ase(
    path: Path, index: int | slice, options: ReadOptions, still: bool = False
) -> Recording:
    """Read frames of any file that ASE reads, positions as they stand in it.

    Velocities come from an extended XYZ column `velocities`, `velo` or `vel`, which ASE stores
    but does not use, and otherwise from ASE's momenta; with `still` they are 0. The comment-line
    key `velocity_unit` gives the column's unit, Å/fs by default. Times (fs) and steps are
    those of the comment-line keys `time` and `timestep`.

    Raises:
      IndexError: there is no such frame.
      ValueError: the file cannot be read, lacks velocities, leaves something open, or its atoms
        or cell change.
    """
    if path.name == "xyz.in":  # whose velocities ASE takes to be in its own unit
        raise ValueError(
            f"{path} is GPUMD's old xyz.in, which states no units; give extended XYZ as GPUMD's "
            "`dump_exyz` writes it."
        )
    numbers, frames = _select(path, index, options)
    first = frames[0] if frames else Atoms()
    for number, atoms in zip(numbers, frames, strict=True):
        _check_same_atoms(first, atoms, int(number), path)
    units = {"" if still else _velocity_unit(a, options, path) for a in frames}
    if len(units) > 1:
        raise ValueError(f"{path} gives velocities in several units ({', '.join(units)}); use one.")
    unit = units.pop() if units else ""
    velocities = np.reshape(
        [_velocities(a, unit, path) for a in frames], (len(frames), len(first), 3)
    )
    elements = _elements(first, options, path)
    _require_unit(first, unit, options, velocities[:1], path)
    steps, times = _clock(frames, numbers, path)
    scale = 0.0 if times is None else unit_of_times(times, options, path)
    recording = Recording(
        positions=np.reshape([a.positions for a in frames], velocities.shape),
        velocities=velocities,
        species=elements.species,
        masses=elements.masses,
        cell=_cell(first, options, path) if frames else None,
        index=numbers,
        velocity_unit=unit,
        steps=steps,
        times=None if times is None else scale * times,
        rounding=0.0 if times is None else scale * rounding(times),
        factor=speed(unit),
        unit_hint=MOMENTA_HINT if unit == ASE_MOMENTA else HINT,
    )
    return without_massless(recording, path)


def _select(path: Path, index: int | slice, options: ReadOptions):
    """Read the selected frames; return their indices in the file, and the frames."""
    if not isinstance(index, slice):
        return np.array([index]), _read_atoms(path, index, options)
    start, stop = index.start or 0, index.stop
    if start < 0 or (stop or 0) < 0:  # needs the number of frames in the file
        frames = _read_atoms(path, slice(None), options)
        numbers = np.arange(len(frames))[index]
        return numbers, [frames[i] for i in numbers]
    frames = _read_atoms(path, slice(start, stop), options)
    return np.arange(len(frames)) + start, frames


def _read_atoms(path: Path, index: int | slice, options: ReadOptions) -> list[Atoms]:
    """Read the selected frames with ASE, or raise an error that says why it cannot."""
    source, isotopes = path, None
    if suffix(path) in SUFFIXES:
        source, isotopes = readable(path, options)
    try:
        # An @ in a name would otherwise end the name.
        known = {} if source is path else {"format": "extxyz"}
        frames = ase.io.read(source, index=index, do_not_split_by_at_sign=True, **known)
    except UnknownFileTypeError as error:
        raise ValueError(
            f"{path} is of no known trajectory format{looks_like(path)}; give extended XYZ "
            "(.extxyz), H5MD (.h5), a LAMMPS dump or another file that ASE reads; files of GROMACS "
            "and AMBER need --topology."
        ) from error
    except (IndexError, StopIteration) as error:
        if index == -1 or isinstance(index, slice):  # of a file that has any frame
            raise _unreadable(path, error) from error
        raise IndexError(f"Frame {index} is not in {path}.") from error
    except Exception as error:  # ASE's readers raise many types of errors
        raise _unreadable(path, error) from error
    frames = frames if isinstance(frames, list) else [frames]
    if isotopes is not None:
        for atoms in frames:
            atoms.info[RESOLVED] = True
    if suffix(path) in SUFFIXES:
        frames = understood(frames, isotopes, options, path)
    return frames


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"ASE cannot read {path} ({type(error).__name__}: {error})"
        f"{looks_like(path) or '; is it complete?'}"
    )


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


def _cell(atoms: Atoms, options: ReadOptions, path: Path) -> np.ndarray | None:
    """Cell (3, 3) in Å of periodic atoms; None for isolated ones."""
    if atoms.pbc.any() and not atoms.pbc.all():
        raise ValueError(
            f"{path} is periodic in some directions only (pbc = {atoms.pbc.tolist()}); give "
            "atoms that are periodic in all three or in none."
        )
    cell = atoms.cell.array
    stated = True if atoms.pbc.all() else None if np.any(cell) else False
    if stated is False and suffix(path) in SUFFIXES and not says_periodicity(path):
        stated = None
        if options.periodic is None and not options.cell:
            note(
                f"{path} has no cell, and its atoms are read as isolated; say their cell (--cell a "
                "b c, in Å) or that there is none (--no-periodic)."
            )
    if stated is False and (options.periodic or options.cell):
        stated = None  # a file without a cell, as plain XYZ, may leave it to the options
    return decide_cell(cell, stated, options, path, "says that it is not periodic (its pbc is off)")


def _elements(atoms: Atoms, options: ReadOptions, path: Path) -> Elements:
    """Elements and masses; types that ASE took for atomic numbers are asked for."""
    types = atoms.arrays.get("type")
    masses = atoms.arrays.get("masses")
    numbered = types is not None and np.array_equal(np.asarray(types), atoms.numbers)
    if suffix(path) in (".pdb", ".ent") and not _names_elements(path):
        names = atoms.arrays.get("atomtypes", np.array(atoms.get_chemical_symbols()))
        residues = atoms.arrays.get("residuenames", np.array([""] * len(atoms)))
        return from_names([str(n) for n in names], [str(r) for r in residues], options, path)
    if numbered or (options.species and len(atoms) and RESOLVED not in atoms.info):
        labels = atoms.numbers if types is None else types
        if types is None:
            labels = np.array(atoms.get_chemical_symbols())
            return from_labels(labels, options, path, masses, kind="name")
        return from_labels(np.asarray(labels), options, path, masses)
    if masses is not None and np.any((atoms.numbers == 0) & (masses > TINY)):
        raise ValueError(
            f"{path} gives atoms without an element (X) a mass; name the elements, or give the "
            "sites without mass a mass of 0."
        )
    elements = Elements(atoms.numbers, np.where(atoms.numbers > 0, atoms.get_masses(), 0.0))
    if masses is None:
        return elements
    standard = np.where(atoms.numbers > 0, atomic_masses[atoms.numbers], 0.0)
    return check_masses(elements._replace(masses=standard), atoms.symbols, atoms.get_masses(), path)


def _names_elements(path: Path) -> bool:
    """Whether all atoms of a PDB file have the columns of their element; ASE guesses without."""
    with open_text(path) as file:
        rows = [x for x in file if x.startswith(("ATOM", "HETATM"))]
    return all(row[76:78].strip() for row in rows)


def _velocity_column(atoms: Atoms) -> str | None:
    return next((name for name in VELOCITY_COLUMNS if name in atoms.arrays), None)


def _velocity_unit(atoms: Atoms, options: ReadOptions, path: Path) -> str:
    """Unit in which the velocities of this frame are read."""
    if _velocity_column(atoms) is None:
        if "momenta" not in atoms.arrays:
            raise ValueError(f"{path} has no velocities; {_cure(path)}")
        if options.velocity_unit not in ("", "ase"):
            raise ValueError(
                f"{path} has ASE's momenta, whose unit is ASE's, but velocity_unit says "
                f"{options.velocity_unit}; leave it out, or write a column 'velocities'."
            )
        if options.units:
            raise ValueError(
                f"{path} has ASE's momenta, whose unit is ASE's, but units {options.units} were "
                "given; leave --units out."
            )
        return ASE_MOMENTA
    told = atoms.info.get("velocity_unit")
    if told is not None and str(told) not in VELOCITY_UNITS:
        raise ValueError(
            f"{path} gives velocities in '{told}'; known are {', '.join(VELOCITY_UNITS)}."
        )
    if told is not None and options.velocity_unit not in ("", str(told)):
        raise ValueError(
            f"{path} gives velocities in {told}, but velocity_unit says {options.velocity_unit}; "
            "leave it out."
        )
    if options.units:
        return unit_of_style(str(told or options.velocity_unit), options.units, path)
    return str(told or options.velocity_unit or "angstrom/fs")


def _cure(path: Path) -> str:
    """What to do about a file without velocities."""
    if "XDATCAR" in path.name or suffix(path) == ".xml" or "OUTCAR" in path.name:
        return (
            "VASP writes none along a run into XDATCAR, OUTCAR and vasprun.xml. Run VASP by ASE's "
            "molecular dynamics, whose .traj file has them; a start at rest is read with still "
            "(rollout --thermalize)."
        )
    return (
        "give a trajectory with a column 'velocities' (Å/fs), with ASE momenta, or a second file "
        "with the velocities (--velocities), for a forecast starts from positions and velocities "
        "(rollout draws these with --thermalize)."
    )


def _velocities(atoms: Atoms, unit: str, path: Path) -> np.ndarray:
    """Velocities (atom, 3) of one frame, Å/fs; zeros if there is no unit."""
    if not unit:
        return np.zeros_like(atoms.positions)
    column = _velocity_column(atoms)
    momenta = atoms.get_velocities() * ASE_FEMTOSECOND
    if column is None:
        return momenta
    if np.shape(atoms.arrays[column]) != atoms.positions.shape:
        raise ValueError(
            f"The column '{column}' of {path} is not x, y and z of each atom; write it as "
            f"{column}:R:3 in Properties."
        )
    velocities = atoms.arrays[column] * speed(unit)
    if "momenta" in atoms.arrays:
        away = np.abs(velocities - momenta).max(initial=0.0)
        if away > 1e-3 * np.abs(velocities).max(initial=0.0) + 1e-9:
            kelvin = [
                float(temperatures_in(v[None], atoms.get_masses())[0])
                for v in (velocities, momenta)
            ]
            raise ValueError(
                f"{path} has velocities twice, and they disagree: its column '{column}', read in "
                f"{unit}, means {kelvin[0]:.3g} K, its momenta {kelvin[1]:.3g} K. State the unit "
                'of the column (velocity_unit="ase" in the comment lines, or --velocity-unit), or '
                "leave one of them out."
            )
    return velocities


def _require_unit(atoms: Atoms, unit: str, options: ReadOptions, velocities, path: Path) -> None:
    """Ask for the unit of a column that states none, where Å/fs means that it is hot or cold."""
    stated = "velocity_unit" in atoms.info or options.velocity_unit or options.units
    stated = stated or "momenta" in atoms.arrays
    if not unit or unit == ASE_MOMENTA or stated or not len(atoms):
        return
    masses = np.maximum(atoms.get_masses(), 1e-3)
    kelvin = float(temperatures_in(velocities, masses)[0])
    low, high = PLAUSIBLE_TEMPERATURES
    if low <= kelvin <= high and not USUAL[0] <= kelvin <= USUAL[1]:
        raise ValueError(
            f"{path} does not state the unit of its velocities: read in angstrom/fs they mean "
            f"{kelvin:,.4g} K, in ASE's unit {kelvin * ASE_FEMTOSECOND**2:.3g} K; say which by "
            f"velocity_unit (--velocity-unit angstrom/fs or ase).{other_units(velocities, masses)}"
        )


def _clock(frames: list[Atoms], numbers, path: Path):
    """Steps and times (fs) of the frames, if they tell them."""
    found = []
    for name in ("timestep", "time"):
        each = [{k.lower(): v for k, v in atoms.info.items()} for atoms in frames]
        values = [e.get(name) for e in each]
        told = bool(frames) and one_clock(values, numbers, path, name)
        try:
            found.append(np.array(values, float) if told else None)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path} has a {name} that is no number ({error}); mend its comment lines."
            ) from error
    steps, times = found
    return None if steps is None else np.round(steps).astype(int), times
