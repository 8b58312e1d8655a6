"""The simulation behind the runs, by Thiemann et al., Nat. Mach. Intell. 8, 764 (2026).

Constant pressure fixes the cell, constant temperature (CSVR: Bussi, Donadio, Parrinello,
J. Chem. Phys. 126, 014101 (2007), doi:10.1063/1.2408420) the mean energy; the stored runs
are at constant energy, each from a state of that mean energy, or else canonical. One long
simulation passes through all of this. Its state is saved with every chunk of frames, so it can be
interrupted anywhere.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from trajcast_jax.config import ReferenceSettings
from trajcast_jax.io import H5MDWriter
from trajcast_jax.reference.engine import Engine, make_engine
from trajcast_jax.reference.state import (
    Progress,
    fingerprint,
    frames_of,
    load_progress,
    locked,
    run_path,
    save_progress,
)
from trajcast_jax.reference.structure import free_dimensions
from trajcast_jax.units import BOLTZMANN

CHUNK = 200
"""Stored frames between two saved states."""
NEAR_MEAN = 0.1
"""A run starts from a state this close to the mean energy, in canonical standard deviations."""


class Stage(NamedTuple):
    """One part of the simulation."""

    kind: str
    """"npt", "nvt", "gap" (between runs) or "run"."""
    run: int
    """Number of the run; −1 before the first."""
    n_frames: int


class Simulation(NamedTuple):
    """What every stage works with."""

    engine: Engine
    settings: ReferenceSettings
    out: Path
    seed: int
    steps: int
    """Integration steps between stored frames."""


def stages(settings: ReferenceSettings) -> list[Stage]:
    """The whole simulation, in order."""
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
    """Simulates `settings.runs` runs into `out`/run_000.h5 and so on.

    Goes on from where it stopped in `out`, also with more runs than before; runs of other
    settings there are an error. The cell comes from a simulation that does not depend on
    `seed`: it belongs to the system, the seed to its samples.

    Yields:
      At the start and after each chunk, the index of the stage in `stages(settings)` and
      its frames so far.
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
        progress = load_progress(out, made_with)
        _require_runs(plan, progress, out)
        yield progress.stage, progress.frames
        if not _unfinished(plan, progress):
            return
        sim = Simulation(make_engine(settings), settings, out, seed, round(ratio))
        if progress.restart:
            sim.engine.load(out / progress.restart)
        else:
            sim.engine.create(_seed(0))
        for index in range(progress.stage, len(plan)):
            stage = plan[index]
            if index > progress.stage:
                progress = dataclasses.replace(progress, stage=index, frames=0)
            _enter(sim, stage, progress)
            while progress.frames < stage.n_frames:
                n = min(CHUNK, stage.n_frames - progress.frames)
                progress = _ADVANCE[stage.kind](sim, stage, progress, n)
                name = f"state_{index:03d}_{progress.frames + n:06d}.restart"
                progress = dataclasses.replace(progress, frames=progress.frames + n, restart=name)
                sim.engine.save(out / name)
                save_progress(out, made_with, progress)
                yield index, progress.frames


def _unfinished(plan: list[Stage], progress: Progress) -> bool:
    last = len(plan) - 1
    return progress.stage < last or (
        progress.stage == last and progress.frames < plan[last].n_frames
    )


def _require_runs(plan: list[Stage], progress: Progress, out: Path) -> None:
    """The runs that the state counts as done must be there."""
    for index, stage in enumerate(plan[: progress.stage + 1]):
        begun = index < progress.stage or progress.frames > 0
        path = run_path(out, stage.run)
        if stage.kind == "run" and begun and not path.exists():
            raise FileNotFoundError(
                f"{path} was made but is gone; bring it back, or remove the folder to start anew."
            )


def _enter(sim: Simulation, stage: Stage, progress: Progress) -> None:
    """Sets the ensemble of a stage and, at its start, prepares the state for it."""
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
    """Goes on to a state near the mean total energy, then scales the velocities onto it.

    A run at constant energy keeps the energy that it starts with, and that of one state of
    a small system may be far from the mean.
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
    """Sums the total energy, corrected for what the kinetic energy K is off its known mean.

    The bath lets the energy of a small system wander slowly, half of it kinetic. Adding
    2 (⟨K⟩ − K), of mean 0, leaves V − K + 2⟨K⟩, which is constant in a harmonic system
    but for its vibrations: the mean needs far less time.
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
    """Appends `n` frames to the run's file, the first of them the present state."""
    engine = sim.engine
    frames, energies = [], []
    for _ in range(n):
        energies.append(engine.energies())
        frames.append(engine.frame())
        engine.advance(sim.steps)
    positions, velocities = jnp.asarray(np.array(frames), jnp.float32).swapaxes(0, 1)
    potential, kinetic = np.array(energies).T
    system = engine.system()
    path = run_path(sim.out, stage.run)
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
    """A positive seed that LAMMPS takes, from non-negative integers."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] % 900_000_000) + 1
