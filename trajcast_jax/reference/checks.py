"""Does a run hold what it claims? Physics that a right trajectory cannot break."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms

from trajcast_jax import observables
from trajcast_jax.config import ReferenceSettings
from trajcast_jax.io import read_observables, read_trajectory
from trajcast_jax.mechanics import degrees_of_freedom
from trajcast_jax.reference.bonds import BROKEN, bonded_pairs, geometry, is_network
from trajcast_jax.reference.structure import build_structure, is_crystal
from trajcast_jax.system import System, minimum_image
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV

ENERGY_DRIFT = 0.02  # meV/atom/ps
TEMPERATURE = 0.03  # relative deviation of the mean, beyond four standard errors
VELOCITY_LAG = 0.1  # fs
VELOCITY_SCALE = (0.8, 1.25)
SMOOTH_VELOCITY_SCALE = (0.93, 1.07)
"""Of frames so dense that Simpson's rule holds."""
ROUGH = 0.5
"""Mean square second difference of velocities from frame to frame, over theirs, where it ends: it
errs by 1 % for a vibration that turns by a radian between frames, whose own would be 0.85."""
KINETIC_ENERGY = 1e-4  # relative, of stored velocities against the engine's
PEAK = 0.2  # Å
LINDEMANN = 0.13
"""Largest RMS displacement from the mean sites, over the cube root of the volume per atom."""
SITE = 0.2
"""Largest distance of a mean site from the start structure's, in the same unit."""
DALTON_PER_CUBIC_ANGSTROM = 1.66053906660  # g/cm³
N_BLOCKS = 10
RDF_FRAMES = 300
MOMENTUM = 1e-5  # of all atoms over the sum of their absolute momenta


class Check(NamedTuple):
    """One quantity of a run; `passed` is None where there is nothing to hold it against."""

    name: str
    value: float
    unit: str
    expected: str
    passed: bool | None


def check_run(path: str | Path, settings: ReferenceSettings | None = None) -> list[Check]:
    """All checks that apply to a run file; without `settings`, those of any trajectory."""
    run, times = read_trajectory(path)
    energies = read_observables(path)
    bath = settings is not None and settings.ensemble != "nve"
    # A bath scales the velocities at the end of a step, which positions see during the next.
    lag = VELOCITY_LAG + (settings.time_step if bath else 0.0)
    checks = _check_velocities(run, times, lag)
    if {"potential_energy", "kinetic_energy"} <= energies.keys():
        potential, kinetic = energies["potential_energy"], energies["kinetic_energy"]
        checks += _check_energy(run, times, potential, kinetic, bath)
    checks += _check_temperature(run, None if settings is None else settings.temperature)
    crystal = settings is not None and is_crystal(settings)
    structure = build_structure(settings) if crystal else None
    if run.cell is not None:
        checks += _check_structure(run, structure)
    if structure is not None:
        checks += _check_crystal(run, structure)
    checks += _check_bonds(run)
    if settings is None:  # somebody's trajectory may move and turn as it likes
        return checks
    return _hold(checks + _check_momenta(run), settings.expected)


def format_checks(checks: list[Check]) -> str:
    """A table of the checks; those that fail say so in capitals."""
    words = {True: "ok", False: "FAILED", None: ""}
    rows = [
        f"  {words[c.passed]:6} {c.name:28} {c.value:10.4g} {c.unit:12} {c.expected}"
        for c in checks
    ]
    return "\n".join(rows)


def velocity_lag_and_scale(run: System, time_step: float) -> tuple[float, float]:
    """By how many fs velocities are behind positions, and their factor against them.

    With h = `time_step`, d = r(t+h) − r(t) and the trapezoid m = h (v(t) + v(t+h))/2, the
    residual d − m is odd under time reversal and Δv = v(t+h) − v(t) even, so that they
    are uncorrelated. If what is stored is v(t − δ), then d − m = δ Δv + …, whence
    δ = ⟨(d − m)·Δv⟩/⟨Δv²⟩. A leapfrog integrator's velocities have δ of half its step. A
    unit error shows in the scale ⟨d·m⟩/⟨m·m⟩, which is 1 + O(h²) when all is well.
    """
    cross = norm = along = square = 0.0
    positions, velocities = np.asarray(run.positions), np.asarray(run.velocities)
    for start in range(0, len(positions) - 1, 1000):
        r, v = (np.asarray(x[start : start + 1001], np.float64) for x in (positions, velocities))
        d, m, dv = np.diff(r, axis=0), time_step * (v[1:] + v[:-1]) / 2, np.diff(v, axis=0)
        cross, norm = cross + np.sum((d - m) * dv), norm + np.sum(dv**2)
        along, square = along + np.sum(d * m), square + np.sum(m**2)
    return float(cross / norm), float(along / square)


