"""What errors of a forecast add to kinds of vibrations, and that training leads it to 0."""

import jax.numpy as jnp
import numpy as np

from experiments.balance import Gains, kinds
from trajcast_jax.dataset import FramePairs
from trajcast_jax.modes import NormalModes
from trajcast_jax.system import make_system
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV, WAVENUMBER_PER_INVERSE_FEMTOSECOND


def test_kinds_hold_every_mode_once_and_slow_ones_almost_alone():
    groups = kinds(483)
    np.testing.assert_array_equal(np.concatenate(groups), np.arange(483))
    assert [len(group) for group in groups[:3]] == [2, 2, 3]
    assert max(len(group) for group in groups) == 24


def test_gains_are_what_the_harmonic_energies_differ_by():
    rng = np.random.default_rng(0)
    masses = np.array([28.0, 16.0, 16.0, 28.0])
    rigid = np.linalg.qr(np.kron(np.sqrt(masses)[:, None], np.eye(3)))[0]
    vectors = np.linalg.qr(np.hstack([rigid, rng.normal(size=(12, 9))]))[0][:, 3:]
    centers = rng.normal(size=(4, 3)) * 3
    centers -= masses @ centers / masses.sum()
    modes = NormalModes(np.linspace(50.0, 900.0, 9), vectors, centers)
    r, d, dd = centers + 5 + 0.1 * rng.normal(size=(4, 3)), *0.1 * rng.normal(size=(2, 4, 3))
    v, dv = 0.003 * rng.normal(size=(2, 4, 3))
    system = make_system(r, v, [14, 8, 8, 14], masses=masses)
    dd -= masses @ dd / masses.sum()
    nothing = jnp.zeros((4, 0), jnp.int32)
    pair = FramePairs(system, jnp.asarray(d), jnp.asarray(v), nothing, nothing)
    found = Gains(modes, 300.0)(pair, (jnp.asarray(dd), jnp.asarray(dv)))

    def energies(positions, velocities):
        weights = np.sqrt(masses)[:, None]
        moved = positions - masses @ positions / masses.sum() - centers
        q, p = ((x * weights).ravel() @ vectors for x in (moved, velocities))
        omega = 2 * np.pi * modes.wavenumbers / WAVENUMBER_PER_INVERSE_FEMTOSECOND
        return 0.5 * (p**2 + (omega * q) ** 2) * KINETIC_TO_EV / (BOLTZMANN * 300.0)

    added = energies(r + d + dd, v + dv) - energies(r + d, v)
    expected = [added[group].mean() for group in kinds(9)]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4 * np.abs(expected).max())
