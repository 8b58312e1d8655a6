"""Channel-wise tensor products with spherical harmonics: over neighbours, and per atom.

m_u^o = √(2l_o+1)·w_u·Σ CG(l_a, l_2, l_o) h_u^a Y^{l_2}, with one weight per channel and path
(input irrep a, harmonic l_2, output irrep o). e3nn calls this "uvu". Its Clebsch–Gordan
coefficients are Wigner 3j symbols of unit norm.

In this file, features have the layout (atom, component, channel). Elementwise operations are
fastest along contiguous channels.
"""

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int

from trajcast_jax.blocks import in_blocks, rows_at_once
from trajcast_jax.network.layers.couplings import (
    Coupling,
    Path,
    channelwise_paths,
    coefficients,
    couplings,
    grouped,
)
from trajcast_jax.network.layers.linear import normal

DENSITY_LIMIT = 16
"""Largest number of radial functions for which contracting neighbours first is faster (on CPU)."""
DENSITY_NEIGHBORS = 8
"""Smallest mean number of neighbours for which contracting neighbours first is faster."""
CACHED_WEIGHTS = 200_000
"""Number of edge weights that fit in a core's cache; it sets the number of atoms per block."""


# This file uses `lax.split` instead of indexing. The transpose of a split is one concatenation
# instead of many pads, which makes the backward pass several times faster on CPU.
def _singles(x: Float[Array, "a b c"]) -> list[Float[Array, "a 1 c"]]:
    return lax.split(x, (1,) * x.shape[1], 1)


def _couple(products: Float[Array, "atom lm m channel"], path: Path) -> jax.Array:
    """Contract (m_l, m_in) with CG by fused sums over its non-zero entries.

    Returns (atom, m_out, channel).
    """
    atoms, n_l, n_in, channels = products.shape
    terms = _singles(products.reshape(atoms, n_l * n_in, channels))
    table = coefficients(path.ir_in.l, path.l, path.ir_out.l).reshape(n_l * n_in, -1)
    columns = [
        sum(float(c) * terms[k] for k, c in enumerate(column) if abs(c) > 1e-9)
        for column in table.T
    ]
    return jnp.concatenate(columns, axis=1)


def _by_degree(harmonics: Float[Array, "a b lm ..."]) -> list[jax.Array]:
    """Split the (lmax+1)² components into l = 0, 1, ..."""
    lmax = int(harmonics.shape[2] ** 0.5) - 1
    return lax.split(harmonics, [2 * l + 1 for l in range(lmax + 1)], 2)  # noqa: E741


def _channels_last(h: e3nn.IrrepsArray) -> list[jax.Array]:
    return [chunk.swapaxes(-1, -2) for chunk in h.chunks]


def _same_degree(features: list[jax.Array], irreps: list[e3nn.Irrep]) -> dict[int, jax.Array]:
    """Features by degree; parities are concatenated along the channel axis."""
    groups = grouped(zip(features, irreps, strict=True), lambda pair: pair[1].l)
    return {degree: jnp.concatenate([x for x, _ in same], axis=-1) for degree, same in groups}


def _joined(paths: list[Path], outputs: list[jax.Array]) -> list[jax.Array]:
    """Concatenate the outputs of all paths with the same output irrep along the channel axis.

    Paths are sorted by output irrep.
    """
    groups = grouped(zip(paths, outputs, strict=True), lambda pair: pair[0].ir_out)
    return [jnp.concatenate([out for _, out in group], axis=-1) for _, group in groups]


def _irreps_array(paths: list[Path], joined: list[jax.Array]) -> e3nn.IrrepsArray:
    """Convert the result of `_joined` to an IrrepsArray."""
    found = [ir for ir, _ in grouped([path.ir_out for path in paths], lambda ir: ir)]
    irreps = [(x.shape[-1], ir) for x, ir in zip(joined, found, strict=True)]
    chunks = [x.swapaxes(-1, -2) for x in joined]
    return e3nn.from_chunks(irreps, chunks, joined[0].shape[:-2], joined[0].dtype)


