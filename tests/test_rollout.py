"""Rollouts: closed forms, and the laws of scans, chunks and overflow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import as_system, forecaster, quartz_atoms
from flax import struct

from trajcast_jax.dynamics.ensemble import chain, csvr, linear_ramp, nve, zero_momentum
from trajcast_jax.dynamics.rollout import RolloutError, repeat, rollout, simulate, simulator
from trajcast_jax.mechanics import degrees_of_freedom, maxwell_boltzmann, momentum, temperature
from trajcast_jax.neighbors.graph import NeighborFns, graph, neighbor_list
from trajcast_jax.network.layers import tensor_product
from trajcast_jax.system import make_system, pad

CUTOFF = 4.0
TIME_STEP = 10.0


@struct.dataclass
class Alone:
    """A neighbour list of atoms that do not see each other."""

    idx: jax.Array
    shifts: jax.Array
    reference_positions: jax.Array
    overflow: jax.Array
    rebuilds: jax.Array
    near: int = struct.field(pytree_node=False, default=1)


def alone(system, capacity=None):
    n_atoms = len(system.masses)
    return Alone(
        idx=jnp.full((n_atoms, 1), n_atoms),
        shifts=jnp.zeros((n_atoms, 1, 3)),
        reference_positions=system.positions,
        overflow=jnp.zeros((), bool),
        rebuilds=jnp.zeros((), jnp.int32),
    )


ALONE = NeighborFns(alone, lambda neighbors, system: neighbors, 0.0, 0.0)


def harmonic(sites, omega):
    """The exact map of independent oscillators about `sites` over TIME_STEP."""
    cos, sin = np.cos(omega * TIME_STEP), np.sin(omega * TIME_STEP)

    def forecast(system, neighbors):
        away = system.positions - sites
        return system.replace(
            positions=sites + cos * away + sin / omega * system.velocities,
            velocities=cos * system.velocities - omega * sin * away,
        )

    return forecast


def gas(n=3, spacing=3.0, kelvin=400.0, seed=0):
    """Argon on a cubic grid, warm enough for its neighbours to change."""
    grid = spacing * np.indices((n, n, n)).reshape(3, -1).T
    grid = grid + np.random.default_rng(seed).uniform(-0.3, 0.3, grid.shape)
    system = make_system(grid, 0 * grid, [18] * n**3, cell=n * spacing * np.eye(3))
    return system.replace(velocities=maxwell_boltzmann(jax.random.key(seed), system, kelvin))


def soft(system, neighbors, traces=None):
    """A stride of soft repulsion, which sums over neighbours as one product of matrices."""
    if traces is not None:
        traces.append(1)
    edges = graph(system, neighbors, CUTOFF)
    squares = jnp.sum(edges.vectors**2, axis=-1)
    weights = jnp.where(edges.mask, (1 - squares / CUTOFF**2) ** 2, 0.0)
    force = -jnp.einsum("ij,ijd->id", weights, edges.vectors)
    velocities = system.velocities + 2e-5 * TIME_STEP * force
    return system.replace(
        positions=system.positions + TIME_STEP * velocities, velocities=velocities
    )


@functools.cache
def soft_simulator(thermostat=True, skin=0.4):
    system = gas()
    neighbors = neighbor_list(system.cell, CUTOFF, skin)
    coupling = csvr(400.0, 50.0) if thermostat else nve()
    sim = simulator(soft, neighbors, coupling, TIME_STEP)
    return sim, sim.init(jax.random.key(1), system)


@functools.cache
def reference_run():
    """24 steps in one chunk: what every other way must give."""
    sim, state = soft_simulator()
    ((end, frames),) = simulate(sim, state, 1, 24)
    return end, frames


def joined(chunks):
    """Positions and velocities of all chunks, and the last state."""
    states, frames = zip(*chunks, strict=True)
    positions = np.concatenate([np.asarray(f.positions) for f in frames])
    velocities = np.concatenate([np.asarray(f.velocities) for f in frames])
    return states[-1], positions, velocities


def raw(tree):
    """Leaves as numbers, keys too."""
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(tree)
    ]


def assert_identical(a, b):
    for x, y in zip(raw(a), raw(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_harmonic_map_against_its_closed_form():
    """1,000 strides, a frame of each 10th: r = s + a cos ωt + (v/ω) sin ωt."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        sites, away, speed = rng.normal(size=(3, 4, 3))
        omega = 0.02
        system = make_system(sites + 0.1 * away, 0.003 * speed, [8, 8, 14, 1])
        sim = simulator(harmonic(sites, omega), ALONE, nve(), TIME_STEP)
        state = sim.init(jax.random.key(0), system)
        end, frames = jax.jit(rollout(sim.step, 1000, every=10))(state)
        angles = omega * TIME_STEP * np.arange(10, 1001, 10)[:, None, None]
        positions = sites + 0.1 * away * np.cos(angles) + 0.003 * speed / omega * np.sin(angles)
        velocities = 0.003 * speed * np.cos(angles) - omega * 0.1 * away * np.sin(angles)
        np.testing.assert_allclose(frames.positions, positions, atol=1e-12)
        np.testing.assert_allclose(frames.velocities, velocities, atol=1e-14)
        np.testing.assert_array_equal(end.system.positions, frames.positions[-1])
        assert end.step == 1000
        assert frames.masses.shape == (4,)


