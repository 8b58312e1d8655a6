"""The PyTorch TrajCast's models here: their settings, their weights, and every refusal."""

import ase.build
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import as_system

import trajcast_jax as tj
from trajcast_jax.mechanics import angular_momentum, momentum
from trajcast_jax.network import checkpoint
from trajcast_jax.network.conservation import conserve_angular, conserve_linear
from trajcast_jax.pytorch import importer
from trajcast_jax.pytorch.weights import expected_shapes, to_params, torch_blocks

SMALL = {
    "num_chem_elements": 2, "edge_cutoff": 3.5, "num_edge_rbf": 4, "num_edge_poly_cutoff": 6,
    "num_vel_rbf": 4, "vel_max": 0.02, "max_rotation_order": 1, "num_hidden_channels": 4,
    "num_mp_layers": 1, "avg_num_neighbors": 12.5, "edge_mlp_kwargs": {"n_neurons": [4]},
    "vel_mlp_kwargs": {"n_neurons": 4, "n_layers": 2, "activation": "tanh"},
    "net_lin_mom": [0.0, 0.0, 0.0],
}  # fmt: skip


def random_state(config, dtype=np.float32, seed=0):
    """A state dict of the right shapes."""
    shapes = expected_shapes(importer.model_settings(config), config["num_chem_elements"])
    rng = np.random.default_rng(seed)
    state = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    return state | {
        "rms_targets": np.asarray([0.05, 0.003], dtype),
        "mean_targets": np.zeros(2, dtype),
        "lmax": np.asarray(config["max_rotation_order"]),
        "_int_out.mp_layer_0.linear_updates.bias": np.zeros(0, dtype),
        "_int_out.mp_layer_0.linear_updates.output_mask": np.ones(3, dtype),
    }


@pytest.mark.parametrize(("lmax", "blocks"), [(1, 3), (2, 1), (3, 2)])
def test_every_order_and_depth_has_the_parameters_of_a_native_model(lmax, blocks):
    config = SMALL | {"max_rotation_order": lmax, "num_mp_layers": blocks}
    state = random_state(config)
    fc = importer.forecaster(config, state, (8, 14), 30.0)
    params = importer.params_of(config, state)
    native = fc.init(0)
    assert jax.tree.structure(params) == jax.tree.structure(native)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, native)
    # A gradient by PyTorch's names exists for all of them: slices transpose to padding.
    settings = fc.settings

    @jax.jit
    def pulled(state, ones):
        return jax.vjp(lambda s: to_params(s, settings, 2), state)[1](ones)[0]

    learned = {k: state[k] for k in _learned(state)}
    gradient = pulled(learned, jax.tree.map(jnp.ones_like, params))
    ours = sum(x.size for x in jax.tree.leaves(params))
    assert sum(int((x != 0).sum()) for x in gradient.values()) == ours


def _learned(state):
    return [k for k in state if k.startswith(("_enc", "_int")) and not k.endswith(("bias", "mask"))]


