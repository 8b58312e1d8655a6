"""Times of frames as files tell them: how far they are rounded, and what steps and options add."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from trajcast_jax.io.options import ReadOptions
from trajcast_jax.io.recording import Recording

AGREE = 0.01
"""Share by which the file's spacing and the one that is given may differ."""
EVEN = 1e-3
"""Share by which intervals may differ in an even clock."""
ROUNDED_FROM = 1000
"""Number of values whose decimals are counted."""


def rounding(values: Float[np.ndarray, "time"]) -> float:
    """Largest error of numbers by rounding: to single precision, or to their decimals.

    They stand as in the file, in its unit.
    """
    values = np.asarray(values)
    if not len(values):
        return 0.0
    if np.issubdtype(values.dtype, np.integer):
        return _precision(values)
    some = values[np.unique(np.linspace(0, len(values) - 1, ROUNDED_FROM).astype(int))]
    texts = [np.format_float_positional(x, trim="-") for x in some.astype(float)]
    decimals = max(len(text.partition(".")[2]) for text in texts)
    return max(_precision(values), 0.5 * 10.0**-decimals)


def _precision(values: np.ndarray) -> float:
    """Largest error of numbers that are stored in double or single precision."""
    if not len(values):
        return 0.0
    top = float(np.abs(values).max())
    if np.issubdtype(values.dtype, np.floating) and np.array_equal(values, np.float32(values)):
        return float(np.spacing(np.float32(top))) / 2
    return 2 * float(np.spacing(top))


def apart(mine: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which entries of two clocks (time,) of the same frames differ."""
    spacing = float(np.median(np.abs(np.diff(mine)))) if len(mine) > 1 else 0.0
    return np.abs(mine - other) > 0.01 * spacing + _precision(mine) + _precision(other)


def typical(values: np.ndarray) -> float:
    """The usual step of a clock, the median of those ahead."""
    steps = np.diff(values)
    return float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0


def told_times(
    recording: Recording, options: ReadOptions, path: Path
) -> tuple[Float[np.ndarray, "time"] | None, float]:
    """Times (time,) of the frames in fs by what the file and the options say, and their rounding.

    Times that the options alone tell are None here: they count the frames that are kept.

    Raises:
      ValueError: nobody tells the times, or the file and the options disagree.
    """
    times, steps, rounded = recording.times, recording.steps, recording.rounding
    if len(recording.index) < 2:
        return np.zeros(len(recording.index)) if times is None else times, rounded
    if steps is not None and times is not None:
        times, rounded = _by_both(recording, options, path)
    if times is None and steps is not None:
        per_frame = typical(steps)
        if options.md_step is not None:
            times = steps * options.md_step
        elif options.time_step is not None:
            return (steps - steps[0]) / per_frame * options.time_step, rounded
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
        return None, rounded
    spacing = typical(times)
    slack = 2 * rounded / spacing
    if options.time_step is not None and abs(spacing / options.time_step - 1) > AGREE + slack:
        raise ValueError(
            f"{path} has frames every {spacing:g} fs, by its own times"
            f"{' and the md_step given' if recording.times is None else ''}, but time_step "
            f"(--time-step) says {options.time_step:g} fs; leave it out, or mend the file."
        )
    return times, rounded


def _by_both(recording: Recording, options: ReadOptions, path: Path):
    """Times by a file's steps, which are not rounded, where they agree with its rounded times.

    Raises:
      ValueError: they disagree with one another, or with the step that is given.
    """
    steps, times, rounded = recording.steps, recording.times, recording.rounding
    by_step, by_time = np.diff(steps), np.diff(times)
    ahead = (by_step > 0) & (by_time > 0)
    if not ahead.any():
        return times, rounded
    lengths = by_time[ahead] / by_step[ahead]
    length = float(np.median(lengths))
    off = np.abs(lengths - length) > AGREE * length
    if off.any():
        fitted, even = _by_steps(steps, times)
        rounds = np.ptp(by_time[ahead]) > EVEN * length * np.median(by_step[ahead])
        if rounds and np.abs(fitted - times).max() <= 2 * rounded:
            length, times, rounded = even, fitted, 0.0
        elif options.time_step is None:
            i = int(np.flatnonzero(ahead)[np.argmax(off)])
            raise ValueError(
                f"Steps and times of {path} disagree: from step {steps[i]} to {steps[i + 1]} it "
                f"counts {by_time[i]:g} fs, and elsewhere {length:g} fs for a step; read the parts "
                "one by one (--first, --last), or, if its times are right, say the fs between "
                "frames (--time-step)."
            )
    if options.md_step is not None and abs(length / options.md_step - 1) > AGREE:
        raise ValueError(
            f"{path} counts {length:g} fs for a step, but md_step (--md-timestep) says "
            f"{options.md_step:g} fs; leave it out, or mend the file."
        )
    return times, rounded


def _by_steps(steps, times) -> tuple[np.ndarray, float]:
    """Times that are linear in steps, by least squares, and the fs of a step."""
    count = steps - np.mean(steps)
    length = float(count @ (times - times.mean()) / (count @ count))
    return times.mean() + count * length, length
