"""Writing H5MD: chunks are appended, and a kill or a full disk loses nothing complete."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from trajectories import assert_same, make_trajectory, part, write

from trajcast_jax import io
from trajcast_jax.io import h5md_writer
from trajcast_jax.system import make_system

ROOT = Path(__file__).parent.parent


def test_appended_chunks_make_one_trajectory(tmp_path):
    trajectory, times = make_trajectory()
    path = tmp_path / "run.h5"
    for rows in (slice(0, 7), slice(7, 8), slice(8, 20)):
        with io.H5MDWriter(path, trajectory, 10.0) as writer:
            assert writer.n_frames == rows.start
            writer.append(part(trajectory, rows), {"potential_energy": times[rows]})
            assert io.n_frames(path) == rows.stop  # also while the file is open
    found, found_times = io.read_trajectory(path)
    assert_same(found, trajectory)
    np.testing.assert_array_equal(found_times, times)
    np.testing.assert_array_equal(io.read_observables(path)["potential_energy"], times)


def test_reopening_can_go_back(tmp_path):
    trajectory, times = make_trajectory()
    path = write(tmp_path / "run.h5", trajectory, potential_energy=times)
    with io.H5MDWriter(path, trajectory, 10.0, n_frames=5) as writer:
        writer.append(part(trajectory, slice(5, 9)), {"potential_energy": times[5:9]})
    assert_same(io.read_trajectory(path)[0], part(trajectory, slice(0, 9)))
    with pytest.raises(ValueError, match="9 complete frames, but 12"):
        io.H5MDWriter(path, trajectory, 10.0, n_frames=12)


def test_file_can_be_opened_after_a_kill_at_any_moment(tmp_path):
    """HDF5 would refuse a file left open in its normal mode, before the first append too."""
    trajectory, _ = make_trajectory()
    path = tmp_path / "run.h5"
    for n_frames in (0, 20):
        writer = io.H5MDWriter(path, trajectory, 10.0)
        for complete in (n_frames, n_frames + 20):
            copy = tmp_path / f"killed_{n_frames}_{complete}.h5"
            copy.write_bytes(path.read_bytes())  # what a kill at this moment would leave
            assert io.n_frames(copy) == complete
            with io.H5MDWriter(copy, trajectory, 10.0) as again:
                again.append(trajectory)
            assert io.n_frames(copy) == complete + 20
            if complete == n_frames:
                writer.append(trajectory)
        writer.close()


def test_series_stay_the_same(tmp_path):
    trajectory, times = make_trajectory()
    path = write(tmp_path / "run.h5", trajectory, potential_energy=times)
    with io.H5MDWriter(path, trajectory, 10.0) as writer:
        with pytest.raises(ValueError, match="append the same in every call"):
            writer.append(trajectory)
        with pytest.raises(ValueError, match="differs in length"):
            writer.append(trajectory, {"potential_energy": times[:-1]})
        writer.append(trajectory, {"potential_energy": times})
    assert io.n_frames(path) == 40


def test_another_system_is_not_appended(tmp_path):
    trajectory, _ = make_trajectory()
    path = write(tmp_path / "run.h5", trajectory)
    other = trajectory.replace(species=trajectory.species[::-1])
    for system, time_step in (
        (other, 10.0),
        (trajectory.replace(cell=None), 10.0),
        (trajectory.replace(masses=1.5 * trajectory.masses), 10.0),
        (trajectory, 5.0),
    ):
        with pytest.raises(ValueError, match="another system or another time step"):
            io.H5MDWriter(path, system, time_step)


def test_full_disk_is_found_before_the_write(tmp_path, monkeypatch):
    trajectory, _ = make_trajectory()
    path = tmp_path / "run.h5"
    with io.H5MDWriter(path, trajectory, 10.0) as writer:
        writer.append(part(trajectory, slice(0, 10)))
        with monkeypatch.context() as patch:
            usage = h5md_writer.shutil.disk_usage(tmp_path)._replace(free=100)
            patch.setattr(h5md_writer.shutil, "disk_usage", lambda _: usage)
            with pytest.raises(
                OSError, match=r"disk is full .* The 10 frames before them are kept"
            ):
                writer.append(part(trajectory, slice(10, 20)))
        writer.append(part(trajectory, slice(10, 20)))
    assert_same(io.read_trajectory(path)[0], trajectory)


def test_failed_write_keeps_the_complete_chunks(tmp_path, monkeypatch):
    trajectory, _ = make_trajectory()
    path = tmp_path / "run.h5"
    writer = io.H5MDWriter(path, trajectory, 10.0)
    writer.append(part(trajectory, slice(0, 10)))
    write_series = writer._write

    def fail_at_velocities(name, value):
        if "velocity" in name:
            raise OSError("no space left on device")
        write_series(name, value)

    monkeypatch.setattr(writer, "_write", fail_at_velocities)
    with pytest.raises(OSError, match=r"Frames 10 to 19 .* 10 frames before them are kept"):
        writer.append(part(trajectory, slice(10, 20)))
    assert_same(io.read_trajectory(path)[0], part(trajectory, slice(0, 10)))
    monkeypatch.undo()
    with pytest.raises(OSError, match="must be opened anew"):
        writer.append(part(trajectory, slice(10, 20)))
    writer.close()
    with io.H5MDWriter(path, trajectory, 10.0) as writer:
        writer.append(part(trajectory, slice(10, 20)))
    assert_same(io.read_trajectory(path)[0], trajectory)


WRITE_FOREVER = """
import resource, sys
import numpy as np
from trajcast_jax import io
from trajcast_jax.system import System

