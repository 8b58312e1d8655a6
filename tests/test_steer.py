"""Steering by initial velocities: the shell of constant energy, the descent, the whole command."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_rollout import ALONE, TIME_STEP, harmonic

from experiments import steer
from trajcast_jax import io
from trajcast_jax.analysis.bonds import bonded_chain
from trajcast_jax.analysis.soft_observables import dihedrals
from trajcast_jax.dynamics.ensemble import nve
from trajcast_jax.dynamics.gradients import Growth
from trajcast_jax.dynamics.rollout import rollout, simulator
from trajcast_jax.mechanics import angular_momentum, kinetic_energy, momentum, on_energy_shell
from trajcast_jax.system import make_system

SITES = np.array([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [2.0, 1.4, 0.0], [3.4, 1.5, 0.4]])


@pytest.fixture(autouse=True)
def compiled_fast():
    """These programs run for milliseconds, but would compile for many seconds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def moved_and_turned(ethanol, cell=None):
    """Ethanol that drifts and rotates while it vibrates."""
    spin = np.cross([0.003, -0.002, 0.001], ethanol.positions)
    return ethanol.replace(velocities=ethanol.velocities + 0.004 + spin, cell=cell)


@pytest.mark.parametrize("periodic", [False, True])
def test_the_energy_shell_keeps_energy_and_momenta(ethanol, periodic):
    system = moved_and_turned(ethanol, cell=20.0 * jnp.eye(3) if periodic else None)
    draw = 0.01 + 0.02 * np.random.default_rng(1).normal(size=system.positions.shape)
    new = system.replace(
        velocities=jax.jit(on_energy_shell)(system, jnp.asarray(draw, jnp.float32))
    )
    assert jnp.linalg.norm(new.velocities - system.velocities) > 0.01
    np.testing.assert_allclose(kinetic_energy(new), kinetic_energy(system), rtol=2e-6)
    np.testing.assert_allclose(momentum(new), momentum(system), atol=1e-6)
    turning = np.abs(angular_momentum(new) - angular_momentum(system)).max()
    assert turning > 0.1 if periodic else turning < 3e-6
    again = on_energy_shell(system, system.velocities)
    np.testing.assert_allclose(again, system.velocities, atol=1e-8)


def test_the_energy_shell_is_entered_at_its_nearest_point(ethanol, x64):
    """Of all velocities on the shell, in the metric of the kinetic energy."""
    system = moved_and_turned(jax.tree.map(lambda x: jnp.asarray(x, jnp.float64)
                                           if x.dtype == jnp.float32 else x, ethanol))  # fmt: skip
    rng = np.random.default_rng(2)
    given = 0.01 * rng.normal(size=system.positions.shape)

    def distance(velocities):
        return kinetic_energy(system.replace(velocities=velocities - given))

    project = jax.jit(on_energy_shell)
    nearest = project(system, given)
    for size in (1e-4, 1e-2):
        other = project(system, nearest + size * rng.normal(size=given.shape))
        assert distance(other) > distance(nearest)


def springs():
    """Four oscillators in a chain, and what 13 strides of them do to its dihedral."""
    velocities = 0.01 * np.random.default_rng(3).normal(size=SITES.shape)
    start = make_system(SITES, velocities, [6, 6, 8, 1])
    sim = simulator(harmonic(SITES, 0.017), ALONE, nve(), TIME_STEP)
    state = sim.init(jax.random.key(0), start)

    def course(velocities):
        moving = state.replace(system=start.replace(velocities=velocities))
        end, frames = rollout(sim.step, 13)(moving)
        return dihedrals(frames, [(0, 1, 2, 3)])[:, 0], end

    return start, course


