"""Layers: equivariance, and each against an independent way to compute the same."""

from functools import partial

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from e3nn_jax.utils import assert_equivariant

from trajcast_jax.network.layers import (
    MLP,
    BesselBasis,
    Convolution,
    Linear,
    NodeTensorProduct,
    SpeciesLinear,
    activation,
    channelwise_paths,
    directions,
    gate,
    gate_irreps,
    odd_activation,
    polynomial_envelope,
    speed_basis,
    tensor_product,
)
from trajcast_jax.network.layers.activation import CONSTANTS, FUNCTIONS

BOTH = e3nn.Irreps("3x0e+3x0o+3x1o+3x1e+3x2e+3x2o")
NATURAL = e3nn.Irreps("3x0e+3x1o+3x2e")


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def random_params(module, *inputs):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), shapes)


def neighborhood(n_atoms=5, slots=4, n_radial=3, lmax=2):
    rng = np.random.default_rng(2)
    senders = jnp.asarray(rng.integers(0, n_atoms, (n_atoms, slots)))
    radial = normal(n_atoms, slots, n_radial, seed=3)
    vectors = normal(n_atoms, slots, 3, seed=4)
    return senders, radial, vectors


@partial(jax.jit, static_argnames=("irreps_out", "lmax"))
def reference_convolution(h, radial, vectors, senders, weights, irreps_out, lmax):
    """Edge by edge with e3nn's own tensor product."""
    paths = channelwise_paths(h.irreps, lmax, irreps_out)
    y = e3nn.spherical_harmonics(
        e3nn.Irreps.spherical_harmonics(lmax), e3nn.IrrepsArray("1o", vectors), True, "component"
    )
    w = jnp.einsum("ijn,npu->ijpu", radial, weights) * radial.shape[-1] ** -0.5
    outputs = []
    for k, path in enumerate(paths):
        a = h.filter(keep=[path.ir_in])[senders].mul_to_axis()
        b = y.filter(keep=e3nn.Irrep(path.l, (-1) ** path.l))[:, :, None]
        product = e3nn.tensor_product(a, b, filter_ir_out=[path.ir_out])
        message = product.array * w[:, :, k, :, None]
        outputs.append(message.sum(1))
    return outputs


