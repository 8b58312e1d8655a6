"""Rows of arrays in blocks, one after the other: what a block holds stays in the cache of a CPU."""

import jax
import jax.numpy as jnp
from jax import lax

ROWS = 256
"""Atoms at a time on CPUs: 16 are lost in the overhead of a loop, 4096 do not fit in the cache."""


def rows_at_once(rows: int, most: int = 0) -> int:
    """The size of a block of so many rows, `ROWS` by default: all of them on accelerators."""
    return min(rows, most or ROWS) if jax.default_backend() == "cpu" else rows


def stack_rows(arrays, block: int):
    """A pytree's leading rows in blocks, (row // block, block, ...), and what brings them back.

    Blocks become equal, and only as large as their number needs: less padding, by zeros.
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
    """`function(*arrays)` over blocks of leading rows, results joined."""
    rows = jax.tree.leaves(arrays)[0].shape[0]
    if rows <= block:
        return function(*arrays)
    stacked, restore = stack_rows(arrays, block)
    return restore(lax.map(lambda of_block: function(*of_block), stacked))


def fold_blocks(function, carry, arrays: tuple, block: int):
    """`carry = function(carry, *arrays)` over blocks of leading rows, padded by zeros."""
    rows = jax.tree.leaves(arrays)[0].shape[0]
    if rows <= block:
        return function(carry, *arrays)
    stacked, _ = stack_rows(arrays, block)
    return lax.scan(lambda c, of_block: (function(c, *of_block), None), carry, stacked)[0]
