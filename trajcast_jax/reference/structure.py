"""Build the start structure of a reference simulation from the settings table `structure`."""

import dataclasses
import inspect
import io
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import ase.build
import ase.io
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.geometry import get_distances
from ase.io.lammpsdata import read_lammps_data
from ase.spacegroup import crystal

from trajcast_jax.config import ReferenceSettings
from trajcast_jax.io import ReadOptions
from trajcast_jax.mechanics import degrees_of_freedom
from trajcast_jax.system import System, make_system

CLOSEST_COPIES = 1.3
"""Å, smallest distance between randomly rotated copies."""
VOLUME = 0.2
"""Share by which the volume of an atom may differ between a trajectory and the structure."""
TRIES = 100
"""Largest number of random orientations per copy."""


def _from_data(lammps_data: str, periodic: bool = True) -> Atoms:
    """Read atoms from the text of a LAMMPS data file (`atom_style full`).

    Elements are recognised by their masses.
    """
    # LAMMPS's units "real" and "metal" both have Å and Da, so ASE's conversion is the identity.
    atoms = read_lammps_data(io.StringIO(lammps_data), units="real", atom_style="full")
    atoms.pbc = periodic
    if not periodic:
        atoms.cell = None
    return atoms


BUILDERS = {
    "spacegroup": crystal,
    "lammps_data": _from_data,
    "name": ase.build.molecule,
    "filename": ase.io.read,
}
"""Functions that build a structure, by the argument that identifies each."""


def build_structure(settings: ReferenceSettings) -> Atoms:
    """Build the start structure, repeated, in LAMMPS's orientation (a along x, b in the xy plane).

    Raises:
      ValueError: the table is incomplete or wrong, or the structure is not supported.
    """
    builder = next((f for key, f in BUILDERS.items() if key in settings.structure), None)
    if builder is None:
        raise ValueError(
            f"reference.structure has {', '.join(settings.structure) or 'nothing in it'}; "
            f"it needs one of {', '.join(BUILDERS)}."
        )
    atoms = _built(builder, settings.structure)
    if atoms.pbc.any() != atoms.pbc.all():
        raise ValueError(
            "The start structure is periodic along some directions only; give a cell that is "
            "periodic along all three, or none."
        )
    if not atoms.pbc.any():
        if tuple(settings.repeat) != (1, 1, 1):
            raise ValueError("An isolated molecule cannot be repeated; leave reference.repeat out.")
        return atoms
    n_copies = int(np.prod(settings.repeat))
    atoms = atoms.repeat(settings.repeat)
    cell, _ = atoms.cell.standard_form()
    atoms.set_cell(cell, scale_atoms=True)
    if settings.random_orientations:
        return _turned(atoms, n_copies)
    if not has_topology(settings):  # wrapping would split bonded molecules
        atoms.wrap()
    return atoms


def _built(builder: Callable, table: dict) -> Atoms:
    """Call a builder with the arguments in the table; unknown arguments raise a ValueError."""
    arguments = dict(table)
    if builder is ase.build.molecule and not arguments.get("periodic", False):
        arguments.pop("periodic", None)  # its molecules are isolated anyway
    known = inspect.signature(builder).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in known.values())
    unknown = [] if anything else [key for key in arguments if key not in known]
    if unknown:
        raise ValueError(
            f"reference.structure has '{unknown[0]}', which {builder.__name__.strip('_')} does not "
            f"know beside '{next(k for k in BUILDERS if k in table)}'; it takes "
            f"{', '.join(known)}."
        )
    try:
        return builder(**arguments)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"reference.structure names the file {table.get('filename', error.filename)}, which is "
            f"not there; give its path from {Path.cwd()}, where this command runs, or from the "
            "root (/)."
        ) from error
    except Exception as error:  # ASE raises many types of errors
        raise ValueError(
            f"reference.structure cannot be built: {type(error).__name__}: {error}. It is given to "
            f"{builder.__module__}.{builder.__name__}, whose documentation says what it takes."
        ) from error


def has_topology(settings: ReferenceSettings) -> bool:
    """Whether the structure is a LAMMPS data file with bonds."""
    return "lammps_data" in settings.structure


def is_crystal(settings: ReferenceSettings) -> bool:
    """Whether atoms are expected to stay near their sites in the start structure."""
    return "spacegroup" in settings.structure