path, limit = sys.argv[1], int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
atoms = 500
mask = np.ones(atoms, bool)
system = System(None, None, np.ones(atoms), np.full(atoms, 18), np.eye(3) * 50, mask)
writer = io.H5MDWriter(path, system, 10.0)
for i in range(writer.n_frames // 50, 4000):
    values = np.full((50, atoms, 3), i, np.float32)
    writer.append(system.replace(positions=values, velocities=-values), {"energy": values[:, 0, 0]})
    if i == 5:
        print("ready", flush=True)
"""


def start_writer(path, limit=0):
    command = [sys.executable, "-c", WRITE_FOREVER, str(path), str(limit)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def assert_whole(path):
    """Every complete chunk of the endless writer, and the number of their frames."""
    with h5py.File(path, "r", swmr=True, locking=False) as file:
        n = int(file["trajcast_jax/n_frames"][()])
        chunk = np.arange(n) // 50
        np.testing.assert_array_equal(file["particles/all/position/value"][:n, -1, -1], chunk)
        np.testing.assert_array_equal(file["particles/all/velocity/value"][:n, -1, -1], -chunk)
        np.testing.assert_array_equal(file["observables/energy/value"][:n], chunk)
    assert n % 50 == 0
    return n


def test_killed_writer_loses_nothing_complete(tmp_path):
    path = tmp_path / "run.h5"
    process = start_writer(path)
    assert process.stdout.readline() == "ready\n"
    system = make_system(np.zeros((500, 3)), np.zeros((500, 3)), [18] * 500, masses=np.ones(500))
    system = system.replace(cell=np.eye(3) * 50)
    with pytest.raises(OSError, match="being written by another process"):
        io.H5MDWriter(path, system, 10.0)
    before = assert_whole(path)  # while it is being written
    time.sleep(0.2)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    n_frames = assert_whole(path)
    assert n_frames >= max(before, 300)
    frames = np.full((1, 500, 3), -1, np.float32)
    with io.H5MDWriter(path, system, 10.0) as writer:
        assert writer.n_frames == n_frames
        writer.append(system.replace(positions=frames, velocities=frames), {"energy": -np.ones(1)})
    found, times = io.read_trajectory(path)
    assert len(found.positions) == n_frames + 1
    np.testing.assert_array_equal(found.positions[:-1, 0, 0], np.arange(n_frames) // 50)
    assert times[-1] == 10.0 * n_frames
    h5py.File(path, "r").close()  # mended: no longer marked as open


def test_disk_that_fills_in_a_write_loses_nothing_complete(tmp_path):
    path = tmp_path / "run.h5"
    process = start_writer(path, limit=9_000_000)
    _, errors = process.communicate(timeout=600)
    assert "could not be written to" in errors
    n_frames = assert_whole(path)
    assert f"The {n_frames} frames before them are kept" in errors
    assert n_frames >= 300
