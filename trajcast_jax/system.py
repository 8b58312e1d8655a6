"""`System`, the state of an atomistic system, and the geometry of its cell."""

import functools

import jax.numpy as jnp
import numpy as np
from ase.data import atomic_masses
from flax import struct
from jaxtyping import Array, Bool, Float, Int


@struct.dataclass
class System:
    """Atoms in a periodic cell, or isolated when `cell` is None.

    A trajectory is a System whose positions and velocities carry a leading time
    axis; what does not change along it (masses, species, cell, mask) does not
    repeat. Smaller systems are padded with atoms of mass 0, species 0, mask False.

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
    """a @ b in full precision, for geometry and momenta.

    By default GPUs round the factors to TF32 and TPUs to bfloat16: 14.90 Å would become 14.88 Å.
    """
    return jnp.matmul(a, b, precision="highest")


def transform(vectors: Float[Array, "... 3"], matrix: Float[Array, "3 3"]) -> Float[Array, "... 3"]:
    """vectors @ matrix as a sum of three, which fuses with what comes before and after.

    As a product of matrices it is a kernel of its own, of 14 ns a vector on CPUs.
    """
    parts = (vectors[..., k : k + 1] * matrix[k] for k in range(3))
    return functools.reduce(jnp.add, parts)


def make_system(positions, velocities, species, *, cell=None, masses=None, dtype=None) -> System:
    """A System from arrays; masses default to the standard atomic weights.

    `dtype` defaults to JAX's current float width (float32 unless x64 is enabled). `cell` may be
    ASE's too.
    """
    dtype = dtype or jnp.zeros(()).dtype
    species = np.asarray(species, dtype=np.int32)
    masses = atomic_masses[species] if masses is None else masses
    return System(
        positions=jnp.asarray(positions, dtype),
        velocities=jnp.asarray(velocities, dtype),
        masses=jnp.asarray(masses, dtype),
        species=jnp.asarray(species),
        cell=None if cell is None else jnp.asarray(getattr(cell, "array", cell), dtype),
        mask=jnp.asarray(species > 0),
    )


def pad(system: System, n_atoms: int) -> System:
    """The system padded to `n_atoms` with masked, massless atoms at the origin."""
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


def inverse(cell: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """What makes fractional of Cartesian vectors (1/Å): its columns are the reciprocal vectors.

    By cross products, which compile to a single loop. A factorisation is a call of LAPACK's, or
    on a GPU several, and one that a stride waits for.
    """
    faces = jnp.cross(jnp.roll(cell, -1, axis=0), jnp.roll(cell, -2, axis=0))
    return faces.T / jnp.sum(cell[0] * faces[0])


def heights(cell: Float[Array, "3 3"]) -> Float[Array, "3"]:
    """Perpendicular heights of the cell (Å): the distances between its opposite faces."""
    return 1 / jnp.linalg.norm(inverse(cell), axis=0)


def image_shifts(vectors: Float[Array, "... 3"], cell: Float[Array, "3 3"]):
    """Integer shifts S such that `vectors + S @ cell` has fractional parts in [−½, ½]."""
    return -jnp.round(transform(vectors, inverse(cell)))


def minimum_image(vectors: Float[Array, "... 3"], cell: Float[Array, "3 3"] | None):
    """Vectors shifted to the nearest image; exact when shorter than half the smallest height."""
    if cell is None:
        return vectors
    return vectors + transform(image_shifts(vectors, cell), cell)


def wrap(positions: Float[Array, "... 3"], cell: Float[Array, "3 3"] | None):
    """Positions folded into the cell."""
    if cell is None:
        return positions
    whole = jnp.floor(transform(positions, inverse(cell)))
    return positions - transform(whole, cell)


def unwrap(positions: Float[Array, "time atom 3"], cell: Float[Array, "3 3"] | None):
    """Positions made continuous in time by the minimum image of each frame's displacement."""
    if cell is None:
        return positions
    steps = minimum_image(jnp.diff(positions, axis=0), cell)
    return jnp.concatenate([positions[:1], positions[:1] + jnp.cumsum(steps, axis=0)])
