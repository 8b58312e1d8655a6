"""SOAP: Adam in the slowly changing eigenbasis of Shampoo's preconditioner.

Vyas et al., ICLR 2025 (arXiv:2409.11321); optax does not have it. Equivariant layers mix all
channels of an irrep by one matrix, whose gradients are strongly correlated. Adam scales every
weight separately and cannot use these correlations.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

COVARIANCE_DECAY = 0.95
REFRESH = 10
"""Number of updates between two refreshes of the eigenbases."""
LARGEST = 2048
"""Longest side of a matrix with an eigenbasis; for longer sides it would be too expensive."""


class SoapState(NamedTuple):
    """State of `scale_by_soap`. Lists have one stack of matrices per leaf of the tree.

    Attributes:
      count: number of updates.
      mu, nu: running means of the gradient, and of its square in the eigenbases.
      left, right: running means of G Gᵀ and Gᵀ G.
      left_basis, right_basis: their eigenvectors in columns; 0 × 0 for a side without a basis.
    """

    count: Int[Array, ""]
    mu: list[jax.Array]
    nu: list[jax.Array]
    left: list[jax.Array]
    right: list[jax.Array]
    left_basis: list[jax.Array]
    right_basis: list[jax.Array]


def _matrices(x: jax.Array) -> jax.Array:
    """Convert a weight to a stack of matrices, one per index of its middle axis (path, species).

    A single tall matrix for all paths would be many times as expensive, and learned less in the
    same number of updates.
    """
    return x.swapaxes(0, 1) if x.ndim == 3 else x.reshape(x.shape[0], -1)


def _weight(matrices: jax.Array, like: jax.Array) -> jax.Array:
    """Inverse of `_matrices`, for a weight with the shape of `like`."""
    return matrices.swapaxes(0, 1) if like.ndim == 3 else matrices.reshape(like.shape)


def _square(x: jax.Array, axis: int) -> jax.Array:
    side = x.shape[axis]
    return jnp.zeros((*x.shape[:-2], side, side) if side <= LARGEST else (0, 0), x.dtype)


def _turn(x: jax.Array, left: jax.Array, right: jax.Array, back: bool = False) -> jax.Array:
    """Transform x to the eigenbases, or back."""
    if left.size:
        x = (left if back else left.mT) @ x
    if right.size:
        x = x @ (right.mT if back else right)
    return x


def _refreshed(covariances: jax.Array, bases: jax.Array, first: jax.Array) -> jax.Array:
    """Refresh a stack of eigenbases: exactly at first, then by one step of orthogonal iteration."""

    def iterate(_):
        turned = covariances @ bases
        by_size = jnp.argsort(-jnp.sum(bases * turned, axis=-2))
        ordered = jnp.take_along_axis(turned, by_size[..., None, :], axis=-1)
        return jnp.linalg.qr(ordered)[0]

    return jax.lax.cond(first, lambda _: jnp.linalg.eigh(covariances)[1], iterate, None)


def _all_refreshed(
    covariances: list[jax.Array], bases: list[jax.Array], first: jax.Array
) -> list[jax.Array]:
    """Refresh all eigenbases, those of one side length as one stack.

    A decomposition of its own for each weight would be most of the compiler's work in training.
    """
    groups: dict[tuple, list[int]] = {}
    for place, covariance in enumerate(covariances):
        if covariance.size:
            groups.setdefault((covariance.shape[-1], covariance.dtype), []).append(place)
    refreshed = list(bases)
    for (side, _), places in groups.items():
        parts = [[x[k].reshape(-1, side, side) for k in places] for x in (covariances, bases)]
        stack = _refreshed(*map(jnp.concatenate, parts), first)
        ends = np.cumsum([len(part) for part in parts[0]])[:-1]
        for place, part in zip(places, jnp.split(stack, ends), strict=True):
            refreshed[place] = part.reshape(bases[place].shape)
    return refreshed


def scale_by_soap(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adam's step in the eigenbases of G Gᵀ and Gᵀ G.

    A weight with three axes is a stack of matrices, one per index of its middle axis. A weight
    with one axis has a basis for this axis only.

    Args:
      b1: decay of the mean gradient.
      b2: decay of the squared gradient.
      eps: added to the root of the squared gradient.
    """

    def init(params):
        matrices = [_matrices(x) for x in jax.tree.leaves(params)]
        zeros = lambda: [jnp.zeros_like(x) for x in matrices]  # noqa: E731 - separate buffers
        squares = lambda axis: [_square(x, axis) for x in matrices]  # noqa: E731
        # The bases are zero here; the first update computes them.
        return SoapState(
            jnp.zeros((), jnp.int32), zeros(), zeros(),
            squares(-2), squares(-1), squares(-2), squares(-1),
        )  # fmt: skip

    def mean(old, new):
        # Only eigenvectors are used, so no bias correction is needed.
        return COVARIANCE_DECAY * old + (1 - COVARIANCE_DECAY) * new if old.size else old

    def update(gradients, state, params=None):
        del params
        leaves, tree = jax.tree.flatten(gradients)
        g = [_matrices(x) for x in leaves]
        left = [mean(a, x @ x.mT) for a, x in zip(state.left, g, strict=True)]
        right = [mean(a, x.mT @ x) for a, x in zip(state.right, g, strict=True)]
        first = state.count == 0

        bases = jax.lax.cond(
            state.count % REFRESH == 0,
            lambda former: _all_refreshed(left + right, former, first),
            lambda former: former,
            state.left_basis + state.right_basis,
        )
        bases = bases[: len(g)], bases[len(g) :]

        count = state.count + 1
        mu = [b1 * m + (1 - b1) * x for m, x in zip(state.mu, g, strict=True)]
        steps, nu = [], []
        for m, n, x, ql, qr, leaf in zip(mu, state.nu, g, *bases, leaves, strict=True):
            n = b2 * n + (1 - b2) * _turn(x, ql, qr) ** 2
            step = _turn(m, ql, qr) / (1 - b1**count)
            step = step / (jnp.sqrt(n / (1 - b2**count)) + eps)
            steps.append(_weight(_turn(step, ql, qr, back=True), leaf))
            nu.append(n)
        return tree.unflatten(steps), SoapState(count, mu, nu, left, right, *bases)

    return optax.GradientTransformation(init, update)
