"""The simulation protocol of reference runs: Thiemann et al., Nat. Mach. Intell. 8, 764 (2026).

The mean cell is determined at constant pressure, and the mean energy at constant temperature
(CSVR: Bussi, Donadio, Parrinello, J. Chem. Phys. 126, 014101 (2007), doi:10.1063/1.2408420). The
stored runs are at constant energy and start at this mean energy, or they are canonical. All
stages are parts of one long simulation. Its state is saved with every chunk of frames, so it can
be interrupted at any time.
"""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from trajcast_jax.config import ReferenceSettings
from trajcast_jax.io import H5MDWriter, n_frames
from trajcast_jax.reference.engine import Engine, make_engine
from trajcast_jax.reference.speed import timed_engine
from trajcast_jax.reference.state import (
    Progress,
    fingerprint,
    frames_of,
    load_earlier,
    load_progress,
    locked,
    run_path,
    save_progress,
)
from trajcast_jax.reference.structure import free_dimensions
from trajcast_jax.units import BOLTZMANN

CHUNK = 200
"""Number of frames between two saved states."""
NEAR_MEAN = 0.1
"""Largest distance of a run's first state from the mean energy, in canonical standard
deviations."""


class Stage(NamedTuple):
    """One stage of the simulation."""

    kind: str
    """"npt", "nvt", "gap" (before a run) or "run"."""
    run: int
    """Index of the run; −1 before the first gap."""
    n_frames: int


class Simulation(NamedTuple):
    """Engine and settings that all stages share."""

    engine: Engine
    settings: ReferenceSettings
    out: Path
    seed: int
    steps: int
    """Number of integration steps between stored frames."""


def stages(settings: ReferenceSettings) -> list[Stage]:
    """All stages of the simulation, in order."""
    times = {
        "npt": settings.npt_time,
        "nvt": settings.nvt_time,
        "gap": settings.gap_time,
        "run": settings.nve_time,
    }
    plan = [("npt", -1), ("nvt", -1)]
    plan += [(kind, run) for run in range(settings.runs) for kind in ("gap", "run")]
    found = [Stage(k, r, frames_of(times[k], settings.save_every)) for k, r in plan]
    return [stage for stage in found if stage.n_frames > 0]


def reference_md(
    settings: ReferenceSettings, out: str | Path, seed: int = 0
) -> Iterator[tuple[int, int]]:
    """Simulate `settings.runs` runs and write them to `out`/run_000.h5 and so on.

    An interrupted simulation in `out` is continued, also with more runs than before. The cell
    does not depend on `seed`, because it is a property of the system; the runs do.

    Yields:
      At the start and after each chunk: the index of the stage in `stages(settings)`, and the
      number of its completed frames.

    Raises:
      ValueError: settings are invalid, or `out` holds runs made with other settings.
      FileNotFoundError: a completed run is missing.
      OSError: another process simulates into `out`.
    """
    out = Path(out)
    ratio = settings.save_every / settings.time_step
    if round(ratio) < 1 or abs(ratio - round(ratio)) > 1e-9:
        raise ValueError(
            f"save_every = {settings.save_every:g} fs is no whole number of time steps of "
            f"{settings.time_step:g} fs; make it a multiple."
        )
    if settings.ensemble not in ("nve", "csvr"):
        raise ValueError(
            f"reference.ensemble is '{settings.ensemble}', but runs are 'nve' or 'csvr'."
        )
    plan, made_with = stages(settings), fingerprint(settings, seed)
    with locked(out):
        progress, earlier = _found(plan, made_with, out)
        yield progress.stage, progress.frames
        if not _unfinished(plan, progress):
            return
        sim = Simulation(make_engine(settings), settings, out, seed, round(ratio))
        for index in range(progress.stage, len(plan)):
            stage = plan[index]
            if index > progress.stage:
                progress = dataclasses.replace(progress, stage=index, frames=0)
            while progress.frames < stage.n_frames:
                n = min(CHUNK, stage.n_frames - progress.frames)
                _load(sim, progress)
                _enter(sim, stage, progress)
                done = _ADVANCE[stage.kind](sim, stage, progress, n)
                name = f"state_{index:03d}_{progress.frames + n:06d}.restart"
                done = dataclasses.replace(done, frames=progress.frames + n, restart=name)
                sim.engine.save(out / name)
                # The last state, and that at the begin of a run, whose file may lose frames.
                kept = [e for e in earlier if e.stage == index and e.frames == 0]
                earlier = [*kept, progress] if progress not in kept else kept
                progress = done
                save_progress(out, made_with, progress, earlier if _unfinished(plan, done) else [])
                yield index, progress.frames


