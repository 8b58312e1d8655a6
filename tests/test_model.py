"""The network: the paper's parameter counts, gradients of every weight, and how it reads speeds."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import as_system, forecaster, quartz_atoms
from test_forecast import weights

import experiments
from trajcast_jax.config import Statistics
from trajcast_jax.neighbors.graph import graph, neighbor_list
from trajcast_jax.network.forecast import Forecaster
from trajcast_jax.network.model import TrajCast, feature_irreps


@pytest.mark.parametrize(("species", "expected"), [(4, 2_431_144), (2, 2_258_856)])
def test_number_of_weights_is_the_papers_less_those_without_gradient(species, expected):
    """Of the paper's weights, those in the last block that reach no vector are not built."""
    measured = Statistics(
        tuple(range(1, species + 1)),
        *[(1.0,) * species] * 2, *[(0.0,) * species] * 2, (1.0,) * species, 10.0,
    )  # fmt: skip
    fc = Forecaster(experiments.load("quartz_paper").model, measured, 30.0)
    built = sum(np.size(x) for x in jax.tree.leaves(jax.eval_shape(lambda: fc.init(0))))
    # 21 velocity paths, 33 blocks of the update, 5/6 of the skip, 3 edge paths and their 0o.
    pruned = (21 + 33 + 10 * species // 2 + 3 + 3) * 64 * 64
    assert built == expected - pruned
    if species == 4:
        assert pruned == 327_680


@pytest.mark.slow
def test_every_weight_receives_a_gradient(x64):
    fc = forecaster(parity="both", edge_mlp=(4,), lmax=2)
    system = as_system(quartz_atoms((1, 1, 1)))
    neighbors = neighbor_list(system.cell, 3.5, 0.0).allocate(system)
    edges = graph(system, neighbors, 3.5)

    def loss(params):
        after = fc.on_graph(params, system, edges)
        return (after.velocities**2).sum() + ((after.positions - system.positions) ** 2).sum()

    gradients = jax.jit(jax.grad(loss))(weights(fc))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert float(jnp.abs(leaf).max()) > 0, f"no gradient reaches {jax.tree_util.keystr(path)}"


def test_feature_irreps():
    assert str(feature_irreps(4, 2, "natural")) == "4x0e+4x1o+4x2e"
    assert str(feature_irreps(4, 1, "both")) == "4x0e+4x0o+4x1o+4x1e"
    with pytest.raises(ValueError, match=r"model\.parity must be"):
        feature_irreps(4, 1, "odd")


def test_model_needs_no_units():
    """The module itself returns normalised fields of order one for normal weights."""
    fc = forecaster(channels=32, blocks=3)
    system = as_system(quartz_atoms((3, 1, 1)))
    neighbors = neighbor_list(system.cell, 3.5, 0.0).allocate(system)
    module: TrajCast = fc.model
    raw = jax.jit(module.apply)(
        fc.init(0), graph(system, neighbors, 3.5), system.velocities,
        fc.species_index(system.species),
    )  # fmt: skip
    assert raw.shape == (27, 2, 3)
    assert 0.01 < float(raw.std()) < 10


def speed_features(fc, params, system, velocities):
    """What the network makes of speeds."""
    listed = neighbor_list(system.cell, fc.settings.cutoff, 0.0).allocate(system)
    _, seen = looked_into(fc)(
        params, graph(system, listed, fc.settings.cutoff), velocities,
        fc.species_index(system.species),
    )  # fmt: skip
    return seen["intermediates"]["speed_mixing"]["__call__"][0]


@functools.cache
def looked_into(fc):
    """The network, with all that passes between its parts."""
    options = {"capture_intermediates": True, "mutable": "intermediates"}
    return jax.jit(functools.partial(fc.model.apply, **options))


def test_relative_speeds_show_a_heavy_atom_as_fast_as_a_light_one(x64):
    """An atom of a species half as fast has the speed features of one that is twice as fast."""
    plain = forecaster()
    statistics = dataclasses.replace(plain.statistics, velocity_rms=(0.004, 0.002))
    settings = dataclasses.replace(plain.settings, relative_speeds=True)
    relative = dataclasses.replace(plain, settings=settings, statistics=statistics)
    params, system = weights(plain), as_system(quartz_atoms((3, 1, 1)))
    slow = plain.species_index(system.species)[:, None] == 1
    stretched = jnp.where(slow, 2.0, 1.0) * system.velocities
    found = speed_features(relative, params, system, system.velocities)
    expected = speed_features(plain, params, system, stretched)
    np.testing.assert_allclose(found, expected, atol=1e-14)
    assert abs(found - speed_features(plain, params, system, system.velocities)).max() > 0.1


@pytest.mark.parametrize("relative", [False, True])
def test_atoms_beyond_the_speed_limit_are_read_as_that_fast(x64, relative):
    plain = forecaster()
    statistics = dataclasses.replace(plain.statistics, velocity_rms=(0.004, 0.002))
    sizes = dataclasses.replace(plain.settings, max_speed=0.03, relative_speeds=relative)
    free = dataclasses.replace(plain, settings=sizes, statistics=statistics)
    held = dataclasses.replace(free, settings=dataclasses.replace(sizes, speed_limit=4.25))
    params, system = weights(plain), as_system(quartz_atoms((3, 1, 1)))
    sigma = np.asarray(statistics.velocity_rms)[plain.species_index(system.species), None]
    along = system.velocities / np.linalg.norm(system.velocities, axis=-1, keepdims=True)

    def features(fc, speed):
        return speed_features(fc, params, system, speed * sigma * along)

    np.testing.assert_allclose(features(held, 3.0), features(free, 3.0), atol=2e-3)
    np.testing.assert_allclose(features(held, 5.5), features(free, 4.25), atol=2e-3)
    np.testing.assert_allclose(features(held, 9.0), features(free, 4.25), atol=1e-6)
    assert abs(features(free, 5.5) - features(free, 4.25)).max() > 0.1
