"""Many kills at random moments.

`pytest tests/test_random_kills.py --kills 15 -o faulthandler_timeout=0`.

Each command is killed so often, wherever it is (importing, compiling, writing, at its end), and
then ends with the bits of an undisturbed one. Without the option nothing is run: test_kills.py has
a few kills of each.
"""

import random
import signal
import time

import numpy as np
import pytest
from test_kills import (
    TRAINING,
    argon,  # noqa: F401
    assert_same,
    begin,
    ended,
    forecasting,
    write_argon,
)
from test_reference import needs_lammps

from trajcast_jax import io
from trajcast_jax.network import checkpoint

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@pytest.fixture
def kills(request):
    count = request.config.getoption("--kills")
    if not count:
        pytest.skip("runs with --kills N")
    return count


def again(arguments, folder, cwd):
    """The same command, which goes on; of a forecast that has begun, the one that does."""
    if arguments[0] == "rollout" and (cwd / folder / "run.json").exists():
        arguments = (*arguments[:2], "--resume")
    return begin(*arguments, "--out", folder, cwd=cwd)


def killed(arguments, cwd, kills):
    """Runs a command whole, and another one with kills; it begins anew if it ends before them."""
    begun = time.monotonic()
    status, errors = ended(begin(*arguments, "--out", "whole", cwd=cwd))
    assert status in (0, 1), errors
    length, chance = time.monotonic() - begun, random.Random(kills)
    done, folders = 0, ["killed_0"]
    while done < kills:
        process = again(arguments, folders[-1], cwd)
        time.sleep(chance.uniform(0.0, length))
        process.send_signal(chance.choice(SIGNALS))
        status, errors = ended(process)
        assert "Error" not in errors, errors
        if status in (0, 1):  # it had ended before, or ended what it was at
            folders.append(f"killed_{len(folders)}")
        else:
            done += 1
            assert status in (-signal.SIGKILL, -signal.SIGINT, -signal.SIGTERM, 130, 143), errors
    status, errors = ended(again(arguments, folders[-1], cwd))
    assert status in (0, 1), errors
    return [cwd / folder for folder in folders]


@needs_lammps
def test_generate(tmp_path, kills):
    file = write_argon(tmp_path, 30000.0)
    for folder in killed(("generate", file, "--runs", "2"), tmp_path, kills):
        assert_same(tmp_path / "whole", folder)


@needs_lammps
def test_fit(argon, tmp_path, kills):  # noqa: F811
    arguments = ("fit", write_argon(tmp_path, 5000.0, TRAINING), "--reference", argon)
    for folder in killed(arguments, tmp_path, kills):
        for name in ("best", "ema"):
            digests = {
                checkpoint.digest(checkpoint.restore(path / name).params, {})
                for path in (tmp_path / "whole", folder)
            }
            assert len(digests) == 1


def test_rollout(tmp_path, kills):
    for folder in killed(forecasting(tmp_path), tmp_path, kills):
        whole, _ = io.read_trajectory(tmp_path / "whole" / "trajectory.h5")
        found, _ = io.read_trajectory(folder / "trajectory.h5")
        np.testing.assert_array_equal(whole.positions, found.positions)
        np.testing.assert_array_equal(whole.velocities, found.velocities)
