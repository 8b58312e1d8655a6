"""Choose the engine that integrates the reference dynamics: LAMMPS, or ASE with a calculator."""

import numpy as np
from jaxtyping import Float

from trajcast_jax.config import ReferenceSettings
from trajcast_jax.reference.ase_engine import AseEngine
from trajcast_jax.reference.lammps_engine import LammpsEngine

Engine = LammpsEngine | AseEngine
"""Both have the same methods, but only LAMMPS supports constant pressure."""


def make_engine(settings: ReferenceSettings) -> Engine:
    """Make the engine that the settings select; call `create` or `load` to give it a state."""
    return AseEngine(settings) if settings.calculator else LammpsEngine(settings)


def engine_for_frames(settings: ReferenceSettings, cell: Float[np.ndarray, "3 3"] | None) -> Engine:
    """Make an engine at constant energy for frames (`set_frame`) in `cell` (rows in Å)."""
    engine = make_engine(settings)
    engine.create(seed=1)
    if cell is not None:
        engine.set_cell(np.asarray(cell, np.float64))
    engine.constant_energy()
    return engine