def assert_paths_are(out, expected):
    """The paths into one irrep are channels of one chunk."""
    got = [part for x in out.chunks for part in jnp.split(x, x.shape[1] // 3, axis=1)]
    assert len(got) == len(expected)
    for one, want in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, want, atol=1e-12)


@pytest.mark.parametrize("irreps", [NATURAL, BOTH], ids=["natural", "both"])
@pytest.mark.parametrize("neighbors", [50.0, 5.0], ids=["density", "direct"])
def test_convolution_is_e3nns_tensor_product(irreps, neighbors, x64):
    senders, radial, vectors = neighborhood(n_radial=3)
    h = e3nn.IrrepsArray(irreps, normal(5, irreps.dim))
    module = Convolution(irreps, 2, neighbors, block=2)
    y = directions(vectors, 2)
    params = random_params(module, h, radial, y, senders)
    out = jax.jit(module.apply)(params, h, radial, y, senders)
    expected = reference_convolution(
        h, radial, vectors, senders, params["params"]["weights"], irreps, 2
    )
    assert_paths_are(out, expected)


def routes():
    """Both ways to sum messages, the one that mixes them, and what they are functions of."""
    senders, radial, vectors = neighborhood()
    h, y = [normal(5, ir.dim, 3) for _, ir in BOTH], directions(vectors, 2)
    irreps = [ir for _, ir in BOTH]
    paths = channelwise_paths(BOTH, 2, BOTH)
    weights = normal(3, len(paths), 3, seed=5)

    def fixed(route):
        return lambda h, radial, y, weights: route(h, radial, y, senders, weights)

    density = lambda *args: tensor_product._density(*args, paths, irreps)  # noqa: E731
    direct = lambda *args: tensor_product._direct(*args, paths, irreps)  # noqa: E731
    mixed = tensor_product._density_forward(paths, irreps)
    return [fixed(route) for route in (density, direct, mixed)], (h, radial, y, weights)


@pytest.mark.slow
def test_every_route_of_the_convolution_has_the_same_gradients(x64):
    every, arguments = routes()
    loss = lambda route, *args: sum((x**2).sum() for x in route(*args))  # noqa: E731
    one, *others = (
        jax.jit(jax.grad(partial(loss, route), (0, 1, 2, 3)))(*arguments) for route in every
    )
    for other in others:
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_every_route_of_the_convolution_has_the_same_forward_derivative(x64):
    every, arguments = routes()
    tangents = jax.tree.map(lambda x: normal(*x.shape, seed=x.size), arguments)
    one, *others = (jax.jit(partial(jax.jvp, route))(arguments, tangents) for route in every)
    for other in others:
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("neighbors", [50.0, 5.0], ids=["density", "direct"])
def test_gradients_are_the_same_in_blocks(neighbors, x64):
    senders, radial, vectors = neighborhood(n_radial=3)
    values, y = normal(5, NATURAL.dim), directions(vectors, 2)
    h = e3nn.IrrepsArray(NATURAL, values)
    params = random_params(Convolution(NATURAL, 2), h, radial, y, senders)

    def loss(params, radial, block):
        module = Convolution(NATURAL, 2, neighbors, block)
        h = e3nn.IrrepsArray(NATURAL, values)  # such an array keeps tracers of the first use
        return (module.apply(params, h, radial, y, senders).array ** 2).sum()

    gradient = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    whole, blocks = (gradient(params, radial, block) for block in (5, 2))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(blocks), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_number_of_paths_is_the_papers():
    every = e3nn.Irreps("0e+0o+1o+1e+2e+2o")
    assert len(channelwise_paths(every, 2, every)) == 30
    assert len(channelwise_paths(e3nn.Irreps("0e+1o+2e"), 2, every)) == 15
    assert len(channelwise_paths(NATURAL, 2, NATURAL)) == 11


def test_convolution_is_equivariant(x64):
    senders, radial, vectors = neighborhood()
    h = e3nn.IrrepsArray(BOTH, normal(5, BOTH.dim))
    module = Convolution(BOTH, 2)
    params = random_params(module, h, radial, directions(vectors, 2), senders)

    @jax.jit
    def function(h, vectors):
        return module.apply(params, h, radial, directions(vectors.array, 2), senders)

    vectors = e3nn.IrrepsArray("1o", vectors)
    assert_equivariant(function, jax.random.key(0), h, vectors, atol=1e-9, rtol=1e-9)


def test_node_tensor_product_is_equivariant_and_e3nns(x64):
    h = e3nn.IrrepsArray(BOTH, normal(5, BOTH.dim))
    features, velocities = normal(5, 7), normal(5, 3, seed=8)
    module = NodeTensorProduct(BOTH, 2)
    params = random_params(module, h, features, directions(velocities, 2))

    @jax.jit
    def function(h, v):
        return module.apply(params, h, features, directions(v.array, 2))

    v = e3nn.IrrepsArray("1o", velocities)
    assert_equivariant(function, jax.random.key(0), h, v, atol=1e-9, rtol=1e-9)
    own = jnp.arange(5)[:, None]  # a convolution over one neighbour: the atom itself
    expected = reference_convolution(
        h, features[:, None], velocities[:, None], own, params["params"]["weights"], BOTH, 2
    )
    assert_paths_are(function(h, v), expected)


def test_linear_gate_and_skip_are_equivariant(x64):
    gated = gate_irreps(BOTH)
    h = e3nn.IrrepsArray(gated, normal(5, gated.dim))
    species = jnp.asarray([0, 1, 1, 0, 2])
    linear, skip = Linear(gated), SpeciesLinear(BOTH, 3)
    p_linear, p_skip = random_params(linear, h), random_params(skip, h, species)

    @jax.jit
    def function(h):
        return gate(linear.apply(p_linear, h), BOTH) + skip.apply(p_skip, h, species)

    assert_equivariant(function, jax.random.key(0), h, atol=1e-9, rtol=1e-9)


def test_linear_shares_the_fan_in_of_blocks(x64):
    x = e3nn.IrrepsArray("2x0e+3x0e", normal(4, 5))
    module = Linear(e3nn.Irreps("6x0e+2x1o"))
    params = random_params(module, x)
    y = module.apply(params, x)
    assert y.irreps == e3nn.Irreps("6x0e")  # 1o cannot come from scalars
    np.testing.assert_allclose(y.array, x.array @ params["params"]["w_0e"] / 5**0.5)


def test_species_linear_picks_the_species_own_matrix(x64):
    x = e3nn.IrrepsArray("2x0e", normal(3, 2))
    module = SpeciesLinear(e3nn.Irreps("4x0e"), 2)
    species = jnp.asarray([1, 0, 1])
    params = random_params(module, x, species)
    w = params["params"]["w_0e"]
    expected = np.stack([x.array[i] @ w[:, int(z)] / 4**0.5 for i, z in enumerate(species)])
    np.testing.assert_allclose(module.apply(params, x, species).array, expected)


def test_signal_keeps_its_size_through_the_mlp(x64):
    """Weights N(0, 1) with the scaling in the pass: the second moment stays near 1."""
    x = normal(2000, 64)
    module = MLP((512, 512))
    y = module.apply(random_params(module, x), x)
    assert 0.8 < float((y**2).mean()) < 1.2


def test_activation_constants():
    density = lambda z: np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)  # noqa: E731
    assert FUNCTIONS.keys() == CONSTANTS.keys()
    for name, constant in CONSTANTS.items():
        if name == "bounded_silu":  # silu's, on purpose: the same function near 0
            continue
        function = activation(name)
        square = lambda z, f=function, c=constant: (f(z) / c) ** 2 * density(z)  # noqa: E731
        moment, _ = scipy.integrate.quad(square, -20, 20, limit=200)
        # e3nn estimates its constants from 10⁶ samples: right to a fraction of a per cent.
        assert constant == pytest.approx(moment**-0.5, rel=3e-3)


