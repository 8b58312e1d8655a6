"""Weights of the PyTorch TrajCast: names, shapes, and conversion to parameters of this network.

`to_params` consists of slices, permutations and reshapes (and two factors near 1), so gradients
for PyTorch's weights follow from its vector-Jacobian product. The networks differ in three
orders. PyTorch's e3nn sorts irreps 0o, 0e, 1o, 1e, … (e3nn-jax 0e, 0o, 1o, 1e, 2e, 2o, …); its
tensor product paths follow the order of these inputs; and so do its gates. Weights of the last
block that do not affect the output exist in PyTorch only.
"""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from trajcast_jax.config import ModelSettings
from trajcast_jax.network.layers import Path, channelwise_paths
from trajcast_jax.network.model import block_irreps, feature_irreps

BESSEL = "_encoding.EdgeLengthEncoding.radial_basis.bessel_roots"
SPEED = "_encoding.VelocityNormEncoding.element_tp.weight"
EMBED = "_int_out.LinearInit.linear.weight"
COMPRESS = "_int_out.LinearCompression.linear.weight"
READ_OUT = "_int_out.LinearReadOut.linear.weight"


def block_name(block: int, part: str) -> str:
    """State-dict name of a part of a message-passing block."""
    return f"_int_out.mp_layer_{block}.{part}"


class TorchBlock(NamedTuple):
    """Irreps and paths of a block of the PyTorch model, complete and in its order.

    Attributes:
      irreps_in: input features of the block.
      edge_paths: paths of the convolution; `linear_contraction` takes them in this order.
      velocity_paths: paths of the product with the velocity; `linear_updates` takes them.
      out: output features of the block.
      columns: output channels of `linear_updates` per irrep; 0e includes the gates.
    """

    irreps_in: list[e3nn.Irrep]
    edge_paths: list[Path]
    velocity_paths: list[Path]
    out: list[e3nn.Irrep]
    columns: dict[e3nn.Irrep, int]


def torch_order(irreps: e3nn.Irreps) -> list[e3nn.Irrep]:
    """Sort irreps like PyTorch's e3nn: by l, odd parity first."""
    return sorted((ir for _, ir in e3nn.Irreps(irreps)), key=lambda ir: (ir.l, ir.p))


def _as_irreps(irreps: list[e3nn.Irrep]) -> e3nn.Irreps:
    return e3nn.Irreps([(1, ir) for ir in irreps])


def torch_blocks(settings: ModelSettings) -> list[TorchBlock]:
    """Layout of every block of the PyTorch model."""
    s, blocks = settings, []
    every = torch_order(feature_irreps(1, s.lmax, "both"))
    irreps_in = torch_order(feature_irreps(1, s.lmax, "natural"))
    for _ in range(s.blocks):
        edge_paths = channelwise_paths(_as_irreps(irreps_in), s.lmax, _as_irreps(every))
        made = {path.ir_out for path in edge_paths}
        contracted = [ir for ir in every if ir in made]
        velocity_paths = channelwise_paths(_as_irreps(contracted), s.lmax, _as_irreps(every))
        made = {path.ir_out for path in velocity_paths}
        out = [ir for ir in every if ir in made]
        gates = s.channels * sum(ir.l > 0 for ir in out)
        columns = {ir: s.channels + (gates if ir == "0e" else 0) for ir in out}
        blocks.append(TorchBlock(irreps_in, edge_paths, velocity_paths, out, columns))
        irreps_in = out
    return blocks


