"""The shipped models: which there are, and that one makes copies of copies of its cell."""

import jax
import numpy as np
import pytest

import trajcast_jax as tj
from trajcast_jax.network.checkpoint import pretrained
from trajcast_jax.workflow.benchmark import supercell


def test_the_systems_of_the_paper_are_shipped():
    shipped = {path.parent.name for path in pretrained("quartz").parent.glob("*/model.json")}
    assert {"paracetamol", "paracetamol_xtb", "quartz", "water"} == shipped


@pytest.mark.slow
def test_quartz_makes_copies_of_copies():
    """Four cells in a row, 40 strides: no wave that one cell has not grows out of rounding errors.

    With a far field one a quarter as short grew e-fold in 5 strides, 3,000-fold in 40.
    """
    model = tj.restore(pretrained("quartz"))
    assert not model.settings.far_field
    system = supercell(tj.read(pretrained("quartz") / "start.extxyz"), (4, 1, 1))
    model.check(system)
    neighbors = tj.neighbor_list(system.cell, model.cutoff, skin=1.0)
    sim = tj.simulator(model.forecast, neighbors, tj.nve(), model.time_step)
    end, _ = jax.jit(tj.rollout(sim.step, 40, every=40))(sim.init(jax.random.key(0), system))
    assert not end.neighbors.overflow
    moved = np.asarray(end.system.positions - system.positions).reshape(4, -1, 3)
    assert np.abs(moved).max() > 0.2
    assert np.abs(moved - moved[0]).max() < 2e-4
