"""The start structure of a reference simulation, from the `structure` table of its settings."""

import io

import ase.build
import ase.io
import numpy as np
from ase import Atoms
from ase.geometry import get_distances
from ase.io.lammpsdata import read_lammps_data
from ase.spacegroup import crystal

from trajcast_jax.config import ReferenceSettings
from trajcast_jax.mechanics import degrees_of_freedom
from trajcast_jax.system import System, make_system

CLOSEST_COPIES = 1.3
"""Å; copies that are turned at random come no closer to each other than this."""
TRIES = 100
"""Orientations of a copy that are tried."""


def _from_data(lammps_data: str, periodic: bool = True) -> Atoms:
    """Atoms of the text of a LAMMPS data file (`atom_style full`); elements are known by mass."""
    # ASE would convert from LAMMPS's units; lengths and masses of `real` and `metal` are ours.
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
"""Which function builds a structure, by the one argument that it alone has."""


def build_structure(settings: ReferenceSettings) -> Atoms:
    """The start structure, repeated, in LAMMPS's orientation (a along x, b in the xy plane)."""
    builder = next((f for key, f in BUILDERS.items() if key in settings.structure), None)
    if builder is None:
        raise ValueError(
            f"reference.structure has {', '.join(settings.structure) or 'nothing in it'}; "
            f"it needs one of {', '.join(BUILDERS)}."
        )
    atoms = builder(**settings.structure)
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
    if not has_topology(settings):  # molecules stay whole
        atoms.wrap()
    return atoms


def has_topology(settings: ReferenceSettings) -> bool:
    """Whether the structure is a LAMMPS data file, with bonds that LAMMPS has to know."""
    return "lammps_data" in settings.structure


def is_crystal(settings: ReferenceSettings) -> bool:
    """Whether atoms are expected to stay near their sites in the start structure."""
    return "spacegroup" in settings.structure


def _turned(atoms: Atoms, n_copies: int) -> Atoms:
    """Every copy turned at random about its centre, always in the same way, without clashes."""
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
    """A rotation matrix (3, 3), uniformly distributed."""
    q, r = np.linalg.qr(random.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def as_system(atoms: Atoms, positions=None, velocities=None, cell=None) -> System:
    """Atoms as a System, at rest unless velocities (Å/fs) are given; isolated if ASE's are."""
    return make_system(
        atoms.positions if positions is None else positions,
        np.zeros((len(atoms), 3)) if velocities is None else velocities,
        atoms.numbers,
        cell=(atoms.cell.array if cell is None else cell) if atoms.pbc.all() else None,
        masses=atoms.get_masses(),
    )


def free_dimensions(atoms: Atoms) -> int:
    """Kinetic degrees of freedom: without the total momentum, and an isolated body's turning."""
    system = as_system(atoms)
    return int(degrees_of_freedom(system, angular=system.cell is None))
