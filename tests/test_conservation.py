"""Exact projections onto the momenta: any total momentum, any shape, both precisions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from test_mechanics import SHAPES, molecule

from trajcast_jax.mechanics import angular_momentum, center_of_mass, momentum, total_mass
from trajcast_jax.network.conservation import conserve_angular, conserve_linear

DT = 5.0


@jax.jit
def conserved(before, after):
    """`after` with both momenta of `before`."""
    return conserve_angular(before, conserve_linear(before, after, DT))


def forecast(system, seed=1, keep_positions=False):
    """What a network that knows nothing would say."""
    rng = np.random.default_rng(seed)
    positions, velocities = rng.normal(size=(2, *system.positions.shape))
    mask = system.mask[:, None]
    if keep_positions:  # a line stays a line
        positions = 0 * positions
    return system.replace(
        positions=system.positions + 0.05 * positions * mask,
        velocities=system.velocities + 0.005 * velocities * mask,
    )


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("name", SHAPES)
def test_both_momenta_are_those_before(name, extra, x64):
    with jax.enable_x64(x64):
        before = molecule(name, extra)
        guess = forecast(before, keep_positions=name in ("linear", "diatomic"))
        after = conserved(before, guess)
        tolerance = 1e-14 if x64 else 3e-6
        np.testing.assert_allclose(momentum(after), momentum(before), atol=tolerance)
        np.testing.assert_allclose(
            angular_momentum(after), angular_momentum(before), atol=tolerance
        )
        moved = center_of_mass(after) - center_of_mass(before)
        expected = momentum(before) * DT / total_mass(before)
        np.testing.assert_allclose(moved, expected, atol=1e-13 if x64 else 2e-5)
        if extra:
            np.testing.assert_array_equal(after.positions[-extra:], before.positions[-extra:])
            np.testing.assert_array_equal(after.velocities[-extra:], before.velocities[-extra:])


def test_free_flight_is_left_alone():
    """What already conserves is not touched: the projection is one."""
    with jax.enable_x64(True):
        before = molecule("bent")
        flown = before.replace(positions=before.positions + DT * before.velocities)
        after = conserved(before, flown)
        np.testing.assert_allclose(after.positions, flown.positions, atol=1e-14)
        np.testing.assert_allclose(after.velocities, flown.velocities, atol=1e-15)


def test_only_common_motions_are_added():
    """Differences of displacements, and of velocities up to a rigid rotation, stay."""
    with jax.enable_x64(True):
        before = molecule("cube")
        guess = forecast(before)
        linear = conserve_linear(before, guess, DT)
        for field in ("positions", "velocities"):
            added = getattr(linear, field) - getattr(guess, field)
            np.testing.assert_allclose(added, np.broadcast_to(added[0], added.shape), atol=1e-15)
        turned = conserve_angular(before, linear)
        np.testing.assert_array_equal(turned.positions, linear.positions)
        # A rigid motion keeps all distances: Δr·Δv' = 0 for every pair.
        added = np.asarray(turned.velocities - linear.velocities)
        arms = np.asarray(turned.positions)
        stretch = np.einsum("ijd,ijd->ij", arms[:, None] - arms, added[:, None] - added)
        np.testing.assert_allclose(stretch, 0, atol=1e-15)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("name", SHAPES)
def test_gradients_are_finite(name, extra, x64):
    """Equal moments of inertia, lines and points included."""
    with jax.enable_x64(x64):
        before = molecule(name, extra)
        guess = forecast(before, keep_positions=name in ("linear", "diatomic"))

        def loss(start, positions, velocities):
            start = before.replace(positions=start)
            after = guess.replace(positions=positions, velocities=velocities)
            after = conserved(start, after)
            return jnp.sum(jnp.sin(3 * after.positions) + jnp.sin(100 * after.velocities))

        gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(
            before.positions, guess.positions, guess.velocities
        )
        for gradient in gradients:
            assert np.isfinite(gradient).all()
        if name != "atom":  # where it lands is settled by its momentum
            assert np.abs(gradients[1]).max() > 1e-3


def test_gradient_against_finite_differences():
    with jax.enable_x64(True):
        before = molecule("bent")
        guess = forecast(before)

        def loss(positions):
            after = guess.replace(positions=positions)
            after = conserved(before, after)
            return jnp.sum(jnp.sin(100 * after.velocities))

        check_grads(loss, (guess.positions,), order=1, modes=["rev"], rtol=1e-5)


@pytest.mark.parametrize("x64", [False, True])
def test_momentum_over_a_thousand_strides_of_an_arbitrary_map(x64):
    with jax.enable_x64(x64):
        start = molecule("cube", extra=1)
        scale = float(jnp.abs(start.masses[:, None] * start.velocities).max())

        def stride(system, key):
            noise = jax.random.normal(key, (2, *system.positions.shape), system.positions.dtype)
            guess = system.replace(
                positions=system.positions + 0.1 * noise[0], velocities=0.01 * noise[1]
            )
            return conserve_linear(system, guess, DT), None

        end, _ = jax.lax.scan(stride, start, jax.random.split(jax.random.key(0), 1000))
        tolerance = 1e-12 if x64 else 1e-4
        np.testing.assert_allclose(momentum(end), momentum(start), atol=tolerance * scale)
        moved = center_of_mass(end) - center_of_mass(start)
        expected = momentum(start) * 1000 * DT / total_mass(start)
        np.testing.assert_allclose(moved, expected, rtol=1e-10 if x64 else 1e-3)
