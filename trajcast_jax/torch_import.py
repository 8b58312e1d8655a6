"""Models of the PyTorch TrajCast (`EfficientTrajCastModel`, v1.0) as ours.

A configuration (the YAML's `model` section) and a state dict become a `Forecaster` with its
parameters. What the two files leave open is asked for: which element an atom type is, and
the time step. The conventions of the PyTorch code are kept to the last digit; whatever this
network cannot express is an error that names it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import e3nn_jax as e3nn
import jax
import numpy as np
import yaml
from jaxtyping import Float

from trajcast_jax.config import ModelSettings, Statistics
from trajcast_jax.forecast import Forecaster
from trajcast_jax.layers import odd_activation
from trajcast_jax.torch_weights import block_name, expected_shapes, to_params

State = dict[str, np.ndarray]

ACTIVATIONS = {
    "tanh": "tanh", "sigmoid": "sigmoid", "silu": "silu", "SiLU": "silu", "relu": "relu",
    "ReLU": "relu", "gelu": "gelu", "GeLU": "gelu", "identity": "identity",
    "Identity": "identity",
}  # fmt: skip
"""PyTorch's names of activations, and ours."""

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


def read_config(path: str | Path) -> dict:
    """The `model` section of a YAML file, or the whole file where it has none."""
    with open(path) as file:
        values = yaml.safe_load(file)
    if not isinstance(values, dict):
        raise ValueError(
            f"{path} is no model configuration: it holds {type(values).__name__}, not settings; "
            "give the config_e3nn.yaml that belongs to the weights."
        )
    return values.get("model", values)


def read_state(path: str | Path) -> State:
    """Arrays by state-dict name, from a .npz file or (with torch installed) PyTorch's .pt."""
    if Path(path).suffix == ".npz":
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"Reading {path} needs PyTorch: pip install 'trajcast_jax[torch]', or save the state "
            "dict elsewhere by numpy.savez(file, **{k: v.numpy() for k, v in state.items()}) "
            "and give the .npz file."
        ) from error
    # weights_only: a .pt file is a pickle, and nothing but tensors may come out of it.
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
    """Hidden sizes and activation of a radial network; 3 × 64 and silu when none are given."""
    values = config.get(key) or {"n_neurons": [64, 64, 64]}
    _only(values, ("n_neurons", "n_layers", "activation"), key)
    if "n_neurons" not in values:
        raise ValueError(f"{key} lacks n_neurons, the sizes of the hidden layers; add them.")
    sizes = values["n_neurons"]
    if not isinstance(sizes, list | tuple):
        sizes = [sizes] * values.get("n_layers", 1)
    return tuple(int(n) for n in sizes), _activation(values.get("activation", "silu"), key)


def _by_parity(values: Any, parities: str, where: str) -> list[str]:
    """Activations for `parities` in this order, from a dict by parity or a list of names."""
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
    """Activations of the gate. The PyTorch defaults differ: no dict, or a dict without them."""
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
    """A net momentum to impose, as rounded as the state dict has it; () for none."""
    values = config.get(key)
    values = np.asarray([] if values is None else values, np.float64).reshape(-1)
    if values.size not in (0, 3):
        raise ValueError(f"{key} must have no or 3 components, but is {values.tolist()}.")
    return tuple(_buffer(state, f"_conservation.{key}", values).reshape(-1).tolist())


def _buffer(state: Mapping, name: str, configured: Any) -> Float[np.ndarray, "..."]:
    """What the state dict holds of a setting, which the configuration must agree with.

    PyTorch computes with the buffer; the two may differ by its rounding to single precision.
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
    """Our settings of a PyTorch configuration; momenta as rounded as those in `state`."""
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
        conserve_angular=bool(config.get("conserve_ang_mom", False)),
        net_momentum=_momentum(config, state or {}, "net_lin_mom"),
        net_angular_momentum=_momentum(config, state or {}, "net_ang_mom"),
        uniform_center=False,
    )


def _negligible(name: str, value: np.ndarray) -> bool:
    """What e3nn stores without learning it: empty weights, masks, Wigner 3j tables."""
    return value.size == 0 or name.endswith("output_mask") or "_w3j_" in name


BUFFERS = (
    "rms_targets", "mean_targets", "lmax", "edge_cutoff", "num_hidden_channels",
    "avg_num_neighbors", "num_mp_layers", "_conservation.prefactor_vel",
    "_conservation.prefactor_disps", "_conservation.net_lin_mom", "_conservation.net_ang_mom",
)  # fmt: skip


def check_state(state: Mapping[str, np.ndarray], settings: ModelSettings, n_species: int) -> None:
    """Raise if a weight is missing, misshapen or unknown; the error names it."""
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
    """One scale for all species, no baseline: the paper's normalisation."""
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
    """Cutoff by the configuration over that in the state dict: 1 but for rounding.

    The PyTorch code has sin(b r/r_c) with r_c from its buffer, but envelope and prefactor
    with the configured cutoff. Stretched frequencies b make one cutoff of the two.
    """
    configured = float(config["edge_cutoff"])
    return configured / float(_buffer(state, "edge_cutoff", configured))


def forecaster(
    config: Mapping, state: Mapping[str, np.ndarray], species: Sequence[int], time_step: float
) -> Forecaster:
    """The forecaster of a PyTorch model, checked against its state dict.

    `species` are atomic numbers in the order of the model's atom types; `time_step` in fs.
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
    """Our parameters of a PyTorch model, in the precision of the state dict where JAX has it."""
    settings = model_settings(config, state)
    stretch, n_species = frequency_stretch(config, state), int(config["num_chem_elements"])
    weights = {name: state[name] for name in expected_shapes(settings, n_species)}
    return jax.jit(lambda w: to_params(w, settings, n_species, stretch))(weights)
