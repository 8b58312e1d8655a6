"""Replicas: each is a single run, over devices too; they overflow, restart and fail as one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiling_quickly, run_alone
from test_failure import flight
from test_rollout import ALONE, CUTOFF, TIME_STEP, alone, fliers, gas, joined, soft

from trajcast_jax.dynamics.ensemble import csvr, nve
from trajcast_jax.dynamics.restart import load_state, save_state
from trajcast_jax.dynamics.rollout import RolloutError, replicate, simulate, simulator
from trajcast_jax.mechanics import degrees_of_freedom, temperature
from trajcast_jax.neighbors.graph import neighbor_list


def replicas(kelvins, keys, skin=0.4):
    """A replicated simulator and its state, each replica with its own temperature and seed."""
    system = gas()
    neighbors = neighbor_list(system.cell, CUTOFF, skin)
    listed = neighbors.allocate(system)

    def single(kelvin):
        return simulator(soft, neighbors, csvr(kelvin, 20.0), TIME_STEP)

    states = jax.vmap(lambda key, t: single(t).init(key, system, listed))(keys, kelvins)
    return replicate(single(0.0)), states, single, system


def test_replicas_equal_single_runs():
    kelvins = jnp.asarray([100.0, 400.0, 900.0])
    keys = jax.random.split(jax.random.key(5), 3)
    sim, states, single, system = replicas(kelvins, keys)
    (end, frames), *_ = simulate(sim, states, 1, 12, every=2)
    assert frames.positions.shape == (6, 3, 27, 3)
    one = single(0.0)  # the temperature comes with the state
    for i, kelvin in enumerate([100.0, 400.0, 900.0]):
        start = single(kelvin).init(keys[i], system)
        (last, alone_frames), *_ = simulate(one, start, 1, 12, every=2)
        np.testing.assert_allclose(frames.positions[:, i], alone_frames.positions, atol=1e-4)
        np.testing.assert_allclose(frames.velocities[:, i], alone_frames.velocities, atol=1e-6)
        assert end.neighbors.rebuilds[i] == last.neighbors.rebuilds
    dof = degrees_of_freedom(system)
    found = jax.vmap(lambda s: temperature(s, dof))(end.system)
    assert found[0] < found[1] < found[2]


OVER_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
from test_replicas import replicas
from trajcast_jax.dynamics import simulate

keys = jax.random.split(jax.random.key(5), 4)
many, states, _, _ = replicas(jnp.asarray([100.0, 400.0, 900.0, 1600.0]), keys)
mesh = jax.sharding.Mesh(jax.devices(), ("replica",))
along = jax.P("replica")
step = jax.shard_map(many.step, mesh=mesh, in_specs=along, out_specs=along, check_vma=False)
small = many.grow(states, 16)
assert small.neighbors.overflow.any()
(end, frames), *_ = simulate(many._replace(step=step), small, 1, 12, every=2)
assert len(frames.positions.sharding.device_set) == 2
assert {s.data.shape for s in frames.positions.addressable_shards} == {(6, 2, 27, 3)}
(last, same), *_ = simulate(many, states, 1, 12, every=2)
np.testing.assert_allclose(frames.positions, same.positions, atol=1e-4)
np.testing.assert_array_equal(end.neighbors.rebuilds, last.neighbors.rebuilds)
"""


@pytest.mark.slow
def test_replicas_over_devices():
    with compiling_quickly():
        run_alone(OVER_DEVICES)


@pytest.mark.slow
def test_replicas_overflow_restart_and_fail(tmp_path):
    kelvins = jnp.asarray([100.0, 2000.0])
    keys = jax.random.split(jax.random.key(5), 2)
    sim, states, _, _ = replicas(kelvins, keys)
    _, positions, _ = joined(simulate(sim, states, 2, 6))
    small = sim.grow(states, 16)
    assert small.neighbors.overflow.any()
    chunks = []
    for state, frames in simulate(sim, small, 1, 6):
        chunks.append((state, frames))
        save_state(tmp_path / "state.npz", state)
    chunks += simulate(sim, load_state(tmp_path / "state.npz", sim, states), 1, 6)
    np.testing.assert_array_equal(joined(chunks)[1], positions)

    def start(speed):
        system = fliers()
        return system.replace(velocities=speed * system.velocities)

    sim = simulator(flight(2.1), ALONE, nve(), TIME_STEP)
    systems = jax.vmap(start)(jnp.asarray([0.1, 1.0]))
    many = replicate(sim)
    states = many.init(keys, systems, alone(fliers()))
    with pytest.raises(RolloutError, match="step 11 of replica 1, at atom 2") as caught:
        list(simulate(many, states, 3, 4))
    assert caught.value.replica == 1
