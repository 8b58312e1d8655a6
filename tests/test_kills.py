"""Kills of real processes: `generate`, `fit` and `rollout` go on bit for bit, and stop kindly."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import forecaster
from test_generate import write_toml
from test_reference import ARGON, needs_lammps
from trajectories import make_trajectory  # noqa: F401

from trajcast_jax import io, reference
from trajcast_jax.io.locks import is_locked
from trajcast_jax.network import checkpoint

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("quick_compiler")  # for what is started too


def begin(verb, *arguments, cwd):
    command = [sys.executable, "-m", f"experiments.{verb}", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True)


def ended(process) -> tuple[int, str]:
    """Exit status and what was written to stderr. The pipes are read, for full ones block."""
    _, errors = process.communicate(timeout=900)
    return process.returncode, errors


def wait_for(path, process, seconds=120.0, dead=False):
    """Until a file is there; with `dead`, until it is locked by somebody alive."""
    end = time.monotonic() + seconds
    while not (is_locked(path.parent) if dead else path.exists()) and time.monotonic() < end:
        if process.poll() is not None:
            if dead:  # it was at its end already
                return
            pytest.fail(process.communicate()[1])
        time.sleep(0.01)


@pytest.fixture(scope="module")
def argon(tmp_path_factory):
    out = tmp_path_factory.mktemp("argon") / "out"
    list(reference.reference_md(ARGON, out))
    return out


@needs_lammps
def test_an_interruption_between_any_two_chunks_changes_no_bit(argon, tmp_path):
    """Of equilibration, gaps and runs: every state is loaded from its file."""
    while True:
        moments = reference.reference_md(ARGON, tmp_path)
        before = next(moments)
        after = next(moments, None)
        moments.close()
        if after is None:
            break
        assert after > before
    assert_same(argon, tmp_path)


@needs_lammps
def test_a_run_that_lost_frames_is_made_again(argon, tmp_path, capsys):
    for index, frames in reference.reference_md(ARGON, tmp_path):
        if (index, frames) == (3, 400):
            break
    with io.H5MDWriter(tmp_path / "run_000.h5", io.read(tmp_path / "run_000.h5"), 10.0,
                       steps_per_frame=5, n_frames=250):  # fmt: skip
        pass
    for index, frames in reference.reference_md(ARGON, tmp_path):
        assert (index, frames) == (3, 200)
        break
    assert "250 of 400 frames" in capsys.readouterr().err
    for index, frames in reference.reference_md(ARGON, tmp_path):
        if (index, frames) == (3, 400):
            break
    (tmp_path / "run_000.h5").write_bytes(b"")
    list(reference.reference_md(ARGON, tmp_path))
    assert_same(argon, tmp_path)


def assert_same(expected, found):
    runs = reference.complete_runs(expected)
    assert len(reference.complete_runs(found)) == len(runs) > 0
    for a, b in zip(runs, reference.complete_runs(found), strict=True):
        (x, times), (y, others) = io.read_trajectory(a), io.read_trajectory(b)
        np.testing.assert_array_equal(x.cell, y.cell)
        np.testing.assert_array_equal(times, others)
        np.testing.assert_array_equal(x.positions, y.positions)
        np.testing.assert_array_equal(x.velocities, y.velocities)


@pytest.mark.slow
@needs_lammps
def test_generate_is_killed_and_goes_on(tmp_path):
    arguments = ("generate", write_argon(tmp_path, 30000.0), "--runs", "2")
    assert ended(begin(*arguments, "--out", "whole", cwd=tmp_path))[0] in (0, 1)
    chance, returned = random.Random(5), []
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        process = begin(*arguments, "--out", "killed", cwd=tmp_path)
        # A lock that a kill has left is taken over by the next.
        wait_for(tmp_path / "killed" / ".lock", process, dead=bool(returned))
        time.sleep(chance.uniform(0.0, 0.6))
        process.send_signal(number)
        status, errors = ended(process)
        returned.append(status)
        assert "Traceback" not in errors
    assert -signal.SIGKILL in returned
    assert ended(begin(*arguments, "--out", "killed", cwd=tmp_path))[0] in (0, 1)
    assert_same(tmp_path / "whole", tmp_path / "killed")


TRAINING = """
[data]
time_step = 10.0
train_runs = [0]
validation_runs = [0]
train_pairs = 40
validation_pairs = 8
[model]
cutoff = 4.5
lmax = 1
channels = 4
blocks = 1
substeps = 0
[training]
updates = 300
validate_every = 50
"""


def write_argon(folder, nve_time, more=""):
    """The TOML file of argon, with another length of its runs, and more in it."""
    file = folder / "argon.toml"
    write_toml(file)
    text = file.read_text().replace("nve_time = 2000.0", f"nve_time = {nve_time}")
    file.write_text(more + text)
    return file


@pytest.fixture(scope="module")
def trained(argon, tmp_path_factory):
    """Folder of a training that nobody has stopped, and the arguments of its command."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = ("fit", write_argon(folder, 5000.0, TRAINING), "--reference", argon)
    status, errors = ended(begin(*arguments, "--out", "whole", cwd=folder))
    assert status == 0, errors
    return folder / "whole", arguments


