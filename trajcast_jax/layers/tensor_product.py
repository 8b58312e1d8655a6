"""Channel-wise tensor products with spherical harmonics: over neighbours, and per atom.

m_u^o = √(2l_o+1)·w_u·Σ CG(l_a, l_2, l_o) h_u^a Y^{l_2}: one weight per channel per path
(input irrep a, harmonic l_2, output irrep o). e3nn calls this "uvu"; its Clebsch–Gordan
coefficients are the unit-norm Wigner 3j.

Inside this file features are (atom, component, channel): channels last, so that every
elementary operation runs along them.
"""

import itertools
from typing import NamedTuple

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int

from trajcast_jax.layers.blocks import in_blocks, rows_at_once
from trajcast_jax.layers.linear import normal
from trajcast_jax.layers.radial import unit_vectors

DENSITY_LIMIT = 16
"""Contracting neighbours first wins up to about so many radial functions (measured on CPU)"""
DENSITY_NEIGHBORS = 8
"""and from so many neighbours on, in the mean."""
CACHED_WEIGHTS = 200_000
"""Weights of edges that one block of atoms holds at a time: what stays in a core's cache."""


class Path(NamedTuple):
    """One term of the tensor product: input irrep ⊗ harmonic of degree `l` → output irrep."""

    ir_in: e3nn.Irrep
    l: int  # noqa: E741 - the name of the degree
    ir_out: e3nn.Irrep


class Coupling(NamedTuple):
    """The paths that differ in parity only: they share their Clebsch–Gordan coefficients.

    Attributes:
      paths: their places among all paths.
      inputs: the places of their inputs among the input irreps of degree l_in.
    """

    l_in: int
    l: int  # noqa: E741
    l_out: int
    paths: tuple[int, ...]
    inputs: tuple[int, ...]


def _grouped(items, key) -> list[tuple]:
    """(key, items) for every run of neighbours with the same key."""
    return [(k, list(group)) for k, group in itertools.groupby(items, key)]


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


def couplings(paths: list[Path], irreps: list[e3nn.Irrep]) -> list[Coupling]:
    """The paths from `irreps`, grouped."""
    degrees = lambda k: (paths[k].ir_in.l, paths[k].l, paths[k].ir_out.l)  # noqa: E731
    by_input = sorted(range(len(paths)), key=lambda k: (degrees(k), irreps.index(paths[k].ir_in)))
    groups = []
    for key, group in _grouped(by_input, degrees):
        same = [ir for ir in irreps if ir.l == key[0]]
        inputs = tuple(same.index(paths[k].ir_in) for k in group)
        groups.append(Coupling(*key, tuple(group), inputs))
    return groups


def directions(vectors: Float[Array, "... 3"], lmax: int) -> Float[Array, "... m"]:
    """Real spherical harmonics l = 0..lmax of v/|v|, |Y_l|² = 2l+1; zero for l ≥ 1 at v = 0."""
    irreps = e3nn.Irreps.spherical_harmonics(lmax)
    unit = e3nn.IrrepsArray("1o", unit_vectors(vectors))
    y = e3nn.spherical_harmonics(irreps, unit, False, "component")
    return y.array


def _coefficients(l_in: int, l: int, l_out: int) -> np.ndarray:  # noqa: E741
    """√(2l_o+1)·CG as an array (m_l, m_in, m_out)."""
    cg = np.asarray(e3nn.clebsch_gordan(l_in, l, l_out), np.float64)
    return cg.transpose(1, 0, 2) * np.sqrt(2 * l_out + 1)


# `lax.split` and not indexing, everywhere: its transpose is one concatenation instead of a pile
# of pads, which makes the backward pass several times faster on CPU.
def _singles(x: Float[Array, "a b c"]) -> list[Float[Array, "a 1 c"]]:
    return lax.split(x, (1,) * x.shape[1], 1)


def _couple(products: Float[Array, "atom lm m channel"], path: Path) -> jax.Array:
    """Σ CG over (m_l, m_in), as fused sums over its non-zero entries: (atom, m_out, channel)."""
    atoms, n_l, n_in, channels = products.shape
    terms = _singles(products.reshape(atoms, n_l * n_in, channels))
    table = _coefficients(path.ir_in.l, path.l, path.ir_out.l).reshape(n_l * n_in, -1)
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
    """Features by degree, parities joined along the channels."""
    groups = _grouped(zip(features, irreps, strict=True), lambda pair: pair[1].l)
    return {degree: jnp.concatenate([x for x, _ in same], axis=-1) for degree, same in groups}


