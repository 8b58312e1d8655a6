"""How fast, and how near to what the machine can do: `python -m experiments.benchmark`.

Every figure is a median of several repeats after compilation, in wall-clock and in CPU
seconds, both of the whole process. Only ratios within one run are evidence: the machine's own
peaks are measured in it, and with `--probe` a NumPy matrix product is timed in turn with each
figure, in whose units figures of other programs and hours can be compared.
"""

import dataclasses
import functools
import itertools
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

import experiments
from experiments import roofline
from experiments.rollout import make_coupling
from experiments.timing import compiled, in_turn, machine, numpy_probe, timed, with_threads
from trajcast_jax import checkpoint, dataset, io, plots, training
from trajcast_jax.compress import compress
from trajcast_jax.config import Experiment, Statistics
from trajcast_jax.forecast import Forecaster, TrainedForecast
from trajcast_jax.graph import neighbor_list
from trajcast_jax.reference import make_engine
from trajcast_jax.report import table
from trajcast_jax.rollout import replicate, rollout, simulator
from trajcast_jax.system import System, make_system
from trajcast_jax.units import FS_PER_DAY_TO_NS

VACUUM = 10.0
"""Å between a molecule and its images that no cutoff reaches across."""


@dataclasses.dataclass
class Arguments:
    """Measures strides and training steps; every figure goes to --out as JSON."""

    systems: tyro.conf.Positional[tuple[str, ...]] = ("quartz",)
    """NAME or NAME:N (the shipped start frame, N times along each lattice vector: quartz:2 has
    1,296 atoms), or a file of frames: what `read` takes, or .npz with numbers, masses, positions
    (frame, atom, 3), velocities, cell, pbc."""
    presets: tuple[str, ...] = ("shipped",)
    """Names of experiments whose networks are measured; "shipped": the system's own."""
    precisions: tuple[str, ...] = ("float32",)
    """float32, float64."""
    replicas: tuple[int, ...] = (1,)
    strides: int = 20
    """Strides in one timed rollout."""
    repeats: int = 5
    train: bool = True
    """Time a training step too."""
    threads: int = 0
    """Threads of the whole process; 0 for what is usual here."""
    reference: bool = False
    """Time the reference dynamics too."""
    probe: bool = False
    """Give CPU times in units of a 2048³ float32 matrix product of NumPy as well."""
    cutoff: float | None = None
    """Å, instead of the preset's."""
    compress: float = 1e-6
    """Strides are those of the network compressed to this tolerance, as a forecast may be; 0 for
    the network that is trained."""
    compare: Path | None = None
    """The JSON of another run: prints the ratio of each figure to it."""
    out: Path = Path("runs/benchmark.json")


def frames_of(name: str, dtype) -> tuple[str, list[System]]:
    """A system's name among the experiments ("" if it has none), and its frames."""
    if name.endswith(".npz"):
        with np.load(name) as file:
            data = dict(file)
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
    """The periodic system `times` times along each lattice vector, or so many along each."""
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
    """The experiment, the network and its weights: the shipped ones, or random of a preset."""
    if preset == "shipped" and name:
        model = checkpoint.restore(checkpoint.pretrained(name))
        return experiments.load(name), model.forecaster, model.params
    experiment = experiments.load("quartz" if preset == "shipped" else preset)
    settings = experiment.model
    if cutoff:
        settings = dataclasses.replace(settings, cutoff=cutoff)
    species = tuple(int(z) for z in np.unique(frames[0].species))
    same = lambda value: (value,) * len(species)  # noqa: E731 - random weights: any scale will do
    measured = Statistics(
        species=species, displacement_scale=same(1e-3), velocity_scale=same(1e-4),
        displacement_baseline=same(experiment.data.time_step), velocity_baseline=same(1.0),
        velocity_rms=same(5e-3), average_neighbors=20.0,
        far_mixing=(tuple(map(tuple, np.eye(len(species)).tolist())),) * 2,
    )  # fmt: skip
    forecaster = Forecaster(settings, measured, experiment.data.time_step)
    return experiment, forecaster, forecaster.init(0)


def rates(program, seconds: float, function: Callable, *arguments) -> dict[str, float]:
    """What a function does a second: operations of matrix products, and bytes of its kernels."""
    flops = roofline.multiplications(function, *arguments)
    moved = roofline.traffic(program.as_text())
    return {"gflops": 1e-9 * flops / seconds, "gb_per_s": 1e-9 * moved / seconds}


def measure_stride(arguments, experiment: Experiment, forecaster, params, start, probe) -> dict:
    """One stride: bare forecast, whole step, neighbour update, and their shares."""
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
        # In a loop, as strides are: a call from Python costs as much as a small molecule's stride.
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
    spent = in_turn(runs, arguments.repeats, probe)
    out = {
        name: row | {key: value / n for key, value in spent[name].items()}
        for name, (_, row) in programs.items()
    }
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


