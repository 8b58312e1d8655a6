"""Rollouts for accelerators that are not at hand: they lower, in single precision, for all."""

import jax
import jax.numpy as jnp
import pytest
from conftest import as_system, forecaster, quartz_atoms
from jax import export

from trajcast_jax.dynamics.ensemble import csvr
from trajcast_jax.dynamics.rollout import rollout, simulator
from trajcast_jax.neighbors.graph import neighbor_list

PLATFORMS = ("cpu", "cuda", "tpu")


@pytest.mark.parametrize("repeats", [(3, 1, 1), (2, 2, 2)], ids=["images", "minimum-image"])
def test_a_rollout_lowers_for_every_platform(repeats):
    """A chunk with its list and thermostat: one program, no callback to the host, no float64."""
    model, system = forecaster(substeps=2), as_system(quartz_atoms(repeats))
    params = model.init(0)
    neighbors = neighbor_list(system.cell, model.settings.cutoff, 0.3)
    sim = simulator(
        lambda s, listed: model(params, s, listed), neighbors, csvr(300.0, 75.0), model.time_step
    )
    state = sim.init(jax.random.key(0), system)
    assert {x.dtype for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)} == {
        jnp.dtype("float32")
    }
    exported = export.export(jax.jit(rollout(sim.step, 4)), platforms=PLATFORMS)(state)
    assert exported.platforms == PLATFORMS
    program = exported.mlir_module()
    assert "stablehlo.while" in program
    assert "callback" not in program
    assert "infeed" not in program
    assert "f64" not in program


def test_a_callback_would_be_refused():
    def noisy(x):
        jax.debug.print("{}", x)
        return x

    with pytest.raises(NotImplementedError, match="host_callbacks"):
        export.export(jax.jit(noisy), platforms=("cpu",))(jnp.ones(()))
