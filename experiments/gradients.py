"""Cost and range of gradients through forecasts: `python -m experiments.gradients`.

Measured for a shipped model in single precision: the memory of a reverse pass over the number of
strides, as stated by the compiler; the time of a gradient relative to a forward rollout of equal
length; the Lyapunov exponent of the map, and the time after which gradients are noise.
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
from trajcast_jax import io
from trajcast_jax.analysis.plots import FORECAST, LIMIT, STORED, save
from trajcast_jax.dynamics.ensemble import csvr
from trajcast_jax.dynamics.gradients import describe_growth, gradient_horizon, lyapunov_exponent
from trajcast_jax.dynamics.rollout import Simulator, SimulatorState, rollout, simulator
from trajcast_jax.neighbors.graph import neighbor_list
from trajcast_jax.network import checkpoint

WAYS = {
    "all kept": ("D", STORED),
    "segments of √n strides": ("o", FORECAST),
    "segments of 1 stride": ("s", LIMIT),
    "segments of √n strides, each stride again": ("^", "black"),
}
"""What a reverse pass stores and recomputes, with marker and colour for the plot."""


def start(
    name: str, temperature: float, time_constant: float
) -> tuple[Simulator, SimulatorState, float]:
    """Simulator of a shipped model with CSVR, its state at the shipped start, and stride (fs)."""
    model = checkpoint.restore(checkpoint.pretrained(name))
    system = io.read(checkpoint.pretrained(name) / "start.extxyz")
    neighbors = neighbor_list(system.cell, model.cutoff, skin=0.5)
    thermostat = csvr(temperature, time_constant)
    sim = simulator(model.forecast, neighbors, thermostat, time_step=model.time_step)
    return sim, sim.init(jax.random.key(0), system), model.time_step


def observable(step, state: SimulatorState, strides: int, remat: int | None = None):
    """Function (positions, velocities) -> mean squared displacement (Å²) after `strides`."""

    def displacement(frame):
        positions, velocities = frame
        system = state.system.replace(positions=positions, velocities=velocities)
        end, _ = rollout(step, strides, every=strides, remat=remat)(state.replace(system=system))
        moved = end.system.positions - state.system.positions
        return jnp.mean(jnp.sum(moved**2, axis=-1))

    return displacement


def near_root(n: int) -> int:
    """Largest divisor of n up to its square root."""
    return max(k for k in range(1, math.isqrt(n) + 1) if n % k == 0)


def reverse(sim: Simulator, state: SimulatorState, strides: int, way: str):
    """Function for the gradient of the observable, by one of WAYS."""
    step = jax.checkpoint(sim.step) if way.endswith("each stride again") else sim.step
    remat = {"all kept": None, "segments of 1 stride": 1}.get(way, near_root(strides))
    return jax.value_and_grad(observable(step, state, strides, remat))


def memory(sim: Simulator, state: SimulatorState, sizes: tuple[int, ...]) -> dict:
    """Temporary memory (MiB) of a gradient, for each of WAYS and each number of strides."""
    frame = (state.system.positions, state.system.velocities)
    # Buffers are assigned before code generation, so unoptimised code is sufficient.
    options = {"xla_backend_optimization_level": 0}
    found = {way: [] for way in WAYS}
    for way, n in tqdm([(w, n) for w in WAYS for n in sizes], desc="memory"):
        compiled = jax.jit(reverse(sim, state, n, way)).lower(frame).compile(options)
        found[way].append(compiled.memory_analysis().temp_size_in_bytes / 2**20)
    return {"strides": sizes, "MiB": found}


def cost(sim: Simulator, state: SimulatorState, strides: int, repeats: int) -> dict:
    """Times (s) of a forward rollout and of gradients, measured in turn, and their ratios."""
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
    """Plot memory over strides, with a guide line ∝ √n."""
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
    """Lyapunov exponent and gradient horizon."""
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
    """Measure cost and range of gradients; write `out` (JSON) and a plot beside it.

    Args:
      system: name of a system with a shipped model.
      parts: what to measure; other results in `out` are kept.
      sizes: numbers of strides for which memory is measured.
      strides: number of strides of the timed gradient.
      repeats: number of repeats of each timing.
      growth_strides: number of strides for the Lyapunov exponent, a multiple of 10.
      temperature: temperature of the thermostat, K.
      time_constant: time constant of the thermostat, fs.
      out: output file.
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
