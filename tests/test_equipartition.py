"""Temperatures of each element tell elements that are interchanged."""

import numpy as np
import pytest
from ase.data import atomic_masses
from salt import salt

from trajcast_jax import io, reference
from trajcast_jax.reference.equipartition import (
    check_equipartition,
    interchanged,
    temperatures_of_elements,
)
from trajcast_jax.system import make_system


def thermal(species, kelvin=300.0, n_frames=200, seed=0):
    """Velocities (time, atom, 3) that are drawn anew now and then, of the elements' masses."""
    random = np.random.default_rng(seed)
    speed = np.sqrt(8.617e-5 * kelvin / (103.64 * atomic_masses[species]))
    drawn = random.normal(size=(n_frames // 10, len(species), 3)) * speed[:, None]
    return np.repeat(drawn, 10, axis=0)


def orders(species, said, **more):
    """What the elements should be, if those of `said` stand for those of `species`."""
    assumed = np.array([said[z] for z in species])
    v = thermal(species, **more)
    return interchanged(temperatures_of_elements(v, assumed, atomic_masses[assumed]))


def test_interchanged_elements_are_found():
    salt_, three = np.array([11, 17] * 32), np.array([8, 14, 22] * 40)
    for seed in range(10):
        assert orders(salt_, {11: 11, 17: 17}, seed=seed) == {}
        assert orders(salt_, {11: 17, 17: 11}, seed=seed) == {17: 11, 11: 17}
        assert orders(three, {8: 8, 14: 14, 22: 22}, seed=seed) == {}
    found = orders(three, {8: 14, 14: 22, 22: 8})
    assert found == {14: 8, 22: 14, 8: 22}
    assert orders(salt_, {11: 19, 17: 17}) == {}  # another element is no other order


def test_nothing_is_claimed_of_few_atoms_frozen_ones_or_a_hot_minority():
    for n in (1, 2, 3):
        for seed in range(20):
            pair = np.array([11, 17] * n)
            assert orders(pair, {11: 11, 17: 17}, seed=seed) == {}
    species = np.array([11, 17] * 40)
    v = thermal(species)
    v[:, :2] *= 20  # hot minority
    masses = atomic_masses[species]
    assert interchanged(temperatures_of_elements(v, species, masses)) == {}
    v = thermal(species)
    v[:, ::4] = 0  # half of the sodium never moves
    assert check_equipartition(v, species, masses) == []
    v = thermal(species)
    v[:, ::2] *= 2  # a species at another temperature: a word, not an error
    found = check_equipartition(v, species, masses)
    assert {c.name for c in found} == {"temperature of Na", "temperature of Cl"}
    assert not any(c.serious for c in found)


def test_a_wrong_order_of_species_is_refused_at_import(tmp_path):
    run = salt(0, 10.0, 200, repeat=2)
    times = 10.0 * np.arange(200)
    io.write_extxyz(tmp_path / "right.extxyz", run, times)
    swapped = np.where(np.asarray(run.species) == 11, 17, 11)
    wrong = make_system(run.positions, run.velocities, swapped, cell=run.cell)
    io.write_extxyz(tmp_path / "wrong.extxyz", wrong, times)
    assert reference.import_trajectories([tmp_path / "right.extxyz"], tmp_path / "a", 2)
    with pytest.raises(ValueError, match=r"different temperatures, Na .* K, Cl .*--species"):
        reference.import_trajectories([tmp_path / "wrong.extxyz"], tmp_path / "b", 2)
