"""Measure wall-clock time, CPU time and memory of functions, and describe the machine."""

import itertools
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from trajcast_jax.reference import processor

PROBE_SIZE = 2048
COPY_BYTES = 2**28
CACHED_BYTES = 2**18
"""Size of a copy that stays in the cache of a core."""


def with_threads(count: int, module: str) -> None:
    """Restart this process, `python -m module`, with `count` threads; 0 does nothing.

    A restart is needed because libraries read the number of threads when they are loaded.
    """
    wanted = {name: str(count) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    if not count or all(os.environ.get(k) == v for k, v in wanted.items()):
        return
    # XLA reads flags up to the first word that is none, so those of the environment come last.
    flags = (
        f"--xla_cpu_multi_thread_eigen={str(count > 1).lower()} {os.environ.get('XLA_FLAGS', '')}"
    )
    os.environ |= wanted | {"XLA_FLAGS": flags.strip()}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])


def in_turn(
    functions: dict[str, Callable], repeats: int, probe: Callable | None = None
) -> dict[str, dict[str, float]]:
    """Median wall-clock and CPU seconds of each `function()`, and CPU time in units of the probe.

    The functions run in turn, so that other load on the machine affects all of them alike.
    """
    rows = {name: [] for name in functions}
    for function in functions.values():
        jax.block_until_ready(function())
    for _, (name, function) in itertools.product(range(repeats), functions.items()):
        wall, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(function())
        cpu = time.process_time() - cpu
        rows[name].append((time.perf_counter() - wall, cpu, cpu / probe() if probe else 0.0))
    medians = {
        name: [statistics.median(column) for column in zip(*spent, strict=True)]
        for name, spent in rows.items()
    }
    keys = ("wall_s", "cpu_s", "probes")[: 3 if probe else 2]
    return {name: dict(zip(keys, spent, strict=False)) for name, spent in medians.items()}


def timed(function: Callable, repeats: int, probe: Callable | None = None) -> dict[str, float]:
    """`in_turn` for one function."""
    return in_turn({"": function}, repeats, probe)[""]


def numpy_probe() -> Callable[[], float]:
    """Make a function that multiplies two matrices with NumPy and returns its CPU time (s)."""
    matrix = np.random.default_rng(0).random((PROBE_SIZE, PROBE_SIZE), np.float32)

    def probe() -> float:
        start = time.process_time()
        matrix @ matrix
        return time.process_time() - start

    probe()
    return probe


def machine(repeats: int) -> dict:
    """Describe this machine, and measure its peaks by a matrix product and copies with XLA."""
    matrix = jnp.ones((PROBE_SIZE, PROBE_SIZE), jnp.float32)
    long = jnp.ones(COPY_BYTES // 4, jnp.float32)
    product, copy = jax.jit(lambda x: x @ x), jax.jit(lambda x: x + 1.0)
    turns = COPY_BYTES // CACHED_BYTES
    again = jax.jit(lambda x: jax.lax.fori_loop(0, turns, lambda _, y: y + 1.0, x))
    product_s = timed(lambda: product(matrix), repeats)["wall_s"]
    copy_s = timed(lambda: copy(long), repeats)["wall_s"]
    cached_s = timed(lambda: again(long[: CACHED_BYTES // 4]), repeats)["wall_s"]
    return {
        "device": jax.devices()[0].device_kind,
        "processor": processor(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "peak_gflops": 2e-9 * PROBE_SIZE**3 / product_s,
        "peak_gb_per_s": 2e-9 * COPY_BYTES / copy_s,
        "cache_gb_per_s": 2e-9 * COPY_BYTES / cached_s,
    }


def compiled(function: Callable, *arguments, options: dict | None = None) -> tuple[Callable, dict]:
    """Compile a function for the arguments; also return its compile time (s) and memory (MB)."""
    start = time.perf_counter()
    lowered = jax.jit(function).lower(*arguments)
    made = lowered.compile(options)
    spent = time.perf_counter() - start
    memory = made.memory_analysis()
    peak = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    return made, {"compile_s": spent, "memory_mb": peak * 1e-6}
