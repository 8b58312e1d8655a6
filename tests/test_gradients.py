"""Gradients of rollouts: against central differences, forward against reverse, memory, growth."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import as_system, forecaster, quartz_atoms
from test_rollout import ALONE, TIME_STEP, assert_identical, harmonic, soft_simulator

from trajcast_jax.dynamics.ensemble import Coupling, csvr, langevin, nve
from trajcast_jax.dynamics.gradients import describe_growth, gradient_horizon, lyapunov_exponent
from trajcast_jax.dynamics.rollout import FINE, RolloutError, repeat, rollout, simulator
from trajcast_jax.neighbors.graph import neighbor_list
from trajcast_jax.system import make_system

STRIDES = (1, 10, 100)
STEP_SIZES = {
    "positions": 1e-4, "velocities": 1e-6, "temperature": 1.0, "cell": 1e-3, "masses": 1e-2,
    "weights": 1e-4,
}  # fmt: skip
"""Of the differences: Å, Å/fs, K, Å, Da and 1."""
STEP_SIZES = {
    "positions": 1e-4, "velocities": 1e-6, "temperature": 1.0, "cell": 1e-3, "masses": 1e-2,
    "weights": 1e-4,
}  # fmt: skip
"""Of the differences: Å, Å/fs, K, Å, Da and 1."""
THERMOSTATS = {"csvr": (csvr, 10), "langevin": (langevin, None)}
"""Each with a `remat` of its own, so that both reverse passes are held against differences."""

# Only the compiler's work is less: these programs run for milliseconds.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def calm_forecaster():
    """An untrained network of so small a say that 100 strides of it are not chaotic.

    Chaos would not change the gradient, but the central differences that it is held against.
    """
    model = forecaster(blocks=1, channels=2)
    statistics = dataclasses.replace(
        model.statistics,
        displacement_scale=(0.01, 0.01),
        velocity_scale=(3e-5, 3e-5),
        displacement_baseline=(4.0, 5.0),
        velocity_baseline=(0.8, 0.85),
    )
    return dataclasses.replace(model, statistics=statistics)


def either(random_forces, temperature, time_constant):
    """CSVR, or Langevin where the traced flag says so: both by one compiled program."""
    a, b = csvr(temperature, time_constant), langevin(temperature, time_constant)
    return Coupling(
        lambda *given: jax.lax.cond(random_forces, b.init, a.init, *given),
        lambda *given: jax.lax.cond(random_forces, b.apply, a.apply, *given),
    )


def inputs_and_run():
    """All that a rollout depends on, and `run(inputs, random_forces)`: observables after STRIDES,
    and the last state."""
    model, system = calm_forecaster(), as_system(quartz_atoms())
    neighbors = neighbor_list(system.cell, model.settings.cutoff, 0.3)
    listed = neighbors.allocate(system, capacity=60)
    vectors = {k: getattr(system, k) for k in ("positions", "velocities", "cell", "masses")}
    inputs = vectors | {
        "temperature": jnp.asarray(300.0, jnp.float64),
        # Louder than they are drawn: with these the forecast hears who is where.
        "weights": jax.tree.map(lambda x: 1.8 * x.astype(jnp.float64), model.init(0)),
    }
    a, b = np.random.default_rng(1).normal(size=(2, *system.positions.shape))

    def run(given, random_forces):
        given = dict(given)
        weights, kelvin = given.pop("weights"), given.pop("temperature")
        sim = simulator(
            lambda s, listed: model(weights, s, listed),
            neighbors, either(random_forces, kelvin, 75.0), 30.0,
        )  # fmt: skip
        state = sim.init(jax.random.key(0), system.replace(**given), listed)
        state, frames = rollout(sim.step, STRIDES[-1], remat=10)(state)
        at = jnp.asarray(STRIDES) - 1
        # Distances to one atom: a shift of all atoms would hide all else.
        moved = frames.positions[at] - frames.positions[at, :1]
        return jnp.sum(moved**2 * a + 1e4 * frames.velocities[at] ** 2 * b, axis=(1, 2)), state

    return inputs, run


def directional(run, inputs, direction, size):
    """(f(x + hd) − f(x − hd))/2h, extrapolated from h and 2h to fourth order."""

    def central(h):
        up, down = (jax.tree.map(lambda x, d, s=s: x + s * d, inputs, direction) for s in (h, -h))
        return (run(up)[0] - run(down)[0]) / (2 * h)

    return (4 * central(size) - central(2 * size)) / 3


@functools.cache
def programs():
    """Compiled once for both thermostats: observables, their reverse and their forward mode."""
    inputs, run = inputs_and_run()
    pull = jit(lambda x, flag, c: jax.vjp(lambda y: run(y, flag)[0], x)[1](c)[0])
    push = jit(lambda x, flag, d: jax.jvp(lambda y: run(y, flag)[0], (x,), (d,))[1])
    return inputs, jit(run), pull, push


@pytest.mark.slow
@pytest.mark.parametrize("thermostat", ["csvr", "langevin"])
def test_gradients_against_central_differences(thermostat, x64):
    """1, 10 and 100 strides; every input; forward mode and reverse mode; several new lists."""
    inputs, run, pull, push = programs()
    flag = jnp.asarray(thermostat == "langevin")
    _, end = run(inputs, flag)
    assert end.failure.kind == FINE
    assert not end.neighbors.overflow
    assert end.neighbors.rebuilds > 5
    rows = [pull(inputs, flag, row) for row in jnp.eye(len(STRIDES))]
    rng = np.random.default_rng(2)
    still = jax.tree.map(jnp.zeros_like, inputs)
    for name, size in STEP_SIZES.items():
        one = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), inputs[name])
        direction = still | {name: one}
        jvp = push(inputs, flag, direction)
        vjp = jnp.stack([sum(map(jnp.vdot, *map(jax.tree.leaves, (r[name], one)))) for r in rows])
        numerical = directional(lambda x: run(x, flag), inputs, direction, size)
        np.testing.assert_allclose(jvp, vjp, rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(vjp, numerical, rtol=1e-6, err_msg=name)


def springs(coupling=None):
    """A simulator of oscillators that see no neighbours, and its state."""
    n_atoms = 4
    sites = np.random.default_rng(0).normal(size=(n_atoms, 3))
    sim = simulator(harmonic(sites, 0.02), ALONE, coupling or csvr(300.0, 50.0), TIME_STEP)
    return sim, sim.init(jax.random.key(0), make_system(sites + 0.1, 0.01 * sites, [8] * n_atoms))


def loss_of(run, state):
    """positions -> (a loss of the last frame that `run(state)` reaches from them, that state)."""
    target = jnp.roll(state.system.positions, 1, axis=0)

    def loss(positions):
        end = run(state.replace(system=state.system.replace(positions=positions)))
        return jnp.sum((end.system.positions - target) ** 2), end

    return loss, state.system.positions


def last(step, n, remat=None):
    """A rollout of which only the last state is looked at."""
    return lambda state: rollout(step, n, every=n, remat=remat)(state)[0]


def test_a_rollout_of_one_step_has_the_gradient_of_the_step():
    """It is no scan, so that it rounds as in longer ones; yet both modes go through it."""
    sim, state = springs()
    loss, positions = loss_of(last(sim.step, 1), state)
    expected, _ = jax.jit(jax.grad(loss_of(sim.step, state)[0], has_aux=True))(positions)
    reverse, _ = jax.jit(jax.grad(loss, has_aux=True))(positions)
    forward = jax.jit(jax.jacfwd(lambda x: loss(x)[0]))(positions)
    np.testing.assert_allclose(reverse, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(forward, expected, rtol=1e-5, atol=1e-5)


@functools.cache
def soft_value(remat):
    sim, state = soft_simulator()
    loss, positions = loss_of(last(sim.step, 24, remat), state)
    return jax.jit(loss)(positions)


@pytest.mark.parametrize("remat", [1, 6, 24])
def test_recomputing_changes_no_bit_of_the_value(remat):
    assert_identical(soft_value(remat), soft_value(None))


@pytest.mark.slow
def test_recomputing_does_not_change_the_gradient():
    """Argon under a thermostat, its list made anew on the way."""
    sim, state = soft_simulator()
    found = []
    for remat in (None, 6):
        loss, positions = loss_of(last(sim.step, 24, remat), state)
        gradient, end = jit(jax.grad(loss, has_aux=True))(positions)
        assert end.neighbors.rebuilds > 2
        found.append(gradient)
    assert jnp.isfinite(found[0]).all()
    np.testing.assert_allclose(*found, atol=1e-5 * float(jnp.abs(found[0]).max()))


def test_memory_of_a_reverse_pass_grows_as_the_root_of_the_steps():
    """16 times as many steps: 16 times the memory, or 4 times with segments of √n steps."""

    def bytes_held(n, remat):
        run = repeat(lambda x: jnp.sin(x + jnp.roll(x, 1)), n, remat)
        compiled = jit(jax.grad(lambda x: run(x).sum())).lower(jnp.ones(3000)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert bytes_held(256, None) > 12 * bytes_held(16, None)
    assert bytes_held(256, 16) < 5 * bytes_held(16, 4)
    assert bytes_held(256, 16) < bytes_held(256, None) / 6


def test_segments_that_do_not_fit_are_refused():
    sim, state = springs()
    with pytest.raises(ValueError, match="give a divisor"):
        rollout(sim.step, 10, remat=3)(state)


def test_the_thermostat_has_a_gradient_at_rest():
    """CSVR leaves a system at rest alone, whose kinetic energy has no differentiable root."""
    system = as_system(quartz_atoms(), speed=0.0)
    coupling = csvr(300.0, 75.0)
    start = coupling.init(jax.random.key(0), system)

    def velocity(velocities):
        moving = system.replace(velocities=velocities)
        return coupling.apply(start, moving, jax.random.key(1), 30.0)[1].velocities[0, 0]

    assert jnp.isfinite(jax.grad(velocity)(system.velocities)).all()


def map_of(forecast):
    """A simulator of one atom that a map moves, any temperature allowed, and its state."""
    system = make_system([[0.3, 0.2, 0.1]], [[0.01, 0.02, 0.03]], [8])
    sim = simulator(forecast, ALONE, nve(), TIME_STEP, max_temperature=np.inf)
    return sim, sim.init(jax.random.key(0), system)


def cat(system, neighbors):
    """Arnold's cat map of the torus, x' = 2x + y, y' = x + y, in each component; y = v Δt."""
    x, y = system.positions, TIME_STEP * system.velocities
    return system.replace(positions=(2 * x + y) % 1, velocities=(x + y) % 1 / TIME_STEP)


