"""References that LAMMPS does not make: ASE calculators, and trajectories that exist."""

from collections.abc import Sequence
from pathlib import Path

import ase.units
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.md.verlet import VelocityVerlet

from trajcast_jax.io import H5MDWriter, read_trajectory
from trajcast_jax.reference.state import Progress, load_progress, locked, run_path, save_progress
from trajcast_jax.system import System, make_system

CHUNK = 100
"""Frames held in memory before they are written."""
LARGEST_GAP = 0.1
"""Share of a block of a cut trajectory that is left out before the next block."""


def ase_reference(
    atoms: Atoms, path: str | Path, n_frames: int, time_step: float, save_every: float
) -> None:
    """Runs `atoms` with their calculator at constant energy and stores `n_frames` frames.

    The first frame is the state of `atoms`, which end up at the last. Velocity Verlet in
    steps of `time_step` fs, a frame every `save_every` fs; an existing file is continued
    from the state that `atoms` have.
    """
    steps = round(save_every / time_step)
    if steps < 1 or abs(steps * time_step - save_every) > 1e-9:
        raise ValueError(
            f"save_every = {save_every:g} fs is no whole number of time steps of {time_step:g} fs."
        )
    system = make_system(
        atoms.positions,
        atoms.get_velocities() * ase.units.fs,
        atoms.numbers,
        cell=atoms.cell.array if atoms.pbc.all() else None,
        masses=atoms.get_masses(),
    )
    dynamics = VelocityVerlet(atoms, time_step * ase.units.fs)
    with H5MDWriter(path, system, save_every, steps_per_frame=steps) as writer:
        for start in range(0, n_frames, CHUNK):
            rows = []
            for i in range(start, min(start + CHUNK, n_frames)):
                if i > 0:
                    dynamics.run(steps)
                velocities = atoms.get_velocities() * ase.units.fs
                energies = atoms.get_potential_energy(), atoms.get_kinetic_energy()
                rows.append((atoms.positions.copy(), velocities, *energies))
            positions, velocities, potential, kinetic = (
                np.array(x) for x in zip(*rows, strict=True)
            )
            frames = system.replace(
                positions=jnp.asarray(positions, jnp.float32),
                velocities=jnp.asarray(velocities, jnp.float32),
            )
            writer.append(frames, {"potential_energy": potential, "kinetic_energy": kinetic})


def import_trajectories(
    sources: Sequence[str | Path],
    out: str | Path,
    runs: int,
    *,
    time_step: float | None = None,
    gap: float = 0.0,
) -> list[Path]:
    """Turns trajectories that ASE reads into run files, and gives their paths.

    Several files are a run each. One file is cut into `runs` blocks of time, between which
    `gap` fs (at most a tenth of a block) are left out, so that neighbouring blocks do not
    share a moment. `time_step`, fs between frames, is for files that do not tell it.
    """
    out, sources = Path(out), [Path(s) for s in sources]
    made_with = {
        "sources": [[s.name, s.stat().st_size if s.exists() else 0] for s in sources],
        "runs": runs if len(sources) == 1 else len(sources),
        "time_step": time_step,
        "gap": gap,
    }
    with locked(out):
        done = load_progress(out, made_with)
        if done.frames:
            return [run_path(out, i) for i in range(made_with["runs"])]
        number = 0
        for source in sources:
            trajectory, times = read_trajectory(source, time_step=time_step)
            spacing = _spacing(times, source)
            for block in _blocks(len(times), runs if len(sources) == 1 else 1, gap / spacing):
                if block.stop - block.start < 2:
                    raise ValueError(
                        f"{source} has {len(times)} frames, too few for {runs} runs; give more "
                        "frames or fewer runs (--runs)."
                    )
                save_progress(out, made_with, Progress())  # whose runs these will be
                run_path(out, number).unlink(missing_ok=True)
                _write_block(trajectory, block, spacing, run_path(out, number))
                number += 1
        save_progress(out, made_with, Progress(frames=number))
    return [run_path(out, i) for i in range(number)]


def _write_block(trajectory: System, block: slice, spacing: float, path: Path) -> None:
    with H5MDWriter(path, trajectory, spacing) as writer:
        for start in range(block.start, block.stop, 1000):
            rows = slice(start, min(start + 1000, block.stop))
            writer.append(
                trajectory.replace(
                    positions=trajectory.positions[rows], velocities=trajectory.velocities[rows]
                )
            )


def _spacing(times: np.ndarray, source: Path) -> float:
    """fs between frames, which must be the same throughout."""
    if len(times) < 2:
        raise ValueError(f"{source} has {len(times)} frame; a trajectory needs at least 2.")
    steps = np.diff(times)
    if steps.min() <= 0 or np.ptp(steps) > 1e-3 * steps[0]:
        i = int(np.argmax(np.abs(steps - steps[0])))
        raise ValueError(
            f"Frames {i} and {i + 1} of {source} are {steps[i]:g} fs apart, but the first two "
            f"{steps[0]:g} fs; give evenly spaced frames."
        )
    return float((times[-1] - times[0]) / (len(times) - 1))


def _blocks(n_frames: int, n_blocks: int, gap: float) -> list[slice]:
    """Equal blocks of frames, each short of its last `gap` frames."""
    length = n_frames // n_blocks
    skip = round(min(gap, LARGEST_GAP * length)) if n_blocks > 1 else 0
    return [slice(i * length, (i + 1) * length - skip) for i in range(n_blocks)]
