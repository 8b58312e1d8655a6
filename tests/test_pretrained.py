"""The shipped models: which there are, and that one makes copies of copies of its cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trajcast_jax as tj
from trajcast_jax.checkpoint import pretrained
from trajcast_jax.system import System

NAMES = sorted(path.parent.name for path in pretrained("quartz").parent.glob("*/model.json"))


def copies(system: System, count: int) -> System:
    """The system and its copies along the first cell vector, one after the other."""
    shifts = jnp.arange(count)[:, None, None] * system.cell[0]
    repeated = {
        name: jnp.concatenate([getattr(system, name)] * count)
        for name in ("velocities", "masses", "species", "mask")
    }
    positions = (system.positions + shifts).reshape(-1, 3)
    cell = system.cell.at[0].multiply(count)
    return system.replace(positions=positions, cell=cell, **repeated)


def test_the_systems_of_the_paper_are_shipped():
    assert {"paracetamol", "paracetamol_xtb", "quartz", "quartz_local", "water"} == set(NAMES)


@pytest.mark.slow
def test_local_quartz_makes_copies_of_copies():
    """Four cells in a row, 40 strides: no wave that one cell has not grows out of rounding errors.

    With a far field one a quarter as short grew e-fold in 5 strides, 3,000-fold in 40.
    """
    model = tj.restore(pretrained("quartz_local"))
    assert not model.settings.far_field
    system = copies(tj.read(pretrained("quartz") / "start.extxyz"), 4)
    model.check(system)
    neighbors = tj.neighbor_list(system.cell, model.cutoff, skin=1.0)
    sim = tj.simulator(model.forecast, neighbors, tj.nve(), model.time_step)
    end, _ = jax.jit(tj.rollout(sim.step, 40, every=40))(sim.init(jax.random.key(0), system))
    assert not end.neighbors.overflow
    moved = np.asarray(end.system.positions - system.positions).reshape(4, -1, 3)
    assert np.abs(moved).max() > 0.2
    assert np.abs(moved - moved[0]).max() < 2e-4
