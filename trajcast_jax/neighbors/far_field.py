"""The far field: electrostatic fields of all atoms, also beyond the cutoff, as network input.

Coulomb forces act across the whole cell, but messages reach only a few cutoffs. The fields are
linear in the charges, so the network needs only the fields of unit charges on the atoms of each
species (in a cell: of neutral combinations of such charges). They have no trainable weights.
Charges are Gaussians: wide enough for smooth fields, and narrow enough to differ from point
charges only at distances below the cutoff. The fields are an Ewald sum (Ann. Phys. 369, 253
(1921), doi:10.1002/andp.19213690304) on a mesh (smooth particle mesh Ewald: Essmann et al., J.
Chem. Phys. 103, 8577 (1995), doi:10.1063/1.470117). For Ewald sums with learned charges see
Cheng, npj Comput. Mater. 11, 80 (2025), doi:10.1038/s41524-025-01577-7.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf
from jaxtyping import Array, Float, Int

from trajcast_jax.blocks import fold_blocks, in_blocks, rows_at_once
from trajcast_jax.system import System, inverse, transform

WIDTH = 1 / 3.5
"""Standard deviation σ of a Gaussian charge, in units of the cutoff. At the cutoff, its field
agrees with that of a point charge to 0.7 %."""
SPACING = 0.5
"""Largest spacing of mesh points along a lattice vector, in units of σ."""
ORDER = 6
"""Order of the B-splines that interpolate between atoms and mesh."""
ROWS = 2048
"""Atoms per block on CPUs. Each atom has 216 mesh points."""


def mesh_size(cell: Float[Array, "3 3"] | None, cutoff: float) -> tuple[int, int, int] | None:
    """Number of mesh points along each lattice vector; None for isolated molecules.

    `cell` (rows are lattice vectors) and `cutoff` are in Å.
    """
    if cell is None:
        return None
    lengths = np.linalg.norm(np.asarray(cell, np.float64), axis=-1)
    least = np.maximum(np.ceil(lengths / (SPACING * WIDTH * cutoff)), 2 * ORDER).astype(int)
    return tuple(_composite(n) for n in least.tolist())


def _composite(n: int) -> int:
    """Smallest number ≥ n with prime factors 2, 3 and 5 only, for fast Fourier transforms."""
    while math.gcd(n, 30**12) != n:
        n += 1
    return n


def far_field(
    positions: Float[Array, "atom 3"],
    cell: Float[Array, "3 3"] | None,
    sources: Float[Array, "atom field"],
    width: float,
    mesh: tuple[int, int, int] | None,
) -> Float[Array, "atom field 3"]:
    """Electric field (1/Å²) at every atom, for each column of charges.

    Every charge is a Gaussian of standard deviation `width` (Å), so its own field at its centre
    is 0. In a cell, all periodic images and a uniform neutralising background are included.

    Args:
      positions: Å.
      cell: Å; None for an isolated molecule.
      sources: charges of the atoms; 0 for padding.
      mesh: result of `mesh_size` for the cell.

    Raises:
      ValueError: there is a cell but no mesh.
    """
    if cell is None:
        return _direct(positions, sources, width)
    if mesh is None:
        raise ValueError(
            "The model has a far field, and a periodic cell needs a mesh for it, but the graph has "
            "none; make graphs by trajcast_jax.neighbors.graph.graph from a neighbour list."
        )
    return _on_mesh(positions, cell, sources, width, mesh)


def _direct(positions, sources, width):
    vectors = positions[:, None] - positions  # from j to i
    r = jnp.linalg.norm(vectors + 1e-12, axis=-1)
    x = jnp.maximum(r / (2**0.5 * width), 0.02)  # below, `per_vector` is constant to 2e-4
    per_vector = (erf(x) - 2 * x * jnp.exp(-(x**2)) / jnp.pi**0.5) / (2**0.5 * width * x) ** 3
    return jnp.einsum("ij,ijc,js->isc", per_vector, vectors, sources, precision="highest")


def _on_mesh(positions, cell, sources, width, mesh):
    to_fractional = inverse(cell)
    points = jnp.asarray(mesh, positions.dtype)
    fractional = transform(positions, to_fractional)
    places = (fractional - jnp.floor(fractional)) * points
    block = rows_at_once(len(places), ROWS)

    def spread(charges, places, sources):
        index, (w_x, w_y, w_z), _ = _stencil(places, mesh)
        shares = w_x[:, :, None, None] * w_y[:, None, :, None] * w_z[:, None, None, :]
        return charges.at[index].add(shares[..., None] * sources[:, None, None, None])

    charges = jnp.zeros((*mesh, sources.shape[-1]), positions.dtype)
    charges = fold_blocks(spread, charges, (places, sources), block)
    waves = jnp.fft.rfftn(charges, axes=(0, 1, 2))
    waves = waves * _response(to_fractional, mesh, width, waves.real.dtype)[..., None]
    potentials = jnp.fft.irfftn(waves, mesh, axes=(0, 1, 2))

    def slope(places):
        index, (w_x, w_y, w_z), (s_x, s_y, s_z) = _stencil(places, mesh)
        near = potentials[index]  # (atom, x, y, z, species)
        near = jnp.einsum(
            "axyzs,akz->axyks", near, jnp.stack([w_z, s_z], axis=1), precision="highest"
        )
        flat, up = near[..., 0, :], near[..., 1, :]
        rows = (
            jnp.einsum("axys,ax,ay->as", flat, s_x, w_y, precision="highest"),
            jnp.einsum("axys,ax,ay->as", flat, w_x, s_y, precision="highest"),
            jnp.einsum("axys,ax,ay->as", up, w_x, w_y, precision="highest"),
        )
        return jnp.stack(rows, axis=-1)

    return -transform(in_blocks(slope, (places,), block) * points, to_fractional.T)


def _stencil(places: Float[Array, "atom 3"], mesh):
    """Mesh indices of each atom's splines, and the splines' values and slopes, axis by axis.

    The index arrays of the three axes broadcast to (atom, x, y, z). Values and slopes are lists
    of three arrays (atom, spline).
    """
    first = jnp.floor(places)
    weights, slopes = _splines(places - first)  # (atom, axis, spline)
    index = first.astype(jnp.int32)[..., None] - jnp.arange(ORDER)
    index = index % jnp.asarray(mesh)[:, None]
    x, y, z = index[:, 0, :, None, None], index[:, 1, None, :, None], index[:, 2, None, None, :]
    of_axes = ([values[:, axis] for axis in range(3)] for values in (weights, slopes))
    return (x, y, z), *of_axes


def _splines(u: Float[Array, "*place"]):
    """Cardinal B-splines M(u + k), k = 0, …, ORDER − 1, of order `ORDER`, and their derivatives."""
    values, k = jnp.ones((*u.shape, 1), u.dtype), jnp.arange(ORDER, dtype=u.dtype)
    place = u[..., None] + k
    for n in range(2, ORDER + 1):
        slopes = _differences(values)
        here, before = _padded(values, 0, 1), _padded(values, 1, 0)
        x = place[..., :n]
        values = (x * here + (n - x) * before) / (n - 1)
    return values, slopes


def _padded(values, before, after):
    return jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(before, after)])


def _differences(values):
    return _padded(values, 0, 1) - _padded(values, 1, 0)


def _response(to_fractional, mesh, width, dtype) -> Float[Array, "x y z"]:
    """Factors from charges to potentials in reciprocal space, corrected for the spline shape."""
    knots, _ = _splines(jnp.ones((), dtype) * 0)
    numbers, shapes = [], []
    for axis, n in enumerate(mesh):
        m = np.fft.rfftfreq(n, 1 / n) if axis == 2 else np.fft.fftfreq(n, 1 / n)
        phases = np.exp(2j * np.pi * np.outer(m, np.arange(ORDER)) / n)
        shapes.append(1 / jnp.abs(jnp.asarray(phases, jnp.result_type(dtype, 1j)) @ knots) ** 2)
        numbers.append(jnp.asarray(m, dtype))
    grid = jnp.stack(jnp.meshgrid(*numbers, indexing="ij"), axis=-1)
    k = 2 * jnp.pi * transform(grid, to_fractional.T)
    squares = jnp.sum(k**2, axis=-1)
    smooth = jnp.exp(-0.5 * width**2 * squares) / jnp.where(squares > 0, squares, jnp.inf)
    x, y, z = shapes
    volume = 1 / jnp.abs(jnp.linalg.det(to_fractional))
    return 4 * jnp.pi / volume * math.prod(mesh) * smooth * x[:, None, None] * y[:, None] * z


def far_features(
    system: System,
    sources: Float[Array, "atom field"],
    cutoff: float,
    mesh: tuple[int, int, int] | None,
    time_step: float,
) -> Float[Array, "atom 2 field 3"]:
    """Far field (1/Å²) at the atoms, and its change over half a stride of free flight.

    `cutoff` is in Å and `time_step` in fs; `sources` and `mesh` are as in `far_field`.
    """
    half = system.positions + 0.5 * time_step * system.velocities
    fields = jax.vmap(far_field, in_axes=(0, None, None, None, None))
    both = jnp.stack([system.positions, half])
    now, later = fields(both, system.cell, sources, WIDTH * cutoff, mesh)
    return jnp.stack([now, later - now], axis=1)


def neutral_charges(counts: Int[np.ndarray, "species"]) -> Float[np.ndarray, "species field"]:
    """Orthonormal sets of species charges that are neutral for `counts` atoms of each species.

    There is one set fewer than species. Charges with a net total are left out because their field
    would encode absolute positions: in a sound wave of any wavelength, it is proportional to the
    displacement of the atoms.

    Raises:
      ValueError: there is only one species.
    """
    if len(counts) < 2:
        raise ValueError(
            "A far field in a periodic cell is one of charges that cancel, but all atoms are of "
            "one species; set model.far_field to false."
        )
    _, _, directions = np.linalg.svd(np.asarray(counts, np.float64)[None])
    return directions[1:].T


def decorrelation(features: Float[np.ndarray, "*frame atom 2 field 3"]) -> np.ndarray:
    """Matrices (2, field, field) that decorrelate the fields and scale them to mean square 1.

    Components with an amplitude below 1e-4 of the largest are scaled as if they had that 1e-4.
    """
    found = []
    for kind in np.moveaxis(np.asarray(features, np.float64), -3, 0):
        rows = np.moveaxis(kind, -2, 0).reshape(kind.shape[-2], -1)
        squares, directions = np.linalg.eigh(rows @ rows.T / rows.shape[1])
        floor = max(1e-8 * squares[-1], 1e-30)
        found.append(directions / np.sqrt(np.maximum(squares, floor)))
    return np.stack(found)
