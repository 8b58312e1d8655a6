"""`System`, the state of an atomistic system, and the geometry of its cell."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from ase.cell import Cell
from ase.data import atomic_masses, atomic_numbers, chemical_symbols
from flax import struct
from jaxtyping import Array, Bool, Float, Int

HEAVY_HYDROGEN = {"D": 2.014, "T": 3.016}
"""Masses of the isotopes that have symbols of their own, Da."""
SMALLEST_VOLUME = 1e-9
"""Volume of a cell over the cube of its largest component, below which it has none."""
at_once = functools.partial(jax.jit, inline=True)
"""One program instead of one for each operation, outside of other programs; none inside them."""


@struct.dataclass
class System:
    """Atoms in a periodic cell, or isolated when `cell` is None.

    A trajectory is a System whose positions and velocities have a leading time axis; the
    constant fields (masses, species, cell, mask) have none. Systems are padded to a common size
    with atoms of mass 0, species 0, mask False.

    Attributes:
      positions: (atom, 3) Å, unwrapped.
      velocities: (atom, 3) Å/fs.
      masses: (atom,) Da; 0 for padding.
      species: (atom,) atomic numbers; 0 for padding.
      cell: (3, 3) Å, rows are lattice vectors (ASE's convention); None if isolated.
      mask: (atom,) True for real atoms.
    """

    positions: Float[Array, "*time atom 3"]
    velocities: Float[Array, "*time atom 3"]
    masses: Float[Array, "atom"]
    species: Int[Array, "atom"]
    cell: Float[Array, "3 3"] | None
    mask: Bool[Array, "atom"]


def product(a: Array, b: Array) -> Array:
    """Matrix product a @ b in full precision, for geometry and momenta.

    By default GPUs round the factors to TF32 and TPUs to bfloat16, so 14.90 Å would become
    14.88 Å.
    """
    return jnp.matmul(a, b, precision="highest")


def transform(vectors: Float[Array, "... 3"], matrix: Float[Array, "3 3"]) -> Float[Array, "... 3"]:
    """Compute vectors @ matrix as a sum of three terms.

    XLA fuses the sum with neighbouring operations. A matrix product would be a separate kernel,
    which takes 14 ns per vector on CPUs.
    """
    parts = (vectors[..., k : k + 1] * matrix[k] for k in range(3))
    return functools.reduce(jnp.add, parts)


def known(*arrays) -> bool:
    """Whether numbers can be looked at: none of them is traced by JAX."""
    return not any(isinstance(x, jax.core.Tracer) for x in arrays)


def make_system(positions, velocities, species, *, cell=None, masses=None, dtype=None) -> System:
    """Make a System from arrays (Å, Å/fs, Da); masses default to the standard atomic weights.

    Args:
      positions: (..., atom, 3) Å, any array or nested lists.
      velocities: the same in Å/fs.
      species: (atom,) atomic numbers, or chemical symbols (D and T are heavy hydrogen).
      cell: (3, 3) Å, an `ase.cell.Cell`, three lengths, or three lengths and three angles (°).
        A cell of zeros, ASE's for isolated atoms, is none.
      masses: (atom,) Da.
      dtype: by default JAX's current float width (float32 unless x64 is enabled).

    Raises:
      ValueError: shapes do not fit, a species is no element, a mass is not above 0, or the cell
        has no volume. Traced arrays are checked for their shapes only.
    """
    dtype = dtype or jnp.zeros(()).dtype
    numbers, standard = _elements(species)
    if masses is None:
        masses = np.where(numbers > 0, standard, 0.0)
    elif known(masses):
        _require_massless_padding(numbers, np.asarray(masses))
    cell = _cell(cell)
    system = System(
        positions=jnp.asarray(positions, dtype),
        velocities=jnp.asarray(velocities, dtype),
        masses=jnp.asarray(masses, dtype),
        species=jnp.asarray(numbers),
        cell=None if cell is None else jnp.asarray(cell, dtype),
        mask=jnp.asarray(numbers > 0),
    )
    for name in ("positions", "velocities"):
        shape = getattr(system, name).shape
        if shape[-2:] != (len(numbers), 3) or shape != system.positions.shape:
            raise ValueError(
                f"The {name} have the shape {shape}, but there are {len(numbers)} atoms and "
                f"positions of shape {system.positions.shape}; give (atom, 3), or (time, atom, 3)."
            )
    if system.masses.shape != numbers.shape:
        raise ValueError(
            f"The masses have the shape {system.masses.shape}, but there are {len(numbers)} atoms."
        )
    if known(masses):
        found = np.asarray(masses, float)
        wrong = (numbers > 0) & ~((found > 0) & np.isfinite(found))
        if wrong.any():
            atom = int(np.argmax(wrong))
            raise ValueError(
                f"The mass of atom {atom} ({chemical_symbols[numbers[atom]]}) is {found[atom]:g} "
                "Da, and must be above 0; leave massless sites out."
            )
    return system


def _elements(species) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers and standard masses (Da) of atomic numbers or chemical symbols."""
    given = np.atleast_1d(np.asarray(species))
    if given.dtype.kind in "UOS":
        names = [x.decode() if isinstance(x, bytes) else str(x) for x in given.ravel()]
        unknown = [x for x in names if x not in atomic_numbers and x not in HEAVY_HYDROGEN]
        if unknown:
            raise ValueError(f"'{unknown[0]}' is no chemical symbol; give symbols of elements.")
        numbers = np.array([atomic_numbers.get(x, 1) for x in names], np.int32)
        heavy = [
            HEAVY_HYDROGEN.get(x, atomic_masses[z]) for x, z in zip(names, numbers, strict=True)
        ]
        return numbers, np.array(heavy)
    numbers = given.astype(np.int32) if given.dtype.kind in "iufb" else given
    if given.ndim != 1 or given.dtype.kind not in "iuf" or not np.array_equal(numbers, given):
        raise ValueError("Species must be a list of atomic numbers or chemical symbols.")
    wrong = (numbers < 0) | (numbers >= len(atomic_masses))
    if wrong.any():
        raise ValueError(
            f"Atom {int(np.argmax(wrong))} has the atomic number {numbers[wrong][0]}, but elements "
            f"have 1 to {len(atomic_masses) - 1} (0 is padding)."
        )
    return numbers, atomic_masses[numbers]


def _cell(cell):
    """A cell (3, 3) in any form that ASE takes; None for one of zeros."""
    if cell is None:
        return None
    cell = getattr(cell, "array", cell)
    if not known(cell):
        return cell
    try:
        array = np.asarray(cell, float)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The cell must be numbers: (3, 3) in Å, or lengths and angles, but is {cell!r}."
        ) from error
    if array.shape in ((3,), (6,)) and np.isfinite(array).all() and array.any():
        lengths, angles = array[:3], array[3:]
        if not (lengths >= 0).all() or not ((angles > 0) & (angles < 180)).all():
            raise ValueError(
                f"The cell {array.tolist()} must have lengths above 0 (Å) and angles between 0 and "
                "180°."
            )
        array = Cell.new(array).array
        cell = array
    if array.shape in ((3,), (6,), (3, 3)) and not array.any():
        return None
    check_cell(array)
    return cell


