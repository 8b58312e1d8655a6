"""What gradients through forecasts cost, and how far they reach: `python -m experiments.gradients`.

Memory of a reverse pass against the number of strides, by the compiler's own account; the time of
a gradient in forward rollouts of as many strides; the Lyapunov exponent of the map, and the
horizon beyond which a gradient is noise. Of the shipped model, in single precision.
"""

import json
import math
import platform
import statistics
import time
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import tyro
from matplotlib.figure import Figure
from tqdm import tqdm

import experiments
from trajcast_jax import checkpoint, io
from trajcast_jax.ensemble import csvr
from trajcast_jax.gradients import describe_growth, gradient_horizon, lyapunov_exponent
from trajcast_jax.graph import neighbor_list
from trajcast_jax.plots import FORECAST, LIMIT, STORED, save
from trajcast_jax.rollout import Simulator, SimulatorState, rollout, simulator

WAYS = {
    "all kept": ("D", STORED),
    "segments of √n strides": ("o", FORECAST),
    "segments of 1 stride": ("s", LIMIT),
    "segments of √n strides, each stride again": ("^", "black"),
}
"""What a reverse pass keeps and does again, with a marker and a colour for the plot."""


def start(
    name: str, temperature: float, time_constant: float
) -> tuple[Simulator, SimulatorState, float]:
    """The shipped model of a system under CSVR, at its shipped start frame; its stride (fs)."""
    model = checkpoint.restore(checkpoint.pretrained(name))
    system = io.read(checkpoint.pretrained(name) / "start.extxyz")
    neighbors = neighbor_list(system.cell, model.cutoff, skin=0.5)
    thermostat = csvr(temperature, time_constant)
    sim = simulator(model.forecast, neighbors, thermostat, time_step=model.time_step)
    return sim, sim.init(jax.random.key(0), system), model.time_step


def observable(step, state: SimulatorState, strides: int, remat: int | None = None):
    """(positions, velocities) -> the mean squared displacement (Å²) after `strides`."""

    def displacement(frame):
        positions, velocities = frame
        system = state.system.replace(positions=positions, velocities=velocities)
        end, _ = rollout(step, strides, every=strides, remat=remat)(state.replace(system=system))
        moved = end.system.positions - state.system.positions
        return jnp.mean(jnp.sum(moved**2, axis=-1))

    return displacement


def near_root(n: int) -> int:
    """The largest divisor of n up to its square root: as near to it as any, in ratio."""
    return max(k for k in range(1, math.isqrt(n) + 1) if n % k == 0)


def reverse(sim: Simulator, state: SimulatorState, strides: int, way: str):
    """The gradient of the observable, by one of WAYS."""
    step = jax.checkpoint(sim.step) if way.endswith("each stride again") else sim.step
    remat = {"all kept": None, "segments of 1 stride": 1}.get(way, near_root(strides))
    return jax.value_and_grad(observable(step, state, strides, remat))


def memory(sim: Simulator, state: SimulatorState, sizes: tuple[int, ...]) -> dict:
    """MiB of temporary buffers of a gradient, for each of WAYS and number of strides."""
    frame = (state.system.positions, state.system.velocities)
    # Buffers are assigned before machine code is made, of which a little will do here.
    options = {"xla_backend_optimization_level": 0}
    found = {way: [] for way in WAYS}
    for way, n in tqdm([(w, n) for w in WAYS for n in sizes], desc="memory"):
        compiled = jax.jit(reverse(sim, state, n, way)).lower(frame).compile(options)
        found[way].append(compiled.memory_analysis().temp_size_in_bytes / 2**20)
    return {"strides": sizes, "MiB": found}


