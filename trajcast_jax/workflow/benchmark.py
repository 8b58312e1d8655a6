"""Measure speeds, also relative to the machine's limits: `python -m experiments.benchmark`.

Every time is the median of several repeats after compilation, in wall-clock and CPU seconds of
the whole process. Only ratios within one run are reliable, so the machine's peaks are measured
in the same run. With `--probe`, a NumPy matrix product is timed in turn with each function. Times
in units of this probe can be compared between programs and runs.
"""

import dataclasses
import functools
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from trajcast_jax import io
from trajcast_jax.analysis import plots
from trajcast_jax.analysis.report import table
from trajcast_jax.compiling import compiler_options
from trajcast_jax.config import Experiment, Statistics
from trajcast_jax.data import FramePairs, frame_pairs, join
from trajcast_jax.dynamics.rollout import replicate, rollout, simulator
from trajcast_jax.learning import training
from trajcast_jax.neighbors.graph import neighbor_list
from trajcast_jax.network import checkpoint
from trajcast_jax.network.compress import compress
from trajcast_jax.network.forecast import Forecaster, TrainedForecast
from trajcast_jax.reference import engine_for_frames
from trajcast_jax.system import System, make_system
from trajcast_jax.units import FS_PER_DAY_TO_NS
from trajcast_jax.workflow import roofline
from trajcast_jax.workflow.command_line import load
from trajcast_jax.workflow.couplings import make_coupling
from trajcast_jax.workflow.progress import progress_bar
from trajcast_jax.workflow.timing import (
    compiled,
    in_turn,
    machine,
    numpy_probe,
    timed,
    with_threads,
)

LONG_ENOUGH = 0.5
"""s, shortest time of one timed call of an engine."""
VACUUM = 10.0
"""Å, distance between a molecule and its images that exceeds any cutoff."""


@dataclasses.dataclass
class Arguments:
    """Time strides and training steps, and write the results to --out as JSON."""

    systems: tyro.conf.Positional[tuple[str, ...]] = ("quartz",)
    """NAME or NAME:N (the shipped start frame, repeated N times along each lattice vector;
    quartz:2 has 1,296 atoms), or a file: any format of `read`, or .npz with numbers, masses,
    positions (frame, atom, 3), velocities, cell, pbc."""
    presets: tuple[str, ...] = ("shipped",)
    """Experiments whose networks are measured; "shipped" for the shipped model of the system."""
    precisions: tuple[str, ...] = ("float32",)
    """float32, float64."""
    replicas: tuple[int, ...] = (1,)
    strides: int = 20
    """Number of strides in a timed rollout."""
    repeats: int = 5
    train: bool = True
    """Time a training step too."""
    threads: int = 0
    """Number of threads of the whole process; 0 for the default of the machine."""
    reference: bool = False
    """Time the engine of the reference too, on the same frame, in turn with the strides."""
    probe: bool = False
    """Also give CPU times in units of a 2048³ float32 matrix product of NumPy."""
    cutoff: float | None = None
    """Cutoff (Å) instead of that of the preset."""
    compress: float = 1e-6
    """Tolerance of the compression of the network for strides; 0 for the uncompressed network.
    Training steps use the uncompressed network."""
    compare: Path | None = None
    """JSON of another run; the ratios of all times to it are printed."""
    out: Path = Path("runs/benchmark.json")


def frames_of(name: str, dtype) -> tuple[str, list[System]]:
    """Name of the system's experiment ("" if it has none), and its frames."""
    if name.endswith(".npz"):
        data = io.read_npz(name)
        # A box with so much vacuum that no image is ever a neighbour is no crystal or liquid.
        extent = np.ptp(data["positions"].reshape(-1, 3), axis=0)
        vacuum = np.abs(np.diag(data["cell"])) - extent
        cell = None if not data["pbc"].all() or (vacuum > VACUUM).all() else data["cell"]
        return "", [
            make_system(r, v, data["numbers"], masses=data["masses"], cell=cell, dtype=dtype)
            for r, v in zip(data["positions"], data["velocities"], strict=True)
        ]
    if Path(name).suffix:
        return "", [io.read(name)]
    name, _, times = name.partition(":")
    system = io.read(checkpoint.pretrained(name) / "start.extxyz")
    return name, [jax.tree.map(jnp.asarray, supercell(system, int(times or 1)))]


def supercell(system: System, times: int | tuple[int, int, int]) -> System:
    """Repeat a periodic system `times` times along each lattice vector (one number or three)."""
    times = np.broadcast_to(times, 3)
    if np.all(times == 1):
        return system
    cells = np.stack(np.meshgrid(*map(np.arange, times), indexing="ij"), -1).reshape(-1, 1, 3)
    positions = (np.asarray(system.positions) + cells @ np.asarray(system.cell)).reshape(-1, 3)
    velocities = np.tile(np.asarray(system.velocities), (len(cells), 1))
    numbers = np.tile(np.asarray(system.species), len(cells))
    masses = np.tile(np.asarray(system.masses), len(cells))
    cell = np.asarray(system.cell) * times[:, None]
    return make_system(positions, velocities, numbers, cell=cell, masses=masses)


