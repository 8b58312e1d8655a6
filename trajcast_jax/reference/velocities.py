"""Checks of velocities against positions: their unit, their clock, all atoms and all axes."""

import numpy as np
from ase.data import chemical_symbols

from trajcast_jax.io.intervals import intervals, odd
from trajcast_jax.io.resolved import resolved_scale
from trajcast_jax.reference.check import Check
from trajcast_jax.system import System

VELOCITY_LAG = 0.1  # fs
VELOCITY_SCALE = (0.8, 1.25)
SMOOTH_VELOCITY_SCALE = (0.93, 1.07)
"""The same if frames are dense enough for Simpson's rule."""
PART_SCALE = (0.7, 1.4)
"""Scale of the velocities of a species or along an axis, over that of all; few atoms fluctuate."""
STILL = 1e-6
"""Share of the mean square displacement below which a part does not move."""
STEADY = 1e-10
"""Mean square change of velocities, over their mean square, below which they are constant."""
ROUGH = 0.5
"""Largest roughness (mean square second difference of velocities between frames, relative to
their mean square) for Simpson's rule. A vibration whose phase advances by one radian per frame
has 0.85, and an error of 1 %."""


def velocity_lag_and_scale(run: System, time_step: float) -> tuple[float, float]:
    """Time lag δ (fs) of velocities behind positions, and scale of displacements to velocities.

    With h = `time_step` (fs), d = r(t+h) − r(t) and the trapezoid m = h (v(t) + v(t+h))/2, the
    residual d − m is odd under time reversal and Δv = v(t+h) − v(t) is even, so they are
    uncorrelated. If v(t − δ) is stored instead of v(t), then d − m = δ Δv + …, and
    δ = ⟨(d − m)·Δv⟩/⟨Δv²⟩. Velocities of a leapfrog integrator have δ of half its step. The scale
    is ⟨d·m⟩/⟨m·m⟩. It is 1 + O(h²) if the velocity unit is right. Constant
    velocities have no lag, NaN.
    """
    cross = norm = along = square = 0.0
    positions, velocities = np.asarray(run.positions), np.asarray(run.velocities)
    for start in range(0, len(positions) - 1, 1000):
        r, v = (np.asarray(x[start : start + 1001], np.float64) for x in (positions, velocities))
        d, m, dv = np.diff(r, axis=0), time_step * (v[1:] + v[:-1]) / 2, np.diff(v, axis=0)
        cross, norm = cross + np.sum((d - m) * dv), norm + np.sum(dv**2)
        along, square = along + np.sum(d * m), square + np.sum(m**2)
    lag = float(cross / norm) if norm > STEADY * square / time_step**2 else float("nan")
    return lag, float(along / max(square, 1e-30))


def velocity_scale_by_simpson(run: System, time_step: float) -> tuple[float, float]:
    """Scale of displacements to velocities to O(h⁴), from three frames, and roughness (`ROUGH`).

    With d = r(t+h) − r(t−h) and m = h (v(t−h) + 4 v(t) + v(t+h))/3, the scale is ⟨d·m⟩/⟨m·m⟩.
    """
    along = square = rough = norm = 0.0
    positions, velocities = np.asarray(run.positions), np.asarray(run.velocities)
    for start in range(0, len(positions) - 2, 1000):
        r, v = (np.asarray(x[start : start + 1002], np.float64) for x in (positions, velocities))
        d, m = r[2:] - r[:-2], time_step * (v[2:] + 4 * v[1:-1] + v[:-2]) / 3
        along, square = along + np.sum(d * m), square + np.sum(m**2)
        rough = rough + np.sum((v[2:] - 2 * v[1:-1] + v[:-2]) ** 2)
        norm = norm + np.sum(v[1:-1] ** 2)
    return float(along / max(square, 1e-30)), float(rough / max(norm, 1e-30))


def check_velocities(run: System, times: np.ndarray, allowed: float) -> list[Check]:
    if len(times) < 2:
        return []
    spacing = float(times[1] - times[0])
    lag, scale = velocity_lag_and_scale(run, spacing)
    low, high = VELOCITY_SCALE
    finer, whole = False, scale
    if len(times) > 2:
        by_simpson, rough = velocity_scale_by_simpson(run, spacing)
        if finer := rough < ROUGH:
            whole = scale = by_simpson
            low, high = SMOOTH_VELOCITY_SCALE
    exact = resolved_scale(run.positions, run.velocities, run.species, spacing)
    if exact.error < (high - low) / 2:
        scale, low, high = exact.value, 1 - exact.error, 1 + exact.error
    return [
        Check(
            "velocity lag",
            lag,
            "fs",
            f"0 ± {allowed:g} against positions",
            None if np.isnan(lag) else bool(abs(lag) < allowed),
        ),
        Check("velocity scale", scale, "", f"{low:.3g} to {high:.3g}", bool(low < scale < high)),
        *_check_parts(run, spacing, whole, finer),
    ]


def _check_parts(run: System, spacing: float, whole: float, simpson: bool) -> list[Check]:
    """The scale of velocities of each species and along each axis, as far as atoms move at all."""
    species, checks = np.asarray(run.species), []
    parts = {f"of {chemical_symbols[z]}": (species == z, slice(None)) for z in np.unique(species)}
    parts |= {f"along {name}": (slice(None), k) for k, name in enumerate("xyz")}
    steps = np.diff(np.asarray(run.positions, np.float64), axis=0)
    moving = np.mean(steps**2)
    for name, (atoms, axes) in parts.items():
        rows = (slice(None), atoms, axes)
        part = run.replace(
            positions=np.asarray(run.positions)[rows], velocities=np.asarray(run.velocities)[rows]
        )
        moved, meant = np.mean(steps[rows] ** 2), spacing**2 * np.mean(part.velocities**2.0)
        if max(moved, meant) < STILL * moving:  # frozen, or in a plane
            continue
        if simpson:
            scale, _ = velocity_scale_by_simpson(part, spacing)
        else:
            _, scale = velocity_lag_and_scale(part, spacing)
        low, high = (share * whole for share in PART_SCALE)
        expected = f"{low:.3g} to {high:.3g}"
        if meant < STILL * moved:
            expected += "; their velocities are 0, but their positions change"
        passed = bool(low < scale < high)
        if not passed:
            checks.append(Check(f"velocity scale {name}", scale, "", expected, False))
    return checks


def check_intervals(run: System, times: np.ndarray) -> list[Check]:
    """Every interval is like the others: no frame stands twice, and none is missing."""
    if len(times) < 3:
        return []
    found = intervals(run.positions, run.velocities, run.masses, float(times[1] - times[0]))
    flags = odd(found)
    expected = "0 that are unlike the others"
    if flags.any():
        i = int(np.argmax(flags))
        expected += (
            f"; frames {i} and {i + 1}: the atoms move by {found.scale[i]:.2g} of what velocities "
            f"mean, elsewhere by {np.median(found.scale):.2g} (a frame twice, or missing)"
        )
    return [Check("odd intervals", float(flags.sum()), "", expected, not flags.any())]