def cost(sim: Simulator, state: SimulatorState, strides: int, repeats: int) -> dict:
    """Seconds of a forward rollout and of gradients through it, timed in turn, and their ratios."""
    frame = (state.system.positions, state.system.velocities)
    functions = {"forward": observable(sim.step, state, strides)}
    for way in ("segments of 1 stride", "segments of √n strides"):
        functions[way] = reverse(sim, state, strides, way)
    programs, result = {}, {}
    for name, function in functions.items():
        begin = time.process_time()
        programs[name] = jax.jit(function).lower(frame).compile()
        result[name] = {"compile_cpu_s": time.process_time() - begin}
        found = jax.block_until_ready(programs[name](frame))
        if not all(jnp.isfinite(x).all() for x in jax.tree.leaves(found)):
            raise ValueError(f"The gradient through {strides} strides is not finite; take fewer.")
    rows = []
    for _ in tqdm(range(repeats), desc="cost"):
        row = {}
        for name, program in programs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(program(frame))
            row[name] = (time.perf_counter() - wall, time.process_time() - cpu)
        rows.append(row)
    for name, figures in result.items():
        for k, clock in enumerate(("wall", "cpu")):
            figures[f"{clock}_s"] = statistics.median(row[name][k] for row in rows)
            ratio = statistics.median(row[name][k] / row["forward"][k] for row in rows)
            figures[f"{clock}_over_forward"] = ratio
    return {"strides": strides, "repeats": repeats} | result


def plot(result: dict) -> Figure:
    """Memory against strides, with the slopes 1 and ½."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    strides = result["memory"]["strides"]
    for way, (marker, color) in WAYS.items():
        axes.loglog(strides, result["memory"]["MiB"][way], marker=marker, color=color, label=way)
    last = result["memory"]["MiB"]["segments of √n strides"][-1]
    guide = [last * (n / strides[-1]) ** 0.5 for n in strides]
    axes.loglog(strides, guide, color="black", linewidth=0.8, linestyle=":", label="√n")
    axes.set_xticks(strides, [str(n) for n in strides])
    axes.minorticks_off()
    axes.set_ylim(10, None)
    axes.set(xlabel="strides n", ylabel="memory of a gradient (MiB)")
    axes.set_title(f"{result['system']}, {result['atoms']} atoms: reverse pass through n strides")
    axes.legend()
    return figure


def reach(sim: Simulator, state: SimulatorState, strides: int, time_step: float) -> dict:
    """The Lyapunov exponent and the horizon of gradients."""
    growth = lyapunov_exponent(sim.step, state, strides, time_step, jax.random.key(1))
    print(describe_growth(growth))
    return {
        "strides": strides,
        "exponent_per_fs": float(growth.exponent),
        "error_per_fs": float(growth.error),
        "horizon_fs": gradient_horizon(growth),
        "summary": describe_growth(growth),
    }


def main(
    system: tyro.conf.Positional[str] = "quartz",
    parts: tuple[Literal["growth", "cost", "memory"], ...] = ("growth", "cost", "memory"),
    sizes: tuple[int, ...] = (4, 16, 64, 100, 256),
    strides: int = 100,
    repeats: int = 5,
    growth_strides: int = 1000,
    temperature: float = 300.0,
    time_constant: float = 75.0,
    out: Path = Path("experiments/results/gradients.json"),
) -> None:
    """Writes `out` (JSON) and a plot beside it.

    Args:
      system: a system of which a model is shipped.
      parts: what to measure; the rest stays as it is in `out`.
      sizes: numbers of strides whose memory is asked for.
      strides: of the gradient that is timed.
      repeats: of each timing.
      growth_strides: over which the Lyapunov exponent is taken, a multiple of 10.
      temperature: K, of the thermostat.
      time_constant: fs, of the thermostat.
      out: file to write.
    """
    jax.config.update("jax_enable_compilation_cache", False)  # compilations are measured too
    sim, state, time_step = start(system, temperature, time_constant)
    result = json.loads(out.read_text()) if out.exists() else {}
    result |= {
        "system": system,
        "atoms": len(state.system.masses),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
    measure = {
        "growth": lambda: reach(sim, state, growth_strides, time_step),
        "cost": lambda: cost(sim, state, strides, repeats),
        "memory": lambda: memory(sim, state, sizes),
    }
    for part in parts:
        result[part] = measure[part]()
        io.atomic_write(out, (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
    if "memory" in result:
        save(out.with_suffix(".png"), lambda: plot(result))
    print(f"{out} written")


if __name__ == "__main__":
    experiments.run(lambda: tyro.cli(main))