def forecaster_of(preset: str, name: str, frames: list[System], cutoff: float | None):
    """Experiment, forecaster and weights: those that are shipped, or random ones for a preset."""
    if preset == "shipped" and name:
        model = checkpoint.restore(checkpoint.pretrained(name))
        return load(name), model.forecaster, model.params
    experiment = load("quartz" if preset == "shipped" else preset)
    settings = experiment.model
    if cutoff:
        settings = dataclasses.replace(settings, cutoff=cutoff)
    species = tuple(int(z) for z in np.unique(frames[0].species))
    same = lambda value: (value,) * len(species)  # noqa: E731 - any scale suits random weights
    measured = Statistics(
        species=species, displacement_scale=same(1e-3), velocity_scale=same(1e-4),
        displacement_baseline=same(experiment.data.time_step), velocity_baseline=same(1.0),
        velocity_rms=same(5e-3), average_neighbors=20.0,
        far_mixing=(tuple(map(tuple, np.eye(len(species)).tolist())),) * 2,
    )  # fmt: skip
    forecaster = Forecaster(settings, measured, experiment.data.time_step)
    return experiment, forecaster, forecaster.init(0)


def rates(program, seconds: float, function: Callable, *arguments) -> dict[str, float]:
    """Rates of a function: GFlop/s of its matrix products, and GB/s of its kernels' traffic."""
    flops = roofline.multiplications(function, *arguments)
    moved = roofline.traffic(program.as_text())
    return {"gflops": 1e-9 * flops / seconds, "gb_per_s": 1e-9 * moved / seconds}


def measure_stride(arguments, experiment: Experiment, forecaster, params, start, probe) -> dict:
    """Time one stride: the forecast alone, the whole step, and the neighbour list updates."""
    settings = experiment.rollout
    neighbors = neighbor_list(start.cell, forecaster.settings.cutoff, settings.skin)
    sim = simulator(
        lambda system, listed: forecaster(params, system, listed),
        neighbors,
        make_coupling(settings, settings.temperature, forecaster.settings.conserve_angular),
        forecaster.time_step,
    )
    state = sim.init(jax.random.key(0), start)
    n, listed = arguments.strides, state.neighbors

    def forecasts(system, listed):
        # In a loop like strides: a call from Python takes as long as a small molecule's stride.
        follow = lambda here, _: (forecaster(params, here, listed), None)  # noqa: E731
        return jax.lax.scan(follow, system, None, n)[0]

    cases = {"forecast": (forecasts, (start, listed))}
    counts = {("stride" if k == 1 else f"stride x{k}"): k for k in arguments.replicas}
    for name, count in counts.items():
        one, first = sim, state
        if count > 1:
            one = replicate(sim)
            keys = jax.random.split(jax.random.key(0), count)
            first = jax.vmap(lambda k: sim.init(k, start, listed))(keys)
        cases[name] = rollout(one.step, n), (first,)
    programs = {name: compiled(function, *inputs) for name, (function, inputs) in cases.items()}
    runs = {name: functools.partial(programs[name][0], *cases[name][1]) for name in cases}
    engine, steps = engine_of(arguments, experiment, start)
    spent = in_turn(runs | engine, arguments.repeats, probe)
    out = {
        name: row | {key: value / n for key, value in spent[name].items()}
        for name, (_, row) in programs.items()
    }
    for name in engine:
        row = {key: value / steps for key, value in spent[name].items()}
        row["ns_per_day"] = experiment.reference.time_step / row["wall_s"] * FS_PER_DAY_TO_NS
        out[name] = row
    bare = out["forecast"]
    bare |= rates(programs["forecast"][0], n * bare["wall_s"], forecasts, start, listed)
    moved = start.replace(positions=start.positions + settings.skin)
    update, _ = compiled(neighbors.update, listed, moved)
    rebuild = timed(lambda: update(listed, moved), arguments.repeats)["wall_s"]
    check = timed(lambda: update(listed, start), arguments.repeats)["wall_s"]
    for name, count in counts.items():
        row, (first,) = out[name], cases[name][1]
        last = runs[name]()[0]
        rate = float(jnp.mean(last.neighbors.rebuilds - first.neighbors.rebuilds)) / n
        row["rebuilds_per_stride"] = rate
        row["neighbor_share"] = count * (check + rate * (rebuild - check)) / row["wall_s"]
        row["ns_per_day"] = count * forecaster.time_step / row["wall_s"] * FS_PER_DAY_TO_NS
        if count == 1:
            row["loop_overhead"] = row["wall_s"] / bare["wall_s"] - 1
    return out


def as_pairs(frames: list[System], cutoff: float, time_step: float) -> FramePairs:
    """Make training pairs with uniform motion; the time of an update does not depend on targets."""
    parts = []
    for system in frames:
        moved = np.stack([system.positions, system.positions + time_step * system.velocities])
        run = system.replace(positions=moved, velocities=np.stack([system.velocities] * 2))
        parts.append(frame_pairs([(run, np.array([0.0, time_step]))], time_step, cutoff, 1))
    return jax.tree.map(jnp.asarray, join(parts))