def test_the_papers_size_has_the_papers_number_of_weights():
    paper = SMALL | {
        "num_chem_elements": 4, "max_rotation_order": 2, "num_hidden_channels": 64,
        "num_mp_layers": 4, "num_edge_rbf": 8, "num_vel_rbf": 8,
        "edge_mlp_kwargs": {}, "vel_mlp_kwargs": None,
    }  # fmt: skip
    shapes = expected_shapes(importer.model_settings(paper), 4)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 2_431_144
    assert [len(b.edge_paths) for b in torch_blocks(importer.model_settings(paper))] == [
        15, 30, 30, 30,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        (None, ("tanh", "silu", "silu")),
        ({}, ("tanh", "tanh", "tanh")),
        ({"activation_scalars": ["identity", "relu"]}, ("identity", "relu", "tanh")),
        (
            {"activation_scalars": {"e": "GeLU", "o": "tanh"}, "activation_gates": ["sigmoid"]},
            ("tanh", "gelu", "sigmoid"),
        ),
    ],
)
def test_gates_and_their_defaults(gate, expected):
    config = SMALL if gate is None else SMALL | {"nl_gate_kwargs": gate}
    s = importer.model_settings(config)
    assert (s.odd_activation, s.even_activation, s.gate_activation) == expected
    assert (s.edge_mlp, s.edge_activation) == ((4,), "silu")
    assert (s.velocity_mlp, s.velocity_activation) == ((4, 4), "tanh")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_heads": 2}, "Unknown setting 'n_heads'"),
        ({"edge_mlp_kwargs": {"n_neurons": [4], "bias": True}}, "'bias' in edge_mlp_kwargs"),
        ({"edge_mlp_kwargs": {"activation": "silu"}}, "edge_mlp_kwargs lacks n_neurons"),
        ({"vel_mlp_kwargs": {"n_neurons": 4, "activation": "swish"}}, "activation 'swish'"),
        ({"nl_gate_kwargs": {"activation_scalars": ["silu"]}}, "cannot be activated by 'silu'"),
        ({"nl_gate_kwargs": {"activation_scalars": {"e": "silu"}}}, "lacks the parity 'o'"),
        ({"nl_gate_kwargs": {"activation_gates": ["silu", "tanh"]}}, "must be a list of 1"),
        ({"nl_gate_kwargs": {"irreps_gates": "8x0o"}}, "irreps_gates is 8x0o, but only 8x0e"),
        ({"o3_backend": "cueq"}, "o3_backend is 'cueq'"),
        ({"max_rotation_order": 4}, "max_rotation_order must be 1 to 3"),
        ({"net_lin_mom": [0.0]}, "net_lin_mom must have no or 3 components"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        importer.model_settings(SMALL | change)


COMPRESS = "_int_out.LinearCompression.linear.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({COMPRESS: None}, f"The weight {COMPRESS} is missing"),
        ({COMPRESS: np.zeros(5)}, rf"{COMPRESS} has shape \(5,\), but .* \(4,\)"),
        ({COMPRESS: np.full(4, np.nan)}, f"{COMPRESS} is not finite"),
        ({"rms_targets": None}, "rms_targets is missing"),
        ({"_int_out.mp_layer_1.tp_resnet.weight": np.zeros(9)}, "mp_layer_1.tp_resnet.weight, whi"),
        ({"mean_targets": np.ones(2)}, "mean_targets"),
        ({"lmax": np.asarray(2)}, "lmax is 2.* in the weights, but 1"),
        ({"edge_cutoff": np.asarray(4.0)}, "edge_cutoff is 4.0 in the weights, but 3.5"),
        ({"_int_out.mp_layer_0.avg_num_neighbors": np.asarray(9.0)}, "avg_num_neighbors is 9"),
    ],
)
def test_a_state_dict_of_another_model_is_refused_by_name(change, message):
    state = {k: v for k, v in (random_state(SMALL) | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        importer.forecaster(SMALL, state, (8, 14), 30.0)


def test_species_must_be_as_many_as_the_model_knows():
    with pytest.raises(ValueError, match="The model knows 2 elements"):
        importer.forecaster(SMALL, random_state(SMALL), (8, 8), 30.0)


def test_a_cutoff_rounded_in_the_state_dict_keeps_its_waves():
    """PyTorch's sin(b r/r_c) uses the rounded cutoff, its envelope the configured one."""
    config = SMALL | {"edge_cutoff": 3.7}
    state = random_state(config) | {"edge_cutoff": np.float32(3.7)}
    with jax.enable_x64(True):
        doubles = {k: np.asarray(v, np.float64) for k, v in state.items()}
        frequencies = importer.params_of(config, doubles)["params"]["bessel"]["frequencies"]
    roots = state["_encoding.EdgeLengthEncoding.radial_basis.bessel_roots"].astype(np.float64)
    np.testing.assert_allclose(
        np.asarray(frequencies) / 3.7, roots / float(np.float32(3.7)), rtol=1e-14
    )


def test_double_precision_weights_stay_double(tmp_path):
    state = random_state(SMALL, np.float64)
    with jax.enable_x64(True):
        fc = importer.forecaster(SMALL, state, (8, 14), 30.0)
        checkpoint.save(tmp_path / "double", fc, importer.params_of(SMALL, state))
        read = tj.restore(tmp_path / "double").params["params"]["read_out_1"]["w_1o"]
        assert read.dtype == jnp.float64
        np.testing.assert_array_equal(read, state[COMPRESS].reshape(4, 1))
    single = tj.restore(tmp_path / "double").params["params"]["read_out_1"]["w_1o"]
    assert single.dtype == jnp.float32


def test_pt_files_are_read_without_running_code(tmp_path):
    torch = pytest.importorskip("torch")
    state = random_state(SMALL)
    torch.save({k: torch.from_numpy(v) for k, v in state.items()}, tmp_path / "state.pt")
    for name, value in importer.read_state(tmp_path / "state.pt").items():
        np.testing.assert_array_equal(value, state[name])
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="no state dict of tensors"):
        importer.read_state(tmp_path / "list.pt")


def test_pt_files_without_torch_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(ImportError, match=r"trajcast_jax\[torch\].*\.npz"):
        importer.read_state(tmp_path / "state.pt")


def test_imposed_momenta_and_the_reference_rule_of_the_centre(x64):
    before = as_system(ase.build.molecule("CH3CH2OH"))
    rng = np.random.default_rng(1)
    after = before.replace(
        positions=before.positions + 0.01 * rng.normal(size=before.positions.shape),
        velocities=before.velocities + 0.01 * rng.normal(size=before.positions.shape),
    )
    target = jnp.asarray([0.1, -0.2, 0.3])
    moved = conserve_linear(before, after, 7.0, target)
    np.testing.assert_allclose(momentum(moved), target, atol=1e-12)
    shift = before.masses @ (moved.positions - before.positions) / before.masses.sum()
    np.testing.assert_allclose(shift, target * 7.0 / before.masses.sum(), atol=1e-12)
    free = conserve_linear(before, after, 7.0, target, uniform=False)
    np.testing.assert_array_equal(free.positions, after.positions)
    rests = conserve_linear(before, after, 7.0, jnp.zeros(3), uniform=False)
    assert jnp.abs(before.masses @ (rests.positions - before.positions)).max() < 1e-12
    turned = conserve_angular(before, moved, target)
    np.testing.assert_allclose(angular_momentum(turned), target, atol=1e-12)
    np.testing.assert_allclose(momentum(turned), target, atol=1e-12)
