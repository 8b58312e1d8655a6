"""The clock of a file: even times, no frame twice, none missing; for files of all formats.

A restarted simulation may write a frame twice, or leave some out. What a file says of its times is
held against what its frames do: over an interval h, the displacement d of the atoms is about h v̄,
with v̄ the mean velocity of both frames.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from trajcast_jax.io.intervals import Intervals, intervals, odd
from trajcast_jax.io.options import ReadOptions, note
from trajcast_jax.io.recording import Recording
from trajcast_jax.io.resolved import resolved_scale
from trajcast_jax.io.times import AGREE, told_times, typical

EVEN = 1e-3
"""Share of the spacing by which intervals may differ, and of a move below which it is none."""
COARSE = 0.1
"""Largest share of the spacing by which intervals may differ that are told by rounded times."""
WHOLE = 0.02
"""Largest distance from a whole number of intervals of a gap."""
MANY = 0.1
"""Share of intervals that may be odd in a file that is worth reading."""
DENSE = 0.5
"""Correlation of velocities from frame to frame above which displacements are no less than what
velocities mean."""
SCALES = (0.6, 1.6)
"""Lowest scale of dense frames, and highest of any."""


class Runs(NamedTuple):
    """The rows of a recording that follow one another evenly, one array for each run."""

    rows: list[Int[np.ndarray, "time"]]
    times: Float[np.ndarray, "frame"]  # fs, of all rows of the recording
    gaps: list[str]
    """Where each run but the first begins, and why, in words."""


def split(recording: Recording, options: ReadOptions, path: Path) -> Runs:
    """Leave out the frames that stand twice, with a word, and split where frames are missing.

    Positions must be unwrapped.

    Raises:
      ValueError: no clock, one that the options contradict, or uneven frames.
    """
    n = len(recording.index)
    times, rounded = told_times(recording, options, path)
    if n < 2:
        return Runs([np.arange(n)], np.zeros(n) if times is None else times, [])
    same = _Same(recording)
    if times is None:
        kept = np.flatnonzero(np.r_[True, [not same(i - 1, i) for i in range(1, n)]])
        _say_dropped(recording, np.setdiff1d(np.arange(n), kept), path)
        times = np.zeros(n)
        times[kept] = recording.index[0] * options.time_step
        times[kept] += np.arange(len(kept)) * options.time_step
        rows, gaps = [kept], []
    else:
        times, rows, gaps = _by_times(recording, times, rounded, options.time_step, same, path)
    spacing = options.time_step or _spacing(times, rows)
    runs = _by_motion(recording, Runs(rows, times, gaps), spacing, path)
    if recording.times is None or options.time_step is not None:
        _require_resolved(recording, runs, spacing, options, path)
    return runs


class _Same:
    """Whether two frames are the same state."""

    def __init__(self, recording: Recording):
        self.positions, self.velocities = recording.positions, recording.velocities
        self.cell = recording.cell
        some = np.unique(np.linspace(1, len(self.positions) - 1, 20).astype(int))
        self.move = np.median([self._apart(i - 1, i) for i in some])
        self.speed = np.sqrt(np.mean(self.velocities[some] ** 2))

    def _apart(self, i: int, j: int) -> float:
        d = self.positions[j] - self.positions[i]
        if self.cell is not None:
            d = d - np.round(d @ np.linalg.inv(self.cell)) @ self.cell
        return float(np.sqrt(np.mean(d**2)))

    def __call__(self, i: int, j: int) -> bool:
        if self._apart(i, j) > max(EVEN * self.move, 1e-9):
            return False
        change = np.sqrt(np.mean((self.velocities[j] - self.velocities[i]) ** 2))
        return bool(change <= max(EVEN * self.speed, 1e-12))


def _by_times(recording: Recording, times, rounded: float, step, same: _Same, path: Path):
    """Even times (fs), rows of runs by them, and why each run but the first begins.

    `rounded` is the largest error (fs) of a time, `step` the time between frames if it is given.
    """
    usual, finest = typical(times), 4 * float(np.spacing(np.abs(times).max()))
    found, slack = _cut(recording, times, usual, finest, same), EVEN * usual
    if rounded > 0 and (found.uneven or found.is_broken(len(times))):  # perhaps they are rounded
        spacing, slack = step or _rounded_spacing(times, rounded), 2 * rounded
        found = _cut(recording, times, spacing, slack, same)
        if step is None:
            _require_told(times, found, rounded, spacing, path)
    else:
        step = None
    rows = [np.array(run) for run in found.runs]
    evened = _evened(times, rows, slack, step)
    i = (found.uneven or [found.runs[-1][0]])[0] if found.is_broken(len(times)) else 0
    for run in rows:
        steps = np.diff(evened[run])
        if len(steps) and np.ptp(steps) > 3 * EVEN * usual:  # that no rounding explains
            i = run[1 + int(np.argmax(np.abs(steps - usual)))]
    if i:
        raise ValueError(
            f"Frames {recording.index[i - 1]} and {recording.index[i]} of {path} are "
            f"{times[i] - times[i - 1]:g} fs apart, but others {usual:g} fs; give evenly "
            "spaced frames."
        )
    _say_dropped(recording, found.dropped, path)
    return evened, rows, found.gaps


class _Cut(NamedTuple):
    """Rows of runs by times, why each run but the first begins, rows left out, uneven rows."""

    runs: list[list[int]]
    gaps: list[str]
    dropped: list[int]
    uneven: list[int]

    def is_broken(self, n_frames: int) -> bool:
        """Whether the times are no even clock with some breaks."""
        return len(self.uneven) > max(1, MANY * n_frames) or len(self.gaps) > max(
            2, MANY * 2 * n_frames
        )


def _cut(recording: Recording, times, spacing: float, slack: float, same: _Same) -> _Cut:
    """Split where intervals differ from `spacing` by more than `slack` (fs) and a small share."""
    tolerance = EVEN * spacing + slack
    runs, gaps, dropped, uneven = [[0]], [], [], []
    for i in range(1, len(times)):
        run = runs[-1]
        step = times[i] - times[run[-1]]
        if step <= min(tolerance, spacing / 2):
            back = run[np.argmin(np.abs(times[run] - times[i]))]
            if abs(times[back] - times[i]) <= tolerance and same(back, i):
                dropped.append(i)
                continue
            why = "the clock goes back"
        elif abs(step - spacing) <= tolerance:
            if not same(run[-1], i):
                run.append(i)
                continue
            dropped.append(i)
            continue
        else:
            count = step / spacing
            if abs(count - round(count)) > WHOLE + slack / spacing or round(count) < 2:
                uneven.append(i)
            why = f"frames are missing: {step:g} fs apart, not {spacing:g} fs"
        gaps.append(f"{_place(recording, times, run[-1], i)} ({why})")
        runs.append([i])
    return _Cut(runs, gaps, dropped, uneven)


def _rounded_spacing(times, rounded: float) -> float:
    """The mean of the intervals (fs) that are those of rounded times."""
    steps, usual = np.diff(times), typical(times)
    return float(np.mean(steps[np.abs(steps - usual) <= EVEN * usual + 2 * rounded]))


def _require_told(times, found: _Cut, rounded: float, spacing: float, path: Path) -> None:
    """An error if times are rounded too coarsely to tell the time between frames."""
    error = 2 * rounded / max(1, max(map(len, found.runs)) - 1)
    if 2 * rounded > COARSE * spacing or (error > AGREE * spacing and not found.uneven):
        raise ValueError(
            f"{path} rounds its times, up to {np.abs(times).max():g} fs, to {2 * rounded:.3g} fs: "
            f"too coarse for frames every {spacing:.4g} fs; give the fs between frames as "
            "time_step (--time-step)."
        )


def _evened(times, rows, slack: float, step: float | None) -> np.ndarray:
    """The times with those of each run evenly spaced, where they differ by less than `slack`."""
    spacing = step or _spacing(times, rows)
    times = np.array(times, float)
    for run in rows:
        count = np.arange(len(run)) - (len(run) - 1) / 2
        even = times[run].mean() + count * spacing
        apart = np.abs(times[run] - even).max()
        if 1e-9 * np.abs(times).max() < apart <= slack:
            times[run] = even
    return times


def _spacing(times, rows) -> float:
    """The time (fs) between frames of all runs, by least squares."""
    along = square = 0.0
    for run in rows:
        count = np.arange(len(run)) - (len(run) - 1) / 2
        along += float(count @ (times[run] - times[run].mean()))
        square += float(count @ count)
    return along / square if square and along > 0 else typical(times)


def _by_motion(recording: Recording, runs: Runs, spacing: float, path: Path) -> Runs:
    """Split the runs further where displacements do not follow from velocities."""
    if not recording.velocity_unit or sum(map(len, runs.rows)) < 3:
        return runs
    found = [
        intervals(recording.positions[r], recording.velocities[r], recording.masses, spacing)
        for r in runs.rows
    ]
    scale, residual, left = (
        np.concatenate([getattr(f, k) for f in found]) for k in Intervals._fields[:3]
    )
    longest = max(found, key=lambda f: len(f.scale))
    together = Intervals(scale, residual, left, longest.correlation, longest.modes)
    _require_scale(together, recording, spacing, path)
    flags, rows, gaps = odd(together), [], []
    old, k = iter(runs.gaps), 0
    for run in runs.rows:
        if rows:
            gaps.append(next(old))
        here = np.flatnonzero(flags[k : k + len(run) - 1]) + 1
        for i in here:
            gaps.append(
                f"{_place(recording, runs.times, run[i - 1], run[i])} (the atoms move by "
                f"{scale[k + i - 1]:.2g} times what their velocities mean, elsewhere by "
                f"{np.median(scale):.2g})"
            )
        rows += np.split(run, here)
        k += len(run) - 1
    return Runs(rows, runs.times, gaps)


def _require_scale(found: Intervals, recording: Recording, spacing: float, path: Path) -> None:
    """An error if atoms move by another distance than their velocities mean."""
    scale = float(np.median(found.scale))
    low, high = SCALES
    low = low if found.correlation > DENSE else 0.0
    if len(found.scale) > 1 and not low <= scale < high:
        raise ValueError(
            f"The atoms of {path} move by {scale:.3g} times what their velocities, read in "
            f"{recording.velocity_unit}, and the {spacing:g} fs between frames mean; one of the "
            "two is wrong: check the time between frames (--time-step), and of the velocities "
            f"{recording.unit_hint}"
        )


def _require_resolved(
    recording: Recording, runs: Runs, spacing: float, options: ReadOptions, path: Path
) -> None:
    """The time between frames that a person says is the one that velocities mean."""
    rows = max(runs.rows, key=len)
    if not recording.velocity_unit:
        return
    found = resolved_scale(
        recording.positions[rows], recording.velocities[rows], recording.species, spacing
    )
    if abs(found.value - 1) <= found.error:
        return
    implied = found.value * spacing
    name = "md_step (--timestep)" if options.time_step is None else "time_step (--time-step)"
    step = options.md_step if options.time_step is None else options.time_step
    raise ValueError(
        f"The atoms of {path} move by {found.value:.3g} times what their velocities, read in "
        f"{recording.velocity_unit}, mean over {spacing:g} fs: they imply {implied:.4g} ± "
        f"{spacing * found.error:.2g} fs between frames. {name} says {step:g} fs; give "
        f"{step * found.value:.4g} fs, if the velocities are right."
    )


def _place(recording: Recording, times, i: int, j: int) -> str:
    a, b = recording.index[i], recording.index[j]
    steps = recording.steps
    if steps is not None:
        return f"between frames {a} and {b}, steps {steps[i]} and {steps[j]}"
    return f"between frames {a} and {b}, at {times[i]:g} and {times[j]:g} fs"


def _say_dropped(recording: Recording, rows, path: Path) -> None:
    if len(rows):
        names = ", ".join(str(recording.index[i]) for i in rows[:8])
        at = "" if recording.steps is None else f" (step {recording.steps[rows[0]]})"
        note(
            f"{path}: {len(rows)} doubled frame{'s' if len(rows) > 1 else ''}, as a restart writes "
            f"them, left out: {names}{', …' if len(rows) > 8 else ''}{at}."
        )
