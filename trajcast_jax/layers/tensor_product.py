"""Channel-wise tensor products with spherical harmonics: over neighbours, and per atom.

m_u^o = √(2l_o+1)·w_u·Σ CG(l_a, l_2, l_o) h_u^a Y^{l_2}: one weight per channel per path
(input irrep a, harmonic l_2, output irrep o). e3nn calls this "uvu"; its Clebsch–Gordan
coefficients are the unit-norm Wigner 3j.

Inside this file features are (atom, component, channel): channels last, so that every
elementary operation runs along them.
"""

from typing import NamedTuple

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int

from trajcast_jax.layers.linear import normal
from trajcast_jax.layers.radial import unit_vectors

DENSITY_LIMIT = 16
"""Contracting neighbours first wins up to about so many radial functions (measured on CPU)."""


class Path(NamedTuple):
    """One term of the tensor product: input irrep ⊗ harmonic of degree `l` → output irrep."""

    ir_in: e3nn.Irrep
    l: int  # noqa: E741 - the name of the degree
    ir_out: e3nn.Irrep


def channelwise_paths(irreps_in: e3nn.Irreps, lmax: int, allowed: e3nn.Irreps) -> list[Path]:
    """Every path into the `allowed` irreps, by input, then l, then l_out; then sorted by output."""
    paths = [
        Path(ir, l, ir_out)
        for _, ir in e3nn.Irreps(irreps_in)
        for l in range(lmax + 1)  # noqa: E741
        for ir_out in sorted(ir * e3nn.Irrep(l, (-1) ** l), key=lambda o: o.l)
        if ir_out in [o for _, o in e3nn.Irreps(allowed)]
    ]
    return sorted(paths, key=lambda path: (path.ir_out.l, path.ir_out.p))


def directions(vectors: Float[Array, "... 3"], lmax: int) -> Float[Array, "... m"]:
    """Real spherical harmonics l = 0..lmax of v/|v|, |Y_l|² = 2l+1; zero for l ≥ 1 at v = 0."""
    irreps = e3nn.Irreps.spherical_harmonics(lmax)
    unit = e3nn.IrrepsArray("1o", unit_vectors(vectors))
    y = e3nn.spherical_harmonics(irreps, unit, False, "component")
    return y.array


def _coefficients(path: Path) -> np.ndarray:
    """√(2l_o+1)·CG as an array (m_l, m_in, m_out)."""
    cg = np.asarray(e3nn.clebsch_gordan(path.ir_in.l, path.l, path.ir_out.l), np.float64)
    return cg.transpose(1, 0, 2) * np.sqrt(2 * path.ir_out.l + 1)


def _singles(x: jax.Array, axis: int) -> list[jax.Array]:
    return lax.split(x, (1,) * x.shape[axis], axis)


def _couple(products: Float[Array, "atom lm m channel"], path: Path) -> jax.Array:
    """Σ CG over (m_l, m_in) as fused sums over its few non-zero entries → (atom, m_out, channel).

    `lax.split` and not indexing: its transpose is one concatenation instead of a pile of pads,
    which makes the backward pass three times faster on CPU.
    """
    coefficients = _coefficients(path)
    atoms, n_l, n_in, channels = products.shape
    terms = _singles(products.reshape(atoms, n_l * n_in, channels), 1)
    table = coefficients.reshape(n_l * n_in, -1)
    columns = [
        sum(float(c) * terms[k] for k, c in enumerate(column) if abs(c) > 1e-9)
        for column in table.T
    ]
    return jnp.concatenate(columns, axis=1)


def _dimensions(irreps: list[e3nn.Irrep]) -> list[int]:
    return [ir.dim for ir in irreps]


def _by_degree(harmonics: jax.Array, axis: int) -> list[jax.Array]:
    """Split an axis of (lmax+1)² components into l = 0, 1, ..."""
    lmax = int(harmonics.shape[axis] ** 0.5) - 1
    return lax.split(harmonics, [2 * l + 1 for l in range(lmax + 1)], axis)  # noqa: E741


def _channels_last(h: e3nn.IrrepsArray) -> list[jax.Array]:
    return [chunk.swapaxes(-1, -2) for chunk in h.chunks]


def _collect(paths: list[Path], outputs: list[jax.Array]) -> e3nn.IrrepsArray:
    """One block per path, in the order of the paths, as an IrrepsArray."""
    irreps = [(out.shape[-1], path.ir_out) for path, out in zip(paths, outputs, strict=True)]
    chunks = [out.swapaxes(-1, -2) for out in outputs]
    return e3nn.from_chunks(irreps, chunks, outputs[0].shape[:-2], outputs[0].dtype)


def _density(
    features: Float[Array, "sender m channel"],
    radial: Float[Array, "atom neighbor n"],
    harmonics: Float[Array, "atom neighbor lm"],
    senders: Int[Array, "atom neighbor"],
    weights: Float[Array, "n path channel"],
    paths: list[Path],
    irreps: list[e3nn.Irrep],
) -> list[jax.Array]:
    """Σ_j m_ij with neighbours contracted first: one matrix product per atom.

    D_i = Σ_j [R_n(r_ij) Y_lm(r_ij)]ᵀ ⊗ h_j holds all that the paths need, so no per-edge
    path tensor ever exists. Cheapest while the number of radial functions n is small.
    """
    atoms, slots, n = radial.shape
    _, components, channels = features.shape
    neighbors = features.reshape(-1, components * channels)[senders]
    basis = (radial[..., :, None] * harmonics[..., None, :]).reshape(atoms, slots, -1)
    density = jnp.einsum("ijr,ijc->irc", basis, neighbors)
    density = density.reshape(atoms, n, harmonics.shape[-1], components, channels)
    groups = [lax.split(y, _dimensions(irreps), 3) for y in _by_degree(density, 2)]
    outputs = []
    for path, weight in zip(paths, _singles(weights, 1), strict=True):
        group = groups[path.l][irreps.index(path.ir_in)]
        outputs.append(_couple((group * weight[None, :, :, None, :]).sum(1), path))
    return outputs


