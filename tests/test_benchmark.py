"""The benchmark runs on any frames, counts what it says it counts, and never asserts a time."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiling_quickly, quartz_atoms

from trajcast_jax.workflow import benchmark, roofline, timing

PRESET = """
[model]
cutoff = 3.5
channels = 2
blocks = 1
lmax = 1
parity = "natural"
n_radial = 3
n_speed = 2
edge_mlp = []
velocity_mlp = [4]
substeps = 0

[training]
optimizer = "adam"
"""


@pytest.fixture
def inputs(tmp_path):
    """Two frames of 27 atoms in a file, and a network."""
    atoms = quartz_atoms((3, 1, 1))
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "frames.npz",
        numbers=atoms.numbers, masses=atoms.get_masses(), cell=atoms.cell.array, pbc=atoms.pbc,
        positions=atoms.positions + rng.normal(scale=0.05, size=(2, 27, 3)),
        velocities=rng.normal(scale=0.003, size=(2, 27, 3)),
    )  # fmt: skip
    (tmp_path / "tiny.toml").write_text(PRESET)
    return tmp_path


@pytest.mark.slow
def test_benchmark_measures_and_compares(inputs, capsys):
    arguments = benchmark.Arguments(
        systems=(str(inputs / "frames.npz"),), presets=(str(inputs / "tiny.toml"),),
        replicas=(1, 2), strides=2, repeats=1, probe=True, out=inputs / "one.json",
    )  # fmt: skip
    with compiling_quickly():
        benchmark.main(arguments)
    results = json.loads((inputs / "one.json").read_text())
    (case,) = results["cases"].values()
    assert (case["atoms"], case["frames"]) == (27, 2)
    assert case["edges"] > 27
    assert set(case["rows"]) == {"forecast", "stride", "stride x2", "training step"}
    assert all(row["wall_s"] > 0 and row["probes"] > 0 for row in case["rows"].values())
    assert "| training step (probes) | 1.000 |" in benchmark.compared(results, results).replace(
        f"{next(iter(results['cases']))} / ", ""
    )
    assert case["rows"]["forecast"]["gb_per_s"] > 0
    assert (inputs / "one.png").exists()
    assert "| case | wall_s |" in capsys.readouterr().out


def test_multiplications_are_counted_through_loops():
    def function(x):
        step = lambda y, _: (jax.jit(lambda z: z @ z)(y), None)  # noqa: E731
        return jax.lax.scan(step, x, None, 3)[0] @ jnp.ones((4, 5))

    assert roofline.multiplications(function, jnp.ones((4, 4))) == 3 * 2 * 4**3 + 2 * 4 * 4 * 5


def program_of(function, *arguments) -> str:
    return jax.jit(function).lower(*arguments).compile().as_text()


def test_traffic_is_counted_through_loops():
    def function(x, w):
        return jax.lax.fori_loop(0, 7, lambda _, y: jnp.tanh(y @ w), x)

    square = jnp.ones((64, 64), jnp.float32)
    moved = roofline.traffic(program_of(function, square, square))
    # Each turn: two matrices read and one written, one read and one written; first x is copied.
    assert moved == pytest.approx((7 * 5 + 2) * square.nbytes, rel=2e-3)


def test_traffic_counts_what_is_selected_alone():
    table, chosen = jnp.ones((50_000, 8), jnp.float32), jnp.arange(6, dtype=jnp.int32)
    gathered = roofline.traffic(program_of(lambda x, i: x[i] + 1, table, chosen))
    assert gathered == chosen.nbytes + 2 * table[:6].nbytes
    # Of the carried table a turn touches one row: not 30 times all of it.
    fill = lambda x: jax.lax.fori_loop(0, 30, lambda k, y: y.at[k].set(1.0 * k), x)  # noqa: E731
    filled = roofline.traffic(program_of(fill, table))
    assert filled == pytest.approx(2 * table.nbytes, rel=1e-2)  # the copy that it works on


def test_supercell_holds_every_copy():
    small, large = (benchmark.frames_of(name, "float32")[1][0] for name in ("quartz", "quartz:2"))
    assert len(large.masses) == 8 * len(small.masses)
    np.testing.assert_allclose(large.cell, 2 * np.asarray(small.cell))
    fractional = np.asarray(large.positions, float) @ np.linalg.inv(np.asarray(small.cell, float))
    first, rest = fractional[:162], fractional[162:].reshape(7, 162, 3)
    offsets = {tuple(np.round(copy - first).mean(0).astype(int)) for copy in rest}
    assert len(offsets) == 7
    assert np.abs((rest - first) - np.round(rest - first)).max() < 1e-4


def test_unknown_systems_are_refused():
    with pytest.raises(FileNotFoundError, match="No model named gold is shipped"):
        benchmark.frames_of("gold:2", "float32")
    assert not Path("gold").exists()


def test_flags_of_the_environment_survive_a_restart_with_threads(monkeypatch):
    """XLA reads flags up to the first word that is none: ours must not hide the environment's."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    monkeypatch.setenv("XLA_FLAGS", "--xla_one=1 --xla_two=")
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)
    started = []
    monkeypatch.setattr(os, "execv", lambda _, command: started.append(command))
    timing.with_threads(1, "experiments.benchmark")
    assert started[0][1:3] == ["-m", "experiments.benchmark"]
    flags = os.environ["XLA_FLAGS"].split()
    assert all(flag.startswith("--") for flag in flags)
    assert flags[-2:] == ["--xla_one=1", "--xla_two="]
