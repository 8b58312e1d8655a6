"""Process the rows of arrays block by block, so that a block's values stay in the CPU cache."""

import jax
import jax.numpy as jnp
from jax import lax

ROWS = 256
"""Rows (atoms) per block on CPUs. With 16 loop overhead dominates; 4096 exceed the cache."""


def rows_at_once(rows: int, most: int = 0) -> int:
    """Rows per block: at most `most` (0 for `ROWS`) on CPUs, all `rows` on accelerators."""
    return min(rows, most or ROWS) if jax.default_backend() == "cpu" else rows


def stack_rows(arrays, block: int):
    """Reshape the leading axis of a pytree's arrays into blocks, (number, block, ...).

    Returns the blocks, and a function that restores the leading axis of results. Blocks have
    equal size. The size is reduced as far as the number of blocks allows, to need fewer rows of
    zeros as padding.
    """
    rows = jax.tree.leaves(arrays)[0].shape[0]
    block = -(-rows // -(-rows // block))

    def stacked(x):
        x = jnp.pad(x, [(0, -rows % block)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(-1, block, *x.shape[1:])

    def restore(results):
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:rows], results)

    return jax.tree.map(stacked, arrays), restore


def in_blocks(function, arrays: tuple, block: int):
    """Apply `function(*arrays)` to blocks of leading rows and concatenate the results."""
    rows = jax.tree.leaves(arrays)[0].shape[0]
    if rows <= block:
        return function(*arrays)
    stacked, restore = stack_rows(arrays, block)
    return restore(lax.map(lambda of_block: function(*of_block), stacked))


def fold_blocks(function, carry, arrays: tuple, block: int):
    """Fold `carry = function(carry, *arrays)` over blocks of leading rows, padded with zeros."""
    rows = jax.tree.leaves(arrays)[0].shape[0]
    if rows <= block:
        return function(carry, *arrays)
    stacked, _ = stack_rows(arrays, block)
    return lax.scan(lambda c, of_block: (function(c, *of_block), None), carry, stacked)[0]