def velocity_scale_by_simpson(run: System, time_step: float) -> tuple[float, float]:
    """The factor of velocities from three frames at a time, to O(h⁴), and how rough they are.

    With d = r(t+h) − r(t−h) and m = h (v(t−h) + 4 v(t) + v(t+h))/3 it is ⟨d·m⟩/⟨m·m⟩.
    """
    along = square = rough = norm = 0.0
    positions, velocities = np.asarray(run.positions), np.asarray(run.velocities)
    for start in range(0, len(positions) - 2, 1000):
        r, v = (np.asarray(x[start : start + 1002], np.float64) for x in (positions, velocities))
        d, m = r[2:] - r[:-2], time_step * (v[2:] + 4 * v[1:-1] + v[:-2]) / 3
        along, square = along + np.sum(d * m), square + np.sum(m**2)
        rough = rough + np.sum((v[2:] - 2 * v[1:-1] + v[:-2]) ** 2)
        norm = norm + np.sum(v[1:-1] ** 2)
    return float(along / square), float(rough / norm)


def _check_velocities(run: System, times: np.ndarray, allowed: float) -> list[Check]:
    if len(times) < 2:
        return []
    spacing = float(times[1] - times[0])
    lag, scale = velocity_lag_and_scale(run, spacing)
    low, high = VELOCITY_SCALE
    if len(times) > 2:
        finer, rough = velocity_scale_by_simpson(run, spacing)
        if rough < ROUGH:
            scale, (low, high) = finer, SMOOTH_VELOCITY_SCALE
    return [
        Check(
            "velocity lag",
            lag,
            "fs",
            f"0 ± {allowed:g} against positions",
            bool(abs(lag) < allowed),
        ),
        Check("velocity scale", scale, "", f"{low} to {high}", bool(low < scale < high)),
    ]