@pytest.mark.slow
@needs_lammps
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_training_is_stopped_and_goes_on(trained, tmp_path, number):
    whole, arguments = trained
    process = begin(*arguments, "--out", "stopped", cwd=tmp_path)
    wait_for(tmp_path / "stopped" / "best", process)
    process.send_signal(number)
    status, errors = ended(process)
    if number == signal.SIGKILL:
        assert status == -signal.SIGKILL
    else:
        assert status == 128 + number, errors
        assert "the same command goes on" in errors
        assert "Traceback" not in errors
        assert checkpoint.exists(tmp_path / "stopped" / "last")
    assert ended(begin(*arguments, "--out", "stopped", cwd=tmp_path))[0] == 0
    for name in ("best", "ema"):
        digests = [
            checkpoint.digest(checkpoint.restore(folder / name).params, {})
            for folder in (whole, tmp_path / "stopped")
        ]
        assert digests[0] == digests[1]
    files = (folder / "metrics.csv" for folder in (whole, tmp_path / "stopped"))
    rows = [file.read_text().splitlines() for file in files]
    assert [row.rsplit(",", 1)[0] for row in rows[0]] == [row.rsplit(",", 1)[0] for row in rows[1]]


def forecasting(folder):
    """The command of a forecast by an untrained model, which is saved in the folder."""
    model = forecaster(blocks=1, channels=2, lmax=1, parity="natural", cutoff=2.5)
    checkpoint.save(folder / "model", model, model.init(0))
    start = checkpoint.pretrained("quartz") / "start.extxyz"
    options = ("--duration", "6000", "--set", "rollout.chunk=5", "rollout.max_temperature=1e9")
    return ("rollout", "quartz", "--checkpoint", "model", "--start", start, *options)


@pytest.mark.slow
def test_a_rollout_is_terminated_and_goes_on(tmp_path):
    options = forecasting(tmp_path)
    assert ended(begin(*options, "--no-report", "--out", "whole", cwd=tmp_path))[0] == 0
    process = begin(*options, "--out", "stopped", cwd=tmp_path)
    wait_for(tmp_path / "stopped" / "state.npz", process)
    process.terminate()
    status, errors = ended(process)
    assert status == 143, errors
    assert "Go on by: python -m experiments.rollout quartz --resume --out stopped" in errors
    resumed = ("rollout", "quartz", "--resume", "--no-report", "--out", "stopped")
    assert ended(begin(*resumed, cwd=tmp_path))[0] == 0
    whole, stopped = (
        io.read_trajectory(tmp_path / f / "trajectory.h5") for f in ("whole", "stopped")
    )
    np.testing.assert_array_equal(whole[0].positions, stopped[0].positions)
