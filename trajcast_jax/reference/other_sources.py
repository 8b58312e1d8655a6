"""Run files from ASE atoms with a calculator, and from existing trajectories."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import ase.units
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.md.verlet import VelocityVerlet

from trajcast_jax.config import ReferenceSettings
from trajcast_jax.io import H5MDWriter, ReadOptions, runs_of_file
from trajcast_jax.io.checks import temperatures_in
from trajcast_jax.io.digests import digest
from trajcast_jax.io.options import note
from trajcast_jax.reference.equipartition import require_equipartition
from trajcast_jax.reference.repeats import Seen, require_other_files
from trajcast_jax.reference.state import (
    STATE,
    Progress,
    load_progress,
    locked,
    run_path,
    save_progress,
)
from trajcast_jax.reference.structure import require_cell, require_composition, with_structure
from trajcast_jax.system import System, make_system

CHUNK = 100
"""Number of frames held in memory before they are written."""
LARGEST_GAP = 0.1
"""Share of a block of a cut trajectory that is left out before the next block."""
SHORTEST = 0.1
"""Shortest part between missing frames that is worth a run, over the mean length of runs."""


def ase_reference(
    atoms: Atoms, path: str | Path, n_frames: int, time_step: float, save_every: float
) -> None:
    """Run `atoms` with their calculator at constant energy and store `n_frames` frames.

    The first stored frame is the given state of `atoms`; afterwards, `atoms` are at the last
    frame. Velocity Verlet with steps of `time_step` fs is used, and a frame is stored every
    `save_every` fs. If the file exists, `n_frames` frames are appended; `atoms` must be at its last
    frame, which is not stored again.

    Raises:
      ValueError: `save_every` is not a multiple of `time_step`.
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
    known = Path(path).exists()
    with H5MDWriter(path, system, save_every, steps_per_frame=steps) as writer:
        for start in range(0, n_frames, CHUNK):
            rows = []
            for i in range(start, min(start + CHUNK, n_frames)):
                if i > 0 or known:
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
    options: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
    settings: ReferenceSettings | None = None,
) -> list[Path]:
    """Convert trajectories of other programs to run files, and return their paths.

    Of several files, each becomes a run. A single file is split into `runs` blocks of time; `gap`
    fs (at most a tenth of a block) between blocks are omitted, to reduce their correlation. A file
    is split where frames are missing, too: no block spans such a gap.

    Args:
      time_step: time (fs) between frames, for files that do not store it.
      options: what files do not state; they do not overrule what files state.
      settings: the atoms must be a multiple of their structure, and a crystal is periodic where a
        file does not say.

    Raises:
      ValueError: a file has too few or unevenly spaced frames, other atoms than the structure,
        leaves something open, or repeats what stands elsewhere; or `out` holds other runs.
    """
    out, sources = Path(out), [Path(s) for s in sources]
    if time_step is not None:
        options = dataclasses.replace(options, time_step=float(time_step))
    require_other_files(sources)
    made_with = _made_with(sources, runs, gap, options)
    with locked(out):
        fresh = not (out / STATE).exists()
        done = load_progress(out, _as_old(made_with, out))
        if done.frames:
            note(
                f"{out} holds {done.frames} runs of these files already, made with the same "
                "options; they were kept as they are."
            )
            return [run_path(out, i) for i in range(done.frames)]
        number, seen = 0, Seen()
        try:
            for source in sources:
                wanted = runs if len(sources) == 1 else 1
                for trajectory, spacing, block in _cut(
                    source, wanted, gap, options, settings, seen
                ):
                    save_progress(out, made_with, Progress())  # whose runs these will be
                    run_path(out, number).unlink(missing_ok=True)
                    _write_block(trajectory, block, spacing, run_path(out, number))
                    number += 1
        except Exception:
            if fresh:  # so that other options can be tried
                for i in range(number):
                    run_path(out, i).unlink(missing_ok=True)
                (out / STATE).unlink(missing_ok=True)
            raise
        save_progress(out, made_with, Progress(frames=number))
    return [run_path(out, i) for i in range(number)]