def with_structure(options: ReadOptions, settings: ReferenceSettings) -> ReadOptions:
    """The options, with what the structure tells of what a file may leave open: its periodicity."""
    if options.periodic is not None or not settings.structure:
        return options
    if is_crystal(settings) or _unit(settings).pbc.all():
        return dataclasses.replace(options, periodic=True)
    return options


def require_composition(system: System, settings: ReferenceSettings, source: Path) -> None:
    """The atoms of a trajectory are those of the structure, a whole number of times.

    Raises:
      ValueError: they are not.
    """
    if not settings.structure:
        return
    unit = Counter(_unit(settings).numbers.tolist())
    common = math.gcd(*unit.values())
    formula = {z: n // common for z, n in unit.items()}
    found = Counter(np.asarray(system.species).tolist())
    copies = found[next(iter(formula))] / next(iter(formula.values()))
    if found != Counter({z: round(copies) * n for z, n in formula.items()}) or not copies:
        raise ValueError(
            f"{source} holds {_formula(found)}, but the structure of the experiment "
            f"([reference.structure]) is of {_formula(formula)}; name the right elements "
            "(--species), or give the experiment of this system."
        )


def require_cell(
    system: System, settings: ReferenceSettings, options: ReadOptions, source: Path
) -> None:
    """The cell of a trajectory is that of the structure, or a repetition, as to its volume.

    `options` are those that a person gave.

    Raises:
      ValueError: it is not; or the structure is isolated, the atoms are not, and nobody said so.
    """
    if not settings.structure or system.cell is None:
        return
    unit = _unit(settings)
    if not (is_crystal(settings) or unit.pbc.all()):
        if options.periodic is None:
            raise ValueError(
                f"{source} is periodic, but the structure of the experiment "
                "([reference.structure]) is an isolated molecule; say which is meant "
                "(--no-periodic or --periodic)."
            )
        return
    expected = unit.get_volume() / len(unit)
    found = float(abs(np.linalg.det(np.asarray(system.cell, np.float64)))) / len(system.species)
    if abs(found / expected - 1) > VOLUME:
        raise ValueError(
            f"{source} has a cell with {found:.4g} Å³ for each atom, but the structure of the "
            f"experiment ([reference.structure]) has {expected:.4g} Å³; give the right cell "
            "(--cell), units (--units), or the experiment of this system."
        )


def _unit(settings: ReferenceSettings) -> Atoms:
    """The structure before it is repeated."""
    builder = next((f for key, f in BUILDERS.items() if key in settings.structure), None)
    if builder is None:
        return build_structure(settings)  # which says what is missing
    return _built(builder, settings.structure)


def _formula(counts: dict[int, int]) -> str:
    return " ".join(f"{chemical_symbols[z]}{n}" for z, n in sorted(counts.items(), reverse=True))


def _turned(atoms: Atoms, n_copies: int) -> Atoms:
    """Rotate every copy at random about its centre, without overlaps; always the same result."""
    random = np.random.default_rng(0)
    blocks = atoms.positions.reshape(n_copies, -1, 3)
    for k, block in enumerate(blocks):
        centre = block.mean(axis=0)
        others = np.concatenate([*blocks[:k], *(b.mean(axis=0)[None] for b in blocks[k + 1 :])])
        for _ in range(TRIES):
            turned = (block - centre) @ _rotation(random) + centre
            _, distances = get_distances(turned, others, cell=atoms.cell, pbc=True)
            if distances.min() > CLOSEST_COPIES:
                break
        blocks[k] = turned
    turned = atoms.copy()
    turned.positions = blocks.reshape(-1, 3)
    return turned


def _rotation(random: np.random.Generator) -> np.ndarray:
    """Draw a uniformly distributed rotation matrix (3, 3)."""
    q, r = np.linalg.qr(random.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def as_system(atoms: Atoms, positions=None, velocities=None, cell=None) -> System:
    """Convert Atoms to a System, at rest unless velocities (Å/fs) are given.

    Positions and cell (Å) can be replaced. The System has no cell if `atoms` are not periodic.
    """
    return make_system(
        atoms.positions if positions is None else positions,
        np.zeros((len(atoms), 3)) if velocities is None else velocities,
        atoms.numbers,
        cell=(atoms.cell.array if cell is None else cell) if atoms.pbc.all() else None,
        masses=atoms.get_masses(),
    )


def free_dimensions(atoms: Atoms) -> int:
    """Kinetic degrees of freedom without translation, and without rotation if isolated."""
    system = as_system(atoms)
    return int(degrees_of_freedom(system, angular=system.cell is None))
