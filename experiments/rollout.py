"""Forecasts a trajectory and reports on it: `python -m experiments.rollout quartz`."""

import contextlib
import dataclasses
import datetime
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import tyro
from tqdm import tqdm

import experiments
from experiments import folders
from experiments.evaluate import observables
from trajcast_jax import checkpoint, io
from trajcast_jax.config import Experiment, RolloutSettings, changed, from_dict, to_json
from trajcast_jax.ensemble import Coupling, chain, csvr, langevin, linear_ramp, nve, zero_momentum
from trajcast_jax.evaluation import write_report, write_summary
from trajcast_jax.forecast import TrainedForecast
from trajcast_jax.graph import neighbor_list
from trajcast_jax.mechanics import degrees_of_freedom, maxwell_boltzmann, temperature
from trajcast_jax.restart import load_state, save_state
from trajcast_jax.rollout import (
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
from trajcast_jax.system import System
from trajcast_jax.units import FS_PER_DAY_TO_NS


@dataclasses.dataclass
class Arguments:
    """Forecasts a trajectory with a trained model, and holds it against the reference."""

    experiment: tyro.conf.Positional[str]
    """Name of a TOML file in experiments/, or the path of one."""
    duration: float | None = None
    """fs; by default the experiment's, and so are temperature and seed."""
    temperature: float | None = None
    """K."""
    seed: int | None = None
    """Of the thermostat, and of --thermalize."""
    set: tuple[str, ...] = ()
    """Other settings that differ from the file: rollout.every=5 rollout.ensemble=nve."""
    checkpoint: Path | None = None
    """Folder of the model; by default the one that the package ships, or the best of training."""
    start: Path | None = None
    """File whose last frame is the start; by default the one that the package ships, or the last
    reference run."""
    thermalize: bool = False
    """Draw the start velocities at the temperature instead of taking those of the start frame,
    which may then be a structure alone (CIF, POSCAR, ...)."""
    replicas: int = 1
    """Runs side by side, each with its own random numbers."""
    temperatures: tuple[float, ...] = ()
    """K, one for each replica, where they differ."""
    out: Path | None = None
    """Folder to write; by default runs/<name>/rollout/<time>, with --resume the newest of these."""
    resume: bool = False
    """Go on with a rollout that was stopped, or make it longer by --duration."""
    extxyz: bool = False
    """Write the trajectory as extended XYZ too."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a rollout is made from; kept beside it as run.json."""

    experiment: Experiment
    checkpoint: str
    start: str
    thermalize: bool
    temperatures: tuple[float, ...]
    """K, one for each replica."""


def new_run(arguments: Arguments) -> tuple[Run, Path]:
    """The run that is asked for and its folder, which must not hold another one."""
    given = {"duration": arguments.duration, "temperature": arguments.temperature}
    given |= {"seed": arguments.seed}
    if arguments.temperatures:
        given["temperature"] = arguments.temperatures[0]
    changes = tuple(f"rollout.{k}={v}" for k, v in given.items() if v is not None)
    experiment = experiments.load(arguments.experiment, (*arguments.set, *changes))
    count = len(arguments.temperatures) or arguments.replicas
    kelvins = arguments.temperatures or (experiment.rollout.temperature,) * count
    if count < 1 or arguments.replicas not in (1, count):
        raise ValueError(
            f"{arguments.replicas} replicas cannot have {len(kelvins)} temperatures; "
            "give one for each, or leave one of the two options out."
        )
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H%M%S")
    out = arguments.out or folders.rollouts(experiment) / stamp
    if (out / "run.json").exists():
        raise ValueError(
            f"{out} already holds a rollout; go on with it by --resume, or give another --out."
        )
    run = Run(
        experiment=experiment,
        checkpoint=str(arguments.checkpoint or folders.model(experiment)),
        start=str(arguments.start or folders.start(experiment)),
        thermalize=arguments.thermalize,
        temperatures=tuple(kelvins),
    )
    return run, out


def old_run(arguments: Arguments) -> tuple[Run, Path]:
    """The run to go on with and its folder."""
    allowed = {"experiment", "duration", "out", "resume", "extxyz"}
    for field in dataclasses.fields(arguments):
        if field.name not in allowed and getattr(arguments, field.name) != field.default:
            raise ValueError(
                "--resume goes on with the settings that the rollout began with, so that "
                f"--{field.name} has no effect; only --duration may be new."
            )
    folder = folders.rollouts(experiments.load(arguments.experiment))
    found = sorted(folder.glob("*/run.json"))
    out = arguments.out or (found[-1].parent if found else folder)
    if not (out / "run.json").exists():
        raise FileNotFoundError(f"There is no rollout in {out} to go on with; leave --resume out.")
    run = from_dict(Run, json.loads((out / "run.json").read_text()))
    if arguments.duration is not None:
        experiment = changed(run.experiment, (f"rollout.duration={arguments.duration}",))
        run = dataclasses.replace(run, experiment=experiment)
    return run, out


def make_coupling(settings: RolloutSettings, kelvin, angular: bool) -> Coupling:
    """What acts on the velocities, at `kelvin` (K), from the settings."""
    if settings.final_temperature is not None:
        kelvin = linear_ramp(kelvin, settings.final_temperature, settings.duration)
    ensembles = {
        "nve": nve,
        "csvr": lambda: csvr(kelvin, settings.time_constant, angular),
        "langevin": lambda: langevin(kelvin, settings.time_constant),
    }
    if settings.ensemble not in ensembles:
        raise ValueError(
            f"rollout.ensemble is '{settings.ensemble}', but must be one of {', '.join(ensembles)}."
        )
    coupling = ensembles[settings.ensemble]()
    if settings.friction_time and settings.ensemble != "nve":
        friction = langevin(kelvin, settings.friction_time)
        return chain(coupling, friction, zero_momentum(1, angular))
    if settings.zero_momentum_every:
        return chain(coupling, zero_momentum(settings.zero_momentum_every, angular))
    return coupling


def prepare(run: Run, model: TrainedForecast, start: System) -> tuple[Simulator, SimulatorState]:
    """The simulator and its first state; replicas have a leading axis if there are several."""
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


def plan(settings: RolloutSettings, time_step: float, done: int) -> tuple[int, int]:
    """How many chunks of how many steps are left after `done` steps.

    All are of one length, so that only one is compiled: the duration is rounded up a little.
    """
    steps = math.ceil(settings.duration / time_step - 1e-6) - done
    if steps <= 0:
        return 0, settings.every
    frames = math.ceil(steps / settings.every)
    chunks = math.ceil(frames / max(1, settings.chunk // settings.every))
    return chunks, settings.every * math.ceil(frames / chunks)


def replica_folders(run: Run, out: Path) -> list[Path]:
    """The folder of every replica: `out` itself where there is one."""
    count = len(run.temperatures)
    return [out] if count == 1 else [out / f"replica_{i:02d}" for i in range(count)]


@contextlib.contextmanager
def writers(run: Run, out: Path, state: SimulatorState, time_step: float) -> Iterator[Callable]:
    """`append(frames)` to the trajectories of all replicas, cut to the steps of `state`."""
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


def forecast(run: Run, out: Path, show: Callable = tqdm) -> dict:
    """Runs, or goes on with, a rollout under a progress bar; returns what it took.

    A RolloutError comes after all frames before the failure are written.
    """
    model = checkpoint.restore(run.checkpoint)
    start = io.read(run.start, still=run.thermalize)
    model.check(start)
    sim, state = prepare(run, model, start)
    plan(run.experiment.rollout, model.time_step, 0)  # refuse before anything is written
    out.mkdir(parents=True, exist_ok=True)
    if (out / "state.npz").exists():
        state = load_state(out / "state.npz", sim, state)
        if jnp.any(state.failure.kind != FINE):
            raise RolloutError(describe_failure(state), first_failed(state))
    io.atomic_write(out / "run.json", to_json(run).encode())
    settings, dt = run.experiment.rollout, model.time_step
    done = int(jnp.max(state.step))
    chunks, length = plan(settings, dt, done)
    form = "{desc}{percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} ps [{elapsed}<{remaining}{postfix}]"
    total, to_ps = done + chunks * length, dt * 1e-3
    dof = degrees_of_freedom(start, angular=model.settings.conserve_angular)
    simulated, times = length * dt * len(run.temperatures), [time.perf_counter()]
    with (
        writers(run, out, state, dt) as append,
        show(total=total * to_ps, initial=done * to_ps, bar_format=form, desc="forecast") as bar,
    ):
        for last, frames in simulate(sim, state, chunks, length, settings.every):
            append(frames)
            save_state(out / "state.npz", last)
            times.append(time.perf_counter())
            bar.update(float(jnp.min(last.step)) * to_ps - bar.n)
            kelvins = jax.vmap(lambda s: temperature(s, dof))(_stacked(last.system))
            bar.set_postfix_str(
                f"{speed(times, simulated):.3g} ns/day, {float(kelvins.mean()):.0f} K"
            )
    if not chunks:
        return {}
    taken = {"seconds": times[-1] - times[0]}
    # One chunk alone has waited for the compiler, which says nothing about the speed.
    return taken | ({"ns_per_day": speed(times, simulated)} if chunks > 1 else {})


def _stacked(system: System) -> System:
    return system if system.masses.ndim == 2 else jax.tree.map(lambda x: x[None], system)


def speed(times: list[float], simulated: float) -> float:
    """ns/day of chunks of `simulated` fs that ended at `times` (s), the first being the start.

    The first chunk, which waits for the compiler, does not count if there are others.
    """
    times = times[1:] if len(times) > 2 else times
    return simulated * (len(times) - 1) / (times[-1] - times[0]) * FS_PER_DAY_TO_NS


def report(run: Run, out: Path, extra: dict) -> list[Path]:
    """Writes the report of every replica, and says where; none without a reference."""
    experiment = run.experiment
    try:
        measured = checkpoint.pretrained(experiment.reference_name) / "reference.npz"
    except FileNotFoundError:  # a system of the user's own
        try:
            measured = observables(experiment, folders.reference(experiment))
        except FileNotFoundError as error:
            print(f"No report: {error}")
            return []
    written, reports = [], []
    for path, kelvin in zip(replica_folders(run, out), run.temperatures, strict=True):
        rollout = dataclasses.replace(experiment.rollout, temperature=kelvin)
        settings = dataclasses.replace(experiment, rollout=rollout)
        own = dict(extra)
        if own.pop("stopped_replica", 0) != len(reports) and "stopped" in own:
            own["stopped_with_another"] = own.pop("stopped")
        reports.append(write_report(path, path / "trajectory.h5", measured, settings, own))
        written.append(path / "report.md")
    if len(set(run.temperatures)) == 1 < len(reports):
        write_summary(out, reports)
        written.append(out / "summary.md")
    return written


def main(arguments: Arguments) -> int:
    """Command line; returns 1 if the forecast failed."""
    run, out = old_run(arguments) if arguments.resume else new_run(arguments)
    extra = {"checkpoint": run.checkpoint, "start": run.start, "seed": run.experiment.rollout.seed}
    extra["device"] = jax.devices()[0].device_kind
    failed = 0
    try:
        extra |= forecast(run, out)
    except RolloutError as error:
        failed = 1
        extra |= {"stopped": str(error), "stopped_replica": error.replica}
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        command = f"python -m experiments.rollout {arguments.experiment} --resume --out {out}"
        print(f"\nStopped. Go on by: {command}")
        return 130
    paths = replica_folders(run, out)
    if arguments.extxyz:
        for path in paths:
            trajectory, times = io.read_trajectory(path / "trajectory.h5")
            io.write_extxyz(path / "trajectory.extxyz", trajectory, times)
    for path in report(run, out, extra):
        print(f"{path.read_text()}\n" if len(paths) == 1 else f"{path}")
    print(f"Everything is in {out}.")
    return failed


if __name__ == "__main__":
    experiments.run(lambda: main(tyro.cli(Arguments)))
