"""Activations of unit second moment: c·f with c = 1/√E[f(z)²], z ~ N(0, 1).

The constants are those of PyTorch's e3nn, which estimates them once and for all from 10⁶
samples of a fixed seed, so that weights trained there mean the same here; e3nn-jax's own
differ by up to 0.16 %.
"""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp

CONSTANTS = {
    "silu": 1.6791767923989418,
    "tanh": 1.5937334472592695,
    "sigmoid": 1.8467055342154763,
    "relu": 1.4163393446331365,
    "gelu": 1.5360642850770576,
    "identity": 1.001110600838467,
}
"""1/√E[f(z)²] of every activation, by its name."""
CONSTANTS["bounded_silu"] = CONSTANTS["silu"]  # the same function, but for large arguments

BOUND = 10.0
"""What the argument of the bounded SiLU levels off at."""

FUNCTIONS = {
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    # SiLU gates multiply features by features: what is odd in an atom is squared in every block
    # and overflows after five. Bounded ones let it grow by no more than a factor.
    "bounded_silu": lambda x: jax.nn.silu(BOUND * jnp.tanh(x / BOUND)),
    "identity": lambda x: x,
}

ODD = ("tanh", "identity")
"""The functions with f(−x) = −f(x): what an odd scalar may pass through."""

Activation = Callable[[jax.Array], jax.Array]


@cache
def activation(name: str) -> Activation:
    """The normalised activation c·f of a name in `CONSTANTS`."""
    if name not in CONSTANTS:
        raise ValueError(f"An activation must be one of {', '.join(CONSTANTS)}, but is '{name}'.")
    function, constant = FUNCTIONS[name], CONSTANTS[name]
    return lambda x: constant * function(x)


def odd_activation(name: str) -> Activation:
    """The same for odd scalars, which must change sign under inversion."""
    function = activation(name)
    if name not in ODD:
        raise ValueError(
            f"Odd scalars cannot be activated by '{name}', which is not an odd function; "
            f"choose {' or '.join(ODD)}."
        )
    return function


scaled_silu = activation("silu")
scaled_tanh = odd_activation("tanh")
