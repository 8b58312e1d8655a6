"""Rollouts whose files do not fit together any more: they go back by themselves, bit for bit."""

# ruff: noqa: F811 (fixtures of another file)
import shutil

import h5py
import numpy as np
import pytest
from test_rollout_experiment import Bar, folder, run_of, whole  # noqa: F401 (fixtures)

from trajcast_jax import io
from trajcast_jax.config import RolloutSettings
from trajcast_jax.workflow import rollout as command


@pytest.fixture(scope="module")
def stopped(folder):
    """8 of 12 strides, in chunks of 4."""
    out = folder / "stopped"
    with pytest.raises(KeyboardInterrupt):
        command.forecast(run_of(folder), out, lambda **kw: Bar(interrupt_at=2, **kw))
    return out


def fewer_frames(out):
    with h5py.File(out / "trajectory.h5", "a") as file:
        file["trajcast_jax/n_frames"][()] = 3


def none(out):
    (out / "trajectory.h5").unlink()


def truncated(out):
    content = (out / "trajectory.h5").read_bytes()
    (out / "trajectory.h5").write_bytes(content[: len(content) // 2])


def zeros(out):
    (out / "trajectory.h5").write_bytes(bytes((out / "trajectory.h5").stat().st_size))


def no_state(out):
    (out / "state.npz").unlink()


def half_a_state(out):
    content = (out / "state.npz").read_bytes()
    (out / "state.npz").write_bytes(content[: len(content) // 2])


def all_states(out):
    half_a_state(out)
    (out / ".state_before.npz").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "begins"),
    [
        (fewer_frames, 4), (none, 0), (truncated, 0), (zeros, 0), (no_state, 4),
        (half_a_state, 4), (all_states, 0),
    ],
)  # fmt: skip
def test_it_goes_back_to_what_all_files_have(
    folder, whole, stopped, tmp_path, damage, begins, capsys
):
    out = tmp_path / "out"
    shutil.copytree(stopped, out)
    damage(out)
    bars = []

    def bar(**options):
        bars.append(options["initial"])
        return Bar()

    command.forecast(run_of(folder), out, bar)
    assert bars == [pytest.approx(0.03 * begins)]
    found, times = io.read_trajectory(out / "trajectory.h5")
    np.testing.assert_array_equal(times, whole[1])
    np.testing.assert_array_equal(found.positions, whole[0].positions)
    np.testing.assert_array_equal(found.velocities, whole[0].velocities)
    assert "Going on from" in capsys.readouterr().err or damage is no_state


@pytest.mark.parametrize("duration", [900.0, 1000.0, 3e4, 1e5])
@pytest.mark.parametrize(("every", "chunk"), [(1, 100), (1, 7), (4, 10), (7, 100), (50, 20)])
def test_the_end_does_not_depend_on_where_a_rollout_was_stopped(duration, every, chunk):
    settings = RolloutSettings(duration=duration, every=every, chunk=chunk)
    total, length = command.strides(settings, 30.0)
    begins = {0, every, length, length + every, total - every, total - length}
    for begin in (begin for begin in begins if begin <= total):
        done = begin
        while True:
            chunks, strides = command.plan(settings, 30.0, done)
            if not chunks:
                break
            assert strides % every == 0
            done += chunks * strides
        assert done == total


def test_a_rollout_made_longer_ends_where_one_of_that_length_does(folder, whole):
    out = folder / "made_longer"
    command.forecast(run_of(folder, duration=60.0), out, Bar)
    command.forecast(run_of(folder), out, Bar)  # 10 strides are left: 2 chunks of 4, and 2
    found, times = io.read_trajectory(out / "trajectory.h5")
    np.testing.assert_array_equal(times, whole[1])
    np.testing.assert_array_equal(found.positions, whole[0].positions)