@pytest.mark.parametrize(("length", "every"), [(1, 1), (2, 1), (8, 1), (12, 4), (24, 3)])
def test_chunks_and_stored_frames_do_not_change_a_bit(length, every):
    sim, state = soft_simulator()
    end, frames = reference_run()
    last, positions, velocities = joined(simulate(sim, state, 24 // length, length, every))
    np.testing.assert_array_equal(positions, frames.positions[every - 1 :: every])
    np.testing.assert_array_equal(velocities, frames.velocities[every - 1 :: every])
    assert_identical(last, end)
    assert end.neighbors.rebuilds > 2


def test_repeat_is_a_rollout_without_frames():
    sim, state = soft_simulator()
    assert_identical(jax.jit(repeat(sim.step, 24))(state), reference_run()[0])


@pytest.mark.slow
def test_a_small_capacity_does_not_change_a_bit():
    sim, state = soft_simulator()
    _, frames = reference_run()
    small = sim.grow(state, 3)
    assert small.neighbors.idx.shape[-1] == 3
    end, positions, velocities = joined(simulate(sim, small, 3, 8))
    assert end.neighbors.idx.shape[-1] == 24
    np.testing.assert_array_equal(positions, frames.positions)
    np.testing.assert_array_equal(velocities, frames.velocities)


def test_overflow_in_the_middle_of_a_run():
    """A buffer that was just large enough at first overflows later; its chunk is done again."""
    sim, state = soft_simulator()
    end, frames = reference_run()
    n_atoms = len(state.system.masses)
    occupied = int(jnp.sum(state.neighbors.idx < n_atoms, axis=1).max())
    tight = sim.grow(state, occupied)
    assert not tight.neighbors.overflow
    chunks = list(simulate(sim, tight, 12, 2))
    capacities = [s.neighbors.idx.shape[-1] for s, _ in chunks]
    assert capacities[0] == occupied < capacities[-1]
    assert not any(s.neighbors.overflow for s, _ in chunks)
    last, positions, _ = joined(chunks)
    np.testing.assert_array_equal(positions, frames.positions)
    assert_same_list(last, end)


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends tile by shape")
@pytest.mark.parametrize("neighbors", [0, 100], ids=["density", "direct"])
def test_the_network_itself_does_not_change_a_bit(neighbors, monkeypatch):
    """Chunks of one step, frames stored less often, other capacities: on CPU all are the same."""
    monkeypatch.setattr(tensor_product, "DENSITY_NEIGHBORS", neighbors)
    model = forecaster(channels=8, parity="natural", velocity_vector=True)
    params = model.init(0)
    quartz = as_system(quartz_atoms((3, 1, 1)))
    neighbors = neighbor_list(quartz.cell, model.settings.cutoff, 0.3)
    sim = simulator(
        lambda system, neighbors: model(params, system, neighbors),
        neighbors,
        csvr(300.0, 75.0),
        time_step=model.time_step,
        max_temperature=1e6,
    )
    state = sim.init(jax.random.key(0), quartz)
    end, positions, velocities = joined(simulate(sim, state, 1, 100))
    assert end.neighbors.rebuilds > 10
    for start, length, every in ((state, 1, 1), (sim.grow(state, 27), 20, 4)):
        last, r, v = joined(simulate(sim, start, 100 // length, length, every))
        np.testing.assert_array_equal(r, positions[every - 1 :: every])
        np.testing.assert_array_equal(v, velocities[every - 1 :: every])
        assert_same_list(last, end)


def assert_same_list(a, b):
    """Made at the same step and place, whatever its capacity."""
    assert_identical(a.neighbors.rebuilds, b.neighbors.rebuilds)
    assert_identical(a.neighbors.reference_positions, b.neighbors.reference_positions)


def test_a_list_that_cannot_grow_is_an_error_and_no_endless_loop():
    system = gas()

    def full(system, capacity=None):
        return alone(system).replace(overflow=jnp.ones((), bool))

    fns = ALONE._replace(allocate=full)
    sim = simulator(lambda s, n: s, fns, nve(), TIME_STEP)
    with pytest.raises(RolloutError, match="cannot grow any further"):
        next(simulate(sim, sim.init(jax.random.key(0), system), 1, 2))


def test_compiled_once_and_nothing_leaves_the_device():
    traces = []
    system = gas()
    neighbors = neighbor_list(system.cell, CUTOFF, 0.4)
    sim = simulator(functools.partial(soft, traces=traces), neighbors, nve(), TIME_STEP)
    state = sim.grow(sim.init(jax.random.key(0), system), 24)  # large enough for all that comes
    chunks = simulate(sim, state, 6, 4)
    next(chunks)
    after_one = len(traces)
    assert after_one > 0
    end, _ = list(chunks)[-1]
    assert len(list(simulate(sim, end, 2, 4))) == 2
    assert len(traces) == after_one

    run = jax.jit(rollout(sim.step, 4))
    jax.block_until_ready(run(state))
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(run(state))
    text = str(jax.make_jaxpr(rollout(sim.step, 4))(state))
    assert "scan" in text
    assert "callback" not in text


@pytest.mark.slow
def test_jit_against_disable_jit():
    system = fliers()
    coupling = csvr(linear_ramp(300.0, 100.0, 100.0), 20.0)
    sim = simulator(harmonic(np.ones((4, 3)), 0.02), ALONE, coupling, TIME_STEP)
    state = sim.init(jax.random.key(0), system)
    end, frames = jax.jit(rollout(sim.step, 2))(state)
    with jax.disable_jit():
        end_slow, frames_slow = rollout(sim.step, 2)(state)
    np.testing.assert_allclose(frames.positions, frames_slow.positions, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(frames.velocities, frames_slow.velocities, rtol=1e-4, atol=1e-7)
    assert end.step == end_slow.step


def test_gradient_through_a_rollout():
    """d r(nΔt)/d v(0) of an oscillator is sin(nωΔt)/ω."""
    with jax.enable_x64(True):
        sites, omega = np.zeros((2, 3)), 0.02
        system = make_system(sites, sites + 0.001, [8, 8])
        sim = simulator(harmonic(sites, omega), ALONE, nve(), TIME_STEP)
        state = sim.init(jax.random.key(0), system)

        def last(velocities):
            start = state.replace(system=system.replace(velocities=velocities))
            return rollout(sim.step, 6, every=2)(start)[1].positions[-1].sum()

        gradient = jax.jit(jax.grad(last))(system.velocities)
        expected = np.sin(6 * omega * TIME_STEP) / omega
        np.testing.assert_allclose(gradient, expected, rtol=1e-12)


def fliers():
    velocities = np.array([[0.001, 0, 0], [0.0, 0, 0], [0.02, 0, 0]])
    return pad(make_system(np.zeros((3, 3)), velocities, [8, 8, 14]), 4)


def test_ramp_and_momentum_zeroing_inside_a_rollout():
    """Cooled from 600 K to 100 K in 400 fs, with the momentum taken out at each 5th step."""
    system = gas()
    system = system.replace(velocities=system.velocities + 0.001)
    coupling = chain(csvr(linear_ramp(600.0, 100.0, 400.0), 5.0), zero_momentum(5))
    sim = simulator(lambda s, n: s, ALONE, coupling, TIME_STEP)
    end, frames = jax.jit(rollout(sim.step, 60))(sim.init(jax.random.key(0), system))
    total = np.einsum("i,tid->td", system.masses, frames.velocities)
    assert np.abs(total[3]).min() > 0.1
    np.testing.assert_allclose(total[4:], 0, atol=1e-3)
    dof = degrees_of_freedom(system)
    kelvins = np.asarray(jax.vmap(lambda v: temperature(system.replace(velocities=v), dof))(
        frames.velocities
    ))  # fmt: skip
    # One correlation time is τ/2 and so less than a step: σ_T = T √(2/N_f) each.
    times = TIME_STEP * np.arange(1, 61)
    target = 600 - 500 * np.clip(times / 400, 0, 1)
    deviation = (kelvins[5:] - target[5:]) / (target[5:] * np.sqrt(2 / 78))
    assert abs(deviation.mean()) < 5 / np.sqrt(len(deviation))
    assert 0.6 < deviation.std() < 1.5  # new numbers at every step
    np.testing.assert_allclose(momentum(end.system), 0, atol=1e-3)


def test_a_rollout_of_no_whole_number_of_frames_is_refused():
    sim, _ = soft_simulator()
    with pytest.raises(ValueError, match="multiple of `every`"):
        rollout(sim.step, 10, every=3)
