"""The far field: Ewald's sum by other means, symmetries, what it tells and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import as_system, forecaster, quartz_atoms
from scipy.special import erf
from scipy.stats import special_ortho_group

from trajcast_jax.data import frame_pairs, statistics
from trajcast_jax.neighbors.far_field import (
    decorrelation,
    far_features,
    far_field,
    mesh_size,
    neutral_charges,
)
from trajcast_jax.neighbors.graph import graph, neighbor_list
from trajcast_jax.network.forecast import Forecaster
from trajcast_jax.system import make_system, pad

WIDTH = 1.1
CELL = np.array([[9.0, 0.0, 0.0], [2.0, 8.0, 0.5], [-1.0, 1.5, 10.0]])
MESH = mesh_size(CELL, 3.5 * WIDTH)

# As in every use: op by op they would be some hundred programs.
far_field = jax.jit(far_field, static_argnums=(3, 4))
far_features = jax.jit(far_features, static_argnums=(2, 3, 4))


def atoms(n=12, seed=0):
    """Positions anywhere, some outside the cell, and the species of each as a one-hot."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-5, 15, (n, 3)), np.eye(2)[rng.integers(0, 2, n)]


def plain_sum(positions, sources):
    """−∇ Σ_k 4π/(V k²) exp(−σ²k²/2) Σ_j exp(ik·(r_i − r_j)), wave by wave."""
    waves = np.stack(np.meshgrid(*[np.arange(-20, 21)] * 3, indexing="ij"), -1).reshape(-1, 3)
    k = 2 * np.pi * waves[np.any(waves != 0, axis=1)] @ np.linalg.inv(CELL).T
    k = k[np.linalg.norm(k, axis=1) < 7 / WIDTH]
    squares = np.sum(k**2, axis=1)
    sizes = 4 * np.pi / np.linalg.det(CELL) * np.exp(-0.5 * WIDTH**2 * squares) / squares
    phases = np.exp(1j * positions @ k.T)
    fields = [
        ((sizes * np.conj(phases.T @ source) * phases).imag @ k)[:, None] for source in sources.T
    ]
    return np.concatenate(fields, axis=1)


def test_the_mesh_gives_ewalds_sum():
    positions, sources = atoms()
    expected = plain_sum(positions, sources)
    single = jnp.asarray(positions, jnp.float32)
    got = far_field(single, jnp.asarray(CELL), jnp.asarray(sources), WIDTH, MESH)
    np.testing.assert_allclose(got, expected, atol=1e-3 * np.sqrt(np.mean(expected**2)))
    finer = tuple(2 * n for n in MESH)
    finer = far_field(jnp.asarray(positions), jnp.asarray(CELL), jnp.asarray(sources), WIDTH, finer)
    assert np.abs(finer - expected).max() < 0.3 * np.abs(got - expected).max() + 2e-6


def test_molecules_have_the_field_of_gaussian_charges():
    positions, sources = atoms()
    expected = np.zeros((len(positions), 2, 3))
    for i, r_i in enumerate(positions):
        for j, r_j in enumerate(positions):
            if i != j:
                r = np.linalg.norm(r_i - r_j)
                x = r / (2**0.5 * WIDTH)
                size = erf(x) / r**2 - 2 / np.pi**0.5 * np.exp(-(x**2)) / (2**0.5 * WIDTH * r)
                expected[i] += sources[j][:, None] * size * (r_i - r_j) / r
    got = far_field(jnp.asarray(positions), None, jnp.asarray(sources), WIDTH, None)
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=1e-6)


def test_a_neutral_molecule_in_a_large_cell_is_as_alone():
    rng = np.random.default_rng(0)
    positions = rng.uniform(10, 14, (6, 3))
    charges = jnp.asarray([[1.0], [-1.0]] * 3)
    cell = 40.0 * np.eye(3)
    mesh = mesh_size(cell, 3.5 * WIDTH)
    alone = far_field(jnp.asarray(positions), None, charges, WIDTH, None)
    inside = far_field(jnp.asarray(positions), jnp.asarray(cell), charges, WIDTH, mesh)
    np.testing.assert_allclose(inside, alone, atol=2e-3 * np.abs(alone).max())