def _kinetic_energies(run: System) -> np.ndarray:
    """(time,) eV, in double precision."""
    masses = np.asarray(run.masses, np.float64)
    blocks = np.array_split(np.asarray(run.velocities), max(1, len(run.velocities) // 1000))
    squares = [np.sum(np.asarray(b, np.float64) ** 2, axis=-1) @ masses for b in blocks]
    return 0.5 * KINETIC_TO_EV * np.concatenate(squares)


def _check_energy(run: System, times, potential, kinetic, bath: bool) -> list[Check]:
    n_atoms = len(run.masses)
    total = (potential + kinetic) / n_atoms * 1e3
    total = total - total.mean()
    slope, error = (float(x) for x in observables.drift(total, times * 1e-3, N_BLOCKS))
    allowed = ENERGY_DRIFT + 4 * np.nan_to_num(error)
    conserved = None if bath else bool(abs(slope) < allowed)
    expected = "" if bath else f"0 ± {allowed:.3g}"
    difference = float(np.max(np.abs(_kinetic_energies(run) / kinetic - 1)))
    return [
        Check("energy drift", slope, "meV/atom/ps", expected, conserved),
        Check("energy deviation", float(total.std()), "meV/atom", "", None),
        Check(
            "kinetic energy difference",
            difference,
            "",
            f"below {KINETIC_ENERGY}, stored velocities against the engine",
            bool(difference < KINETIC_ENERGY),
        ),
    ]


def _check_temperature(run: System, expected: float | None) -> list[Check]:
    # An isolated molecule of ours does not turn; of somebody's run we do not know.
    turns = run.cell is not None or expected is None
    dof = int(degrees_of_freedom(observables.cut(run, 0), angular=not turns))
    series = 2 * _kinetic_energies(run) / (max(dof, 1) * BOLTZMANN)
    mean, error = (float(x) for x in observables.block_average(series, N_BLOCKS))
    canonical = float(observables.canonical_temperature_deviation(mean, max(dof, 1)))
    spread = Check(
        "temperature deviation", float(series.std()), "K", f"{canonical:.3g} if canonical", None
    )
    if expected is None:
        return [Check("mean temperature", mean, "K", "", None), spread]
    allowed = TEMPERATURE * expected + 4 * np.nan_to_num(error)
    passed = bool(abs(mean - expected) < allowed)
    return [
        Check("mean temperature", mean, "K", f"{expected:g} ± {allowed:.3g}", passed),
        spread,
    ]


def _check_structure(run: System, structure: Atoms | None) -> list[Check]:
    """Density, and the first peak of g(r) of each pair against the start structure's neighbours."""
    volume = abs(np.linalg.det(np.asarray(run.cell, np.float64)))
    density = float(DALTON_PER_CUBIC_ANGSTROM * np.sum(run.masses) / volume)
    checks = [Check("density", density, "g/cm³", "", None)]
    symbols = dict(zip(np.asarray(run.species).tolist(), _symbols(run), strict=True))
    few = observables.cut(run, slice(None, None, max(1, len(run.positions) // RDF_FRAMES)))
    found = list(symbols)
    for i, a in enumerate(found):
        for b in found[i:]:
            radii, g = observables.radial_distribution_function(few, a, b, 6.0, 240)
            peak = _first_peak(np.asarray(radii), np.asarray(g))
            name = f"g(r) first peak {symbols[a]}–{symbols[b]}"
            if structure is None:
                # Of three bins: the largest of many noisy ones is above what it is an estimate of.
                height = float(np.interp(peak, radii, np.convolve(g, np.ones(3) / 3, "same")))
                checks.append(Check(name, peak, "Å", "", None))
                checks.append(Check(name.replace("peak", "height"), height, "", "", None))
                continue
            distance = _nearest(structure, a, b)
            passed = bool(abs(peak - distance) < PEAK)
            checks.append(Check(name, peak, "Å", f"{distance:.3g} ± {PEAK}", passed))
    return checks


def _check_bonds(run: System) -> list[Check]:
    """No bond of the first frame breaks, of molecules; mean bonds and angles, to look at."""
    start = observables.cut(run, 0)
    found = geometry(run, bonded_pairs(start))
    if not found.lengths:
        return []
    whole, expected = found.stretch < BROKEN, f"below {BROKEN}, over covalent radii"
    if is_network(start):  # which may melt
        whole, expected = None, "over covalent radii"
    checks = [Check("longest bond", found.stretch, "", expected, whole)]
    checks += [Check(f"mean bond {k}", x, "Å", "", None) for k, x in found.lengths.items()]
    return checks + [Check(f"mean angle {k}", x, "°", "", None) for k, x in found.angles.items()]


def _check_momenta(run: System) -> list[Check]:
    """The system does not move as a whole and, if isolated, does not turn."""
    masses = np.asarray(run.masses, np.float64)
    linear = angular = 0.0
    for start in range(0, len(run.positions), 1000):
        r, v = (
            np.asarray(x[start : start + 1000], np.float64) for x in (run.positions, run.velocities)
        )
        momenta = masses[:, None] * v
        linear = max(linear, _relative(momenta))
        centre = np.einsum("tai,a->ti", r, masses / masses.sum())
        angular = max(angular, _relative(np.cross(r - centre[:, None], momenta)))
    momenta = {"total momentum": linear}
    if run.cell is None:
        momenta["total angular momentum"] = angular
    expected = f"below {MOMENTUM:g} of the atoms'"
    return [Check(name, x, "", expected, x < MOMENTUM) for name, x in momenta.items()]


def _relative(vectors: np.ndarray) -> float:
    """The largest length of a sum of vectors (time, atom, 3) over the sum of their lengths."""
    total = np.linalg.norm(vectors.sum(axis=1), axis=-1)
    return float(np.max(total / np.linalg.norm(vectors, axis=-1).sum(axis=1)))


def _hold(checks: list[Check], expected: dict) -> list[Check]:
    """The checks, with those that the settings know a value of held against it."""
    names = [check.name for check in checks]
    unknown = [name for name in expected if name not in names]
    if unknown:
        raise ValueError(
            f"reference.expected names '{unknown[0]}', but the checks are: {', '.join(names)}."
        )
    held = []
    for check in checks:
        if check.name in expected:
            value, tolerance = expected[check.name]
            passed = bool(abs(check.value - value) < tolerance)
            check = check._replace(expected=f"{value:g} ± {tolerance:g}", passed=passed)
        held.append(check)
    return held


def _symbols(run: System) -> list[str]:
    return Atoms(np.asarray(run.species)).get_chemical_symbols()


def _first_peak(radii: np.ndarray, g: np.ndarray) -> float:
    """Where g(r) is largest in the first range above 1; NaN if there is none."""
    above = g > 1
    if not above.any():
        return float("nan")
    start = int(np.argmax(above))
    below = np.flatnonzero(~above[start:])
    stop = start + int(below[0]) if len(below) else len(g)
    return float(radii[start + np.argmax(g[start:stop])])


def _nearest(structure: Atoms, a: int, b: int) -> float:
    """Shortest distance between atoms of two species in the start structure, Å."""
    from ase.neighborlist import neighbor_list

    first, second, distances = neighbor_list("ijd", structure, 6.0)
    chosen = (structure.numbers[first] == a) & (structure.numbers[second] == b)
    return float(distances[chosen].min()) if chosen.any() else float("nan")


def _check_crystal(run: System, structure: Atoms) -> list[Check]:
    """Atoms stay at their sites, and the sites are those of the start structure."""
    if run.cell is None or len(structure) != len(run.masses):
        return []
    cell = np.asarray(run.cell, np.float64)
    weights = np.asarray(run.masses, np.float64) / float(np.sum(run.masses))
    positions = np.asarray(run.positions, np.float64)
    positions = positions - np.einsum("tai,a->ti", positions, weights)[:, None]
    sites = positions.mean(axis=0)
    displacement = float(np.sqrt(np.mean(np.sum((positions - sites) ** 2, axis=-1))))
    away = sites - structure.get_scaled_positions() @ cell
    # Relative to atom 0 first: whole cells apart, a mean over atoms would have no meaning.
    away = np.asarray(minimum_image(away - away[0], cell), np.float64)
    away = away - weights @ away
    spacing = float(abs(np.linalg.det(cell)) / len(weights)) ** (1 / 3)
    farthest = float(np.max(np.linalg.norm(away, axis=-1)))
    moves, shifts = LINDEMANN * spacing, SITE * spacing
    return [
        Check(
            "RMS displacement from sites",
            displacement,
            "Å",
            f"below {moves:.2f}",
            displacement < moves,
        ),
        Check(
            "farthest site from the start", farthest, "Å", f"below {shifts:.2f}", farthest < shifts
        ),
    ]
