"""What errors of a forecast add to kinds of motion, and that training leads it to 0."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from conftest import as_system, forecaster, quartz_atoms

import experiments
from experiments.balance import CHUNK, Arguments, check_that_it_settles, chunk_of_updates
from trajcast_jax.dataset import FramePairs, frame_pairs
from trajcast_jax.forecast import Forecaster
from trajcast_jax.gains import InternalVibrations, Motions, OfMesh, Together, Vibrations, kinds
from trajcast_jax.modes import InternalModes, NormalModes
from trajcast_jax.system import make_system
from trajcast_jax.training import init_state
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
    cell = 12.0 * np.eye(3)
    modes = NormalModes(np.linspace(50.0, 900.0, 9), vectors, centers, cell)
    r, d, dd = centers + 5 + 0.1 * rng.normal(size=(4, 3)), *0.1 * rng.normal(size=(2, 4, 3))
    v, dv = 0.003 * rng.normal(size=(2, 4, 3))
    dd -= masses @ dd / masses.sum()
    errors = jnp.asarray(dd), jnp.asarray(dv)
    nothing = jnp.zeros((4, 0), jnp.int32)

    def pair_in(cell):
        system = make_system(r, v, [14, 8, 8, 14], cell=cell, masses=masses)
        return FramePairs(system, jnp.asarray(d), jnp.asarray(v), nothing, nothing)

    pair, elsewhere = pair_in(cell), pair_in(1.01 * cell)
    both = jax.tree.map(lambda *x: jnp.stack(x), pair, elsewhere)
    gains = Vibrations(modes, [both], 300.0)
    assert not gains(elsewhere, None, errors).any()
    found = gains(pair, None, errors) / 2  # the mean over both pairs is that of the one in the cell
    with pytest.raises(ValueError, match=r"No pair is in the cell of 12\.12 x"):
        Vibrations(modes._replace(cell=1.01 * cell), [jax.tree.map(lambda x: x[:1], both)], 300.0)
    with pytest.raises(ValueError, match="of 3 atoms, but some pairs have 4"):
        Vibrations(NormalModes(modes.wavenumbers, vectors[:9], centers[:3], cell), [both], 300.0)

    def energies(positions, velocities):
        weights = np.sqrt(masses)[:, None]
        moved = positions - masses @ positions / masses.sum() - centers
        q, p = ((x * weights).ravel() @ vectors for x in (moved, velocities))
        omega = 2 * np.pi * modes.wavenumbers / WAVENUMBER_PER_INVERSE_FEMTOSECOND
        return 0.5 * (p**2 + (omega * q) ** 2) * KINETIC_TO_EV / (BOLTZMANN * 300.0)

    added = energies(r + d + dd, v + dv) - energies(r + d, v)
    expected = [added[group].mean() for group in kinds(9)]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4 * np.abs(expected).max())


def test_gains_of_a_molecule_are_what_the_energies_of_its_modes_differ_by():
    rng, numbers = np.random.default_rng(0), [1, 7, 7, 1]
    sites = np.array([[-1.0, 0.95, 0.0], [-0.62, 0.0, 0.0], [0.62, 0.0, 0.0], [1.0, -0.95, 0.0]])
    r, d, dd = sites + 0.05 * rng.normal(size=(4, 3)), *0.02 * rng.normal(size=(2, 4, 3))
    v, dv = 0.01 * rng.normal(size=(2, 4, 3))
    pairs, chain = np.array([[0, 1], [1, 2], [2, 3]]), [0, 1, 2, 3]
    centers = np.array([1.0, 1.2, 1.0, np.pi])
    wavenumbers, vectors = np.array([800.0, 1600.0, 3600.0, 3700.0]), rng.normal(size=(4, 4))
    modes = InternalModes(wavenumbers, pairs, np.array([chain]), vectors, centers)
    nothing = jnp.zeros((4, 0), jnp.int32)
    system = make_system(r, v, numbers)
    pair = FramePairs(system, jnp.asarray(d), jnp.asarray(v), nothing, nothing)
    errors = jnp.asarray(dd), jnp.asarray(dv)

    def coordinates(positions):
        atoms = Atoms(numbers, positions)
        lengths = [atoms.get_distance(*some) for some in pairs]
        return np.array([*lengths, np.radians(atoms.get_dihedral(*chain))]) - centers

    def energies(positions, velocities):
        step = 1e-3 * velocities
        rates = (coordinates(positions + step) - coordinates(positions - step)) / 2e-3
        omega = 2 * np.pi * modes.wavenumbers / WAVENUMBER_PER_INVERSE_FEMTOSECOND
        q, p = coordinates(positions) @ modes.vectors, rates @ modes.vectors
        return 0.5 * (p**2 + (omega * q) ** 2) * KINETIC_TO_EV / (BOLTZMANN * 300.0)

    expected = energies(r + d + dd, v + dv) - energies(r + d, v)
    gains = InternalVibrations(modes, 300.0)
    found = gains(pair, None, errors)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4 * np.abs(expected).max())
    both = Together(gains, gains)
    np.testing.assert_array_equal(both(pair, None, errors), np.tile(found, 2))
    assert both.weights.sum() == pytest.approx(1.0)


def test_motions_gain_as_much_in_copies_of_a_cell():
    """What a stride adds is told by the atom: a cell twice as long has no other kinds or sizes."""
    rng, model = np.random.default_rng(0), forecaster()
    velocities = 0.003 * rng.normal(size=(3, 27, 3)).astype(np.float32)
    start, both = as_system(quartz_atoms((3, 1, 1))), []
    places, cell = start.positions + 20.0 * np.cumsum(velocities, axis=0), np.asarray(start.cell)
    for n in (1, 2):
        copies = np.concatenate([places + k * cell[0] for k in range(n)], axis=1)
        frames = make_system(copies, np.tile(velocities, (1, n, 1)),
                             np.tile(start.species, n), cell=cell * [[n], [1], [1]])  # fmt: skip
        both.append(frame_pairs([(frames, 30.0 * np.arange(3))], 30.0, 3.5, 2, seed=1))
    few, found = Motions(model, both[0]), []
    for pairs in both:
        one = jax.tree.map(lambda x: jnp.asarray(x[0]), pairs)
        errors = 0.1 * one.displacements, 0.1 * one.velocities
        found.append(few(one, one.edges(3.5), errors))
    assert abs(found[0]).max() > 0.1
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-3)


@dataclasses.dataclass(frozen=True)
class Fading(Forecaster):
    """Atoms that stay where they are; of their velocities so much is left as the weights say."""

    def init(self, seed):
        return {"left": jnp.ones(2)}

    def batch_changes(self, params, systems, edges):
        left = params["left"][self.species_index(systems.species)]
        return jnp.zeros_like(systems.positions), left[..., None] * systems.velocities


@pytest.mark.parametrize(("rms", "first"), [(2.1, 0.1), (150.0, 150.0), (float("nan"), 0.1)])
def test_a_balance_that_swings_is_stopped_from_the_first_update_on(rms, first):
    check_that_it_settles(1.9, 0.1)
    with pytest.raises(FloatingPointError, match="the balance swings"):
        check_that_it_settles(rms, first)


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_training_keeps_the_energy_that_squared_errors_lose(weight):
    """Velocities forget a fifth at each stride; what is best for squares is to leave that out."""
    rng, atoms, remembered = np.random.default_rng(0), 27, 0.8
    start = as_system(quartz_atoms((3, 1, 1)))
    velocities = [start.velocities]
    for _ in range(400):
        noise = 0.003 * rng.normal(size=(atoms, 3))
        velocities.append(remembered * velocities[-1] + (1 - remembered**2) ** 0.5 * noise)
    velocities = np.array(velocities, np.float32)
    frames = start.replace(
        positions=np.broadcast_to(start.positions, velocities.shape), velocities=velocities
    )
    pairs = frame_pairs([(frames, 30.0 * np.arange(401))], 30.0, 3.5, 400)
    made = forecaster()
    model = Fading(made.settings, made.statistics, made.time_step)
    settings = dataclasses.replace(
        experiments.load("quartz").training, optimizer="adam", learning_rate=0.02, updates=1_000
    )
    nowhere = Path("unused")
    arguments = Arguments("quartz", nowhere, nowhere, weight=weight, memory=10.0, patience=200.0)
    gains = Motions(model, pairs)
    check_that_other_cells_count_for_nothing(pairs, gains)
    chunk = chunk_of_updates(model, settings, gains, arguments)
    carry = init_state(model, settings), jnp.zeros_like(gains.weights), gains.weights * 0
    for _ in range(1_000 // CHUNK):
        carry = chunk(carry, pairs)
    left = carry[0].ema_params["left"]
    expected = 1.0 if weight else remembered
    np.testing.assert_allclose(left, expected, atol=0.03)


def check_that_other_cells_count_for_nothing(pairs, gains):
    """Two pairs of three are in cells of this mesh: their gains in the mean over all are theirs."""
    one = jax.tree.map(lambda x: jnp.asarray(x[0]), pairs)
    edges, errors = one.edges(3.5), (0.1 * one.displacements, 0.1 * one.velocities)
    some = OfMesh(gains, pairs.mesh, 2 / 3)
    found = gains(one, edges, errors)
    assert abs(found).max() > 0.01
    np.testing.assert_allclose(some(one, edges, errors) * 2 / 3, found, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(some.weights, gains.weights * 2 / 3, rtol=1e-5)
    elsewhere = one.replace(mesh=tuple(2 * points for points in pairs.mesh))
    assert not some(elsewhere, edges, errors).any()
