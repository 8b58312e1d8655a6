"""Energy balance of a forecast: sums over kinds of motion, and what the loss makes of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import as_system, forecaster, quartz_atoms
from test_graph import ase_edges
from test_training import SETTINGS

from trajcast_jax.data.pairs import frame_pairs
from trajcast_jax.learning.losses import batch_loss, pair_errors, pair_loss
from trajcast_jax.learning.motions import imbalance, motion_sums
from trajcast_jax.neighbors.graph import graph, neighbor_list
from trajcast_jax.system import make_system, pad

CUTOFF = 3.4


def summed(system, size=None):
    """The sums of a system of Si (index 1) and O (index 0), as a function of the products."""
    listed = neighbor_list(system.cell, CUTOFF, skin=0.0).allocate(system)
    atoms = listed.idx.shape[0]
    extra = [(0, (size or atoms) - atoms)]
    idx = jnp.where(listed.idx == atoms, atoms + extra[0][1], listed.idx)
    listed = listed.replace(
        idx=jnp.pad(idx, [*extra, (0, 0)], constant_values=atoms + extra[0][1]),
        shifts=jnp.pad(listed.shifts, [*extra, (0, 0), (0, 0)]),
    )
    system = pad(system, atoms + extra[0][1])
    index = (system.species == 14).astype(jnp.int32)
    edges = graph(system, listed, CUTOFF)

    @jax.jit
    def sums(*products):
        products = [tuple(jnp.pad(x, [*extra, (0, 0)]) for x in pair) for pair in products]
        return motion_sums(edges, index, system.masses, products, 2, CUTOFF)

    return sums


def test_sums_are_those_of_a_loop_over_pairs(x64):
    atoms = quartz_atoms((3, 1, 1))
    system = as_system(atoms)
    v, m = np.asarray(system.velocities), np.asarray(system.masses)
    found = np.asarray(summed(system)((system.velocities, system.velocities))[0])
    oxygen = atoms.numbers == 8
    np.testing.assert_allclose(found[0], (m[oxygen, None] * v[oxygen] ** 2).sum())
    pairs = found[2:].reshape(2, 2, 3, 2)  # centre, neighbour, shell at 1, 2 and 3 Å, direction
    along = across = 0.0
    for i, j, *r in ase_edges(atoms, CUTOFF):
        i, j, r = int(i), int(j), np.array(r)
        length = np.linalg.norm(r)
        if not oxygen[i] or oxygen[j] or abs(length - 2.0) > 1.0:
            continue
        weight = (1 - abs(length - 2.0)) * m[i] * m[j] / (m[i] + m[j])
        along += weight * ((v[j] - v[i]) @ r / length) ** 2
        across += weight * np.sum(np.cross(v[j] - v[i], r / length) ** 2)
    np.testing.assert_allclose(pairs[0, 1, 1], [along, across])


def test_sums_do_not_turn_with_the_axes_nor_see_padding(x64, quartz):
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turned = make_system(
        quartz.positions @ turn, quartz.velocities @ turn, quartz.species, cell=quartz.cell @ turn
    )
    d = np.random.default_rng(2).normal(size=quartz.positions.shape)
    expected = summed(quartz)((d, quartz.velocities))
    np.testing.assert_allclose(summed(turned)((d @ turn, turned.velocities)), expected, atol=1e-12)
    padded = summed(quartz, size=31)((d, quartz.velocities))
    np.testing.assert_allclose(padded, expected, atol=1e-12)


def test_every_kind_of_motion_holds_its_share_at_equilibrium(x64, quartz):
    rng = np.random.default_rng(0)
    sums = summed(quartz)
    deviations = np.asarray(quartz.masses)[:, None] ** -0.5
    held = sum(
        np.asarray(sums((v, v))[0])
        for v in deviations * rng.normal(size=(400, *quartz.positions.shape))
    )
    held = held[2:].reshape(-1, 2) / 400
    held = held[held[:, 0] > 1.0]  # shells with no pair in them hold nothing
    assert len(held) >= 6
    # Twice as much across as along; many pairs share few atoms, so the mean is good to 2 %.
    np.testing.assert_allclose(held[:, 1] / held[:, 0], 2.0, rtol=0.06)


def test_imbalance_is_nothing_for_the_truth_and_known_for_slow_forecasts(x64, quartz):
    v = quartz.velocities
    d = 25.0 * v
    sums = summed(quartz)
    truth = sums((v, v), (d, d), (d, v))
    assert imbalance(truth, truth, 2) == 0.0
    slow = sums((0.99 * v, 0.99 * v), (d, d), (d, v))
    # Each of two kinds of groups (atoms, pairs), one of three products.
    np.testing.assert_allclose(imbalance(slow, truth, 2), 2 * (1 - 0.99**2) ** 2 / 6)


def test_balance_undoes_the_shrinking_of_a_mean(x64, quartz):
    """Half of the truth cannot be foreseen: squares halve the forecast, balance restores it."""
    rng = np.random.default_rng(5)  # not the seed of the velocities
    v = quartz.velocities
    hidden = 0.003 * rng.normal(size=v.shape)
    hidden -= v * jnp.sum(hidden * v) / jnp.sum(v * v)
    hidden *= jnp.sqrt(jnp.sum(v * v) / jnp.sum(hidden * hidden))
    true = (v + hidden) / np.sqrt(2)
    sums = summed(quartz)
    truth = sums((true, true), (true, true), (true, true))

    def best(weight):
        def loss(scale):
            forecast = [(scale * v, scale * v)] * 3
            squares = jnp.sum((scale * v - true) ** 2) / jnp.sum(true**2)
            return squares + weight * imbalance(sums(*forecast), truth, 2)

        scales = np.linspace(0.5, 1.2, 141)
        return scales[np.argmin([loss(s) for s in scales])]

    assert best(0.0) == pytest.approx(0.5**0.5, abs=0.005)
    assert best(30.0) > 0.9


@pytest.mark.slow
def test_loss_of_a_batch_holds_the_imbalance_of_the_batch():
    from test_dataset import trajectory

    batch = jax.tree.map(jnp.asarray, frame_pairs([trajectory()], 30.0, 3.5, 3))
    setup = forecaster()
    params = setup.init(0)
    settings = dataclasses.replace(SETTINGS, energy_balance=0.7)

    @jax.jit
    def alone(pair):
        """The loss of one pair, and its sums in the forecast and in truth."""
        edges, index = pair.edges(3.5), setup.species_index(pair.system.species)
        before, errors = pair.system.velocities, pair_errors(setup, params, pair)

        def sums(off):
            d, v = pair.displacements + off[0], pair.velocities + off[1]
            products = [(v, v), (d, d), (d, before)]
            return motion_sums(edges, index, pair.system.masses, products, 2, 3.5)

        return pair_loss(setup, settings, pair, errors), sums(errors), sums((0.0, 0.0))

    losses, forecasts, truths = (
        jnp.stack(x)
        for x in zip(
            *(alone(jax.tree.map(lambda x, k=k: x[k], batch)) for k in range(3)), strict=True
        )
    )
    expected = np.mean(losses) + 0.7 * imbalance(forecasts.sum(0), truths.sum(0), 2)
    loss = jax.jit(batch_loss, static_argnums=(0, 1))
    np.testing.assert_allclose(loss(setup, settings, params, batch), expected, rtol=1e-5)
    plain = dataclasses.replace(SETTINGS, energy_balance=0.0)
    np.testing.assert_allclose(loss(setup, plain, params, batch), np.mean(losses), rtol=1e-6)
