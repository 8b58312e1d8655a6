"""Velocities of single atoms that do not fit their positions."""

import numpy as np
import pytest
from dumps import SYMBOLS, TRICLINIC, motion
from salt import salt

from trajcast_jax.reference.atoms import check_atoms
from trajcast_jax.system import make_system

Z = np.where(SYMBOLS == "Si", 14, 8)


def check(r, v, h, z=Z):
    run = make_system(r, v, z, cell=TRICLINIC)
    return check_atoms(run, h * np.arange(len(r)))[0]


def zeroed(v):
    v[:, 5] = 0


def swapped(v):
    v[:, [5, 7]] = v[:, [7, 5]]


def scaled(v):
    v[:, 5] *= 2


def for_a_while(v):
    v[40:80, 5] = 0


def turned(v):
    v[:, 5] *= -1


@pytest.mark.parametrize("change", [zeroed, swapped, scaled, for_a_while, turned])
@pytest.mark.parametrize("h", [5.0, 15.0])
def test_velocities_of_single_atoms(change, h):
    r, v = motion(120, h=h)
    assert check(r, v, h).passed
    v = v.copy()
    change(v)
    found = check(r, v, h)
    assert found.value == (2 if change is swapped else 1)
    assert found.passed is False
    assert "O 5" in found.expected


def test_coarse_frames_tiny_systems_and_frozen_atoms_are_no_fault():
    for seed in range(5):
        for h in (5.0, 10.0, 30.0, 60.0):
            run = salt(seed, h, 200)
            assert check_atoms(run, h * np.arange(200))[0].passed
            for n in (1, 2, 3):
                part = run.replace(
                    positions=run.positions[:, :n], velocities=run.velocities[:, :n],
                    species=run.species[:n], masses=run.masses[:n], mask=run.mask[:n],
                )  # fmt: skip
                assert check_atoms(part, h * np.arange(200))[0].passed, (seed, h, n)
    r, v = motion(120, h=10.0)
    r[:, 3], v[:, 3] = r[0, 3], 0
    assert check(r, v, 10.0).passed
