"""What runs the dynamics: LAMMPS, or ASE with a calculator."""

from trajcast_jax.config import ReferenceSettings
from trajcast_jax.reference.ase_engine import AseEngine
from trajcast_jax.reference.lammps_engine import LammpsEngine

Engine = LammpsEngine | AseEngine
"""Both have the same methods; LAMMPS alone knows constant pressure."""


def make_engine(settings: ReferenceSettings) -> Engine:
    """The engine that the settings ask for, with nothing in it before `create` or `load`."""
    return AseEngine(settings) if settings.calculator else LammpsEngine(settings)
