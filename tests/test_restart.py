"""Restarts: a stopped rollout goes on bit by bit, and only as the same simulation."""

import jax
import numpy as np
import pytest
from test_rollout import (
    CUTOFF,
    TIME_STEP,
    assert_identical,
    gas,
    joined,
    reference_run,
    soft,
    soft_simulator,
)

from trajcast_jax.dynamics.ensemble import csvr
from trajcast_jax.dynamics.restart import load_state, save_state
from trajcast_jax.dynamics.rollout import simulate, simulator
from trajcast_jax.neighbors.graph import neighbor_list


def test_a_stopped_rollout_goes_on_bit_by_bit(tmp_path):
    sim, state = soft_simulator()
    reference, frames = reference_run()
    path = tmp_path / "state.npz"
    for saved, _ in simulate(sim, state, 2, 5):
        save_state(path, saved)
    # The list is older than the state, and must stay so.
    assert np.any(saved.neighbors.reference_positions != saved.system.positions)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state.npz"]
    # A new process knows the start frame and the settings only.
    system = gas()
    neighbors = neighbor_list(system.cell, CUTOFF, 0.4)
    sim = simulator(soft, neighbors, csvr(400.0, 50.0), TIME_STEP)
    like = sim.init(jax.random.key(99), system)
    loaded = load_state(path, sim, like)
    assert_identical(loaded, saved)
    end, positions, _ = joined(simulate(sim, loaded, 2, 7))
    np.testing.assert_array_equal(positions, frames.positions[10:])
    assert_identical(end, reference)


def test_a_state_of_another_simulation_is_refused(tmp_path):
    sim, state = soft_simulator()
    path = tmp_path / "state.npz"
    save_state(path, state)
    bare, other = soft_simulator(thermostat=False)
    with pytest.raises(ValueError, match="nothing: continue with the system, ensemble"):
        load_state(path, bare, other)
    more = gas(n=4)
    neighbors = neighbor_list(more.cell, CUTOFF, 0.4)
    larger = simulator(soft, neighbors, csvr(400.0, 50.0), TIME_STEP).init(jax.random.key(0), more)
    with pytest.raises(ValueError, match="but this simulation"):
        load_state(path, sim, larger)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="not a complete simulator state"):
        load_state(path, sim, state)
