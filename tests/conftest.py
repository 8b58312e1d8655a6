"""Shared by all tests: kept programs, precision, small systems, untrained forecasters."""

import contextlib
import os
import pathlib
import platform
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's pages about kept programs; before JAX

import ase.build
import jax
import numpy as np
import pytest
from ase.spacegroup import crystal

from trajcast_jax.config import ModelSettings, Statistics
from trajcast_jax.network.forecast import Forecaster
from trajcast_jax.system import make_system


def pytest_addoption(parser):
    parser.addoption(
        "--fuzz-minutes", type=float, default=0.0,
        help="minutes for every test of tests/test_fuzz.py, with new seeds, instead of seconds",
    )  # fmt: skip

    parser.addoption(
        "--kills", type=int, default=0, help="kills of each command in tests/test_random_kills.py"
    )


def pytest_configure(config):
    """What one test has compiled no other compiles again, in no process and no later run.

    Most of the time of these tests is the compiler's. `pytest --cache-clear` forgets it all.
    """
    kept = config.cache.mkdir(f"compiled-{platform.node()}")  # programs are made for one CPU
    options = {
        "jax_compilation_cache_dir": str(kept),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    for name, value in options.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)  # for what tests start


@pytest.fixture(autouse=True, scope="module")
def few_mappings():
    """Drops compiled programs before Linux refuses a process more mappings (65,530 by default).

    Each program takes several, so that all tests in one process would take more, and abort.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and len(maps.read_text().splitlines()) > 25_000:
        jax.clear_caches()


@contextlib.contextmanager
def compiling_quickly():
    """Compiles with few optimisations, here and in processes that are started.

    For tests of commands and files, whose programs run for milliseconds. Not for tests of numbers
    to the last bit, nor for those that a wrong optimisation should fail.
    """
    name = "jax_disable_most_optimizations"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name.upper(), "1")
        jax.config.update(name, True)
        try:
            yield
        finally:
            jax.config.update(name, False)
            jax.clear_caches()  # of programs that other tests would take over


@pytest.fixture(scope="module")
def quick_compiler():
    """`compiling_quickly` for all tests of a module, which asks for it by `pytestmark`."""
    with compiling_quickly():
        yield


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


def small_settings(**changes) -> ModelSettings:
    """A network of the paper's kind, small enough for a test."""
    values = {
        "cutoff": 3.5, "lmax": 1, "parity": "natural", "channels": 4,
        "blocks": 2, "n_radial": 4, "n_speed": 4,
        "max_speed": 0.02, "edge_mlp": (), "velocity_mlp": (8,), "velocity_vector": False,
        "relative_speeds": False, "substeps": 0, "velocity_activation": "silu",
        "even_activation": "silu", "gate_activation": "silu",
    }  # fmt: skip
    return ModelSettings(**(values | changes))


def forecaster(species=(8, 14), time_step=30.0, **changes) -> Forecaster:
    """A forecaster with made-up statistics."""
    n = len(species)
    measured = Statistics(
        species=tuple(species),
        displacement_scale=(0.05,) * n,
        velocity_scale=(0.003,) * n,
        displacement_baseline=tuple(5.0 + k for k in range(n)),
        velocity_baseline=tuple(0.1 * k for k in range(n)),
        velocity_rms=(0.003,) * n,
        average_neighbors=10.0,
        far_mixing=tuple(tuple(map(tuple, scale * np.eye(n))) for scale in (10.0, 50.0)),
    )
    return Forecaster(small_settings(**changes), measured, time_step)


def quartz_atoms(repeat=(1, 1, 1), seed=0):
    """α-quartz, shaken: 9 atoms a cell, hexagonal."""
    atoms = crystal(
        ["Si", "O"],
        [[0.4697, 0.0, 2 / 3], [0.4135, 0.2669, 0.7858]],
        spacegroup=154,
        cellpar=[4.914, 4.914, 5.405, 90, 90, 120],
    )
    atoms = atoms * repeat
    atoms.rattle(0.05, seed=seed)
    return atoms


def run_alone(code: str) -> None:
    """Runs code in a fresh interpreter of this tree, and fails with its stderr if it does."""
    tests = pathlib.Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def as_system(atoms, seed=0, speed=0.003):
    """A System of ASE's atoms with random velocities (Å/fs); isolated if ASE's is."""
    velocities = np.random.default_rng(seed).normal(size=(len(atoms), 3)) * speed
    cell = atoms.cell.array if atoms.pbc.all() else None
    return make_system(atoms.positions, velocities, atoms.numbers, cell=cell)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def quartz():
    """27 atoms of quartz in a cell that needs the multi-image list."""
    return as_system(quartz_atoms((3, 1, 1)))


@pytest.fixture
def ethanol():
    """An isolated molecule."""
    return as_system(ase.build.molecule("CH3CH2OH"))