def test_bounded_silu_is_silu_that_levels_off():
    x = jnp.linspace(-1, 1, 21)
    np.testing.assert_allclose(activation("bounded_silu")(x), activation("silu")(x), atol=0.01)
    top = activation("silu")(10.0)
    np.testing.assert_allclose(activation("bounded_silu")(1e30), top, rtol=1e-6)
    assert np.isfinite(jax.grad(activation("bounded_silu"))(1e30))


def test_activations_are_refused_by_name():
    with pytest.raises(ValueError, match=r"one of silu, tanh.*but is 'swish'"):
        activation("swish")
    with pytest.raises(ValueError, match="Odd scalars cannot be activated by 'silu'"):
        odd_activation("silu")
    x = jnp.linspace(-2, 2, 9)
    np.testing.assert_array_equal(odd_activation("tanh")(-x), -odd_activation("tanh")(x))


def test_radial_bases(x64):
    r = jnp.linspace(0.01, 4.4, 50)
    module = BesselBasis(4.0, 8, 6)
    params = module.init(jax.random.key(0), r)
    basis = module.apply(params, r)
    n = np.arange(1, 9)
    expected = (2 / 4.0) * np.sin(n * np.pi * r[:, None] / 4.0) / (r[:, None] + 1e-5)
    inside = np.asarray(r < 4.0)
    u = np.asarray(polynomial_envelope(r / 4.0, 6))[:, None]
    np.testing.assert_allclose(basis[inside], (expected * u)[inside], rtol=1e-9)
    assert (basis[~inside] == 0).all()


@pytest.mark.parametrize("order", [0, 1, 2])
def test_envelope_is_smooth_at_the_cutoff(order, x64):
    function = lambda x: polynomial_envelope(x, 6)  # noqa: E731
    for _ in range(order):
        function = jax.grad(function)
    assert abs(float(function(1.0 - 1e-6))) < 1e-3
    assert float(polynomial_envelope(jnp.asarray(0.0), 6)) == 1.0


def test_speed_basis_leaves_out_both_ends(x64):
    g = speed_basis(jnp.asarray([0.0, 0.05, 0.1]), 4, 0.1)
    centers = np.asarray([0.02, 0.04, 0.06, 0.08])
    np.testing.assert_allclose(g[1], 2 / 1.12 * np.exp(-(((0.05 - centers) / 0.02) ** 2)))


def test_directions_of_a_zero_vector(x64):
    y = directions(jnp.zeros((1, 3)), 2)
    np.testing.assert_array_equal(y, [[1, 0, 0, 0, 0, 0, 0, 0, 0]])
    y = directions(normal(4, 3), 2)
    np.testing.assert_allclose((y[:, 4:] ** 2).sum(-1), 5.0)
    gradient = jax.grad(lambda v: directions(v, 2).sum())(jnp.zeros((1, 3)))
    assert np.isfinite(gradient).all()