def check_cell(cell) -> None:
    """Raise ValueError if a cell is not (3, 3), finite and of some volume; not if it is traced."""
    if cell is None or not known(cell):
        return
    array = np.asarray(cell, float)
    if array.shape != (3, 3) or not np.isfinite(array).all():
        raise ValueError(
            f"The cell must be a finite (3, 3) array, rows in Å, but is {array.tolist()}; give "
            "None for isolated atoms."
        )
    if abs(np.linalg.det(array)) < SMALLEST_VOLUME * np.abs(array).max() ** 3:
        raise ValueError(
            f"The cell {array.tolist()} has no volume; give three vectors that span one, or None "
            "for isolated atoms."
        )


def _require_massless_padding(species: np.ndarray, masses: np.ndarray) -> None:
    if species.shape == masses.shape and np.any((species == 0) & (masses != 0)):
        i = int(np.argmax((species == 0) & (masses != 0)))
        raise ValueError(
            f"Atom {i} has species 0, which is padding, but a mass of {masses[i]:g} Da; give its "
            "atomic number, or leave the site out."
        )


def pad(system: System, n_atoms: int) -> System:
    """Pad a system to `n_atoms` with masked, massless atoms at the origin.

    Raises:
      ValueError: the system has more than `n_atoms` atoms.
    """
    extra = n_atoms - system.masses.shape[-1]
    if extra < 0:
        raise ValueError(
            f"The system has {system.masses.shape[-1]} atoms and cannot be padded to {n_atoms}; "
            "choose a padded size at least as large as the largest system."
        )
    tail = [(0, 0)] * (system.positions.ndim - 2) + [(0, extra), (0, 0)]
    return system.replace(
        positions=jnp.pad(system.positions, tail),
        velocities=jnp.pad(system.velocities, tail),
        masses=jnp.pad(system.masses, (0, extra)),
        species=jnp.pad(system.species, (0, extra)),
        mask=jnp.pad(system.mask, (0, extra)),
    )


@at_once
def inverse(cell: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """Inverse of a 3×3 cell (1/Å), which transforms Cartesian to fractional coordinates.

    Its columns are the reciprocal lattice vectors. They are computed by cross products, which
    compile to a single loop; a matrix factorisation would be a blocking LAPACK call, or several
    on a GPU.
    """
    faces = jnp.cross(jnp.roll(cell, -1, axis=0), jnp.roll(cell, -2, axis=0))
    return faces.T / jnp.sum(cell[0] * faces[0])


@at_once
def heights(cell: Float[Array, "3 3"]) -> Float[Array, "3"]:
    """Perpendicular heights of the cell (Å): the distances between its opposite faces."""
    return 1 / jnp.linalg.norm(inverse(cell), axis=0)


@at_once
def image_shifts(vectors: Float[Array, "... 3"], cell: Float[Array, "3 3"]):
    """Integer shifts S such that `vectors + S @ cell` has fractional parts in [−½, ½]."""
    return -jnp.round(transform(vectors, inverse(cell)))


@at_once
def minimum_image(vectors: Float[Array, "... 3"], cell: Float[Array, "3 3"] | None):
    """Shift vectors (Å) to their minimum image; exact below half the smallest cell height."""
    if cell is None:
        return vectors
    return vectors + transform(image_shifts(vectors, cell), cell)


def wrap(positions: Float[Array, "... 3"], cell: Float[Array, "3 3"] | None):
    """Wrap positions (Å) into the cell."""
    if cell is None:
        return positions
    whole = jnp.floor(transform(positions, inverse(cell)))
    return positions - transform(whole, cell)


@at_once
def unwrap(positions: Float[Array, "time atom 3"], cell: Float[Array, "3 3"] | None):
    """Unwrap positions (Å): sum up the minimum images of the displacements between frames."""
    if cell is None:
        return positions
    steps = minimum_image(jnp.diff(positions, axis=0), cell)
    return jnp.concatenate([positions[:1], positions[:1] + jnp.cumsum(steps, axis=0)])
