"""The far field: what atoms beyond the cutoff do, as an input of the network.

Forces between charges reach through the whole cell, and messages carry them over a few
neighbourhoods only with effort. But they are linear in the charges: the fields of unit charges on
the atoms of each species, or in a cell of charges that cancel, are all that a network needs to
know, and need no weights. Charges are smeared as Gaussians, wide enough that fields are smooth,
narrow enough that only neighbours could tell; the sum is Ewald's (Ann. Phys. 369, 253 (1921),
doi:10.1002/andp.19213690304), on a mesh: Essmann et al., J. Chem. Phys. 103, 8577 (1995),
doi:10.1063/1.470117. Learned charges on such sums: Cheng, npj Comput. Mater. 11, 80 (2025),
doi:10.1038/s41524-025-01577-7.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf
from jaxtyping import Array, Float, Int

from trajcast_jax.layers import fold_blocks, in_blocks, rows_at_once
from trajcast_jax.system import System, inverse, transform

WIDTH = 1 / 3.5
"""Standard deviation σ of a charge, over the cutoff, where its field is a point's to 0.7 %."""
SPACING = 0.5
"""Largest distance of two points of the mesh along a lattice vector, over σ."""
ORDER = 6
"""Of the B-splines that carry charges to the mesh and fields back."""
ROWS = 2048
"""Atoms at a time on CPUs; each has 216 points."""


def mesh_size(cell: Float[Array, "3 3"] | None, cutoff: float) -> tuple[int, int, int] | None:
    """Points of the mesh along each lattice vector; None for isolated molecules."""
    if cell is None:
        return None
    lengths = np.linalg.norm(np.asarray(cell, np.float64), axis=-1)
    least = np.maximum(np.ceil(lengths / (SPACING * WIDTH * cutoff)), 2 * ORDER).astype(int)
    return tuple(_composite(n) for n in least.tolist())


def _composite(n: int) -> int:
    """The next number without prime factors above 5, which Fourier transforms are fast for."""
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
    """Fields (1/Å²) at every atom, one of each column of charges.

    A charge is a Gaussian of standard deviation `width` (Å), and so is its own field at its
    centre, 0. In a cell with all periodic images and a uniform background.

    Args:
      sources: charges of the atoms; 0 for padding.
      mesh: `mesh_size` of the cell.
    """
    if cell is None:
        return _direct(positions, sources, width)
    if mesh is None:
        raise ValueError(
            "The model has a far field, and a periodic cell needs a mesh for it, but the graph has "
            "none; make graphs by trajcast_jax.graph.graph from a neighbour list."
        )
    return _on_mesh(positions, cell, sources, width, mesh)


def _direct(positions, sources, width):
    vectors = positions[:, None] - positions  # from j to i
    r = jnp.linalg.norm(vectors + 1e-12, axis=-1)
    x = jnp.maximum(r / (2**0.5 * width), 0.02)  # below it what follows is constant to 2e-4
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
    """Where on the mesh splines of atoms are, for every axis as what indexes (atom, x, y, z); and
    for every axis their values, and their slopes, (atom, spline)."""
    first = jnp.floor(places)
    weights, slopes = _splines(places - first)  # (atom, axis, spline)
    index = first.astype(jnp.int32)[..., None] - jnp.arange(ORDER)
    index = index % jnp.asarray(mesh)[:, None]
    x, y, z = index[:, 0, :, None, None], index[:, 1, None, :, None], index[:, 2, None, None, :]
    of_axes = ([values[:, axis] for axis in range(3)] for values in (weights, slopes))
    return (x, y, z), *of_axes


def _splines(u: Float[Array, "*place"]):
    """Cardinal B-splines M(u + k), k = 0, 1, …, of order `ORDER`, and their derivatives."""
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
    """What makes potentials of charges, wave by wave, the splines' own shape undone."""
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
    """The far field, and what half a stride of free flight changes of it; 1/Å²."""
    half = system.positions + 0.5 * time_step * system.velocities
    fields = jax.vmap(far_field, in_axes=(0, None, None, None, None))
    both = jnp.stack([system.positions, half])
    now, later = fields(both, system.cell, sources, WIDTH * cutoff, mesh)
    return jnp.stack([now, later - now], axis=1)


def neutral_charges(counts: Int[np.ndarray, "species"]) -> Float[np.ndarray, "species field"]:
    """Charges of species that cancel in a cell with so many atoms of each, orthonormal.

    There is one field less than species. That of charges which do not cancel would tell where
    atoms are: in a wave of sound, however long, it is in proportion to their displacement.
    """
    if len(counts) < 2:
        raise ValueError(
            "A far field in a periodic cell is one of charges that cancel, but all atoms are of "
            "one species; set model.far_field to false."
        )
    _, _, directions = np.linalg.svd(np.asarray(counts, np.float64)[None])
    return directions[1:].T


def decorrelation(features: Float[np.ndarray, "*frame atom 2 field 3"]) -> np.ndarray:
    """(2, field, field): what makes fields uncorrelated, of mean square 1.

    What stays below 1e-4 of the largest amplitude is scaled by no more than that.
    """
    found = []
    for kind in np.moveaxis(np.asarray(features, np.float64), -3, 0):
        rows = np.moveaxis(kind, -2, 0).reshape(kind.shape[-2], -1)
        squares, directions = np.linalg.eigh(rows @ rows.T / rows.shape[1])
        floor = max(1e-8 * squares[-1], 1e-30)
        found.append(directions / np.sqrt(np.maximum(squares, floor)))
    return np.stack(found)
