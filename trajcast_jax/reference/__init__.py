"""Reference molecular dynamics with LAMMPS or an ASE calculator, or from imported trajectories.

A reference is a folder of runs, `run_000.h5`, `run_001.h5`, …. A run is a trajectory at constant
energy, or canonical, of evenly spaced frames with positions, velocities and energies.
"""

from trajcast_jax.reference.check import failed, format_checks, minor
from trajcast_jax.reference.checks import check_run
from trajcast_jax.reference.engine import Engine, engine_for_frames, make_engine
from trajcast_jax.reference.lammps_engine import LammpsEngine
from trajcast_jax.reference.other_sources import ase_reference, import_trajectories
from trajcast_jax.reference.protocol import Stage, reference_md, stages
from trajcast_jax.reference.speed import engine_speed, processor
from trajcast_jax.reference.state import (
    complete_runs,
    is_imported,
    known_settings,
    origin,
    require_settings,
    run_path,
    seed_of,
)
from trajcast_jax.reference.structure import build_structure

__all__ = [
    "Engine",
    "LammpsEngine",
    "Stage",
    "ase_reference",
    "build_structure",
    "check_run",
    "complete_runs",
    "engine_for_frames",
    "engine_speed",
    "failed",
    "format_checks",
    "import_trajectories",
    "is_imported",
    "known_settings",
    "make_engine",
    "minor",
    "origin",
    "processor",
    "reference_md",
    "require_settings",
    "run_path",
    "seed_of",
    "stages",
]
