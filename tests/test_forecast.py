"""Laws of the network and the forecast: rotation, inversion, translation, permutation, images,
padding, momentum; and the paper's parameter counts."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import as_system, forecaster, quartz_atoms
from scipy.stats import special_ortho_group

from experiments.train import with_cells
from trajcast_jax import far_field
from trajcast_jax.config import ModelSettings, Statistics
from trajcast_jax.dataset import frame_pairs
from trajcast_jax.forecast import Forecaster, TrainedForecast
from trajcast_jax.graph import graph, neighbor_list
from trajcast_jax.layers import blocks
from trajcast_jax.mechanics import angular_momentum, center_of_mass, momentum
from trajcast_jax.model import TrajCast, feature_irreps
from trajcast_jax.system import heights, pad

VARIANTS = {
    "lmax 1": {},
    "both parities, lmax 2, radial network": {
        "lmax": 2, "parity": "both", "edge_mlp": (8, 17), "velocity_vector": True,
    },
    "substeps": {
        "substeps": 3, "velocity_vector": True, "relative_speeds": True,
        "gate_activation": "bounded_silu", "even_activation": "bounded_silu",
    },
    "far field": {"far_field": True, "substeps": 2},
}  # fmt: skip


def weights(fc: Forecaster):
    """Weights in double precision, large enough that every path matters."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), fc.init(0))


@functools.cache
def compiled(fc):
    """One compilation for all forecasts of a shape."""
    return jax.jit(lambda params, system, edges: fc.on_graph(params, system, edges))


def apply(fc, params, system, skin=0.0):
    fns = neighbor_list(system.cell, fc.settings.cutoff, skin)
    edges = graph(system, fns.allocate(system, capacity=48), fc.settings.cutoff)
    return compiled(fc)(params, system, edges)


def assert_same(a, b, atol=1e-11):
    np.testing.assert_allclose(a.positions, b.positions, atol=atol)
    np.testing.assert_allclose(a.velocities, b.velocities, atol=atol)


@pytest.mark.parametrize("variant", VARIANTS)
def test_forecast_rotates_reflects_and_translates_with_the_system(variant, x64, quartz):
    fc = forecaster(**VARIANTS[variant])
    params = weights(fc)
    turn = -jnp.asarray(special_ortho_group.rvs(3, random_state=1))  # rotation and inversion
    shift = jnp.asarray([1.0, -7.0, 30.0])
    quartz = as_system(quartz_atoms((3, 1, 1)))

    def turned(s, by=0.0):
        return s.replace(
            positions=s.positions @ turn.T + by,
            velocities=s.velocities @ turn.T,
            cell=s.cell @ turn.T,
        )

    after = apply(fc, params, quartz)
    assert float(jnp.abs(after.positions - quartz.positions).max()) > 1e-3  # it does something
    assert_same(apply(fc, params, turned(quartz)), turned(after))
    # The mesh of the far field turns with the cell, but stays where it is.
    limit = 1e-6 if fc.settings.far_field else 1e-11
    assert_same(apply(fc, params, turned(quartz, shift)), turned(after, shift), limit)


def test_forecast_does_not_depend_on_order_image_or_padding(x64):
    fc = forecaster()
    params = weights(fc)
    system = as_system(quartz_atoms((3, 1, 1)))
    after = apply(fc, params, system)
    rng = np.random.default_rng(0)
    order = jnp.asarray(rng.permutation(27))

    def permuted(s):
        return s.replace(
            positions=s.positions[order], velocities=s.velocities[order],
            masses=s.masses[order], species=s.species[order], mask=s.mask[order],
        )  # fmt: skip

    assert_same(apply(fc, params, permuted(system)), permuted(after))
    images = jnp.asarray(rng.integers(-2, 3, (27, 3)), jnp.float64) @ system.cell
    moved = apply(fc, params, system.replace(positions=system.positions + images))
    assert_same(moved, after.replace(positions=after.positions + images))
    assert_same(apply(fc, params, pad(system, 33)), pad(after, 33))


def test_forecast_sees_a_supercell_as_its_cell(x64):
    """Twice the cell is twice the forecast: the multi-image list and the plain one agree."""
    fc = forecaster()
    params = weights(fc)
    atoms = quartz_atoms((1, 1, 1))
    atoms.arrays["v"] = np.random.default_rng(0).normal(size=(9, 3)) * 0.003
    big = atoms * (3, 3, 2)
    small_system, big_system = as_system(atoms), as_system(big)
    small_system = small_system.replace(velocities=jnp.asarray(atoms.arrays["v"]))
    big_system = big_system.replace(velocities=jnp.asarray(big.arrays["v"]))
    small, large = apply(fc, params, small_system), apply(fc, params, big_system)
    np.testing.assert_allclose(large.velocities[:9], small.velocities, atol=1e-11)


