"""Frame pairs: pairing, mirror images in time, neighbours, statistics, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import as_system, quartz_atoms

from trajcast_jax.data import frame_pairs, statistics
from trajcast_jax.data.pairs import SKIN, start_frames, stride
from trajcast_jax.neighbors.graph import graph, neighbor_list
from trajcast_jax.system import make_system


def trajectory(n_frames=40, repeat=(3, 1, 1), spacing=5.0, seed=0):
    """Atoms of quartz on straight lines: every displacement is velocity × time."""
    system = as_system(quartz_atoms(repeat, seed=seed), seed=seed)
    times = spacing * np.arange(n_frames)
    positions = system.positions + times[:, None, None] * system.velocities
    velocities = jnp.broadcast_to(system.velocities, positions.shape)
    return system.replace(positions=positions, velocities=velocities), times


def test_pairs_are_a_stride_apart_and_mirrored_in_time():
    run, times = trajectory()
    pairs = frame_pairs([(run, times)], 30.0, 3.5, 8, time_reversal=True)
    assert len(pairs) == 16
    np.testing.assert_allclose(
        pairs.displacements, 30.0 * np.asarray(pairs.system.velocities), atol=2e-5
    )
    there, back = np.arange(8), np.arange(8, 16)
    positions, velocities = pairs.system.positions, pairs.system.velocities
    np.testing.assert_allclose(
        positions[back], positions[there] + pairs.displacements[there], atol=1e-6
    )
    np.testing.assert_array_equal(pairs.displacements[back], -pairs.displacements[there])
    np.testing.assert_array_equal(velocities[back], -pairs.velocities[there])
    np.testing.assert_array_equal(pairs.velocities[back], -velocities[there])


def test_sequences_go_on_stride_after_stride_and_so_do_their_mirrors():
    run, times = trajectory(spacing=10.0)
    noise = np.random.default_rng(0).normal(scale=0.01, size=run.positions.shape)
    run = run.replace(positions=run.positions + noise, velocities=run.velocities + 0.1 * noise)
    pairs = frame_pairs([(run, times)], 30.0, 3.5, 4, time_reversal=True, strides=3)
    grouped = lambda x: np.asarray(x).reshape(8, 3, *x.shape[1:])  # noqa: E731
    positions, velocities, displacements, after = map(
        grouped,
        (pairs.system.positions, pairs.system.velocities, pairs.displacements, pairs.velocities),
    )
    ends = positions + displacements
    np.testing.assert_allclose(positions[:, 1:], ends[:, :-1], atol=1e-5)
    np.testing.assert_array_equal(velocities[:, 1:], after[:, :-1])
    np.testing.assert_allclose(positions[4:, 0], ends[:4, 2], atol=1e-5)
    np.testing.assert_array_equal(velocities[4:, 0], -after[:4, 2])
    np.testing.assert_array_equal(after[4:, 2], -velocities[:4, 0])


def test_displacements_take_the_minimum_image():
    run, times = trajectory()
    jump = np.zeros(run.positions.shape)
    jump[20:, 5] = np.asarray(run.cell)[2]  # an atom re-enters on the other side
    wrapped = run.replace(positions=run.positions + jump)
    a = frame_pairs([(run, times)], 30.0, 3.5, 20)
    b = frame_pairs([(wrapped, times)], 30.0, 3.5, 20)
    np.testing.assert_allclose(a.displacements, b.displacements, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("repeat", "cutoff"),
    [((3, 1, 1), 3.5), ((3, 3, 2), 5.0)],
    ids=["images", "room for less than the skin"],
)
def test_edges_are_those_of_a_neighbour_list(repeat, cutoff):
    """However far atoms have moved, or been folded back, from one frame to the next."""
    run, times = trajectory(repeat=repeat, spacing=30.0)
    fold = np.zeros(run.positions.shape)
    fold[20:, 5] = np.asarray(run.cell)[2]
    run = run.replace(positions=run.positions + fold)
    assert np.abs(run.positions[20:, :5] - run.positions[0, :5]).max() > SKIN
    pairs = frame_pairs([(run, times)], 30.0, cutoff, 8, time_reversal=True)
    fns = neighbor_list(run.cell, cutoff, 0.0)
    listed = fns.allocate(jax.tree.map(lambda x: jnp.asarray(x[0]), pairs.system), capacity=64)
    update = jax.jit(fns.update)
    for k in range(len(pairs)):
        pair = jax.tree.map(lambda x, k=k: jnp.asarray(x[k]), pairs)
        listed = update(listed, pair.system)
        expected, got = graph(pair.system, listed, cutoff), pair.edges(cutoff)
        lengths = [np.sort(np.linalg.norm(g.vectors[g.mask], axis=-1)) for g in (expected, got)]
        np.testing.assert_allclose(*lengths, atol=1e-5)


def test_systems_of_different_size_share_a_dataset():
    small, large = trajectory(seed=1), trajectory(repeat=(3, 2, 1), seed=2)
    pairs = frame_pairs([small, large], 30.0, 3.5, 10)
    assert pairs.displacements.shape == (10, 54, 3)
    n_atoms = np.asarray(pairs.system.mask).sum(1)
    assert sorted(n_atoms.tolist()) == [27] * 5 + [54] * 5
    padded = np.asarray(pairs.system.species) == 0
    assert not pairs.displacements[padded].any()
    assert (pairs.idx[padded] == 54).all()
    first = jax.tree.map(lambda x: jnp.asarray(x[0]), pairs)
    assert not first.edges(3.5).mask[27:].any()


def test_statistics_against_hand_made_numbers():
    run, times = trajectory(n_frames=60)
    # v' = v exactly and d = 30 v: the baseline takes all of it.
    pairs = frame_pairs([(run, times)], 30.0, 3.5, 50)
    measured = statistics(pairs)
    assert measured.species == (8, 14)
    np.testing.assert_allclose(measured.displacement_baseline, 30.0, rtol=1e-4)
    np.testing.assert_allclose(measured.velocity_baseline, 1.0, rtol=1e-5)
    assert max(measured.velocity_scale) < 1e-6
    plain = statistics(pairs, per_species=False, baseline=False)
    rms = float(np.sqrt((np.asarray(pairs.velocities) ** 2).mean()))
    np.testing.assert_allclose(plain.velocity_scale, [rms, rms], rtol=1e-5)
    assert plain.velocity_baseline == (0.0, 0.0)
    edges = (np.asarray(pairs.idx) < 27).sum() / (50 * 27)
    assert measured.average_neighbors == pytest.approx(edges)


def test_start_frames_are_random_and_distinct():
    frames = start_frames(1000, 6, 500, seed=0)
    assert len(set(frames.tolist())) == 500
    assert frames.max() < 994
    assert np.unique(np.diff(frames)).size > 3


def test_a_stride_must_be_a_whole_number_of_frames():
    assert stride(30.0, 5.0) == 6
    with pytest.raises(ValueError, match=r"7 fs is no whole number of frames.*every 5 fs"):
        stride(7.0, 5.0)


def test_too_few_frames_for_the_stride():
    run, times = trajectory(n_frames=6)
    with pytest.raises(ValueError, match="6 frames holds 0 pairs that are 6 frames apart"):
        frame_pairs([(run, times)], 30.0, 3.5, 1)


def test_periodic_and_isolated_do_not_mix():
    run, times = trajectory()
    free = make_system(np.zeros((2, 3)), np.zeros((2, 3)), [8, 14])
    free = free.replace(
        positions=jnp.zeros((40, 2, 3)).at[:, 1, 0].set(2.0), velocities=jnp.zeros((40, 2, 3))
    )
    with pytest.raises(ValueError, match="some have no cell"):
        frame_pairs([(run, times), (free, times)], 30.0, 3.5, 4)


def test_a_species_at_rest_is_named_before_training():
    run, times = trajectory(n_frames=60)
    frozen = run.replace(velocities=run.velocities * (np.asarray(run.species) == 8)[:, None])
    with pytest.raises(ValueError, match="No atom of Si moves in the training pairs"):
        statistics(frame_pairs([(frozen, times)], 30.0, 3.5, 50))