def _joined(paths: list[Path], outputs: list[jax.Array]) -> list[jax.Array]:
    """One output per path, joined along the channels to one per irrep (paths are sorted by it)."""
    groups = _grouped(zip(paths, outputs, strict=True), lambda pair: pair[0].ir_out)
    return [jnp.concatenate([out for _, out in group], axis=-1) for _, group in groups]


def _irreps_array(paths: list[Path], joined: list[jax.Array]) -> e3nn.IrrepsArray:
    """What `_joined` returns as an IrrepsArray."""
    found = [ir for ir, _ in _grouped([path.ir_out for path in paths], lambda ir: ir)]
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
    """Σ_j m_ij with neighbours contracted first: one matrix product per atom.

    D_i = Σ_j [R_n(r_ij) Y_lm(r_ij)]ᵀ ⊗ h_j holds all that the paths need, so no per-edge
    path tensor ever exists. Cheapest while the number of radial functions n is small.
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
    """The same sum with edge weights first: cheapest when n is large (a wide radial network).

    M_i = Σ_{j,m} [Σ CG Y(r_ij)]_{m,m_o} [w_ij h_j]_m is, for each coupling, one matrix product
    per atom over neighbours and components together; parities are further channels of it.
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
        table = jnp.asarray(_coefficients(group.l_in, group.l, group.l_out), values.dtype)
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
    """The weights of every row's paths, group by group."""
    n, n_paths, channels = weights.shape
    # By a matrix, whose transpose is one too: slices and their transposes would be hundreds.
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
    """h_i ⊗ Y, weighted afterwards: for each degree of h one matrix product per atom.

    Σ CG Y for all couplings of that degree side by side, times the components of h.
    """
    channels, groups = weights.shape[-1], couplings(paths, irreps)
    path_weights = iter(_grouped_weights(scalars, weights, groups))
    own, outputs = _same_degree(features, irreps), {}
    for l_in, same in _grouped(groups, lambda group: group.l_in):
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
    """Coefficients of couplings with one l_in as an array (lm, m_in, m_out of all)."""
    tables = []
    for group in groups:
        table = _coefficients(group.l_in, group.l, group.l_out)
        whole = np.zeros((n_harmonics, *table.shape[1:]))
        whole[group.l**2 : (group.l + 1) ** 2] = table
        tables.append(whole)
    return np.concatenate(tables, axis=-1)


def _direct_again(paths: list[Path], irreps: list[e3nn.Irrep]):
    """`_direct`, computed again for its derivatives instead of keeping what edges hold."""
    return jax.checkpoint(lambda *arrays: _direct(*arrays, paths, irreps))


def _density_forward(paths: list[Path], irreps: list[e3nn.Irrep]):
    """`_density`, with the derivatives of `_direct`, which cost half.

    The densities are many times as large as what they are made of, and so are their cotangents.
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
    """Some of the blocks of so many channels that the last axis consists of."""
    if len(blocks) * channels == x.shape[-1]:
        return x
    return jnp.concatenate(
        [lax.slice_in_dim(x, k * channels, (k + 1) * channels, axis=-1) for k in blocks], axis=-1
    )


class Convolution(nn.Module):
    """M_i = Σ_j m_ij over the neighbours of i; the weights are linear in `radial`.

    `radial` holds the last hidden features of the radial network (times the envelope, so
    zero for absent neighbours), `weights` its last layer: w_ij = radial·W/√n.
    """

    irreps_out: e3nn.Irreps
    lmax: int
    neighbors: float = 10.0
    """Their mean number, which chooses the way to sum messages. Not the number of slots: results
    must not change by a bit when a list grows."""
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
        features, irreps = _channels_last(h), [ir for _, ir in h.irreps]
        # Blocks keep what one atom's sums need in the cache.
        if n <= DENSITY_LIMIT and self.neighbors >= DENSITY_NEIGHBORS:
            route, block = _density_forward(paths, irreps), 16
        else:
            route = _direct_again(paths, irreps)
            # A list has about half as many slots again as it has neighbours.
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
        arrays = _channels_last(h), features, harmonics, weights * n**-0.5
        return _irreps_array(paths, _per_atom(*arrays, paths, [ir for _, ir in h.irreps]))