def test_charges_exert_no_force_on_themselves():
    positions, sources = atoms()
    for cell, mesh in ((jnp.asarray(CELL), MESH), (None, None)):
        field = far_field(jnp.asarray(positions), cell, jnp.asarray(sources), WIDTH, mesh)
        forces = jnp.einsum("isc,it->stc", field, jnp.asarray(sources))
        # Newton's third law between species, and none of a species on itself.
        left = forces + forces.swapaxes(0, 1)
        np.testing.assert_allclose(left, 0, atol=2e-4 * jnp.abs(field).max())


@pytest.mark.parametrize("isolated", [False, True])
def test_fields_turn_with_the_atoms_and_know_no_origin(isolated):
    positions, sources = atoms()
    sources = jnp.asarray(sources)
    turn = special_ortho_group.rvs(3, random_state=1) * -1.0  # and reflect
    cell, mesh = (None, None) if isolated else (CELL, MESH)

    def field(positions, cell):
        cell = None if cell is None else jnp.asarray(cell)
        return far_field(jnp.asarray(positions), cell, sources, WIDTH, mesh)

    before = np.asarray(field(positions, cell))
    turned = field(positions @ turn, None if isolated else cell @ turn)
    limit = {"atol": 3e-4 * np.abs(before).max()}
    np.testing.assert_allclose(turned, before @ turn, **limit)
    np.testing.assert_allclose(field(positions + np.array([0.3, -4.0, 2.2]), cell), before, **limit)
    if not isolated:
        images = np.random.default_rng(0).integers(-2, 3, positions.shape)
        np.testing.assert_allclose(field(positions + images @ CELL, cell), before, **limit)


def test_gradients_are_those_of_differences(x64):
    positions, sources = (jnp.asarray(x) for x in atoms())
    push = jnp.asarray(np.random.default_rng(1).normal(size=positions.shape))
    for cell, mesh in ((jnp.asarray(CELL), MESH), (None, None)):

        def field(step):
            return far_field(positions + step * push, cell, sources, WIDTH, mesh)  # noqa: B023

        _, slope = jax.jvp(field, (0.0,), (1.0,))
        differences = (field(1e-4) - field(-1e-4)) / 2e-4
        np.testing.assert_allclose(slope, differences, atol=1e-6 * jnp.abs(slope).max())


def test_padding_changes_nothing(x64):
    system = as_system(quartz_atoms((2, 2, 2)))
    sources = jnp.asarray(system.species[:, None] == jnp.array([8, 14]), jnp.float64)
    mesh = mesh_size(system.cell, 4.0)
    padded = pad(system, system.masses.shape[0] + 5)
    more = jnp.pad(sources, [(0, 5), (0, 0)])
    a = far_features(system, sources, 4.0, mesh, 30.0)
    b = far_features(padded, more, 4.0, mesh, 30.0)
    np.testing.assert_allclose(b[:-5], a, rtol=0, atol=1e-12 * jnp.abs(a).max())


def test_features_are_the_field_and_its_change_on_the_way():
    system = as_system(quartz_atoms((2, 2, 2)))
    sources = jnp.asarray(system.species[:, None] == jnp.array([8, 14]), jnp.float32)
    mesh = mesh_size(system.cell, 4.0)
    features = far_features(system, sources, 4.0, mesh, 30.0)
    half = system.positions + 15.0 * system.velocities
    now, later = (
        far_field(r, system.cell, sources, 4.0 / 3.5, mesh) for r in (system.positions, half)
    )
    np.testing.assert_allclose(features[:, 0], now, atol=1e-6)
    np.testing.assert_allclose(features[:, 1], later - now, atol=1e-5)
    assert jnp.abs(features[:, 1]).max() > 1e-3