def test_a_forecast_does_not_depend_on_the_skin(x64):
    fc = forecaster()
    params = weights(fc)
    system = as_system(quartz_atoms((3, 1, 1)))
    assert_same(apply(fc, params, system, 0.0), apply(fc, params, system, 0.7))


def test_what_a_full_list_leaves_out_is_no_silent_error():
    fc, system = forecaster(), as_system(quartz_atoms((3, 1, 1)))
    listed = neighbor_list(system.cell, fc.settings.cutoff, 0.4).allocate(system)
    forecast = jax.jit(fc)
    assert np.isfinite(forecast(fc.init(0), system, listed).positions).all()
    assert np.isnan(forecast(fc.init(0), system, listed.replace(near=4)).positions).any()


def test_atoms_interact_and_forecasts_are_differentiable(x64, quartz):
    fc = forecaster()
    params = weights(fc)
    fns = neighbor_list(quartz.cell, fc.settings.cutoff, 0.0)
    system = as_system(quartz_atoms((3, 1, 1)))
    neighbors = fns.allocate(system)

    def output(x):
        return fc(params, system.replace(positions=x), neighbors).velocities[0, 0]

    gradient = jax.jit(jax.grad(output))(system.positions)
    assert np.isfinite(gradient).all()
    strongest = jnp.unravel_index(jnp.abs(gradient[1:]).argmax(), gradient[1:].shape)
    strongest = (strongest[0] + 1, strongest[1])  # of the other atoms
    step = jnp.zeros_like(system.positions).at[strongest].set(1e-4)
    output = jax.jit(output)
    numeric = (output(system.positions + step) - output(system.positions - step)) / 2e-4
    assert abs(numeric) > 1e-9  # far above the rounding of the difference
    np.testing.assert_allclose(gradient[strongest], numeric, rtol=1e-5)


def test_momentum_and_uniform_motion_of_the_centre(x64, quartz):
    fc = forecaster()
    system = as_system(quartz_atoms((3, 1, 1)))
    after = apply(fc, weights(fc), system)
    np.testing.assert_allclose(momentum(after), momentum(system), atol=1e-12)
    moved = center_of_mass(after) - center_of_mass(system)
    expected = momentum(system) / system.masses.sum() * fc.time_step
    np.testing.assert_allclose(moved, expected, atol=1e-12)


def test_angular_momentum_of_a_molecule(x64, ethanol):
    fc = forecaster(species=(1, 6, 8), conserve_angular=True)
    system = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, ethanol)
    after = apply(fc, weights(fc), system)
    np.testing.assert_allclose(angular_momentum(after), angular_momentum(system), atol=1e-11)
    np.testing.assert_allclose(momentum(after), momentum(system), atol=1e-12)


def test_zero_velocities_and_single_precision_are_fine(quartz):
    fc = forecaster()
    still = quartz.replace(velocities=jnp.zeros_like(quartz.velocities))
    after = apply(fc, fc.init(0), still)
    assert after.positions.dtype == jnp.float32
    assert np.isfinite(after.positions).all()
    assert np.isfinite(after.velocities).all()


def test_jit_agrees_with_disable_jit(x64):
    """Some releases of JAX miscompile on CPU; this would see it."""
    fc = forecaster(blocks=1, channels=2, lmax=1)
    params = weights(fc)
    system = as_system(quartz_atoms((1, 1, 1)))
    neighbors = neighbor_list(system.cell, 3.5, 0.0).allocate(system)
    jitted = jax.jit(lambda s, n: fc(params, s, n))(system, neighbors)
    with jax.disable_jit():
        eager = fc(params, system, neighbors)
    assert_same(jitted, eager, atol=1e-12)


