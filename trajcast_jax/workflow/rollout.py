"""Forecast a trajectory and report on it: `python -m experiments.rollout quartz`."""

import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from trajcast_jax import io
from trajcast_jax.analysis import block_observables
from trajcast_jax.analysis.evaluation import write_report, write_summary
from trajcast_jax.config import Experiment, RolloutSettings, to_json
from trajcast_jax.dynamics.rollout import (
    FINE,
    RolloutError,
    Simulator,
    SimulatorState,
    describe_failure,
    first_failed,
    one_replica,
    replicate,
    simulate,
    simulator,
)
from trajcast_jax.mechanics import degrees_of_freedom, maxwell_boltzmann, temperature
from trajcast_jax.neighbors.graph import neighbor_list
from trajcast_jax.network import checkpoint
from trajcast_jax.network.forecast import TrainedForecast
from trajcast_jax.system import System
from trajcast_jax.units import FS_PER_DAY_TO_NS
from trajcast_jax.workflow import folders
from trajcast_jax.workflow.couplings import make_coupling
from trajcast_jax.workflow.judgement import conclude
from trajcast_jax.workflow.progress import progress_bar
from trajcast_jax.workflow.reference_runs import held_out_runs, mode_bands, observables
from trajcast_jax.workflow.rollout_runs import (
    Arguments,
    Run,
    new_run,
    old_run,
    replica_folders,
    require_same,
    start_frame,
)
from trajcast_jax.workflow.rollout_states import keep_state, state_to_go_on_from
from trajcast_jax.workflow.stopping import stopped


def prepare(run: Run, model: TrainedForecast, start: System) -> tuple[Simulator, SimulatorState]:
    """Make the simulator and its first state, with a leading axis if there are several replicas."""
    settings = run.experiment.rollout
    neighbors = neighbor_list(start.cell, model.cutoff, settings.skin)

    def at(kelvin) -> Simulator:
        return simulator(
            model.forecast,
            neighbors,
            make_coupling(settings, kelvin, model.settings.conserve_angular),
            model.time_step,
            max_temperature=settings.max_temperature,
        )

    def first(key, kelvin, listed=None) -> SimulatorState:
        key, key_velocities = jax.random.split(key)
        system = start
        if run.thermalize:
            fixed = model.settings.conserve_angular
            drawn = maxwell_boltzmann(key_velocities, start, kelvin, fixed)
            system = start.replace(velocities=drawn)
        return at(kelvin).init(key, system, listed)

    kelvins = jnp.asarray(run.temperatures, start.velocities.dtype)
    key = jax.random.key(settings.seed)
    if len(kelvins) == 1:
        return at(run.temperatures[0]), first(key, kelvins[0])
    listed = neighbors.allocate(start)
    keys = jax.random.split(key, len(kelvins))
    states = jax.vmap(lambda k, t: first(k, t, listed))(keys, kelvins)
    return replicate(at(0.0)), states


