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

EVEN = 1e-3
"""Share of the spacing by which intervals may differ, and of a move below which it is none."""
ROUNDING = 1e-6
"""Share of the time itself by which it may be rounded."""
WHOLE = 0.02
"""Largest distance from a whole number of intervals of a gap."""
AGREE = 0.01
"""Share by which the file's spacing and the one that is given may differ."""
MANY = 0.1
"""Share of intervals that may be odd in a file that is worth reading."""
DENSE = 0.5
"""Correlation of velocities from frame to frame above which displacements are no less than what
velocities mean."""
SCALES = (0.6, 1.6)
"""Lowest scale of dense frames, and highest of any."""


def told_times(recording: Recording, options: ReadOptions, path: Path) -> np.ndarray | None:
    """Times (time,) of the frames in fs by what the file and the options say.

    Times that the options alone tell are None here: they count the frames that are kept.

    Raises:
      ValueError: nobody tells the times, or the file and the options disagree.
    """
    times, steps = recording.times, recording.steps
    if len(recording.index) < 2:
        return np.zeros(len(recording.index)) if times is None else times
    if steps is not None and times is not None:
        _require_one_clock(steps, times, options, path)
    if times is None and steps is not None:
        per_frame = _typical(steps)
        if options.md_step is not None:
            times = steps * options.md_step
        elif options.time_step is not None:
            return (steps - steps[0]) / per_frame * options.time_step
        else:
            raise ValueError(
                f"{path} tells the steps of its frames (every {per_frame:g}), but not how long a "
                "step is; give the fs of an integration step as md_step (--md-timestep), or those "
                "between frames as time_step (--time-step)."
            )
    if times is None:
        if options.time_step is None:
            raise ValueError(
                f"{path} does not tell the times of its frames; give the fs between them as "
                "time_step (--time-step)."
            )
        return None
    spacing = _typical(times)
    if options.time_step is not None and abs(spacing / options.time_step - 1) > AGREE:
        raise ValueError(
            f"{path} has frames every {spacing:g} fs, by its own times"
            f"{' and the md_step given' if recording.times is None else ''}, but time_step "
            f"(--time-step) says {options.time_step:g} fs; leave it out, or mend the file."
        )
    return times


def _require_one_clock(steps, times, options: ReadOptions, path: Path) -> None:
    """Steps and times of a file agree, with one another and with the step that is given."""
    by_step, by_time = np.diff(steps), np.diff(times)
    ahead = (by_step > 0) & (by_time > 0)
    if not ahead.any():
        return
    lengths = by_time[ahead] / by_step[ahead]
    length = float(np.median(lengths))
    slack = ROUNDING * np.abs(times).max() / by_step[ahead]
    off = np.abs(lengths - length) > AGREE * length + slack
    if off.any():
        i = int(np.flatnonzero(ahead)[np.argmax(off)])
        raise ValueError(
            f"Steps and times of {path} disagree: from step {steps[i]} to {steps[i + 1]} it counts "
            f"{by_time[i]:g} fs, and elsewhere {length:g} fs for a step; read the parts one by one "
            "(--first, --last)."
        )
    if options.md_step is not None and abs(length / options.md_step - 1) > AGREE:
        raise ValueError(
            f"{path} counts {length:g} fs for a step, but md_step (--md-timestep) says "
            f"{options.md_step:g} fs; leave it out, or mend the file."
        )


def _typical(values: np.ndarray) -> float:
    """The usual step of a clock, the median of those ahead."""
    steps = np.diff(values)
    return float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0


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
    times = told_times(recording, options, path)
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
        rows, gaps = _by_times(recording, times, same, path)
    spacing = options.time_step or _typical(times)
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


def _by_times(recording: Recording, times, same: _Same, path: Path):
    """Rows of runs by the file's times, and why each run but the first begins."""
    spacing, slack = _typical(times), ROUNDING * float(np.abs(times).max())
    tolerance = EVEN * spacing + slack
    runs, gaps, dropped, uneven = [[0]], [], [], []
    for i in range(1, len(times)):
        run = runs[-1]
        step = times[i] - times[run[-1]]
        if step <= tolerance:
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
            if abs(count - round(count)) > WHOLE or round(count) < 2:
                uneven.append(i)
            why = f"frames are missing: {step:g} fs apart, not {spacing:g} fs"
        gaps.append(f"{_place(recording, times, run[-1], i)} ({why})")
        runs.append([i])
    if len(uneven) > max(1, MANY * len(times)) or len(gaps) > max(2, MANY * 2 * len(times)):
        i = (uneven or [runs[1][0]])[0]
        raise ValueError(
            f"Frames {recording.index[i - 1]} and {recording.index[i]} of {path} are "
            f"{times[i] - times[i - 1]:g} fs apart, but others {spacing:g} fs; give evenly spaced "
            "frames."
        )
    _say_dropped(recording, dropped, path)
    return [np.array(run) for run in runs], gaps


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