def sound_wave(repeat, charges):
    """Largest change of the fields per Å when a wave as long as the crystal moves its atoms."""
    system = as_system(quartz_atoms((repeat, 2, 2)))
    one_hot = jnp.asarray(system.species[:, None] == jnp.array([8, 14]), jnp.float32)
    mesh = mesh_size(system.cell, 4.0)
    along = system.cell[0] / jnp.linalg.norm(system.cell[0])
    phases = 2 * jnp.pi * (system.positions @ jnp.linalg.inv(system.cell))[:, :1]

    def field(amplitude):
        moved = system.positions + amplitude * jnp.sin(phases) * along
        return far_field(moved, system.cell, one_hot @ charges, WIDTH, mesh)

    return float(jnp.abs(jax.jvp(field, (0.0,), (1.0,))[1]).max())


@pytest.mark.slow
def test_the_field_of_charges_that_cancel_fades_in_long_waves_of_sound():
    neutral = neutral_charges(np.array([2, 1]))
    np.testing.assert_allclose(np.abs(neutral.T), [[0.2**0.5, 0.8**0.5]], atol=1e-12)
    np.testing.assert_allclose([2, 1] @ neutral, 0, atol=1e-12)
    waves = [sound_wave(repeat, neutral) for repeat in (3, 6, 12)]
    assert waves[1] < 0.6 * waves[0]
    assert waves[2] < 0.6 * waves[1]
    silicon = [sound_wave(repeat, np.array([[0.0], [1.0]])) for repeat in (3, 12)]
    assert silicon[1] > 0.8 * silicon[0]


def test_charges_of_several_species_cancel_and_of_one_cannot():
    counts = np.array([24, 3, 5, 7])
    charges = neutral_charges(counts)
    np.testing.assert_allclose(counts @ charges, 0, atol=1e-12)
    np.testing.assert_allclose(charges.T @ charges, np.eye(3), atol=1e-12)
    with pytest.raises(ValueError, match="one species"):
        neutral_charges(np.array([8]))


def test_statistics_of_a_periodic_system_hold_charges_that_cancel():
    fc, _, pairs = far_reaching()
    mixing = np.asarray(fc.statistics.far_mixing)
    assert mixing.shape == (2, 2, 1)
    species = pairs.system.species[0]
    counts = np.array([(species == z).sum() for z in fc.statistics.species])
    np.testing.assert_allclose(counts @ mixing, 0, atol=1e-6 * np.abs(mixing).max())
    frame = jax.tree.map(lambda x: jnp.asarray(x[0]), pairs)
    *_, far = jax.jit(fc.inputs)(frame.system, frame.edges(3.5))
    np.testing.assert_allclose(jnp.mean(far**2, axis=(0, 2)), 1.0, atol=0.5)


def test_any_mixing_of_fields_is_that_of_unit_charges():
    """As of models that were trained before charges had to cancel."""
    fc, _, pairs = far_reaching()
    mixing = np.random.default_rng(0).normal(size=(2, 2, 2))
    measured = dataclasses.replace(
        fc.statistics, far_mixing=tuple(tuple(map(tuple, m)) for m in mixing.tolist())
    )
    frame = jax.tree.map(lambda x: jnp.asarray(x[0]), pairs)
    inputs = jax.jit(Forecaster(fc.settings, measured, 30.0).inputs)
    *_, far = inputs(frame.system, frame.edges(3.5))
    unit = jnp.eye(2)[fc.species_index(frame.system.species)]
    fields = far_features(frame.system, unit, 3.5, pairs.mesh, 30.0)
    expected = jnp.einsum("aksx,kst->aktx", fields, mixing).reshape(far.shape)
    np.testing.assert_allclose(far, expected, atol=1e-5 * jnp.abs(expected).max())


