"""The shipped models in cells larger than those that they learned from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trajcast_jax as tj


@pytest.mark.parametrize(
    ("name", "copies", "strides", "apart"), [("quartz", 3, 90, 3e-3), ("water", 2, 24, 1e-3)]
)
def test_copies_of_a_cell_stay_copies(name, copies, strides, apart):
    """Waves longer than the cell have no physical reason to grow out of rounding errors.

    In quartz within picoseconds, in water, where trajectories part e-fold in 0.1 ps, not yet.
    """
    model, small = (f(tj.pretrained(name)) for f in (tj.restore, read_start))
    cell = np.asarray(small.cell)
    images = np.arange(copies)[:, None, None] * cell[0]
    of_all = lambda x: np.tile(x, (copies, 1))  # noqa: E731
    system = tj.make_system(
        (np.asarray(small.positions) + images).reshape(-1, 3), of_all(small.velocities),
        np.tile(small.species, copies), cell=cell * np.array([copies, 1, 1])[:, None],
    )  # fmt: skip
    neighbors = tj.neighbor_list(system.cell, cutoff=model.cutoff, skin=1.0)
    sim = tj.simulator(model.forecast, neighbors, tj.csvr(300.0, 75.0), model.time_step)
    state = sim.grow(sim.init(jax.random.key(0), system))
    state = jax.jit(tj.rollout(sim.step, strides))(state)[0]
    assert state.failure.kind == 0
    assert not state.neighbors.overflow
    moved = (state.system.positions - system.positions).reshape(copies, -1, 3)
    assert jnp.sqrt(jnp.mean(moved**2)) > 0.05
    assert jnp.abs(moved - moved.mean(0)).max() < apart


def read_start(folder):
    """The start frame that a model is shipped with."""
    return tj.read(folder / "start.extxyz")
