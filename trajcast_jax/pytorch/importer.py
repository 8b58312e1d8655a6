"""Import models of the PyTorch TrajCast (`EfficientTrajCastModel`, v1.0).

A configuration (the `model` section of the YAML file) and a state dict are converted to a
`Forecaster` and its parameters. The caller gives the information that both files lack: the
element of every atom type, and the time step. Conventions of the PyTorch code are kept to the
last digit. Settings that this network does not support raise an error that names them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import e3nn_jax as e3nn
import jax
import numpy as np
from jaxtyping import Float

from trajcast_jax.config import ModelSettings, Statistics
from trajcast_jax.io import read_npz
from trajcast_jax.network.forecast import Forecaster
from trajcast_jax.network.layers import odd_activation
from trajcast_jax.pytorch.weights import block_name, expected_shapes, to_params
from trajcast_jax.pytorch.yaml_config import read_config as read_config
from trajcast_jax.reading import reads

State = dict[str, np.ndarray]

ACTIVATIONS = {
    "tanh": "tanh", "sigmoid": "sigmoid", "silu": "silu", "SiLU": "silu", "relu": "relu",
    "ReLU": "relu", "gelu": "gelu", "GeLU": "gelu", "identity": "identity",
    "Identity": "identity",
}  # fmt: skip
"""Names of activations in PyTorch and in this package."""

SIZES = {
    "num_edge_rbf": "n_radial",
    "num_edge_poly_cutoff": "envelope_power",
    "num_vel_rbf": "n_speed",
    "max_rotation_order": "lmax",
    "num_hidden_channels": "channels",
    "num_mp_layers": "blocks",
}
LENGTHS = {"edge_cutoff": "cutoff", "vel_max": "max_speed"}
OTHERS = (
    "num_chem_elements", "avg_num_neighbors", "edge_mlp_kwargs", "vel_mlp_kwargs",
    "nl_gate_kwargs", "conserve_ang_mom", "net_lin_mom", "net_ang_mom", "units", "o3_backend",
)  # fmt: skip


@reads
def read_state(path: str | Path) -> State:
    """Read arrays by state-dict name, from an .npz file or, with torch installed, a .pt file.

    Raises:
      ImportError: a .pt file is given, but torch is not installed.
      ValueError: the file holds no state dict.
    """
    if Path(path).suffix == ".npz":
        return read_npz(path)
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"Reading {path} needs PyTorch: pip install 'trajcast_jax[torch]', or save the state "
            "dict elsewhere by numpy.savez(file, **{k: v.numpy() for k, v in state.items()}) "
            "and give the .npz file."
        ) from error
    # weights_only, because unpickling other objects could execute code.
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping) or not all(torch.is_tensor(x) for x in state.values()):
        raise ValueError(
            f"{path} holds no state dict of tensors; save model.state_dict(), not the model or a "
            "training checkpoint."
        )
    return {name: tensor.numpy() for name, tensor in state.items()}


def _activation(name: Any, where: str) -> str:
    if name not in ACTIVATIONS:
        raise ValueError(
            f"{where} names the activation {name!r}, but known are {', '.join(ACTIVATIONS)}."
        )
    return ACTIVATIONS[name]


def _only(values: Any, known: Sequence[str], where: str) -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must hold settings by name, but is {values!r}.")
    for key in values:
        if key not in known:
            raise ValueError(
                f"Unknown setting '{key}' in {where}: known are {', '.join(known)}. It may belong "
                "to another model than EfficientTrajCastModel, which is the only one supported."
            )


def _mlp(config: Mapping, key: str) -> tuple[tuple[int, ...], str]:
    """Hidden sizes and activation of a radial network; by default 3 × 64 and silu."""
    values = config.get(key) or {"n_neurons": [64, 64, 64]}
    _only(values, ("n_neurons", "n_layers", "activation"), key)
    if "n_neurons" not in values:
        raise ValueError(f"{key} lacks n_neurons, the sizes of the hidden layers; add them.")
    sizes = values["n_neurons"]
    if not isinstance(sizes, list | tuple):
        sizes = [sizes] * values.get("n_layers", 1)
    return tuple(int(n) for n in sizes), _activation(values.get("activation", "silu"), key)


def _by_parity(values: Any, parities: str, where: str) -> list[str]:
    """Activations in the order of `parities`, from a dict by parity or a list of names."""
    if isinstance(values, Mapping):
        _only(values, ("o", "e"), where)
        missing = [p for p in parities if p not in values]
        if missing:
            raise ValueError(f"{where} lacks the parity '{missing[0]}'; name its activation.")
        values = [values[p] for p in parities]
    if not isinstance(values, list | tuple) or len(values) not in (1, len(parities)):
        raise ValueError(
            f"{where} must be a list of 1 or {len(parities)} activations, or a dict by parity "
            f"({', '.join(parities)}), but is {values!r}."
        )
    names = [_activation(name, where) for name in values]
    return names * len(parities) if len(names) < len(parities) else names


def _gate(config: Mapping, lmax: int, channels: int) -> dict[str, str]:
    """Activations of the gate. PyTorch's defaults differ for no dict and an incomplete dict."""
    default = {"activation_scalars": {"o": "tanh", "e": "silu"}, "activation_gates": {"e": "silu"}}
    values = config.get("nl_gate_kwargs", default)
    where = "nl_gate_kwargs"
    _only(values, ("activation_scalars", "activation_gates", "irreps_gates"), where)
    gates = e3nn.Irreps(f"{2 * lmax * channels}x0e")
    if e3nn.Irreps(str(values.get("irreps_gates", gates))).simplify() != gates:
        raise ValueError(
            f"{where}.irreps_gates is {values['irreps_gates']}, but only {gates} is supported: one "
            "even scalar for each channel of l ≥ 1."
        )
    scalars = values.get("activation_scalars", ["tanh"])
    odd, even = _by_parity(scalars, "oe", f"{where}.activation_scalars")
    gates = values.get("activation_gates", ["tanh"])
    (gate,) = _by_parity(gates, "e", f"{where}.activation_gates")
    odd_activation(odd)
    return {"odd_activation": odd, "even_activation": even, "gate_activation": gate}


