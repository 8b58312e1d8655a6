"""Clocks late in long runs, and times that files round: to single precision, to few decimals."""

import h5py
import numpy as np
import pytest
from dumps import write_dump
from test_clock import METAL, Z, write_plain
from test_h5md_layouts import write_h5md

from trajcast_jax import io, reference
from trajcast_jax.io import FileNote, ReadOptions
from trajcast_jax.io.clock import split
from trajcast_jax.io.recording import Recording
from trajcast_jax.io.times import apart, rounding
from trajcast_jax.units import ASE_FEMTOSECOND

N = 60


def recording(times, rounded=0.0, steps=None, h=10.0):
    """Atoms in circles, so that neither times nor motion repeat, with the given clock."""
    angle = 0.02 * h * np.arange(len(times))[:, None] + np.arange(8)
    r = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=-1)
    v = 0.02 * np.stack([-np.sin(angle), np.cos(angle), np.zeros_like(angle)], axis=-1)
    return Recording(
        positions=r, velocities=v, species=np.full(8, 18), masses=np.full(8, 39.9), cell=None,
        index=np.arange(len(times)), velocity_unit="angstrom/fs", times=np.array(times, float),
        rounding=rounded, steps=steps, unwrapped=True,
    )  # fmt: skip


@pytest.mark.parametrize(("late", "h"), [(10**6, 1), (5 * 10**9, 10), (10**10, 1)])
def test_integer_steps_are_not_rounded_however_late(tmp_path, late, h):
    steps = late + h * np.arange(30)
    path, _, v = write_dump(tmp_path / "run.dump", steps=steps)
    options = ReadOptions(units="metal", md_step=10.0 / h)
    run, times = io.read_trajectory(path, options=options)
    np.testing.assert_allclose(np.diff(times), 10.0, rtol=1e-6)
    np.testing.assert_allclose(run.velocities, v, atol=1e-7)
    kept = [*range(12), *range(16, 30)]
    path, _, _ = write_dump(tmp_path / "gap.dump", rows=kept, steps=steps[kept])
    runs, gaps = io.runs_of_file(path, options)
    assert [len(t) for _, t in runs] == [12, 14]
    assert "frames are missing: 50 fs apart" in gaps[0]
    uneven = steps + h * np.r_[np.zeros(15, int), np.full(15, 1)] * (h > 1) // 2
    path, _, _ = write_dump(tmp_path / "uneven.dump", steps=uneven)
    assert len(io.runs_of_file(path, options)[1]) == (h > 1)


@pytest.mark.parametrize(
    ("late", "h"), [(20, 2), (500, 2), (100, 5), (1000, 10), (2000, 10), (3000, 10)]
)
def test_single_precision_in_ps_is_told_from_an_uneven_clock(late, h):
    ps = (late + 1e-3 * h * np.arange(N)).astype(np.float32).astype(float)
    given = recording(1e3 * ps, 1e3 * rounding(ps), h=h)
    found = split(given, ReadOptions(), "a")
    assert [len(rows) for rows in found.rows] == [N]
    np.testing.assert_allclose(np.diff(found.times), h, rtol=2e-3)
    assert np.ptp(np.diff(found.times)) < 1e-3 * h
    assert reference.other_sources._spacing(found.times, "a") == pytest.approx(h, rel=2e-3)
    kept = np.r_[0:30, 33:N]
    gap = given._replace(
        **{k: getattr(given, k)[kept] for k in ("positions", "velocities", "times", "index")}
    )
    found = split(gap, ReadOptions(), "a")
    assert [len(rows) for rows in found.rows] == [30, N - 33]
    jitter = given._replace(times=given.times + 0.1 * h * (np.arange(N) % 3 == 0))
    with pytest.raises(ValueError, match=r"evenly spaced|too coarse"):
        split(jitter, ReadOptions(), "a")


