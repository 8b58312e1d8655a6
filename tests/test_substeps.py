"""Substeps: the formula of their docstring by other means, momentum, smoothness, gradients."""

import dataclasses

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import as_system, forecaster, quartz_atoms

from trajcast_jax.neighbors.graph import Graph, graph, neighbor_list
from trajcast_jax.network.layers import scaled_silu
from trajcast_jax.network.substeps import Substeps, _sine_series

CUTOFF, POWER, REACH = 3.5, 6, np.array([0.12, 0.03, 0.12, 0.03, 0.05])


def envelope(x):
    u = 1 - 28 * x**6 + 48 * x**7 - 21 * x**8
    return np.where(x < 1, u, 0.0)


def five_atoms(seed=0):
    """Five atoms that all hear each other (but two that are too far apart), with features."""
    rng = np.random.default_rng(seed)
    positions = np.array([[0, 0, 0], [1.1, 0, 0], [0, 1.4, 0.2], [1.3, 1.2, 1.0], [3.4, 1.0, 0]])
    senders = np.array([[j for j in range(5) if j != i] for i in range(5)])
    vectors = positions[senders] - positions[:, None]
    mask = np.linalg.norm(vectors, axis=-1) < CUTOFF
    vectors = np.where(mask[..., None], vectors, [CUTOFF, 0, 0])
    edges = Graph(jnp.asarray(vectors), jnp.asarray(np.where(mask, senders, 0)), jnp.asarray(mask))
    assert not mask.all()
    h = e3nn.IrrepsArray("6x0e + 6x1o", jnp.asarray(rng.normal(size=(5, 24))))
    n = np.arange(1, 5)
    r = np.linalg.norm(vectors, axis=-1)
    basis = 2 / CUTOFF * np.sin(np.pi * n * r[..., None] / CUTOFF) / r[..., None]
    basis = basis * envelope(r / CUTOFF)[..., None]
    flight = rng.normal(size=(5, 3)) * REACH[:, None]
    return edges, h, jnp.asarray(basis), jnp.asarray(flight)


def made():
    """The module, its input and weights that pull about as hard as those of a molecule."""
    module = Substeps(4, CUTOFF, POWER)
    edges, h, basis, flight = five_atoms()
    inputs = (edges, h, basis, flight, jnp.asarray(REACH), float(REACH.max()))
    params = module.init(jax.random.key(1), *inputs)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
    params["params"]["w_pull"] *= 10.0
    return module, inputs, params


def test_sine_series_is_the_sum():
    rng = np.random.default_rng(0)
    c, angle = rng.normal(size=(7, 30)), rng.uniform(0, np.pi, 30)
    plain = sum(c[n - 1] * np.sin(n * angle) for n in range(1, 8))
    series = _sine_series([jnp.asarray(x) for x in c], jnp.asarray(angle))
    np.testing.assert_allclose(series, plain, atol=2e-5)


def test_substeps_are_leapfrog_under_the_pulls_of_the_docstring(x64):
    module, inputs, params = made()
    edges, h, basis, flight, reach, largest = inputs
    h, basis, flight, reach = map(np.asarray, (h.array, basis, flight, reach))
    moved, out = module.apply(params, *inputs)
    w = jax.tree.map(np.asarray, params["params"])
    node = h[:, :6] @ w["atoms"]["w_0e"] / 6**0.5
    steady = 0.5 * np.einsum("aci,c->ai", h[:, 6:].reshape(5, 6, 3), w["atoms"]["w_1o"][:, 0])
    steady /= 6**0.5
    senders, mask = np.asarray(edges.senders), np.asarray(edges.mask)
    hidden = 0.6 * (node[:, None] + node[senders]) + basis @ w["w_pairs"] / 2
    c = np.asarray(scaled_silu(jnp.asarray(hidden))) @ w["w_pull"] / 32**0.5
    first = np.linalg.norm(edges.vectors, axis=-1)
    x, p, n = np.zeros((5, 3)), flight.copy(), np.arange(1, 5)
    for _ in range(4):
        x = x + p / 8
        a = steady.copy()
        for i in range(5):
            for k in np.flatnonzero(mask[i]):
                r_ij = np.asarray(edges.vectors)[i, k] + x[senders[i, k]] - x[i]
                r = np.linalg.norm(r_ij)
                y = 10 * np.tanh((r - first[i, k]) / (3 * largest))
                waves = 2 / CUTOFF * np.sin(n * np.pi * r / CUTOFF) / (r + 1e-5)
                pull = waves @ c[i, k, :4] + 0.3 * c[i, k, 4] * y + 0.1 * c[i, k, 5] * y**2
                pull *= envelope(r / CUTOFF) * envelope(first[i, k] / CUTOFF)
                a[i] += pull * r_ij / (r + 1e-5)
        p = p + reach[:, None] ** 2 / largest * a / 4
        x = x + p / 8
    assert abs(x - flight).max() > 0.05  # the pulls do something
    np.testing.assert_allclose(moved, x, atol=1e-12)
    np.testing.assert_allclose(out, p, atol=1e-12)


