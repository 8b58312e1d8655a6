"""Gate nonlinearity: activate scalars, and multiply irreps of l ≥ 1 by activated scalars."""

import e3nn_jax as e3nn
import jax.numpy as jnp

from trajcast_jax.network.layers.activation import Activation, scaled_silu, scaled_tanh


def gate_irreps(irreps: e3nn.Irreps) -> e3nn.Irreps:
    """Input irreps of a `gate` with output `irreps`: these, plus a 0e per channel with l ≥ 1."""
    irreps = e3nn.Irreps(irreps)
    n_gates = sum(mul for mul, ir in irreps if ir.l > 0)
    scalars = irreps.count("0e") + n_gates
    rest = [(mul, ir) for mul, ir in irreps if ir != "0e"]
    return e3nn.Irreps([(scalars, "0e"), *rest])


def gate(
    x: e3nn.IrrepsArray,
    irreps_out: e3nn.Irreps,
    even: Activation = scaled_silu,
    odd: Activation = scaled_tanh,
    gates: Activation = scaled_silu,
) -> e3nn.IrrepsArray:
    """Apply the gate to x of irreps `gate_irreps(irreps_out)`; the result has `irreps_out`.

    Scalars 0e and 0o of the output are activated by `even` and `odd`. The remaining 0e channels
    are activated by `gates` and multiply the irreps of l ≥ 1, channel by channel, in the order of
    `irreps_out`.
    """
    values = {str(ir): chunk for (_, ir), chunk in zip(x.irreps, x.chunks, strict=True)}
    irreps_out = e3nn.Irreps(irreps_out)
    used = irreps_out.count("0e")
    scalars, factors = jnp.split(values["0e"], [used], axis=-2)
    scalars, factors = even(scalars), gates(factors)
    used, chunks = 0, []
    for mul, ir in irreps_out:
        if ir == "0e":
            chunks.append(scalars)
        elif ir == "0o":
            chunks.append(odd(values["0o"]))
        else:
            chunks.append(values[str(ir)] * factors[..., used : used + mul, :])
            used += mul
    return e3nn.from_chunks(irreps_out, chunks, x.shape[:-1], x.dtype)