def _found(plan: list[Stage], made_with: dict, out: Path) -> tuple[Progress, list[Progress]]:
    """The newest progress in `out` whose files are all there, and those before it."""
    progress, earlier = load_progress(out, made_with), load_earlier(out)
    _require_runs(plan, progress, out)
    known, problems = [progress, *reversed(earlier), Progress()], []
    while problem := _problem(plan, known[0], out):  # the last has no files
        problems.append(problem)
        known.pop(0)
    if problems:
        print(
            f"note: {'; '.join(problems)}. Going on from before it, to the same frames.",
            file=sys.stderr,
        )
    return known[0], known[-2:0:-1]


def _problem(plan: list[Stage], progress: Progress, out: Path) -> str:
    """What is missing of the files that belong to a progress; "" if nothing is."""
    begun = plan[: progress.stage] + ([plan[progress.stage]] if progress.frames else [])
    for index, stage in enumerate(begun):
        wanted = progress.frames if index == progress.stage else stage.n_frames
        path = run_path(out, stage.run)
        if stage.kind == "run":
            try:
                there = n_frames(path)
            except ValueError as error:
                return str(error)
            if there < wanted:
                return f"{path} has {there} of {wanted} frames"
    if progress.restart and not (out / progress.restart).is_file():
        return f"{out / progress.restart} is gone"
    return ""


def _load(sim: Simulation, progress: Progress) -> None:
    """The state of a progress, always from its file.

    An engine that goes on from memory has more than the file tells (random numbers, order and age
    of neighbour lists, the last wave functions), so that an interruption would change the bits.
    """
    if progress.restart:
        sim.engine.load(sim.out / progress.restart)
    else:
        sim.engine.create(_seed(0))


def _unfinished(plan: list[Stage], progress: Progress) -> bool:
    last = len(plan) - 1
    return progress.stage < last or (
        progress.stage == last and progress.frames < plan[last].n_frames
    )


def _require_runs(plan: list[Stage], progress: Progress, out: Path) -> None:
    """Raise FileNotFoundError if the file of a started run is missing."""
    for index, stage in enumerate(plan[: progress.stage + 1]):
        begun = index < progress.stage or progress.frames > 0
        path = run_path(out, stage.run)
        if stage.kind == "run" and begun and not path.exists():
            raise FileNotFoundError(
                f"{path} was made but is gone; bring it back, or remove the folder to start anew."
            )


def _enter(sim: Simulation, stage: Stage, progress: Progress) -> None:
    """Set the ensemble of a stage; at its start, also prepare the state."""
    engine, begins = sim.engine, progress.frames == 0
    draw = _seed(sim.seed, progress.stage, progress.frames)
    if stage.kind == "npt":
        engine.constant_pressure(_seed(0, progress.frames))
    elif stage.kind == "run" and sim.settings.ensemble == "nve":
        if begins:
            engine.constant_temperature(draw)
            _to_mean_energy(sim, progress)
        engine.constant_energy()
    else:
        if begins and stage.kind == "nvt" and progress.cell_samples:
            engine.set_cell(np.array(progress.cell) / progress.cell_samples)
        if begins and (stage.kind == "nvt" or (stage.kind == "gap" and sim.settings.redraw)):
            engine.draw_velocities(draw)
        engine.constant_temperature(draw)