def _density(
    features: list[Float[Array, "sender m channel"]],
    radial: Float[Array, "atom neighbor n"],
    harmonics: Float[Array, "atom neighbor lm"],
    senders: Int[Array, "atom neighbor"],
    weights: Float[Array, "n path channel"],
    paths: list[Path],
    irreps: list[e3nn.Irrep],
) -> list[jax.Array]:
    """Compute Σ_j m_ij by contracting neighbours first: one matrix product per atom.

    All paths are linear in D_i = Σ_j [R_n(r_ij) Y_lm(r_ij)]ᵀ ⊗ h_j, so no per-edge path tensor is
    needed. This is fastest for a small number n of radial functions.
    """
    atoms, slots, n = radial.shape
    channels = features[0].shape[-1]
    flat = jnp.concatenate([x.reshape(len(x), -1) for x in features], axis=1)
    basis = (radial[..., :, None] * harmonics[..., None, :]).reshape(atoms, slots, -1)
    density = jnp.einsum("ijr,ijc->irc", basis, flat[senders])
    density = density.reshape(atoms, n, harmonics.shape[-1], -1, channels)
    dimensions = [ir.dim for ir in irreps]
    groups = [lax.split(y, dimensions, 3) for y in _by_degree(density)]
    outputs = []
    for path, weight in zip(paths, _singles(weights), strict=True):
        group = groups[path.l][irreps.index(path.ir_in)]
        outputs.append(_couple((group * weight[None, :, :, None, :]).sum(1), path))
    return _joined(paths, outputs)


def _direct(
    features: list[Float[Array, "sender m channel"]],
    radial: Float[Array, "atom neighbor n"],
    harmonics: Float[Array, "atom neighbor lm"],
    senders: Int[Array, "atom neighbor"],
    weights: Float[Array, "n path channel"],
    paths: list[Path],
    irreps: list[e3nn.Irrep],
) -> list[jax.Array]:
    """Compute Σ_j m_ij by applying edge weights first: fastest for a large number n.

    For each coupling, M_i = Σ_{j,m} [Σ CG Y(r_ij)]_{m,m_o} [w_ij h_j]_m is one matrix product per
    atom over neighbours and components; parities are treated as further channels.
    """
    gathered = {degree: x[senders] for degree, x in _same_degree(features, irreps).items()}
    atoms, slots, n = radial.shape
    channels = weights.shape[-1]
    groups = couplings(paths, irreps)
    edge_weights = _grouped_weights(radial.reshape(-1, n), weights, groups)
    degrees, outputs = _by_degree(harmonics), {}
    for group, weight in zip(groups, edge_weights, strict=True):
        weight = weight.reshape(atoms, slots, 1, -1)
        values = _channel_blocks(gathered[group.l_in], channels, group.inputs)
        table = jnp.asarray(coefficients(group.l_in, group.l, group.l_out), values.dtype)
        angular = jnp.einsum("ijl,lmo->ijmo", degrees[group.l], table)
        product = jnp.einsum(
            "ijo,ijc->ioc",
            angular.reshape(atoms, -1, 2 * group.l_out + 1),
            (weight * values).reshape(atoms, -1, weight.shape[-1]),
        )
        parts = lax.split(product, [channels] * len(group.paths), 2)
        outputs |= dict(zip(group.paths, parts, strict=True))
    return _joined(paths, [outputs[k] for k in range(len(paths))])


def _grouped_weights(
    features: Float[Array, "row n"], weights: Float[Array, "n path channel"], groups: list[Coupling]
) -> list[Float[Array, "row path_channel"]]:
    """Path weights of every row, features @ weights, as one array per group."""
    n, n_paths, channels = weights.shape
    # A permutation matrix: slices and their transposes would be hundreds of operations.
    order = np.eye(n_paths)[:, [k for group in groups for k in group.paths]]
    order = jnp.asarray(order, weights.dtype)
    ordered = jnp.einsum("npc,pq->nqc", weights, order, precision="highest")
    of_rows = features @ ordered.reshape(n, -1)
    return lax.split(of_rows, [len(g.paths) * channels for g in groups], 1)


