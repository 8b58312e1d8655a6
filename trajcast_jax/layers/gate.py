"""The gate nonlinearity: scalars are activated, higher irreps multiplied by activated scalars."""

import e3nn_jax as e3nn

from trajcast_jax.layers.radial import scaled_silu, scaled_tanh


def gate_irreps(irreps: e3nn.Irreps) -> e3nn.Irreps:
    """What `gate` needs as input to return `irreps`: itself plus one 0e gate per l ≥ 1 channel."""
    irreps = e3nn.Irreps(irreps)
    n_gates = sum(mul for mul, ir in irreps if ir.l > 0)
    scalars = irreps.count("0e") + n_gates
    rest = [(mul, ir) for mul, ir in irreps if ir != "0e"]
    return e3nn.Irreps([(scalars, "0e"), *rest])


def gate(x: e3nn.IrrepsArray, irreps_out: e3nn.Irreps) -> e3nn.IrrepsArray:
    """x with irreps `gate_irreps(irreps_out)` → `irreps_out`.

    0e → c·silu and 0o → c·tanh; the 0e channels beyond those of the output gate the
    irreps of l ≥ 1, channel by channel, in the order of `irreps_out`.
    """
    values = {str(ir): chunk for (_, ir), chunk in zip(x.irreps, x.chunks, strict=True)}
    irreps_out = e3nn.Irreps(irreps_out)
    scalars = scaled_silu(values["0e"])
    used = irreps_out.count("0e")
    chunks = []
    for mul, ir in irreps_out:
        if ir == "0e":
            chunks.append(scalars[..., :mul, :])
        elif ir == "0o":
            chunks.append(scaled_tanh(values["0o"]))
        else:
            chunks.append(values[str(ir)] * scalars[..., used : used + mul, :])
            used += mul
    return e3nn.from_chunks(irreps_out, chunks, x.shape[:-1], x.dtype)
