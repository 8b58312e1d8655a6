"""Laws of the network and the forecast: rotation, inversion, translation, permutation, images,
padding, momentum."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import as_system, forecaster, quartz_atoms
from scipy.stats import special_ortho_group

from trajcast_jax import blocks
from trajcast_jax.data.pairs import frame_pairs
from trajcast_jax.mechanics import angular_momentum, center_of_mass, momentum
from trajcast_jax.neighbors import far_field
from trajcast_jax.neighbors.graph import graph, neighbor_list
from trajcast_jax.network.forecast import Forecaster, TrainedForecast
from trajcast_jax.system import heights, pad
from trajcast_jax.workflow.training_pairs import with_cells

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


@pytest.mark.slow
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


@pytest.mark.slow
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
    fc = forecaster(blocks=1, channels=2)
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
    dense = dataclasses.replace(made.statistics, average_neighbors=10.9)  # as in these systems
    made = dataclasses.replace(made, statistics=dense)
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


@pytest.mark.slow
def test_atoms_in_blocks_are_all_atoms_at_once(monkeypatch, x64):
    """Values and derivatives, with the last block padded and neighbours packed."""
    fc, system = (
        forecaster(blocks=1, substeps=2, far_field=True),
        as_system(quartz_atoms((3, 2, 2))),
    )
    params, neighbors = fc.init(0), neighbor_list(system.cell, fc.settings.cutoff, 0.5)
    listed = neighbors.allocate(system)
    assert listed.near < listed.idx.shape[1]

    def results():
        def after(positions):
            moved = fc(params, system.replace(positions=positions), listed)
            return jnp.stack([moved.positions, moved.velocities])

        values, pull = after(system.positions), jax.vjp(after, system.positions)[1]
        return values, pull(jnp.cos(jnp.arange(values.size)).reshape(values.shape))[0]

    # Only the compiler's work is less: what is checked are the loops over blocks.
    jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    whole = jit(results)()
    for module in (blocks, far_field):
        monkeypatch.setattr(module, "ROWS", 25)  # 5 times 22 for 108, and those by 11
    for a, b in zip(whole, jit(lambda: results())(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-11 * float(abs(a).max()))
