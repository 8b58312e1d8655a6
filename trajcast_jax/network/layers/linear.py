"""Linear maps between irreps, and an MLP without biases.

Weights are drawn from N(0, 1); the forward pass scales them by the fan-in.
"""

from collections.abc import Sequence

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from trajcast_jax.network.layers.activation import Activation, scaled_silu

normal = nn.initializers.normal(1.0)


def _inputs_of(x: e3nn.IrrepsArray, ir: e3nn.Irrep) -> jax.Array | None:
    """All channels of irrep `ir` in x, (..., mul, 2l+1), in the order of their blocks in x."""
    parts = [chunk for (_, i), chunk in zip(x.irreps, x.chunks, strict=True) if i == ir]
    return jnp.concatenate(parts, axis=-2) if parts else None


class Linear(nn.Module):
    """Linear map y_o = (fan-in of o)^(−½)·Σ_blocks Wᵀ x without bias.

    The fan-in of an irrep counts the channels of all its blocks. Output irreps that the input
    lacks are omitted from the result.
    """

    irreps_out: e3nn.Irreps

    @nn.compact
    def __call__(self, x: e3nn.IrrepsArray) -> e3nn.IrrepsArray:
        irreps, chunks = [], []
        for mul, ir in self.irreps_out:
            value = _inputs_of(x, ir)
            if value is None:
                continue
            fan_in = value.shape[-2]
            weight = self.param(f"w_{ir}", normal, (fan_in, mul)).astype(value.dtype)
            chunks.append(jnp.einsum("...ui,uw->...wi", value, weight) * fan_in**-0.5)
            irreps.append((mul, ir))
        return e3nn.from_chunks(irreps, chunks, x.shape[:-1], x.dtype)


class SpeciesLinear(nn.Module):
    """One linear map per species z: y_w = (C·n_el)^(−½)·Σ_u W_{u z w} x_u."""

    irreps_out: e3nn.Irreps
    n_species: int

    @nn.compact
    def __call__(self, x: e3nn.IrrepsArray, species: Int[Array, "... atom"]) -> e3nn.IrrepsArray:
        one_hot = jax.nn.one_hot(species, self.n_species, dtype=x.dtype)
        irreps, chunks = [], []
        for mul, ir in self.irreps_out:
            value = _inputs_of(x, ir)
            if value is None:
                continue
            fan_in = value.shape[-2]
            shape = (fan_in, self.n_species, mul)
            weight = self.param(f"w_{ir}", normal, shape).astype(value.dtype)
            # One big matrix product for all (few) species, then a selection of the atom's own.
            every = jnp.einsum("...ui,uzw->...zwi", value, weight)
            picked = jnp.einsum("...zwi,...z->...wi", every, one_hot)
            chunks.append(picked * (fan_in * self.n_species) ** -0.5)
            irreps.append((mul, ir))
        return e3nn.from_chunks(irreps, chunks, x.shape[:-1], x.dtype)


class MLP(nn.Module):
    """Hidden layers x → f(x W/√fan_in) without bias, for a normalised activation f.

    The caller adds the linear output layer.
    """

    hidden: Sequence[int]
    activation: Activation = scaled_silu

    @nn.compact
    def __call__(self, x: Float[Array, "... n"]) -> Float[Array, "... m"]:
        for layer, width in enumerate(self.hidden):
            weight = self.param(f"w_{layer}", normal, (x.shape[-1], width)).astype(x.dtype)
            x = self.activation(x @ weight * x.shape[-1] ** -0.5)
        return x