def strides(settings: RolloutSettings, time_step: float) -> tuple[int, int]:
    """Strides of a whole rollout, and of each of its chunks.

    They depend on the settings alone, not on where a rollout was stopped. All chunks are of one
    length, so that only one is compiled: the duration is rounded up a little.
    """
    steps = math.ceil(settings.duration / time_step - 1e-6)
    frames = math.ceil(steps / settings.every)
    chunks = math.ceil(frames / max(1, settings.chunk // settings.every))
    length = settings.every * math.ceil(frames / chunks)
    return chunks * length, length


def plan(settings: RolloutSettings, time_step: float, done: int) -> tuple[int, int]:
    """How many chunks of how many strides are next after `done` strides; 0 at the end.

    A rollout that was made longer between two chunks may have a shorter one left after these.
    """
    total, length = strides(settings, time_step)
    left = total - done
    if left <= 0:
        return 0, settings.every
    return (left // length, length) if left >= length else (1, left)


@contextlib.contextmanager
def writers(run: Run, out: Path, state: SimulatorState, time_step: float) -> Iterator[Callable]:
    """Open trajectories of all replicas, cut to the steps of `state`; yield `append(frames)`."""
    paths, every = replica_folders(run, out), run.experiment.rollout.every
    first = jax.device_get(state.system)
    step = int(jnp.max(state.step))
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(
                io.H5MDWriter(
                    path / "trajectory.h5",
                    first if len(paths) == 1 else one_replica(first, i),
                    time_step * every,
                    steps_per_frame=every,
                    n_frames=1 + step // every if step else 0,
                )
            )
            for i, path in enumerate(paths)
        ]

        def append(frames: System) -> None:
            frames = jax.device_get(frames)
            for i, file in enumerate(files):
                file.append(frames if len(files) == 1 else one_replica(frames, i))

        if not step:
            frame = {k: getattr(first, k)[None] for k in ("positions", "velocities")}
            append(first.replace(**frame))
        yield append


def forecast(run: Run, out: Path, show: Callable = progress_bar) -> dict:
    """Run or continue a rollout with a progress bar; return its time (s) and speed (ns/day).

    The speed is that of all replicas together; `replicas` is their number if there are several.

    Raises:
      RolloutError: the rollout failed. All frames before the failure are written.
    """
    model = checkpoint.restore(run.checkpoint)
    start = start_frame(run)
    hottest = max(run.temperatures)
    nve = run.experiment.rollout.ensemble == "nve" and not run.thermalize
    model.check(start, None if nve else hottest)
    sim, state = prepare(run, model, start)
    plan(run.experiment.rollout, model.time_step, 0)  # errors before anything is written
    out.mkdir(parents=True, exist_ok=True)
    sentence = f"Another process forecasts into {out}; wait for it or give another --out."
    with io.locked(out, sentence):
        require_same(run, out)
        return _forecast(run, out, model, start, sim, state, show)


def _forecast(run: Run, out: Path, model, start: System, sim, state, show: Callable) -> dict:
    state = state_to_go_on_from(run, out, sim, state)
    if jnp.any(state.failure.kind != FINE):
        raise RolloutError(describe_failure(state), first_failed(state))
    io.atomic_write(out / "run.json", to_json(run).encode())
    settings, dt = run.experiment.rollout, model.time_step
    done = int(jnp.max(state.step))
    form = "{desc}{percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} ps [{elapsed}<{remaining}{postfix}]"
    total, to_ps = max(done, strides(settings, dt)[0]), dt * 1e-3
    dof = degrees_of_freedom(start, angular=model.settings.conserve_angular)
    seconds, taken = 0.0, {}
    with (
        writers(run, out, state, dt) as append,
        show(total=total * to_ps, initial=done * to_ps, bar_format=form, desc="forecast") as bar,
    ):
        while (todo := plan(settings, dt, int(jnp.max(state.step))))[0]:
            chunks, length = todo
            simulated, times = length * dt * len(run.temperatures), [time.perf_counter()]
            for last, frames in simulate(sim, state, chunks, length, settings.every):
                state = last
                append(frames)
                keep_state(out, state)
                times.append(time.perf_counter())
                bar.update(float(jnp.min(state.step)) * to_ps - bar.n)
                kelvins = jax.vmap(lambda s: temperature(s, dof))(_stacked(state.system))
                bar.set_postfix_str(
                    f"{speed(times, simulated):.3g} ns/day, {float(kelvins.mean()):.0f} K"
                )
            seconds += times[-1] - times[0]
            # One chunk alone has waited for the compiler, which says nothing about the speed.
            if chunks > 1:
                taken = {"ns_per_day": speed(times, simulated)}
                if len(run.temperatures) > 1:
                    taken["replicas"] = len(run.temperatures)
    return {"seconds": seconds} | taken if seconds else {}


def _stacked(system: System) -> System:
    return system if system.masses.ndim == 2 else jax.tree.map(lambda x: x[None], system)


def speed(times: list[float], simulated: float) -> float:
    """Speed (ns/day) of chunks of `simulated` fs that ended at `times` (s); times[0] is the start.

    If there are several chunks, the first is left out, because it includes compilation.
    """
    times = times[1:] if len(times) > 2 else times
    return simulated * (len(times) - 1) / (times[-1] - times[0]) * FS_PER_DAY_TO_NS


def reference_of(experiment: Experiment, held_out: bool) -> block_observables.Measured:
    """Reference observables: the shipped ones, or those of the runs; {} if there are neither."""
    folder = folders.reference(experiment)
    if held_out:
        return observables(experiment, folder, held_out=held_out)
    try:
        shipped = checkpoint.pretrained(experiment.reference_name) / "reference.npz"
        return block_observables.load(shipped)
    except FileNotFoundError:  # not a system that the package ships
        try:
            return observables(experiment, folder)
        except FileNotFoundError as error:
            print(f"Without a reference only temperatures are judged. {error}\n")
            return {}


def report(
    run: Run, out: Path, extra: dict, held_out: bool = False
) -> tuple[list[Path], list[dict]]:
    """Write the report of every replica; return the files and the reports."""
    experiment = run.experiment
    measured = reference_of(experiment, held_out)
    folder = folders.reference(experiment)
    bands = mode_bands(experiment, folder, measured, held_out=held_out)
    extra = extra | {"planned_ps": experiment.rollout.duration * 1e-3}
    written, reports = [], []
    for path, kelvin in zip(replica_folders(run, out), run.temperatures, strict=True):
        rollout = dataclasses.replace(experiment.rollout, temperature=kelvin)
        settings = dataclasses.replace(experiment, rollout=rollout)
        own = dict(extra)
        if own.pop("stopped_replica", 0) != len(reports) and "stopped" in own:
            own["stopped_with_another"] = own.pop("stopped")
        forecast = path / "trajectory.h5"
        reports.append(write_report(path, forecast, measured, settings, own, bands=bands))
        written.append(path / "report.md")
    if len(set(run.temperatures)) == 1 < len(reports):
        write_summary(out, reports)
        written.append(out / "summary.md")
    return written, reports


def main(arguments: Arguments) -> int:
    """Run the command; return 1 if the forecast failed or missed a criterion of its verdict."""
    run, out = old_run(arguments) if arguments.resume else new_run(arguments)
    if arguments.held_out:
        held_out_runs(run.experiment, folders.reference(run.experiment))  # or an error at once
    extra = {"checkpoint": run.checkpoint, "start": run.start, "seed": run.experiment.rollout.seed}
    extra["device"] = jax.devices()[0].device_kind
    try:
        extra |= forecast(run, out)
    except RolloutError as error:
        extra |= {"stopped": str(error), "stopped_replica": error.replica}
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt as error:
        command = f"python -m experiments.rollout {arguments.experiment} --resume --out {out}"
        return stopped(error, f"Go on by: {command}")
    paths = replica_folders(run, out)
    if arguments.extxyz:
        for path in paths:
            trajectory, times = io.read_trajectory(path / "trajectory.h5")
            io.write_extxyz(path / "trajectory.extxyz", trajectory, times)
    if not arguments.report:
        text = json.dumps({k: v for k, v in extra.items() if k != "stopped_replica"})
        io.atomic_write(out / "report.json", text.encode())
        print(f"The forecast is in {out}; `evaluate --rollout {out}` judges it.")
        return int("stopped" in extra)
    written, reports = report(run, out, extra, arguments.held_out)
    for path in written:
        print(f"{path.read_text()}\n" if len(paths) == 1 else f"{path}")
    print(f"Everything is in {out}.\n")
    status = conclude(run.experiment, reports, run.checkpoint)
    return int("stopped" in extra) or status