def halving(system, neighbors):
    return system.replace(positions=system.positions / 2, velocities=system.velocities / 4)


@pytest.mark.parametrize(
    ("forecast", "exponent"),
    [(cat, np.log((3 + 5**0.5) / 2)), (halving, np.log(0.5))],
    ids=["cat", "halving"],
)
def test_the_exponent_of_a_linear_map_is_that_of_its_eigenvalue(forecast, exponent, x64):
    sim, state = map_of(forecast)
    growth = lyapunov_exponent(sim.step, state, 200, TIME_STEP, jax.random.key(1))
    np.testing.assert_allclose(growth.exponent * TIME_STEP, exponent, atol=1e-9)
    assert growth.error < 1e-9
    horizon = -np.log(1e-3) * TIME_STEP / exponent if exponent > 0 else np.inf
    np.testing.assert_allclose(gradient_horizon(growth, 1e-3), horizon, rtol=1e-6)


def test_the_exponent_of_oscillators_is_zero(x64):
    sim, state = springs(coupling=nve())
    growth = lyapunov_exponent(sim.step, state, 2000, TIME_STEP, jax.random.key(1))
    assert abs(growth.exponent) < 2 * growth.error < 3e-4
    assert abs(growth.logarithms.cumsum()).max() < 3
    assert gradient_horizon(growth) == np.inf
    assert "not seen to grow in 20 ps" in describe_growth(growth)