def measure_training(arguments, experiment, forecaster, params, frames, probe) -> dict:
    """Time one update on all frames: forward pass, backward pass, clipping and optimiser."""
    settings = dataclasses.replace(experiment.training, batch_size=len(frames))
    pairs = as_pairs(frames, forecaster.settings.cutoff, forecaster.time_step)
    state = training.init_state(forecaster, settings, params)
    update = training.update_step(forecaster, settings)
    step, row = compiled(update, state, pairs, options=compiler_options(**training.UPDATE_OPTIONS))
    row |= timed(lambda: step(state, pairs), arguments.repeats, probe)
    return row | rates(step, row["wall_s"], update, state, pairs)


def engine_of(
    arguments: Arguments, experiment: Experiment, start: System
) -> tuple[dict[str, Callable], int]:
    """A function that runs the reference's engine from a frame, and its steps per call.

    A call takes at least `LONG_ENOUGH`, so that its overhead is negligible. The dict is empty if
    the engine is not requested, or if its system has another size.
    """
    if not arguments.reference or not experiment.reference.structure:
        return {}, 0
    engine = engine_for_frames(experiment.reference, start.cell)
    if len(engine.structure) != len(start.masses):
        engine.close()
        return {}, 0
    engine.set_frame(*(np.asarray(x, np.float64) for x in (start.positions, start.velocities)))
    steps = 1
    while True:
        begin = time.perf_counter()
        engine.advance(steps)
        if time.perf_counter() - begin > LONG_ENOUGH:
            return {"reference step": functools.partial(engine.advance, steps)}, steps
        steps *= 2


def rows_of(results: dict) -> dict[str, dict]:
    """All results by "system / preset / precision / function"."""
    return {
        f"{name} / {what}": row
        for name, case in results["cases"].items()
        for what, row in case["rows"].items()
    }


def rendered(results: dict) -> str:
    """Render the results as a Markdown table."""
    columns = ("wall_s", "cpu_s", "probes", "ns_per_day", "gflops", "gb_per_s", "memory_mb",
               "compile_s", "neighbor_share", "loop_overhead")  # fmt: skip
    rows = rows_of(results)
    used = [c for c in columns if any(c in row for row in rows.values())]
    cells = [
        [name, *(f"{row[c]:.3g}" if c in row else "" for c in used)] for name, row in rows.items()
    ]
    return table(["case", *used], cells)


def compared(results: dict, other: dict) -> str:
    """Table of ratios of this run's times to another's; of probe units if both have them."""
    old, ratios = rows_of(other), []
    for name, row in rows_of(results).items():
        if name in old:
            key = "probes" if "probes" in row and "probes" in old[name] else "wall_s"
            ratios.append([f"{name} ({key})", f"{row[key] / old[name][key]:.3f}"])
    return table(["case", "time, this / other"], ratios)


def measure_case(arguments: Arguments, name: str, preset: str, precision: str, probe) -> dict:
    """Measure one system, network and precision; return results and sizes."""
    known, frames = frames_of(name, precision)
    experiment, forecaster, params = forecaster_of(preset, known, frames, arguments.cutoff)
    params = jax.tree.map(lambda x: x.astype(precision), params)
    model = TrainedForecast(params, forecaster)
    if arguments.compress:
        model = compress(model, arguments.compress)
    rows = measure_stride(arguments, experiment, model.forecaster, model.params, frames[0], probe)
    if arguments.train:
        rows["training step"] = measure_training(
            arguments, experiment, forecaster, params, frames, probe
        )
    listed = neighbor_list(frames[0].cell, forecaster.settings.cutoff, 0.0).allocate(frames[0])
    n_atoms = len(frames[0].masses)
    edges = int((listed.idx < n_atoms).sum())
    sizes = {"atoms": n_atoms, "frames": len(frames), "edges": edges}
    return sizes | {"edge_rank": model.settings.edge_rank, "rows": rows}


def measure(arguments: Arguments) -> dict:
    """Measure all cases, one after the other."""
    probe = numpy_probe() if arguments.probe else None
    results = {"machine": machine(arguments.repeats), "cases": {}}
    if probe:
        results["machine"]["probe_cpu_s"] = statistics.median(probe() for _ in range(5))
    cases = itertools.product(arguments.systems, arguments.presets, arguments.precisions)
    for name, preset, precision in progress_bar(list(cases)):
        with jax.enable_x64(precision == "float64"):
            case = measure_case(arguments, name, preset, precision, probe)
        results["cases"][f"{name} / {preset} / {precision}"] = case
    return results


def main(arguments: Arguments) -> None:
    """Run the command."""
    with_threads(arguments.threads, "experiments.benchmark")
    results = measure(arguments)
    io.atomic_write(arguments.out, json.dumps(results, indent=1).encode())
    picture = arguments.out.with_suffix(".png")
    plots.save(picture, lambda: roofline.plot(results))
    print(json.dumps(results["machine"]), "", rendered(results), sep="\n")
    if arguments.compare:
        print("", compared(results, json.loads(arguments.compare.read_text())), sep="\n")
    print(f"\nAll figures are in {arguments.out}, rooflines in {picture}.")