def test_descent_reaches_its_target_at_constant_energy(x64):
    start, course = springs()
    value_and_gradient, to_sphere = steer.objective(course, start)
    before = course(start.velocities)[0][-1]
    target = before + np.radians(25.0)
    losses, (velocities, angles, _) = steer.descend(
        value_and_gradient, to_sphere, start.velocities, target, 40
    )
    np.testing.assert_allclose(losses[0], 1 - np.cos(np.radians(25.0)), rtol=1e-9)
    assert losses[-1] < steer.CLOSE
    np.testing.assert_allclose(course(velocities)[0], angles, atol=1e-9)
    new = start.replace(velocities=velocities)
    np.testing.assert_allclose(kinetic_energy(new), kinetic_energy(start), rtol=1e-9)
    np.testing.assert_allclose(momentum(new), momentum(start), atol=1e-9)
    np.testing.assert_allclose(angular_momentum(new), angular_momentum(start), atol=1e-9)


def test_the_gradient_on_the_sphere_is_the_central_difference(x64):
    start, course = springs()
    value_and_gradient, to_sphere = steer.objective(course, start)
    x = to_sphere(start.velocities)
    np.testing.assert_allclose(jnp.linalg.norm(x), 1.0, rtol=1e-12)
    found = steer.gradient_check(value_and_gradient, x, 1.0)
    assert abs(found["reverse_mode"]) > 1e-2
    np.testing.assert_allclose(found["central_difference"], found["reverse_mode"], rtol=1e-4)
    gradient = value_and_gradient(x, 1.0)[1]
    assert abs(jnp.vdot(gradient, x)) < 1e-9  # the length of x makes no difference


def test_chains_follow_bonds(ethanol):
    chain = bonded_chain(ethanol, ("C", "C", "O", "H"))
    assert [int(ethanol.species[i]) for i in chain] == [6, 6, 8, 1]
    lengths = np.linalg.norm(np.diff(np.asarray(ethanol.positions)[list(chain)], axis=0), axis=1)
    assert (lengths < [1.6, 1.5, 1.0]).all()
    with pytest.raises(ValueError, match="No atoms are bonded as O–O"):
        bonded_chain(ethanol, ("O", "O"))


def test_the_command_with_springs_for_a_model(tmp_path, ethanol, monkeypatch):
    def absent(settings):
        raise ImportError("LAMMPS is not here")

    springs = SimpleNamespace(
        forecast=harmonic(ethanol.positions, 0.03), cutoff=2.5, time_step=TIME_STEP,
        check=lambda system: None,
    )  # fmt: skip
    monkeypatch.setattr(steer.checkpoints, "restore", lambda path: springs)
    monkeypatch.setattr(steer, "make_engine", absent)
    # The growth of perturbations has tests of its own, and compiling it takes long.
    growth = Growth(jnp.asarray(1e-3), jnp.asarray(1e-4), jnp.zeros(10), 7.0)
    monkeypatch.setattr(steer, "lyapunov_exponent", lambda *_: growth)
    io.write_extxyz(tmp_path / "start.extxyz", ethanol)
    steer.main(
        checkpoint=tmp_path / "model", start=tmp_path / "start.extxyz",
        strides=4, shifts=(5.0,), iterations=2, out=tmp_path / "out",
    )  # fmt: skip
    report = json.loads((tmp_path / "out" / "steer.json").read_text())
    assert (tmp_path / "out" / "steer.png").stat().st_size > 1000
    free, (steered,) = report["unsteered"], report["steered"]
    assert len(free["degrees"]) == 5
    assert free["turn_degrees"] < 0.1 < steered["turn_degrees"]
    assert steered["losses"][-1] < steered["losses"][0]
    assert abs(steered["miss_degrees"]) < 5.0
    np.testing.assert_allclose(steered["degrees"][0], free["degrees"][0], atol=1e-3)
    energies = [run["kinetic_energy_eV"][0] for run in (free, steered)]
    np.testing.assert_allclose(*energies, rtol=1e-5)
    assert "reference_degrees" not in free
    assert report["atoms"] == list(bonded_chain(ethanol, ("C", "C", "O", "H")))