def test_the_error_of_an_exponent_is_that_of_blocks(x64):
    """The skew tent map stretches by 1/a or 1/(1 − a): λ = −a ln a − (1 − a) ln(1 − a)."""
    a, n = 0.2, 20_000

    def tent(system, neighbors):
        x = system.positions
        x = jnp.where(x < a, x / a, (1 - x) / (1 - a)) * jnp.asarray([1.0, 0.0, 0.0])
        return system.replace(positions=x, velocities=0 * system.velocities)

    sim, state = map_of(tent)
    growth = lyapunov_exponent(sim.step, state, n, TIME_STEP, jax.random.key(1), blocks=20)
    exact = -a * np.log(a) - (1 - a) * np.log(1 - a)
    spread = np.log((1 - a) / a) * (a * (1 - a)) ** 0.5 / (0.95 * n) ** 0.5 / TIME_STEP
    assert 0.5 * spread < growth.error < 1.6 * spread
    assert abs(growth.exponent - exact / TIME_STEP) < 4 * spread
    assert "a gradient is noise beyond 0.723 ps (72 strides)" in describe_growth(growth)


def test_growth_is_not_measured_on_a_broken_rollout():
    sim, state = map_of(lambda s, _: s.replace(velocities=s.velocities / 0))
    with pytest.raises(RolloutError, match="no longer a finite number at step 1"):
        lyapunov_exponent(sim.step, state, 10, TIME_STEP, jax.random.key(1))
    with pytest.raises(ValueError, match="at least 3 blocks"):
        lyapunov_exponent(sim.step, state, 10, TIME_STEP, jax.random.key(1), blocks=4)
