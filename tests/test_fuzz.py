"""Mutated files: every reader gives an answer, or one error that names the file; in bounded time.

`pytest tests/test_fuzz.py --fuzz-minutes 5` goes on for longer, with seeds of its own.
"""

import json
import shutil
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import as_system, forecaster, quartz_atoms
from trajectories import make_trajectory, write, write_ase

import experiments
from trajcast_jax import config, io
from trajcast_jax.analysis import block_observables
from trajcast_jax.dynamics.ensemble import csvr
from trajcast_jax.dynamics.restart import load_state, save_state
from trajcast_jax.dynamics.rollout import simulator
from trajcast_jax.io.h5md_writer import H5MDWriter
from trajcast_jax.neighbors.graph import neighbor_list
from trajcast_jax.network import checkpoint
from trajcast_jax.pytorch.importer import read_config, read_state

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

SECONDS = 4.0
"""Of each test without --fuzz-minutes."""
SLOWEST = 20.0
"""Seconds that no single file may take."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One whole file of each kind, and what reads it."""
    folder = tmp_path_factory.mktemp("whole")
    trajectory, times = make_trajectory()
    write(folder / "run.h5", trajectory, potential_energy=times)
    with H5MDWriter(folder / "live.h5", trajectory, 10.0) as writer:
        writer.append(trajectory)
        shutil.copy(folder / "live.h5", folder / "dead.h5")
    write_ase(folder / "run.extxyz")
    shutil.copy(Path(experiments.__file__).parent / "quartz.toml", folder / "quartz.toml")
    shutil.copy(checkpoint.pretrained("quartz") / "reference.npz", folder / "reference.npz")
    np.savez(folder / "weights.npz", a=np.arange(6.0).reshape(2, 3), b=np.arange(3))
    (folder / "config.yaml").write_text("model:\n  lmax: 2\n  names: [a, b]\n  cutoff: 5.0\n")
    model = forecaster(channels=2, blocks=1)
    checkpoint.save(folder / "model", model, model.init(0))
    system = as_system(quartz_atoms())
    neighbors = neighbor_list(system.cell, 3.5, 0.3)
    sim = simulator(lambda system, _: system, neighbors, csvr(300.0, 75.0), 30.0)
    state = sim.init(jax.random.key(0), system)
    save_state(folder / "state.npz", state)

    def read_model(path):
        shutil.copy(path, folder / "model" / "model.json")
        return checkpoint.restore(folder / "model")

    shutil.copy(folder / "model" / "model.json", folder / "model.json")
    readers = {
        "run.h5": io.read_trajectory,
        "dead.h5": io.read_trajectory,
        "run.extxyz": io.read_trajectory,
        "quartz.toml": config.load,
        "reference.npz": block_observables.load,
        "weights.npz": read_state,
        "config.yaml": read_config,
        "state.npz": lambda path: load_state(path, sim, state),
        "model.json": read_model,
    }
    return folder, readers


def mutations(content):
    """Bytes flipped, replaced, taken out, doubled or cut; few at a time."""
    at = st.integers(0, max(0, len(content) - 1))
    head = st.integers(0, max(0, min(len(content), 4096) - 1))
    one = st.tuples(
        st.sampled_from(["flip", "set", "cut", "double", "insert"]),
        st.one_of(at, head), st.integers(0, 255), st.integers(1, 64),
    )  # fmt: skip
    return st.lists(one, min_size=1, max_size=4)


def mutated(content, steps):
    data = bytearray(content)
    for kind, place, value, length in steps:
        place = min(place, max(0, len(data) - 1))
        if not data or (kind == "cut" and length > 60):
            del data[place:]
        elif kind == "flip":
            data[place] ^= 1 << value % 8
        elif kind == "set":
            data[place] = value
        elif kind == "cut":
            del data[place : place + length]
        elif kind == "word":
            words = bytes(data).split(b" ")
            words[min(place, len(words) - 1)] = value.encode()
            data = bytearray(b" ".join(words))
        elif kind == "double":
            data[place:place] = data[place : place + length]
        else:
            data[place:place] = bytes([value]) * length
    return bytes(data)


def texts(content):
    """Words of a text exchanged for others that are hard to read."""
    n_words = content.count(b" ") + 1
    hard = ["nan", "-inf", "1e999", "-1", "0", "9" * 400, "true", "[]", "{}", '""', "\0", "'", "é"]
    one = st.tuples(st.just("word"), st.integers(0, n_words - 1), st.sampled_from(hard), st.just(0))
    return st.lists(one, min_size=1, max_size=3)


NAMES = ["run.h5", "dead.h5", "run.extxyz", "quartz.toml", "reference.npz", "weights.npz",
         "config.yaml", "state.npz", "model.json"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_a_mutated_file_is_read_or_named(files, name, pytestconfig):
    folder, readers = files
    content, path = (folder / name).read_bytes(), folder / f"mutant_{name}"
    minutes = pytestconfig.getoption("--fuzz-minutes")
    end = time.monotonic() + (60 * minutes or SECONDS)
    inputs = mutations(content)
    if path.suffix in (".toml", ".json", ".extxyz", ".yaml"):
        inputs = st.one_of(inputs, texts(content))

    @hypothesis.settings(
        max_examples=60, deadline=None, database=None, derandomize=not minutes,
        suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate],
    )  # fmt: skip
    @hypothesis.given(inputs)
    def read(steps):
        if time.monotonic() > end:
            return
        path.write_bytes(mutated(content, steps))
        begin = time.monotonic()
        try:
            readers[name](path)
        except (ValueError, OSError, IndexError) as error:
            known = (path.name, "model.json", "model/params", str(folder / "model"))
            assert any(text in str(error) for text in known), repr(error)  # noqa: PT017
        assert time.monotonic() - begin < SLOWEST

    read()
    while minutes and time.monotonic() < end:  # few at a time, for Hypothesis stops for no clock
        read()


@pytest.mark.parametrize("kind", ["state", "run"])
def test_json_of_the_wrong_kinds_is_named(tmp_path, kind):
    from trajcast_jax.reference import state
    from trajcast_jax.workflow.rollout_runs import read_run

    texts = ["", "{", "[]", "3", "null", '{"fingerprint": 3}', '{"fingerprint": "[]"}',
             '{"fingerprint": "{}", "progress": {"stage": -1}}', '{"experiment": {"name": 3}}',
             '{"fingerprint": "{}", "progress": {"restart": "../x"}}', "[" * 100_000,
             json.dumps({"fingerprint": "{}", "progress": {"frames": 1.5}})]  # fmt: skip
    for text in [*(t.encode() for t in texts), b"\xff\xfe", b"\0"]:
        file = tmp_path / ("state.json" if kind == "state" else "run.json")
        file.write_bytes(text)
        with pytest.raises(ValueError, match=file.name):
            state.load_progress(tmp_path, {}) if kind == "state" else read_run(file)
