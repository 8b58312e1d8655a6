"""Locks: one writer at a time, in this process and in others, and none after a death."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_rollout_experiment import Bar, folder, run_of  # noqa: F401 (a fixture)
from trajectories import make_trajectory

from trajcast_jax import io
from trajcast_jax.config import Experiment
from trajcast_jax.io.locks import Lock, is_locked, locked
from trajcast_jax.reference import state
from trajcast_jax.workflow import fit, rollout

ROOT = Path(__file__).parent.parent

HOLD = """
import sys
from trajcast_jax.io.locks import Lock
lock = Lock(sys.argv[1], "taken")
print("held", flush=True)
sys.stdin.read()
"""


def hold(path):
    """A process that holds the lock until it is killed."""
    command, pipe = [sys.executable, "-c", HOLD, str(path)], subprocess.PIPE
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_lock_holds_until_it_is_released_or_its_process_dies(tmp_path, kind):
    path = tmp_path / "run.h5" if kind == "file" else tmp_path
    with locked(path, "mine"):
        assert is_locked(path)
        with pytest.raises(OSError, match="taken"):
            Lock(path, "taken")
        # What drops a POSIX lock: the file opened and closed once more in the same process.
        for file in tmp_path.iterdir():
            file.read_bytes()
        assert subprocess.run([sys.executable, "-c", HOLD, str(path)], input="", text=True,
                              capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
                              ).returncode == 1  # fmt: skip
    assert list(tmp_path.iterdir()) == []
    process = hold(path)
    assert is_locked(path)
    with pytest.raises(OSError, match="another"):
        Lock(path, "another has it")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not is_locked(path)
    Lock(path, "free").release()


def test_two_writers_of_one_file_are_refused_in_one_process_too(tmp_path):
    trajectory, _ = make_trajectory()
    path = tmp_path / "run.h5"
    with io.H5MDWriter(path, trajectory, 10.0) as writer:
        io.n_frames(path)
        with pytest.raises(OSError, match="being written by another process"):
            io.H5MDWriter(path, trajectory, 10.0)
        writer.append(trajectory)
        path.read_bytes()
        with pytest.raises(OSError, match="being written by another process"):
            io.H5MDWriter(tmp_path / ".." / tmp_path.name / "run.h5", trajectory, 10.0)
    assert io.n_frames(path) == 20
    io.H5MDWriter(path, trajectory, 10.0).close()
    assert [p.name for p in tmp_path.iterdir()] == ["run.h5"]


def content(out):
    return {p: p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_two_rollouts_or_trainings_in_one_folder_are_refused(folder, tmp_path):  # noqa: F811
    process = hold(tmp_path)
    with pytest.raises(OSError, match="Another process forecasts into"):
        rollout.forecast(run_of(folder), tmp_path, Bar)
    with pytest.raises(OSError, match="Another process trains into"):
        fit.train(Experiment("tiny"), tmp_path, paths=[])
    with pytest.raises(OSError, match="Another process is making runs"), state.locked(tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]
    process.kill()
    process.communicate()


def test_a_rollout_of_other_settings_changes_nothing(folder, tmp_path):  # noqa: F811
    """As when two are started at the same moment, and the second gets the lock later."""
    rollout.forecast(run_of(folder, duration=120.0), tmp_path, Bar)
    before = content(tmp_path)
    with pytest.raises(ValueError, match="already holds another rollout"):
        rollout.forecast(run_of(folder, seed=5), tmp_path, Bar)
    assert content(tmp_path) == before
    rollout.forecast(run_of(folder, duration=240.0), tmp_path, Bar)