def as_pairs(frames: list[System], cutoff: float, time_step: float) -> dataset.FramePairs:
    """Frames as training pairs that move uniformly: what a step costs does not depend on it."""
    parts = []
    for system in frames:
        moved = np.stack([system.positions, system.positions + time_step * system.velocities])
        run = system.replace(positions=moved, velocities=np.stack([system.velocities] * 2))
        parts.append(dataset.frame_pairs([(run, np.array([0.0, time_step]))], time_step, cutoff, 1))
    return jax.tree.map(jnp.asarray, dataset.join(parts))


def measure_training(arguments, experiment, forecaster, params, frames, probe) -> dict:
    """One update on all frames: forward, backward, clipping and optimiser."""
    settings = dataclasses.replace(experiment.training, batch_size=len(frames))
    pairs = as_pairs(frames, forecaster.settings.cutoff, forecaster.time_step)
    state = training.init_state(forecaster, settings, params)
    update = training.update_step(forecaster, settings)
    step, row = compiled(update, state, pairs, options=training.compiler_options())
    row |= timed(lambda: step(state, pairs), arguments.repeats, probe)
    return row | rates(step, row["wall_s"], update, state, pairs)


def measure_reference(experiment: Experiment, repeats: int) -> dict:
    """Velocity Verlet with the reference potential, by the experiment's engine."""
    engine = make_engine(experiment.reference)
    engine.create(seed=1)
    engine.constant_energy()
    row = timed(lambda: engine.advance(100), repeats)
    engine.close()
    row = {key: value / 100 for key, value in row.items()}
    row["ns_per_day"] = experiment.reference.time_step / row["wall_s"] * FS_PER_DAY_TO_NS
    return row


def rows_of(results: dict) -> dict[str, dict]:
    """All figures by "system / preset / precision / what"."""
    return {
        f"{name} / {what}": row
        for name, case in results["cases"].items()
        for what, row in case["rows"].items()
    }


def rendered(results: dict) -> str:
    """The figures as Markdown."""
    columns = ("wall_s", "cpu_s", "probes", "ns_per_day", "gflops", "gb_per_s", "memory_mb",
               "compile_s", "neighbor_share", "loop_overhead")  # fmt: skip
    rows = rows_of(results)
    used = [c for c in columns if any(c in row for row in rows.values())]
    cells = [
        [name, *(f"{row[c]:.3g}" if c in row else "" for c in used)] for name, row in rows.items()
    ]
    return table(["case", *used], cells)


def compared(results: dict, other: dict) -> str:
    """Ratios of this run's times to another's; in probes where both have them."""
    old, ratios = rows_of(other), []
    for name, row in rows_of(results).items():
        if name in old:
            key = "probes" if "probes" in row and "probes" in old[name] else "wall_s"
            ratios.append([f"{name} ({key})", f"{row[key] / old[name][key]:.3f}"])
    return table(["case", "time, this / other"], ratios)


def measure_case(arguments: Arguments, name: str, preset: str, precision: str, probe) -> dict:
    """The figures of one system, network and precision, and their sizes."""
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
    if arguments.reference and known:
        rows["reference step"] = measure_reference(experiment, arguments.repeats)
    listed = neighbor_list(frames[0].cell, forecaster.settings.cutoff, 0.0).allocate(frames[0])
    n_atoms = len(frames[0].masses)
    edges = int((listed.idx < n_atoms).sum())
    sizes = {"atoms": n_atoms, "frames": len(frames), "edges": edges}
    return sizes | {"edge_rank": model.settings.edge_rank, "rows": rows}


def measure(arguments: Arguments) -> dict:
    """All cases, one after the other."""
    probe = numpy_probe() if arguments.probe else None
    results = {"machine": machine(arguments.repeats), "cases": {}}
    if probe:
        results["machine"]["probe_cpu_s"] = statistics.median(probe() for _ in range(5))
    cases = itertools.product(arguments.systems, arguments.presets, arguments.precisions)
    for name, preset, precision in tqdm(list(cases)):
        with jax.enable_x64(precision == "float64"):
            case = measure_case(arguments, name, preset, precision, probe)
        results["cases"][f"{name} / {preset} / {precision}"] = case
    return results


def main(arguments: Arguments) -> None:
    """Command line."""
    with_threads(arguments.threads, "experiments.benchmark")
    results = measure(arguments)
    io.atomic_write(arguments.out, json.dumps(results, indent=1).encode())
    picture = arguments.out.with_suffix(".png")
    plots.save(picture, lambda: roofline.plot(results))
    print(json.dumps(results["machine"]), "", rendered(results), sep="\n")
    if arguments.compare:
        print("", compared(results, json.loads(arguments.compare.read_text())), sep="\n")
    print(f"\nAll figures are in {arguments.out}, rooflines in {picture}.")


if __name__ == "__main__":
    experiments.run(lambda: main(tyro.cli(Arguments)))
