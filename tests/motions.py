"""Trajectories whose vibrations are known, or that take a second to make."""

import functools
import math

import ase.build
import ase.units
import jax.numpy as jnp
import numpy as np
from ase.calculators.emt import EMT
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.md.verlet import VelocityVerlet
from conftest import as_system

from trajcast_jax.system import make_system
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV

PERIOD = 14.0
"""fs, of the diatomic molecule."""


def diatomic(interval, frames=400, kelvin=300.0):
    """N–N along x, 1.1 Å long, that vibrates harmonically with `PERIOD`."""
    omega, mass = 2 * np.pi / PERIOD, 14.007
    amplitude = math.sqrt(BOLTZMANN * kelvin / (KINETIC_TO_EV * mass)) / omega
    angle = omega * interval * np.arange(frames) + 0.3
    along = np.array([[-0.5, 0, 0], [0.5, 0, 0]])
    positions = 1.1 * along + 2 * amplitude * along * np.cos(angle)[:, None, None]
    velocities = -2 * amplitude * omega * along * np.sin(angle)[:, None, None]
    return make_system(positions, velocities, [7, 7])


def gas(interval=4.0, frames=500, box=20.0, seed=0):
    """64 argon atoms in free flight at 100 K."""
    random = np.random.default_rng(seed)
    velocities = np.broadcast_to(random.normal(size=(64, 3)) * 1.44e-3, (frames, 64, 3))
    sites = np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 3) * box / 4
    places = sites + interval * np.arange(frames)[:, None, None] * velocities
    return make_system(places, velocities, [18] * 64, cell=box * np.eye(3))


@functools.cache
def copper():
    """Copper by effective medium theory, 32 atoms, 600 K, 1.6 ps in frames of 10 fs."""
    atoms = ase.build.bulk("Cu", a=3.65, cubic=True).repeat(2)
    atoms.calc = EMT()
    random = np.random.default_rng(0)
    MaxwellBoltzmannDistribution(atoms, temperature_K=1200.0, rng=random)
    Stationary(atoms)
    dynamics, frames = VelocityVerlet(atoms, 5 * ase.units.fs), []
    for _ in range(160):
        dynamics.run(2)
        frames.append((atoms.positions.copy(), atoms.get_velocities() * ase.units.fs))
    positions, velocities = (jnp.asarray(np.array(x)) for x in zip(*frames, strict=True))
    return as_system(atoms).replace(positions=positions, velocities=velocities)


def ethanol():
    """Ethanol whose atoms all vibrate with a period of 9 fs, frames of 1 fs."""
    molecule = as_system(ase.build.molecule("CH3CH2OH"))
    random = np.random.default_rng(0)
    angle = 2 * np.pi / 9.0 * np.arange(200)[:, None, None]
    turns = random.normal(size=(1, 9, 3)) * 0.02
    return molecule.replace(
        positions=jnp.asarray(molecule.positions + turns * np.cos(angle), jnp.float32),
        velocities=jnp.asarray(-turns * 2 * np.pi / 9.0 * np.sin(angle), jnp.float32),
    )
