"""Measure the speed of the reference engine, stored with its runs, to compare forecasts with."""

import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trajcast_jax.config import ReferenceSettings
from trajcast_jax.io import atomic_write
from trajcast_jax.reading import load_json
from trajcast_jax.units import FS_PER_DAY_TO_NS

FILE = "engine.json"


def processor() -> str:
    """Model name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextmanager
def timed_engine(
    out: Path, settings: ReferenceSettings, n_atoms: int, simulated: float
) -> Iterator[None]:
    """Time the `with` block, which simulates `simulated` fs, and add it to the record in `out`."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    spent = {
        "simulated_fs": simulated,
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
    }
    about = {
        "engine": settings.calculator or "LAMMPS",
        "n_atoms": n_atoms,
        "processor": processor(),
    }
    known = _read(out)
    if all(known.get(key) == value for key, value in about.items()):
        spent = {key: value + known[key] for key, value in spent.items()}
    atomic_write(out / FILE, (json.dumps(about | spent, indent=1) + "\n").encode())


def engine_speed(out: str | Path) -> dict | None:
    """Read the record of the engine that made the runs in `out`, with `ns_per_day`; or None.

    The speed uses the shorter of wall-clock and CPU time. Other processes increase the first and
    threads increase the second, and the engine should be judged at its best.
    """
    known = _read(Path(out))
    if not known:
        return None
    seconds = max(min(known["wall_s"], known["cpu_s"]), 1e-9)
    return known | {"ns_per_day": known["simulated_fs"] / seconds * FS_PER_DAY_TO_NS}


def _read(out: Path) -> dict:
    path = out / FILE
    return load_json(path) if path.exists() else {}
