"""Basis functions of edge lengths (Bessel functions with an envelope) and speeds (Gaussians)."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


def polynomial_envelope(x: Float[Array, "..."], p: int) -> Float[Array, "..."]:
    """Smooth cutoff u(x): 1 at x = 0; at x = 1, u and its first two derivatives are 0.

    Gasteiger, Groß, Günnemann, ICLR 2020 (arXiv:2003.03123), eq. 8.
    """
    u = (
        1.0
        - 0.5 * (p + 1) * (p + 2) * x**p
        + p * (p + 2) * x ** (p + 1)
        - 0.5 * p * (p + 1) * x ** (p + 2)
    )
    return jnp.where(x < 1.0, u, 0.0)


class BesselBasis(nn.Module):
    """R_n(r) = (2/r_c)·sin(b_n r/r_c)/(r + 1e-5)·u(r/r_c) with trainable b_n, initially nπ."""

    cutoff: float
    n: int
    envelope_power: int

    @nn.compact
    def __call__(self, lengths: Float[Array, "..."]) -> Float[Array, "... n"]:
        """Evaluate the basis at lengths in Å; it is 0 beyond the cutoff."""
        start = lambda key, shape: jnp.pi * jnp.arange(1, self.n + 1, dtype=lengths.dtype)  # noqa: E731
        frequencies = self.param("frequencies", start, (self.n,))
        x = lengths / self.cutoff
        u = polynomial_envelope(x, self.envelope_power)
        waves = jnp.sin(frequencies.astype(lengths.dtype) * x[..., None])
        return (2.0 / self.cutoff) * waves * (u / (lengths + 1e-5))[..., None]


def speed_basis(speeds: Float[Array, "..."], n: int, max_speed: float) -> Float[Array, "... n"]:
    """Gaussians of speeds s (Å/fs).

    g_m(s) = √M/1.12·exp(−((s − μ_m)/h)²), h = s_max/(M+1), μ_m = m·h, m = 1..M.
    """
    width = max_speed / (n + 1)
    centers = width * jnp.arange(1, n + 1, dtype=speeds.dtype)
    return (n**0.5 / 1.12) * jnp.exp(-(((speeds[..., None] - centers) / width) ** 2))


def safe_norm(vectors: Float[Array, "... 3"]) -> Float[Array, "..."]:
    """Norm |v|, with gradient 0 (not NaN) at v = 0. NaN remains NaN."""
    squared = jnp.sum(vectors**2, axis=-1)
    zero = squared == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squared)))


def unit_vectors(vectors: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
    """Normalised vectors v/max(|v|, 1e-12), as PyTorch's `normalize`; gradient 0 at v = 0."""
    squared = jnp.sum(vectors**2, axis=-1, keepdims=True)
    long = squared > 1e-24
    lengths = jnp.where(long, jnp.sqrt(jnp.where(long, squared, 1.0)), 1e-12)
    return jnp.where(squared == 0, 0.0, vectors / lengths)