def test_steps_tell_what_rounded_times_do_not():
    ps = (1e5 + 0.01 * np.arange(N)).astype(np.float32).astype(float)  # to 7.8 fs
    given = recording(1e3 * ps, 1e3 * rounding(ps))
    with pytest.raises(ValueError, match=r"rounds its times.* to 7.81 fs: too coarse.*--time-step"):
        split(given, ReadOptions(), "a")
    found = split(given, ReadOptions(time_step=10.0), "a")
    np.testing.assert_allclose(np.diff(found.times), 10.0)
    with_steps = given._replace(steps=10**8 + 10 * np.arange(N))
    found = split(with_steps, ReadOptions(), "a")
    np.testing.assert_allclose(np.diff(found.times), 10.0, rtol=5e-3)
    assert np.ptp(np.diff(found.times)) < 1e-6
    with pytest.raises(ValueError, match=r"says 30 fs|evenly spaced"):
        split(given, ReadOptions(time_step=30.0), "a")
    other = given._replace(steps=np.cumsum(np.arange(N) % 3 + 5), times=10.0 * np.arange(N))
    with pytest.raises(ValueError, match=r"Steps and times of a disagree.*--time-step"):
        split(other._replace(rounding=0.0), ReadOptions(), "a")
    assert len(split(other, ReadOptions(time_step=10.0), "a").rows) == 1


@pytest.mark.parametrize("decimals", [2, 1])
def test_times_of_few_decimals(decimals):
    h = 2.4188
    times = np.round(h * np.arange(N), decimals)
    given = recording(times, rounding(times), h=h)
    found = split(given, ReadOptions(), "a")
    np.testing.assert_allclose(np.diff(found.times), h, rtol=1e-3)
    assert np.ptp(np.diff(found.times)) < 1e-9
    found = split(given, ReadOptions(time_step=h), "a")
    np.testing.assert_allclose(np.diff(found.times), h, rtol=1e-9)
    coarse = np.round(h * np.arange(N))
    with pytest.raises(ValueError, match="rounds its times"):
        split(recording(coarse, rounding(coarse), h=h), ReadOptions(), "a")


def test_the_rounding_of_numbers_and_clocks_that_are_apart():
    assert rounding(np.arange(5)) < 1e-14
    assert rounding(np.array([0.0, 2.42, 4.84])) == pytest.approx(0.005)
    assert rounding(np.array([1 / 3, 2 / 3])) < 1e-15
    assert rounding(np.array([1 / 3, 2 / 3], np.float32)) == pytest.approx(3e-8, rel=0.02)
    late = 1e9 + np.arange(5.0)
    assert not apart(late, late).any()
    assert apart(late, late + 0.5).all()
    single = (1e3 + 0.01 * np.arange(5)).astype(np.float32).astype(float)
    assert not apart(single, 1e3 + 0.01 * np.arange(5)).any()


def test_units_of_time_that_the_given_spacing_confirms(tmp_path):
    path = write_plain(tmp_path / "run.extxyz", list(range(30)), times=True)
    text = path.read_text()
    for name, unit in (("ASE's unit of time", 1 / ASE_FEMTOSECOND), ("ps", 1e3)):
        lines = [
            line if " time=" not in line
            else f"{line.split(' time=')[0]} time={float(line.split(' time=')[1]) / unit:.10g}"
            for line in text.splitlines()
        ]  # fmt: skip
        path.write_text("\n".join(lines) + "\n")
        with pytest.raises(ValueError, match=r"move by .*--time-step"):
            io.read_trajectory(path)
        with pytest.warns(FileNote, match=f"times are read in {name}"):
            _, times = io.read_trajectory(path, time_step=10.0)
        np.testing.assert_allclose(np.diff(times), 10.0, rtol=1e-6)


def test_the_given_spacing_tells_the_unit_of_times_of_h5md_without_units(tmp_path):
    path = write_h5md(tmp_path / "run.h5", Z)
    with h5py.File(path, "a") as file:
        for name in ("position/value", "position/time", "velocity/value"):
            file["particles/all"][name].attrs.pop("unit", None)
    said = ReadOptions(velocity_unit="angstrom/ps", time_step=10.0, species=("8=O", "14=Si"))
    _, times = io.read_trajectory(path, options=said)
    np.testing.assert_allclose(np.diff(times), 10.0)


def test_a_late_dump_with_md_step(tmp_path):
    path, _, _ = write_dump(tmp_path / "run.dump", steps=3 * 10**9 + 10 * np.arange(30))
    assert len(io.runs_of_file(path, METAL)[0]) == 1