def test_mixing_makes_fields_uncorrelated_and_of_mean_square_1():
    rng = np.random.default_rng(0)
    fields = rng.normal(size=(20, 30, 2, 2, 3))
    fields[..., 1, :] = fields[..., 0, :] * -2 + 0.01 * fields[..., 1, :]
    mixed = np.einsum("faksx,kst->faktx", fields, decorrelation(fields))
    rows = np.moveaxis(mixed, -2, 0).reshape(2, -1)
    np.testing.assert_allclose(rows @ rows.T / rows.shape[1], np.eye(2), atol=1e-6)
    assert np.isfinite(decorrelation(np.zeros((3, 4, 2, 2, 3)))).all()


def far_reaching(**sizes):
    """A forecaster of quartz with a far field, its weights, and pairs of straight flight."""
    plain = forecaster(**sizes)
    system = as_system(quartz_atoms((2, 2, 2)))
    times = 5.0 * np.arange(12)
    moved = system.positions + times[:, None, None] * system.velocities
    run = system.replace(
        positions=moved, velocities=jnp.broadcast_to(system.velocities, moved.shape)
    )
    pairs = frame_pairs([(run, times)], 30.0, 3.5, 4)
    settings = dataclasses.replace(plain.settings, far_field=True)
    fc = Forecaster(settings, statistics(pairs, far=(3.5, 30.0)), 30.0)
    return fc, fc.init(0), pairs


def test_only_with_it_does_a_network_hear_of_atoms_beyond_its_reach():
    fc, params, _ = far_reaching(blocks=1)
    plain = forecaster(blocks=1)
    plain_params = plain.init(0)
    alone = fc.settings.cutoff + 1.5

    def raw(model, params):
        return jax.jit(lambda *args: model._network(params, *model.inputs(*args))[0])

    networks, outputs = (raw(fc, params), raw(plain, plain_params)), []
    for distance in (alone, alone + 0.5):
        system = make_system(
            [[0, 0, 0], [1.6, 0, 0], [distance + 1.6, 0, 0]], np.full((3, 3), 1e-3), [14, 8, 8]
        )
        listed = neighbor_list(None, fc.settings.cutoff).allocate(system)
        edges = graph(system, listed, fc.settings.cutoff)
        assert edges.mask.sum() == 2
        outputs.append([network(system, edges) for network in networks])
    (with_far, without), (with_far_2, without_2) = outputs
    np.testing.assert_array_equal(without, without_2)
    assert jnp.abs(with_far - with_far_2).max() > 1e-3


@pytest.mark.slow
def test_a_batch_a_vmap_and_single_frames_agree():
    fc, params, pairs = far_reaching()
    edges = jax.jit(jax.vmap(lambda pair: pair.edges(3.5)))(pairs)
    batch = jax.jit(fc.batch_changes)(params, pairs.system, edges)
    mapped = jax.jit(jax.vmap(fc.changes, (None, 0, 0)))(params, pairs.system, edges)
    alone = jax.jit(fc.changes)
    for k in range(len(pairs)):
        pair = jax.tree.map(lambda x, k=k: jnp.asarray(x[k]), pairs)
        single = alone(params, pair.system, pair.edges(3.5))
        for a, b, c in zip(single, batch, mapped, strict=True):
            np.testing.assert_allclose(b[k], a, atol=2e-6 * jnp.abs(a).max())
            np.testing.assert_allclose(c[k], a, atol=2e-6 * jnp.abs(a).max())


def test_missing_statistics_and_a_missing_mesh_are_said():
    fc, params, pairs = far_reaching()
    pair = jax.tree.map(lambda x: jnp.asarray(x[0]), pairs)
    bare = Forecaster(fc.settings, statistics(pairs), 30.0)
    with pytest.raises(ValueError, match=r"statistics\(pairs, far="):
        bare.init(0)
    with pytest.raises(ValueError, match=r"statistics\(pairs, far="):
        bare.changes(params, pair.system, pair.edges(3.5))
    with pytest.raises(ValueError, match="mesh"):
        fc.changes(params, pair.system, pair.edges(3.5).replace(mesh=None))
