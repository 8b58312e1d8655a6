"""Equivariant layers for e3nn-jax irreps, without physics and units."""

from trajcast_jax.network.layers.activation import activation, odd_activation, scaled_silu
from trajcast_jax.network.layers.couplings import Path, channelwise_paths, directions
from trajcast_jax.network.layers.gate import gate, gate_irreps
from trajcast_jax.network.layers.linear import MLP, Linear, SpeciesLinear
from trajcast_jax.network.layers.radial import BesselBasis, polynomial_envelope, speed_basis
from trajcast_jax.network.layers.tensor_product import Convolution, NodeTensorProduct

__all__ = [
    "MLP",
    "BesselBasis",
    "Convolution",
    "Linear",
    "NodeTensorProduct",
    "Path",
    "SpeciesLinear",
    "activation",
    "channelwise_paths",
    "directions",
    "gate",
    "gate_irreps",
    "odd_activation",
    "polynomial_envelope",
    "scaled_silu",
    "speed_basis",
]