def _momentum(config: Mapping, state: Mapping, key: str) -> tuple[float, ...]:
    """Net momentum to impose, with the rounding of the state dict; () for none."""
    values = config.get(key)
    values = np.asarray([] if values is None else values, np.float64).reshape(-1)
    if values.size not in (0, 3):
        raise ValueError(f"{key} must have no or 3 components, but is {values.tolist()}.")
    return tuple(_buffer(state, f"_conservation.{key}", values).reshape(-1).tolist())


def _buffer(state: Mapping, name: str, configured: Any) -> Float[np.ndarray, "..."]:
    """Value of a setting in the state dict, checked against that of the configuration.

    PyTorch uses the value of the state dict (a buffer). The two may differ by the rounding to
    single precision. If the state dict lacks the buffer, the configured value is returned.

    Raises:
      ValueError: the values differ by more.
    """
    configured = np.asarray(configured, np.float64)
    if name not in state:
        return configured
    value = np.asarray(state[name], np.float64)
    if value.size != configured.size or not np.allclose(
        value.reshape(-1), configured.reshape(-1), rtol=1e-6
    ):
        raise ValueError(
            f"{name} is {value.tolist()} in the weights, but {configured.tolist()} by the "
            "configuration; give the two files of one model."
        )
    return value


def model_settings(config: Mapping, state: Mapping[str, np.ndarray] | None = None) -> ModelSettings:
    """Convert a PyTorch configuration to ModelSettings; net momenta are rounded as in `state`.

    Raises:
      ValueError: a setting is missing, unknown or not supported.
    """
    _only(config, (*SIZES, *LENGTHS, *OTHERS), "the model configuration")
    for key in (*SIZES, *LENGTHS, "num_chem_elements"):
        if key not in config:
            raise ValueError(f"The model configuration lacks '{key}'; add it.")
    if config.get("o3_backend", "e3nn") != "e3nn":
        raise ValueError(
            f"o3_backend is '{config['o3_backend']}', whose weights are ordered otherwise; convert "
            "them to the e3nn backend first (state_dict_e3nn.pt)."
        )
    sizes = {ours: int(config[theirs]) for theirs, ours in SIZES.items()}
    if not 1 <= sizes["lmax"] <= 3 or sizes["channels"] < 4 or sizes["blocks"] < 1:
        raise ValueError(
            f"max_rotation_order must be 1 to 3, num_hidden_channels at least 4 and num_mp_layers "
            f"at least 1, but they are {sizes['lmax']}, {sizes['channels']}, {sizes['blocks']}."
        )
    edge_mlp, edge_activation = _mlp(config, "edge_mlp_kwargs")
    velocity_mlp, velocity_activation = _mlp(config, "vel_mlp_kwargs")
    return ModelSettings(
        **sizes,
        **{ours: float(config[theirs]) for theirs, ours in LENGTHS.items()},
        **_gate(config, sizes["lmax"], sizes["channels"]),
        parity="both",
        edge_mlp=edge_mlp,
        edge_activation=edge_activation,
        velocity_mlp=velocity_mlp,
        velocity_activation=velocity_activation,
        velocity_vector=False,
        relative_speeds=False,
        speed_limit=0.0,
        far_field=False,
        substeps=0,
        conserve_angular=bool(config.get("conserve_ang_mom", False)),
        net_momentum=_momentum(config, state or {}, "net_lin_mom"),
        net_angular_momentum=_momentum(config, state or {}, "net_ang_mom"),
        uniform_center=False,
    )


def _negligible(name: str, value: np.ndarray) -> bool:
    """Whether an entry is not learned: empty weights, masks and Wigner 3j tables of e3nn."""
    return value.size == 0 or name.endswith("output_mask") or "_w3j_" in name