def _per_atom(
    features: list[Float[Array, "atom m channel"]],
    scalars: Float[Array, "atom n"],
    harmonics: Float[Array, "atom lm"],
    weights: Float[Array, "n path channel"],
    paths: list[Path],
    irreps: list[e3nn.Irrep],
) -> list[jax.Array]:
    """Compute h_i ⊗ Y and weight the result: one matrix product per atom and degree of h.

    The matrices Σ CG Y of all couplings of a degree are concatenated and multiplied by h.
    """
    channels, groups = weights.shape[-1], couplings(paths, irreps)
    path_weights = iter(_grouped_weights(scalars, weights, groups))
    own, outputs = _same_degree(features, irreps), {}
    for l_in, same in grouped(groups, lambda group: group.l_in):
        table = jnp.asarray(_side_by_side(same, harmonics.shape[1]), harmonics.dtype)
        angular = jnp.einsum("il,lmo->imo", harmonics, table)
        products = jnp.einsum("imo,imc->ioc", angular, own[l_in])
        parts = lax.split(products, [2 * group.l_out + 1 for group in same], 1)
        for group, part in zip(same, parts, strict=True):
            weighted = _channel_blocks(part, channels, group.inputs) * next(path_weights)[:, None]
            of_paths = lax.split(weighted, [channels] * len(group.paths), 2)
            outputs |= dict(zip(group.paths, of_paths, strict=True))
    return _joined(paths, [outputs[k] for k in range(len(paths))])


def _side_by_side(groups: list[Coupling], n_harmonics: int) -> np.ndarray:
    """Concatenate the coefficients of couplings with the same l_in to (lm, m_in, all m_out)."""
    tables = []
    for group in groups:
        table = coefficients(group.l_in, group.l, group.l_out)
        whole = np.zeros((n_harmonics, *table.shape[1:]))
        whole[group.l**2 : (group.l + 1) ** 2] = table
        tables.append(whole)
    return np.concatenate(tables, axis=-1)


def _direct_again(paths: list[Path], irreps: list[e3nn.Irrep]):
    """`_direct` with rematerialisation: derivatives recompute edge intermediates to save memory."""
    return jax.checkpoint(lambda *arrays: _direct(*arrays, paths, irreps))


def _density_forward(paths: list[Path], irreps: list[e3nn.Irrep]):
    """`_density` with the derivatives of `_direct`, which take half the time.

    The densities D_i and their cotangents are many times larger than the inputs.
    """
    direct = _direct_again(paths, irreps)

    @jax.custom_jvp
    def convolve(*arrays):
        return _density(*arrays, paths, irreps)

    @convolve.defjvp
    def derivative(primals, tangents):
        return convolve(*primals), jax.jvp(direct, primals, tangents)[1]

    return convolve


def _channel_blocks(x: jax.Array, channels: int, blocks: tuple[int, ...]) -> jax.Array:
    """Select `blocks` of the last axis, which consists of blocks of `channels` channels."""
    if len(blocks) * channels == x.shape[-1]:
        return x
    return jnp.concatenate(
        [lax.slice_in_dim(x, k * channels, (k + 1) * channels, axis=-1) for k in blocks], axis=-1
    )


class Convolution(nn.Module):
    """Sum of messages M_i = Σ_j m_ij over the neighbours of i, with weights w_ij = radial·W/√n.

    `radial` holds the last hidden features of the radial network, which are 0 in empty slots;
    the parameter `weights` (W) is the network's output layer.
    """

    irreps_out: e3nn.Irreps
    lmax: int
    neighbors: float = 10.0
    """Mean number of neighbours, which selects the algorithm. The number of slots must not select
    it: results must be bit-identical when a list grows."""
    block: int = 0
    """Atoms per block. With 0, a few atoms on CPUs and all atoms on accelerators."""

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
        features, irreps = _channels_last(h), [ir for _, ir in h.irreps]
        # Blocks of few atoms keep the intermediates in the cache.
        if n <= DENSITY_LIMIT and self.neighbors >= DENSITY_NEIGHBORS:
            route, block = _density_forward(paths, irreps), 16
        else:
            route = _direct_again(paths, irreps)
            # A list has about 1.5 times as many slots as neighbours.
            weights_of_atom = len(paths) * channels * 1.5 * self.neighbors
            block = max(1, round(CACHED_WEIGHTS / weights_of_atom))
        block = self.block or rows_at_once(radial.shape[0], block)
        outputs = in_blocks(
            lambda r, y, j: route(features, r, y, j, weights),
            (radial, harmonics, senders),
            block,
        )
        return _irreps_array(paths, outputs)


class NodeTensorProduct(nn.Module):
    """Tensor product h_i ⊗ Y(v_i) per atom, with weights linear in the atom's `features`."""

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
        arrays = _channels_last(h), features, harmonics, weights * n**-0.5
        return _irreps_array(paths, _per_atom(*arrays, paths, [ir for _, ir in h.irreps]))
