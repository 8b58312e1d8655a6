"""Equivariant network parts on e3nn-jax irreps; no physics, no units."""

from trajcast_jax.layers.activation import activation, odd_activation, scaled_silu
from trajcast_jax.layers.blocks import fold_blocks, in_blocks, rows_at_once, stack_rows
from trajcast_jax.layers.gate import gate, gate_irreps
from trajcast_jax.layers.linear import MLP, Linear, SpeciesLinear
from trajcast_jax.layers.radial import BesselBasis, polynomial_envelope, speed_basis
from trajcast_jax.layers.tensor_product import (
    Convolution,
    NodeTensorProduct,
    Path,
    channelwise_paths,
    directions,
)

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
    "fold_blocks",
    "gate",
    "gate_irreps",
    "in_blocks",
    "odd_activation",
    "polynomial_envelope",
    "rows_at_once",
    "scaled_silu",
    "speed_basis",
    "stack_rows",
]