BUFFERS = (
    "rms_targets", "mean_targets", "lmax", "edge_cutoff", "num_hidden_channels",
    "avg_num_neighbors", "num_mp_layers", "_conservation.prefactor_vel",
    "_conservation.prefactor_disps", "_conservation.net_lin_mom", "_conservation.net_ang_mom",
)  # fmt: skip


def check_state(state: Mapping[str, np.ndarray], settings: ModelSettings, n_species: int) -> None:
    """Raise ValueError, naming the weight, if one is missing, unknown, misshapen or not finite."""
    shapes = expected_shapes(settings, n_species)
    for name, shape in {**shapes, "rms_targets": (2,)}.items():
        if name not in state:
            raise ValueError(
                f"The weight {name} is missing; the state dict is not of this configuration."
            )
        if np.shape(state[name]) != shape:
            raise ValueError(
                f"The weight {name} has shape {np.shape(state[name])}, but the configuration asks "
                f"for {shape}; the state dict is not of this configuration."
            )
        if not np.isfinite(state[name]).all():
            raise ValueError(f"The weight {name} is not finite; the state dict is damaged.")
    layers = [block_name(k, "avg_num_neighbors") for k in range(settings.blocks)]
    for name, value in state.items():
        if name not in (*shapes, *BUFFERS, *layers) and not _negligible(name, np.asarray(value)):
            raise ValueError(
                f"The state dict holds {name}, which is no part of this configuration; it may be "
                "of another model or another number of layers."
            )


def _statistics(config: Mapping, state: Mapping, species: Sequence[int], blocks: int) -> Statistics:
    """Statistics of the paper's normalisation: one scale for all species and no baselines."""
    rms = np.asarray(state["rms_targets"], np.float64)
    mean = np.asarray(state.get("mean_targets", 0.0))
    if np.any(mean != 0):
        raise ValueError(
            f"mean_targets is {mean.tolist()}, but a mean other than 0 would break rotational "
            "symmetry and is not supported; train with targets of mean 0."
        )
    _buffer(state, "_conservation.prefactor_disps", rms[0])
    _buffer(state, "_conservation.prefactor_vel", rms[1])
    neighbors = _buffer(state, "avg_num_neighbors", config.get("avg_num_neighbors", 10.0))
    for block in range(blocks):
        _buffer(state, block_name(block, "avg_num_neighbors"), neighbors)
    n = len(species)
    return Statistics(
        species=tuple(int(z) for z in species),
        displacement_scale=(float(rms[0]),) * n,
        velocity_scale=(float(rms[1]),) * n,
        displacement_baseline=(0.0,) * n,
        velocity_baseline=(0.0,) * n,
        velocity_rms=(float(rms[1]),) * n,
        average_neighbors=float(neighbors),
    )


def frequency_stretch(config: Mapping, state: Mapping[str, np.ndarray]) -> float:
    """Ratio of the cutoff in the configuration to that in the state dict; 1 except for rounding.

    The PyTorch code uses the cutoff of its buffer in sin(b r/r_c), but the configured cutoff in
    the envelope and the prefactor. Multiplying the frequencies b by this ratio allows a single
    cutoff.
    """
    configured = float(config["edge_cutoff"])
    return configured / float(_buffer(state, "edge_cutoff", configured))


def forecaster(
    config: Mapping, state: Mapping[str, np.ndarray], species: Sequence[int], time_step: float
) -> Forecaster:
    """Make the forecaster of a PyTorch model, checked against its state dict.

    `species` are atomic numbers in the order of the model's atom types; `time_step` is in fs.

    Raises:
      ValueError: the species do not match, or the two files are inconsistent.
    """
    settings = model_settings(config, state)
    n_species = int(config["num_chem_elements"])
    if len(species) != n_species or len(set(species)) != n_species:
        raise ValueError(
            f"The model knows {n_species} elements, so it needs as many different species in the "
            f"order of its atom types, but {len(set(species))} are given: {list(species)}."
        )
    check_state(state, settings, n_species)
    frequency_stretch(config, state)  # raises if the cutoffs disagree
    for name, value in (
        ("lmax", settings.lmax),
        ("num_hidden_channels", settings.channels),
        ("num_mp_layers", settings.blocks),
    ):
        _buffer(state, name, value)
    return Forecaster(settings, _statistics(config, state, species, settings.blocks), time_step)


def params_of(config: Mapping, state: Mapping[str, np.ndarray]) -> Any:
    """Convert the parameters of a PyTorch model, in the state dict's precision if JAX allows it."""
    settings = model_settings(config, state)
    stretch, n_species = frequency_stretch(config, state), int(config["num_chem_elements"])
    weights = {name: state[name] for name in expected_shapes(settings, n_species)}
    return jax.jit(lambda w: to_params(w, settings, n_species, stretch))(weights)