def _made_with(sources: list[Path], runs: int, gap: float, options: ReadOptions) -> dict:
    """What decides the frames of imported runs, as JSON has it; what is not said is None."""
    said = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(options).items()
        if value != getattr(ReadOptions(), name) and name != "time_step"
    }
    beside = [Path(p) for p in (options.velocities, options.topology) if p is not None]
    said = {name: str(value) if isinstance(value, Path) else value for name, value in said.items()}
    return {
        "sources": [[s.name, s.stat().st_size if s.exists() else 0] for s in sources],
        "digests": [digest(s) for s in [*sources, *beside]],
        "runs": runs if len(sources) == 1 else len(sources),
        "time_step": options.time_step,
        "gap": gap,
    } | ({"options": said} if said else {})


def _as_old(made_with: dict, out: Path) -> dict:
    """The same without digests if the runs in `out` are older than these."""
    if not (out / STATE).exists():
        return made_with
    found = json.loads(json.loads((out / STATE).read_text())["fingerprint"])
    if "sources" not in found or "digests" in found:
        return made_with
    return {name: value for name, value in made_with.items() if name != "digests"}


def _cut(source: Path, n_runs: int, gap: float, options: ReadOptions, settings, seen: Seen):
    """Trajectory, fs between frames and rows of each block of a file."""
    known = options if settings is None else with_structure(options, settings)
    parts, gaps = runs_of_file(source, known)
    if settings is not None:
        require_composition(parts[0][0], settings, source)
        require_cell(parts[0][0], settings, options, source)
    system = max(parts, key=lambda part: len(part[1]))[0]
    require_equipartition(system.velocities, system.species, system.masses, source)
    total = sum(len(times) for _, times in parts)
    note(_description(source, parts))
    if gaps:
        note(
            f"{source} is cut in {len(gaps) + 1} runs, and no pair of frames goes across: "
            f"{'; '.join(gaps[:5])}{'; …' if len(gaps) > 5 else ''}."
        )
    for trajectory, times in parts:
        if len(parts) > 1 and len(times) < SHORTEST * total / max(n_runs, len(parts)):
            note(
                f"{source}: the {len(times)} frames from {times[0]:g} fs on are too few for a run "
                "and were left out."
            )
            continue
        from_then = f" (from {times[0]:g} fs on)" if len(parts) > 1 else ""
        seen.add(trajectory.velocities, f"{source}{from_then}")
        spacing = _spacing(times, source)
        n_blocks = n_runs if len(parts) == 1 else max(1, round(n_runs * len(times) / total))
        for block in _blocks(len(times), n_blocks, gap / spacing):
            if block.stop - block.start < 2:
                raise ValueError(
                    f"{source} has {len(times)} frames, too few for {n_runs} runs; give more "
                    "frames or fewer runs (reference.runs)."
                )
            yield trajectory, spacing, block


def _description(source: Path, parts) -> str:
    """What was read, for its owner to look at."""
    system, times = parts[0]
    counts = zip(*np.unique(np.asarray(system.species), return_counts=True), strict=True)
    atoms = " ".join(f"{chemical_symbols[z]}{n}" for z, n in counts)
    kelvin = np.mean(temperatures_in(np.asarray(system.velocities), np.asarray(system.masses)))
    lengths = "isolated"
    if system.cell is not None:
        sides = np.linalg.norm(np.asarray(system.cell), axis=1)
        lengths = f"periodic ({' '.join(f'{x:.4g}' for x in sides)} Å)"
    spacing = f" every {times[1] - times[0]:g} fs" if len(times) > 1 else ""
    return (
        f"{source} was read as {atoms}, {lengths}, {sum(len(t) for _, t in parts)} frames"
        f"{spacing}, at {kelvin:.4g} K on average."
    )


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
    """Time (fs) between frames, which must be evenly spaced."""
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
    """Equal blocks of frames, without the last `gap` frames of each."""
    length = n_frames // n_blocks
    skip = round(min(gap, LARGEST_GAP * length)) if n_blocks > 1 else 0
    return [slice(i * length, (i + 1) * length - skip) for i in range(n_blocks)]