def test_without_pulls_atoms_fly_freely(x64):
    module, inputs, params = made()
    params["params"]["w_pull"] = jnp.zeros_like(params["params"]["w_pull"])
    params["params"]["atoms"]["w_1o"] = jnp.zeros((6, 1))
    for way in module.apply(params, *inputs):
        np.testing.assert_allclose(way, inputs[3], atol=1e-14)


def test_pulls_between_neighbors_conserve_momentum(x64):
    """Σ m·flight with masses that go as 1/ℓ², whatever the pulls."""
    module, inputs, params = made()
    params["params"]["atoms"]["w_1o"] = jnp.zeros((6, 1))
    _, flight = module.apply(params, *inputs)
    assert abs(flight - inputs[3]).max() > 0.05
    before, after = (np.sum(f / REACH[:, None] ** 2, axis=0) for f in (inputs[3], flight))
    np.testing.assert_allclose(after, before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_gradients_through_substeps_are_those_of_differences(mode, x64):
    module, inputs, params = made()
    edges, h, basis, flight, *rest = inputs

    def loss(flight, weight):
        changed = {"params": params["params"] | {"w_pull": weight}}
        moved, out = module.apply(changed, edges, h, basis, flight, *rest)
        return jnp.sum(jnp.sin(moved)) + jnp.sum(out**2)

    at = (flight, params["params"]["w_pull"])
    rng = np.random.default_rng(3)
    along = tuple(jnp.asarray(rng.normal(size=x.shape)) for x in at)
    step = lambda e: tuple(x + e * y for x, y in zip(at, along, strict=True))  # noqa: E731
    difference = (loss(*step(1e-5)) - loss(*step(-1e-5))) / 2e-5
    if mode == "forward":
        slope = jax.jvp(loss, at, along)[1]
    else:
        gradients = jax.grad(loss, (0, 1))(*at)
        slope = sum(jnp.sum(g * y) for g, y in zip(gradients, along, strict=True))
    np.testing.assert_allclose(slope, difference, rtol=1e-6)


def test_an_atom_that_enters_the_cutoff_changes_nothing_at_once(x64):
    """The forecast is smooth where a neighbour appears: no jump at the cutoff."""
    fc = forecaster(substeps=3, cutoff=3.5)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), fc.init(0))
    params["params"]["substeps"]["w_pull"] *= 10.0
    atoms, on_graph = quartz_atoms((1, 1, 1))[:2], jax.jit(fc.on_graph)
    atoms.pbc = False

    def forecast(distance):
        atoms.positions[:] = [[0, 0, 0], [distance, 0, 0]]
        system = as_system(atoms)
        listed = neighbor_list(None, 5.0).allocate(system)
        after = on_graph(params, system, graph(system, listed, 3.5))
        return np.asarray(after.positions - system.positions)

    inside, outside = forecast(3.5 - 1e-6), forecast(3.5 + 1e-6)
    np.testing.assert_allclose(inside, outside, atol=1e-7)
    assert abs(forecast(2.0) - outside).max() > 1e-3


def test_the_papers_network_has_no_substeps():
    fc = forecaster()
    assert fc.settings.substeps == 0
    assert "substeps" not in fc.init(0)["params"]
    more = dataclasses.replace(fc, settings=dataclasses.replace(fc.settings, substeps=2))
    assert "substeps" in more.init(0)["params"]
