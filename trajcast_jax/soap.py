"""SOAP: Adam in the slowly turning eigenbasis of Shampoo's preconditioner.

Vyas et al., ICLR 2025 (arXiv:2409.11321). optax has no such rule. Equivariant layers mix all
channels of an irrep by one matrix, whose gradient is strongly correlated; Adam, which scales
every weight by itself, cannot see that.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

COVARIANCE_DECAY = 0.95
REFRESH = 10
"""Updates between two turns of the eigenbases."""
LARGEST = 2048
"""A side of a matrix longer than this is left as it is: its eigenbasis would cost too much."""


class SoapState(NamedTuple):
    """State of `scale_by_soap`; per stack of matrices, in the order of the tree's leaves.

    Attributes:
      count: updates done.
      mu, nu: mean of the gradient, and of its square in the eigenbases.
      left, right: means of G Gᵀ and Gᵀ G.
      left_basis, right_basis: their eigenvectors, in columns; 0 × 0 for a side left as it is.
    """

    count: Int[Array, ""]
    mu: list[jax.Array]
    nu: list[jax.Array]
    left: list[jax.Array]
    right: list[jax.Array]
    left_basis: list[jax.Array]
    right_basis: list[jax.Array]


def _matrices(x: jax.Array) -> jax.Array:
    """A weight as a stack of matrices, one for every place of a middle axis: a path, a species.

    As one tall matrix it would have a basis of all paths together, at many times the cost; and
    what was learned in the same number of updates was less.
    """
    return x.swapaxes(0, 1) if x.ndim == 3 else x.reshape(x.shape[0], -1)


def _weight(matrices: jax.Array, like: jax.Array) -> jax.Array:
    """The weight of `like`'s shape that `_matrices` made a stack of."""
    return matrices.swapaxes(0, 1) if like.ndim == 3 else matrices.reshape(like.shape)


def _square(x: jax.Array, axis: int) -> jax.Array:
    side = x.shape[axis]
    return jnp.zeros((*x.shape[:-2], side, side) if side <= LARGEST else (0, 0), x.dtype)


def _turn(x: jax.Array, left: jax.Array, right: jax.Array, back: bool = False) -> jax.Array:
    """x into the eigenbases (`back`: out of them)."""
    if left.size:
        x = (left if back else left.mT) @ x
    if right.size:
        x = x @ (right.mT if back else right)
    return x


def _refreshed(covariance: jax.Array, basis: jax.Array, first: jax.Array) -> jax.Array:
    """The eigenbasis: exact at first, then one step of orthogonal iteration."""
    if not covariance.size:
        return basis

    def iterate(_):
        turned = covariance @ basis
        by_size = jnp.argsort(-jnp.sum(basis * turned, axis=-2))
        ordered = jnp.take_along_axis(turned, by_size[..., None, :], axis=-1)
        return jnp.linalg.qr(ordered)[0]

    return jax.lax.cond(first, lambda _: jnp.linalg.eigh(covariance)[1], iterate, None)


def scale_by_soap(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adam's step, taken in the eigenbases of G Gᵀ and Gᵀ G.

    Args:
      b1: decay of the mean gradient.
      b2: decay of the squared gradient.
      eps: added to the root of the squared gradient.

    A weight of three axes is a matrix for every place of its middle axis; one with a single
    axis has a basis on that axis only.
    """

    def init(params):
        matrices = [_matrices(x) for x in jax.tree.leaves(params)]
        zeros = lambda: [jnp.zeros_like(x) for x in matrices]  # noqa: E731 - buffers of their own
        squares = lambda axis: [_square(x, axis) for x in matrices]  # noqa: E731
        # All zeros: the first update finds the bases.
        return SoapState(
            jnp.zeros((), jnp.int32), zeros(), zeros(),
            squares(-2), squares(-1), squares(-2), squares(-1),
        )  # fmt: skip

    def mean(old, new):
        # Only its eigenvectors are used, so that no bias needs correction.
        return COVARIANCE_DECAY * old + (1 - COVARIANCE_DECAY) * new if old.size else old

    def update(gradients, state, params=None):
        del params
        leaves, tree = jax.tree.flatten(gradients)
        g = [_matrices(x) for x in leaves]
        left = [mean(a, x @ x.mT) for a, x in zip(state.left, g, strict=True)]
        right = [mean(a, x.mT @ x) for a, x in zip(state.right, g, strict=True)]
        first = state.count == 0

        def refresh(bases):
            return tuple(
                [_refreshed(c, q, first) for c, q in zip(side, basis, strict=True)]
                for side, basis in zip((left, right), bases, strict=True)
            )

        bases = (state.left_basis, state.right_basis)
        bases = jax.lax.cond(state.count % REFRESH == 0, refresh, lambda b: b, bases)

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
