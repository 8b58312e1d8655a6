"""Activations with unit second moment: c·f with c = 1/√E[f(z)²], z ~ N(0, 1).

The constants are those of PyTorch's e3nn, so that weights trained there can be used here. e3nn
estimates them from 10⁶ samples with a fixed seed. The constants of e3nn-jax differ by up to
0.16 %.
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
"""Constants 1/√E[f(z)²] by name of the activation."""
CONSTANTS["bounded_silu"] = CONSTANTS["silu"]  # the functions differ only at large arguments

BOUND = 10.0
"""Largest magnitude of the argument of the bounded SiLU, approached smoothly."""

FUNCTIONS = {
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    # SiLU gates multiply features by features, so outliers are squared in every block and
    # overflow after five blocks. With bounded gates they grow by at most a constant factor.
    "bounded_silu": lambda x: jax.nn.silu(BOUND * jnp.tanh(x / BOUND)),
    "identity": lambda x: x,
}

ODD = ("tanh", "identity")
"""Functions with f(−x) = −f(x), which are allowed for odd scalars."""

Activation = Callable[[jax.Array], jax.Array]


@cache
def activation(name: str) -> Activation:
    """Normalised activation c·f by its name in `CONSTANTS`.

    Raises:
      ValueError: the name is unknown.
    """
    if name not in CONSTANTS:
        raise ValueError(f"An activation must be one of {', '.join(CONSTANTS)}, but is '{name}'.")
    function, constant = FUNCTIONS[name], CONSTANTS[name]
    return lambda x: constant * function(x)


def odd_activation(name: str) -> Activation:
    """Normalised activation for odd scalars, which must change sign under inversion.

    Raises:
      ValueError: the name is unknown or the function is not odd.
    """
    function = activation(name)
    if name not in ODD:
        raise ValueError(
            f"Odd scalars cannot be activated by '{name}', which is not an odd function; "
            f"choose {' or '.join(ODD)}."
        )
    return function


scaled_silu = activation("silu")
scaled_tanh = odd_activation("tanh")