@pytest.mark.parametrize(("species", "expected"), [(4, 2_431_144), (2, 2_258_856)])
def test_number_of_weights_is_the_papers_less_those_without_gradient(species, expected):
    """Of the paper's weights, those in the last block that reach no vector are not built."""
    measured = Statistics(
        tuple(range(1, species + 1)),
        *[(1.0,) * species] * 2, *[(0.0,) * species] * 2, (1.0,) * species, 10.0,
    )  # fmt: skip
    fc = Forecaster(ModelSettings(), measured, 30.0)
    built = sum(np.size(x) for x in jax.tree.leaves(jax.eval_shape(lambda: fc.init(0))))
    # 21 velocity paths, 33 blocks of the update, 5/6 of the skip, 3 edge paths and their 0o.
    pruned = (21 + 33 + 10 * species // 2 + 3 + 3) * 64 * 64
    assert built == expected - pruned
    if species == 4:
        assert pruned == 327_680


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


def test_one_scale_and_no_baseline_is_the_papers_normalisation(x64):
    fc = forecaster()
    paper = dataclasses.replace(
        fc.statistics,
        displacement_baseline=(0.0, 0.0),
        velocity_baseline=(0.0, 0.0),
    )
    plain = Forecaster(fc.settings, paper, fc.time_step)
    params = weights(fc)
    system = as_system(quartz_atoms((1, 1, 1)))
    neighbors = neighbor_list(system.cell, 3.5, 0.0).allocate(system)
    edges = graph(system, neighbors, 3.5)
    index = fc.species_index(system.species)
    raw = jax.jit(plain.model.apply)(params, edges, system.velocities, index)
    after = compiled(plain)(params, system, edges)
    moved = after.positions - system.positions - 0.05 * raw[:, 0]
    np.testing.assert_allclose(moved - moved[0], 0.0, atol=1e-12)  # but for the centre of mass
    changed = after.velocities - 0.003 * raw[:, 1]
    np.testing.assert_allclose(changed - changed[0], 0.0, atol=1e-12)


def test_unknown_species_and_cells_are_refused_by_name(quartz, ethanol):
    fc = forecaster()
    model = TrainedForecast(fc.init(0), fc)
    with pytest.raises(ValueError, match="holds H, C, but the checkpoint was trained on O, Si"):
        model.check(ethanol)
    listed = neighbor_list(quartz.cell, model.cutoff, 0.5).allocate(quartz)
    foreign = quartz.replace(species=quartz.species.at[0].set(32))
    for system, finite in ((quartz, True), (foreign, False)):
        assert np.isfinite(model.forecast(system, listed).positions).all() == finite
    angular = forecaster(conserve_angular=True)
    with pytest.raises(ValueError, match="isolated molecule"):
        TrainedForecast(angular.init(0), angular).check(quartz)


def test_a_cell_longer_than_those_learned_from_is_pointed_out():
    made = forecaster()
    short, long = (as_system(quartz_atoms(repeat)) for repeat in ((2, 1, 1), (1, 1, 3)))
    still = np.broadcast_to(np.stack([short.positions, short.velocities])[:, None], (2, 3, 18, 3))
    frames = short.replace(positions=still[0], velocities=still[1])
    pairs = frame_pairs([(frames, np.arange(3.0))], 1.0, 3.5, 2)
    learned = with_cells(made, pairs)
    assert learned.statistics.longest_cell == pytest.approx(float(heights(short.cell).max()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TrainedForecast(None, learned).check(short)
        TrainedForecast(None, made).check(long)  # no cell is known
    with pytest.warns(UserWarning, match=r"cell is 16\.\d Å long, but .* at most 8\.\d Å"):
        TrainedForecast(None, learned).check(long)
    assert with_cells(learned, pairs) == learned


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


def test_atoms_in_blocks_are_all_atoms_at_once(monkeypatch, x64):
    """Values and derivatives, with the last block padded and neighbours packed."""
    fc, system = forecaster(substeps=2, far_field=True), as_system(quartz_atoms((3, 2, 2)))
    params, neighbors = fc.init(0), neighbor_list(system.cell, fc.settings.cutoff, 0.5)
    listed = neighbors.allocate(system)
    assert listed.near < listed.idx.shape[1]

    def results():
        def after(positions):
            moved = fc(params, system.replace(positions=positions), listed)
            return jnp.stack([moved.positions, moved.velocities])

        values, pull = after(system.positions), jax.vjp(after, system.positions)[1]
        return values, pull(jnp.cos(jnp.arange(values.size)).reshape(values.shape))[0]

    whole = jax.jit(results)()
    for module in (blocks, far_field):
        monkeypatch.setattr(module, "ROWS", 25)  # 5 times 22 for 108, and those by 11
    for a, b in zip(whole, jax.jit(lambda: results())(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-11 * float(abs(a).max()))