def _direct(
    features: Float[Array, "sender m channel"],
    radial: Float[Array, "atom neighbor n"],
    harmonics: Float[Array, "atom neighbor lm"],
    senders: Int[Array, "atom neighbor"],
    weights: Float[Array, "n path channel"],
    paths: list[Path],
    irreps: list[e3nn.Irrep],
) -> list[jax.Array]:
    """The same sum edge by edge: cheapest when n is large (a wide radial network)."""
    n, n_paths, channels = weights.shape
    edge_weights = (radial @ weights.reshape(n, -1)).reshape(*senders.shape, n_paths, channels)
    ys = [_singles(y, 2) for y in _by_degree(harmonics[..., None], 2)]
    parts = lax.split(features[senders], _dimensions(irreps), 2)
    values = [[value[:, :, 0] for value in _singles(part, 2)] for part in parts]
    outputs = []
    for path, weight in zip(paths, _singles(edge_weights, 2), strict=True):
        columns = []
        for table in np.moveaxis(_coefficients(path), -1, 0):
            angular = [
                sum(float(c) * y[:, :, 0] for c, y in zip(row, ys[path.l], strict=True) if c)
                for row in np.where(np.abs(table) > 1e-9, table, 0.0).T
            ]
            products = zip(angular, values[irreps.index(path.ir_in)], strict=True)
            message = sum(a * value for a, value in products if not isinstance(a, int))
            columns.append((message * weight[:, :, 0]).sum(1))
        outputs.append(jnp.stack(columns, axis=1))
    return outputs


def _in_blocks(function, arrays, block: int):
    """`function` over blocks of leading rows, one after the other, results joined."""
    rows = arrays[0].shape[0]
    if rows <= block:
        return function(*arrays)
    padding = -rows % block
    padded = [jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1)) for x in arrays]
    stacked = [x.reshape(-1, block, *x.shape[1:]) for x in padded]
    results = lax.map(lambda block_arrays: function(*block_arrays), stacked)
    return [x.reshape(-1, *x.shape[2:])[:rows] for x in results]


class Convolution(nn.Module):
    """M_i = Σ_j m_ij over the neighbours of i; the weights are linear in `radial`.

    `radial` holds the last hidden features of the radial network (times the envelope, so
    zero for absent neighbours), `weights` its last layer: w_ij = radial·W/√n.
    """

    irreps_out: e3nn.Irreps
    lmax: int
    block: int = 0
    """Atoms per block; 0 chooses: a few on CPU, all at once on accelerators."""

    @nn.compact
    def __call__(
        self,
        h: e3nn.IrrepsArray,
        radial: Float[Array, "atom neighbor n"],
        harmonics: Float[Array, "atom neighbor lm"],
        senders: Int[Array, "atom neighbor"],
    ) -> e3nn.IrrepsArray:
        paths = channelwise_paths(h.irreps, self.lmax, self.irreps_out)
        n, channels = radial.shape[-1], h.irreps[0].mul
        weights = self.param("weights", normal, (n, len(paths), channels)).astype(h.dtype)
        weights = weights * n**-0.5
        features = jnp.concatenate(_channels_last(h), axis=1)
        irreps = [ir for _, ir in h.irreps]
        # Blocks keep what one atom's sums need in the cache.
        route, block = (
            (_density, 16)
            if n <= DENSITY_LIMIT
            else (jax.checkpoint(_direct, static_argnums=(5, 6)), 4)
        )
        block = self.block or (block if jax.default_backend() == "cpu" else radial.shape[0])
        outputs = _in_blocks(
            lambda r, y, j: route(features, r, y, j, weights, paths, irreps),
            (radial, harmonics, senders),
            block,
        )
        return _collect(paths, outputs)


class NodeTensorProduct(nn.Module):
    """h_i ⊗ Y(v_i) per atom, with weights linear in the atom's scalar `features`."""

    irreps_out: e3nn.Irreps
    lmax: int

    @nn.compact
    def __call__(
        self,
        h: e3nn.IrrepsArray,
        features: Float[Array, "atom n"],
        harmonics: Float[Array, "atom lm"],
    ) -> e3nn.IrrepsArray:
        paths = channelwise_paths(h.irreps, self.lmax, self.irreps_out)
        n, channels = features.shape[-1], h.irreps[0].mul
        weights = self.param("weights", normal, (n, len(paths), channels)).astype(h.dtype)
        per_atom = (features @ weights.reshape(n, -1)) * n**-0.5
        per_atom = _singles(per_atom.reshape(-1, len(paths), channels), 1)
        degrees = _by_degree(harmonics, 1)
        parts = dict(zip((ir for _, ir in h.irreps), _channels_last(h), strict=True))
        outputs = []
        for path, weight in zip(paths, per_atom, strict=True):
            value = parts[path.ir_in] * weight
            outputs.append(_couple(degrees[path.l][:, :, None, None] * value[:, None], path))
        return _collect(paths, outputs)
