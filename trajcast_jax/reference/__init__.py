"""Reference molecular dynamics: LAMMPS, any ASE calculator, or somebody's trajectory, to run files.

A reference is a folder of runs, `run_000.h5`, `run_001.h5`, …, each a stretch of dynamics
at constant energy, or canonical, in evenly spaced frames with positions, velocities and energies.
"""

from trajcast_jax.reference.checks import check_run, format_checks
from trajcast_jax.reference.engine import Engine, engine_for_frames, make_engine
from trajcast_jax.reference.lammps_engine import LammpsEngine
from trajcast_jax.reference.other_sources import ase_reference, import_trajectories
from trajcast_jax.reference.protocol import Stage, reference_md, stages
from trajcast_jax.reference.state import (
    complete_runs,
    is_imported,
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
    "format_checks",
    "import_trajectories",
    "is_imported",
    "make_engine",
    "reference_md",
    "require_settings",
    "run_path",
    "seed_of",
    "stages",
]
