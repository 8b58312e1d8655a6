"""What errors of a forecast add to kinds of vibrations, and that training leads it to 0."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.balance import Gains, kinds
from trajcast_jax.dataset import FramePairs
from trajcast_jax.modes import NormalModes, mode_centers
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
    modes = NormalModes(np.linspace(50.0, 900.0, 9), vectors)
    centers = rng.normal(size=(4, 3)) * 3
    centers -= masses @ centers / masses.sum()
    r, d, dd = centers + 5 + 0.1 * rng.normal(size=(4, 3)), *0.1 * rng.normal(size=(2, 4, 3))
    v, dv = 0.003 * rng.normal(size=(2, 4, 3))
    system = make_system(r, v, [14, 8, 8, 14], masses=masses)
    dd -= masses @ dd / masses.sum()
    nothing = jnp.zeros((4, 0), jnp.int32)
    pair = FramePairs(system, jnp.asarray(d), jnp.asarray(v), nothing, nothing)
    found = Gains(modes, centers, 300.0)(pair, (jnp.asarray(dd), jnp.asarray(dv)))

    def energies(positions, velocities):
        weights = np.sqrt(masses)[:, None]
        moved = positions - masses @ positions / masses.sum() - centers
        q, p = ((x * weights).ravel() @ vectors for x in (moved, velocities))
        omega = 2 * np.pi * modes.wavenumbers / WAVENUMBER_PER_INVERSE_FEMTOSECOND
        return 0.5 * (p**2 + (omega * q) ** 2) * KINETIC_TO_EV / (BOLTZMANN * 300.0)

    added = energies(r + d + dd, v + dv) - energies(r + d, v)
    expected = [added[group].mean() for group in kinds(9)]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4 * np.abs(expected).max())


def test_centers_are_mean_positions_about_the_centre_of_mass():
    rng = np.random.default_rng(0)
    masses, sites = np.array([28.0, 16.0]), np.array([[0.0, 0, 0], [2.0, 0, 0]])
    frames = sites + 0.1 * rng.normal(size=(500, 2, 3)) + rng.normal(size=(500, 1, 3))
    run = make_system(sites, np.zeros((2, 3)), [14, 8], masses=masses)
    found = mode_centers([run.replace(positions=frames, velocities=0 * frames)])
    np.testing.assert_allclose(found, sites - masses @ sites / 44.0, atol=0.02)
    assert masses @ found == pytest.approx(np.zeros(3), abs=1e-9)