def expected_shapes(settings: ModelSettings, n_species: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every learned weight of the PyTorch model."""
    s, c = settings, settings.channels
    shapes = {
        BESSEL: (s.n_radial,),
        SPEED: (s.n_speed * n_species * s.n_speed,),
        EMBED: ((n_species + s.n_speed + s.lmax) * c,),
    }
    for k, block in enumerate(torch_blocks(s)):
        for mlp, sizes in {
            "edge_mlp": (s.n_radial, *s.edge_mlp, len(block.edge_paths) * c),
            "vel_mlp": (s.n_speed, *s.velocity_mlp, len(block.velocity_paths) * c),
        }.items():
            for layer, shape in enumerate(itertools.pairwise(sizes)):
                shapes[block_name(k, f"{mlp}.layer{layer}.weight")] = shape
        updates = sum(block.columns[path.ir_out] for path in block.velocity_paths)
        kept = sum(ir in block.out for ir in block.irreps_in)
        shapes[block_name(k, "linear_contraction.weight")] = (len(block.edge_paths) * c * c,)
        shapes[block_name(k, "linear_updates.weight")] = (updates * c,)
        shapes[block_name(k, "tp_resnet.weight")] = (kept * c * n_species * c,)
    shapes[COMPRESS] = (c * (c // 4),)
    shapes[READ_OUT] = (c // 4 * 2,)
    return shapes


def _slices(flat: Array, sizes: list[tuple[int, ...]]) -> list[Array]:
    """Cut a flat array into consecutive pieces of the given shapes."""
    pieces, start = [], 0
    for shape in sizes:
        size = 1
        for n in shape:
            size *= n
        pieces.append(flat[start : start + size].reshape(shape))
        start += size
    return pieces


def _mlp(state: Mapping[str, Array], name: str, hidden: int) -> tuple[dict, Array]:
    """Parameters of the hidden layers of an MLP, and its output layer."""
    layers = [state[f"{name}.layer{k}.weight"] for k in range(hidden + 1)]
    return {f"w_{k}": weight for k, weight in enumerate(layers[:-1])}, layers[-1]


def _columns(last: Array, theirs: list[Path], ours: list[Path]) -> Array:
    """Reshape an output layer (n, path·channel) to (n, path, channel), with our paths only."""
    by_path = last.reshape(last.shape[0], len(theirs), -1)
    return by_path[:, jnp.asarray([theirs.index(path) for path in ours])]


def _gates(weight: Array, block: TorchBlock, out: e3nn.Irreps, channels: int) -> Array:
    """Columns of a 0e piece of `linear_updates` for the scalars and gates of this network."""
    gated = [ir for ir in block.out if ir.l > 0]
    kept = [weight[:, :channels]] if "0e" in out else []
    for _, ir in out:
        if ir.l > 0:
            start = channels * (1 + gated.index(ir))
            kept.append(weight[:, start : start + channels])
    return jnp.concatenate(kept, axis=1)


def _join(pieces: dict[Path, Array], ours: list[Path]) -> dict[str, Array]:
    """Join the pieces of paths with the same output irrep into one matrix, in our order."""
    return {
        f"w_{ir}": jnp.concatenate([pieces[path] for path in ours if path.ir_out == ir])
        for ir in dict.fromkeys(path.ir_out for path in ours)
    }


def _block_params(
    state: Mapping[str, Array], settings: ModelSettings, n_species: int,
    k: int, block: TorchBlock, irreps_in: e3nn.Irreps,
) -> tuple[dict, e3nn.Irreps]:  # fmt: skip
    """Parameters of block `k`, and its output irreps."""
    s, c = settings, settings.channels
    part = lambda name: state[block_name(k, name)]  # noqa: E731
    convolved, out, gated = block_irreps(s, k, irreps_in)

    paths = channelwise_paths(irreps_in, s.lmax, convolved)
    edge_mlp, last = _mlp(state, block_name(k, "edge_mlp"), len(s.edge_mlp))
    convolution = _columns(last, block.edge_paths, paths)
    pieces = _slices(part("linear_contraction.weight"), [(c, c)] * len(block.edge_paths))
    contract = _join(dict(zip(block.edge_paths, pieces, strict=True)), paths)

    paths = channelwise_paths(convolved, s.lmax, gated)
    velocity_mlp, last = _mlp(state, block_name(k, "vel_mlp"), len(s.velocity_mlp))
    velocity_product = _columns(last, block.velocity_paths, paths)
    sizes = [(c, block.columns[path.ir_out]) for path in block.velocity_paths]
    pieces = _slices(part("linear_updates.weight"), sizes)
    pieces = {
        path: _gates(piece, block, out, c) if path.ir_out == "0e" else piece
        for path, piece in zip(block.velocity_paths, pieces, strict=True)
    }
    update = _join(pieces, paths)

    kept = [ir for ir in block.irreps_in if ir in block.out]
    pieces = _slices(part("tp_resnet.weight"), [(c, n_species, c)] * len(kept))
    skips = dict(zip(kept, pieces, strict=True))
    params = {
        "edge_mlp": edge_mlp,
        "convolution": {"weights": convolution},
        "contract": contract,
        "velocity_mlp": velocity_mlp,
        "velocity_product": {"weights": velocity_product},
        "update": update,
        "skip": {f"w_{ir}": skips[ir] for _, ir in out if ir in skips},
    }
    return {name: value for name, value in params.items() if value}, out


def _rounding(n_speed: int, n_species: int) -> float:
    """Ratio of PyTorch's constant (M·n_el)^(−½) in the speed mixing to the exact value.

    The constant multiplies the one-hot species, which is always in single precision, so e3nn
    rounds it (by up to 6e-8). If M < n_el, another order of contraction is cheaper, in which it
    multiplies the basis and is not rounded.
    """
    exact = (n_speed * n_species) ** -0.5
    return float(np.float32(exact)) / exact if n_speed >= n_species else 1.0


def to_params(
    state: Mapping[str, Array], settings: ModelSettings, n_species: int, stretch: float = 1.0
) -> Any:
    """Convert PyTorch's weights by name (those of `expected_shapes`) to parameters of the network.

    `stretch` multiplies the Bessel frequencies; see `pytorch.importer.frequency_stretch`.
    """
    s, c = settings, settings.channels
    state = {name: jnp.asarray(state[name]) for name in expected_shapes(s, n_species)}
    n_scalars = n_species + s.n_speed
    embed = _slices(state[EMBED], [(n_scalars, c), *[(1, c)] * s.lmax])
    irreps = feature_irreps(c, s.lmax, "natural")
    speed = state[SPEED].reshape(s.n_speed, n_species, s.n_speed)
    params = {
        "bessel": {"frequencies": state[BESSEL] * stretch},
        "speed_mixing": {"weights": speed * _rounding(s.n_speed, n_species)},
        "embed": {f"w_{ir}": weight for (_, ir), weight in zip(irreps, embed, strict=True)},
        "read_out_1": {"w_1o": state[COMPRESS].reshape(c, c // 4)},
        "read_out_2": {"w_1o": state[READ_OUT].reshape(c // 4, 2)},
    }
    for k, block in enumerate(torch_blocks(s)):
        made, irreps = _block_params(state, s, n_species, k, block, irreps)
        params[f"block_{k}"] = made
    return {"params": params}


def to_torch_layout(features: e3nn.IrrepsArray) -> jax.Array:
    """Flatten features to one axis with irreps in PyTorch's order."""
    chunks = {ir: chunk for (_, ir), chunk in zip(features.irreps, features.chunks, strict=True)}
    order = torch_order(features.irreps)
    return jnp.concatenate([chunks[ir].reshape(*features.shape[:-1], -1) for ir in order], -1)
