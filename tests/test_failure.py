"""Failures of rollouts: the step and atom are named, and what came before is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_rollout import ALONE, TIME_STEP, fliers, gas, joined

from trajcast_jax.dynamics.ensemble import csvr, nve
from trajcast_jax.dynamics.rollout import RolloutError, simulate, simulator
from trajcast_jax.system import make_system
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV


def flight(limit):
    """Free flight that breaks an atom beyond `limit` Å."""

    def forecast(system, neighbors):
        positions = system.positions + TIME_STEP * system.velocities
        velocities = jnp.where(positions[:, :1] > limit, jnp.nan, system.velocities)
        return system.replace(positions=positions, velocities=velocities)

    return forecast


@pytest.mark.parametrize("every", [1, 2])
def test_nan_stops_with_step_and_atom_and_keeps_what_came_before(every):
    """Atom 2 passes 2.1 Å in its 11th step; chunks of 4 steps."""
    sim = simulator(flight(2.1), ALONE, nve(), TIME_STEP)
    chunks = []
    start = sim.init(jax.random.key(0), fliers())
    with pytest.raises(RolloutError, match=r"finite number at step 11, at atom 2 \(Si\)"):
        chunks.extend(simulate(sim, start, 10, 4, every))
    state, positions, _ = joined(chunks)
    np.testing.assert_allclose(positions[:, 2, 0], 0.2 * np.arange(every, 11, every), rtol=1e-5)
    assert state.step == 10  # the last good state
    np.testing.assert_allclose(state.system.positions[2, 0], 2.0, rtol=1e-5)
    with pytest.raises(RolloutError, match="step 11"):
        list(simulate(sim, state, 1, 4))


def test_heat_stops_before_the_thermostat_hides_it():
    def heating(system, neighbors):
        return system.replace(velocities=1.5 * system.velocities)

    system = gas(kelvin=300.0)
    coupling = csvr(300.0, 1e-3)
    sim = simulator(heating, ALONE, coupling, TIME_STEP, max_temperature=500.0)
    state = sim.init(jax.random.key(0), system)
    with pytest.raises(RolloutError, match=r"reached \d+ K at step 1, .* \(Ar\)"):
        list(simulate(sim, state, 1, 3))
    warm = simulator(lambda s, n: s, ALONE, coupling, TIME_STEP, max_temperature=500.0)
    assert len(list(simulate(warm, state, 1, 3))) == 1


def test_a_single_atom_can_be_too_hot():
    """It has 3 degrees of freedom: ½ m v² = 3/2 k_B T."""
    alone = make_system([[0.0, 0.0, 0.0]], [[0.01, 0.0, 0.0]], [18])
    kelvin = float(alone.masses[0]) * 1e-4 * KINETIC_TO_EV / (3 * BOLTZMANN)
    fine = simulator(lambda s, n: s, ALONE, nve(), TIME_STEP, max_temperature=1.01 * kelvin)
    state = fine.init(jax.random.key(0), alone)
    assert len(list(simulate(fine, state, 1, 3))) == 1
    hot = simulator(lambda s, n: s, ALONE, nve(), TIME_STEP, max_temperature=0.99 * kelvin)
    with pytest.raises(RolloutError, match=rf"reached {kelvin:.0f} K at step 1"):
        list(simulate(hot, state, 1, 3))