def _to_mean_energy(sim: Simulation, progress: Progress) -> None:
    """Simulate until the total energy is near its mean, then scale the velocities to match it.

    A run at constant energy keeps its initial energy. In a small system, the energy of a single
    state can be far from the mean.
    """
    if not progress.energy_samples:
        return
    s, engine = sim.settings, sim.engine
    mean = progress.energy / progress.energy_samples
    deviation = BOLTZMANN * s.temperature * np.sqrt(3 * len(engine.structure))
    for _ in range(frames_of(s.gap_time, s.save_every)):
        if abs(sum(engine.energies()) - mean) < NEAR_MEAN * deviation:
            break
        engine.advance(sim.steps)
    engine.set_kinetic_energy(mean - engine.energies()[0])


def _sample_cell(sim: Simulation, stage: Stage, progress: Progress, n: int) -> Progress:
    total, samples = np.array(progress.cell or np.zeros((3, 3))), progress.cell_samples
    for i in range(progress.frames, progress.frames + n):
        sim.engine.advance(sim.steps)
        if i >= stage.n_frames // 2:
            total, samples = total + sim.engine.cell(), samples + 1
    return dataclasses.replace(progress, cell=total.tolist(), cell_samples=samples)


def _sample_energy(sim: Simulation, stage: Stage, progress: Progress, n: int) -> Progress:
    """Accumulate the total energy, with the kinetic energy K as a control variate.

    The thermostat changes the energy of a small system slowly, and half of the change is kinetic.
    Adding 2 (⟨K⟩ − K), which has mean 0, gives V − K + 2⟨K⟩. In a harmonic system this is
    constant except for vibrations, so that its mean converges much faster.
    """
    engine = sim.engine
    expected = 0.5 * free_dimensions(engine.structure) * BOLTZMANN * sim.settings.temperature
    total, samples = progress.energy, progress.energy_samples
    for i in range(progress.frames, progress.frames + n):
        engine.advance(sim.steps)
        if i >= stage.n_frames // 5:
            potential, kinetic = engine.energies()
            total, samples = total + potential - kinetic + 2 * expected, samples + 1
    return dataclasses.replace(progress, energy=total, energy_samples=samples)


def _equilibrate(sim: Simulation, stage: Stage, progress: Progress, n: int) -> Progress:
    sim.engine.advance(n * sim.steps)
    return progress


def _record(sim: Simulation, stage: Stage, progress: Progress, n: int) -> Progress:
    """Append `n` frames to the run's file, starting with the present state."""
    engine = sim.engine
    frames, energies = [], []
    spent = n * sim.settings.save_every
    with timed_engine(sim.out, sim.settings, len(engine.structure), spent):
        for _ in range(n):
            energies.append(engine.energies())
            frames.append(engine.frame())
            engine.advance(sim.steps)
    positions, velocities = jnp.asarray(np.array(frames), jnp.float32).swapaxes(0, 1)
    potential, kinetic = np.array(energies).T
    system = engine.system()
    path = run_path(sim.out, stage.run)
    if not progress.frames:
        path.unlink(missing_ok=True)  # of a begin that was not saved, or damaged
    with H5MDWriter(
        path,
        system,
        sim.settings.save_every,
        steps_per_frame=sim.steps,
        n_frames=progress.frames if path.exists() else None,
    ) as writer:
        writer.append(
            system.replace(positions=positions, velocities=velocities),
            {"potential_energy": potential, "kinetic_energy": kinetic},
        )
    return progress


_ADVANCE = {
    "npt": _sample_cell,
    "nvt": _sample_energy,
    "gap": _equilibrate,
    "run": _record,
}


def _seed(*entropy: int) -> int:
    """Make a positive seed in LAMMPS's range from non-negative integers."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] % 900_000_000) + 1
