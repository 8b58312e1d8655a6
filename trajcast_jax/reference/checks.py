"""Physical checks of reference runs."""

from pathlib import Path

import numpy as np
from ase import Atoms

from trajcast_jax import averages
from trajcast_jax.analysis import observables
from trajcast_jax.analysis.bonds import BROKEN, bonded_pairs, geometry, is_network
from trajcast_jax.config import ReferenceSettings
from trajcast_jax.io import read_observables, read_trajectory
from trajcast_jax.mechanics import degrees_of_freedom
from trajcast_jax.reference.atoms import check_atoms
from trajcast_jax.reference.check import Check
from trajcast_jax.reference.equipartition import check_equipartition
from trajcast_jax.reference.structure import build_structure, is_crystal
from trajcast_jax.reference.velocities import (
    ROUGH,
    VELOCITY_LAG,
    check_intervals,
    check_velocities,
    velocity_lag_and_scale,
    velocity_scale_by_simpson,
)
from trajcast_jax.system import System, minimum_image
from trajcast_jax.units import BOLTZMANN, DALTON_PER_CUBIC_ANGSTROM, KINETIC_TO_EV

ENERGY_DRIFT = 0.02  # meV/atom/ps
TEMPERATURE = 0.03  # relative deviation of the mean, beyond four standard errors
KINETIC_ENERGY = 1e-4  # relative difference of stored velocities and the engine
PEAK = 0.2  # Å
LINDEMANN = 0.13
"""Largest RMS displacement from mean sites, in units of the cube root of the volume per atom."""
SITE = 0.2
"""Largest distance of a mean site from its site in the start structure, in the same unit."""
__all__ = ["ROUGH", "check_run", "velocity_lag_and_scale", "velocity_scale_by_simpson"]
N_BLOCKS = 10
RDF_FRAMES = 300
MOMENTUM = 1e-5  # total momentum, relative to the sum of the atoms' absolute momenta
LARGE_MOMENTUM = 1e-3
"""Above this, a model would learn the translation or rotation of the run. Forces from quantum
chemistry, which are converged to a tolerance, give about 1e-5."""


def check_run(path: str | Path, settings: ReferenceSettings | None = None) -> list[Check]:
    """Do all checks that apply to a run file; without `settings`, those for any trajectory."""
    run, times = read_trajectory(path)
    energies = read_observables(path)
    bath = settings is not None and settings.ensemble != "nve"
    # A thermostat scales velocities at the end of a step; positions follow in the next step.
    lag = VELOCITY_LAG + (settings.time_step if bath else 0.0)
    checks = check_velocities(run, times, lag) + check_intervals(run, times)
    checks += check_atoms(run, times)
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
    checks += check_equipartition(run.velocities, run.species, run.masses)
    if settings is None:  # imported trajectories may translate and rotate
        return checks
    return _hold(checks + _check_momenta(run), settings.expected)


def _kinetic_energies(run: System) -> np.ndarray:
    """Kinetic energies (time,) in eV, in double precision."""
    masses = np.asarray(run.masses, np.float64)
    blocks = np.array_split(np.asarray(run.velocities), max(1, len(run.velocities) // 1000))
    squares = [np.sum(np.asarray(b, np.float64) ** 2, axis=-1) @ masses for b in blocks]
    return 0.5 * KINETIC_TO_EV * np.concatenate(squares)


def _check_energy(run: System, times, potential, kinetic, bath: bool) -> list[Check]:
    n_atoms = len(run.masses)
    total = (potential + kinetic) / n_atoms * 1e3
    total = total - total.mean()
    slope, error = (float(x) for x in averages.drift(total, times * 1e-3, N_BLOCKS))
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
    # Isolated molecules of our own runs do not rotate; those of imported runs may.
    turns = run.cell is not None or expected is None
    dof = int(degrees_of_freedom(observables.cut(run, 0), angular=not turns))
    series = 2 * _kinetic_energies(run) / (max(dof, 1) * BOLTZMANN)
    mean, error = (float(x) for x in averages.block_average(series, N_BLOCKS))
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
    """Density, and first peaks of g(r) compared with neighbour distances of the structure."""
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
                # Smooth over three bins, because the maximum of many noisy bins is biased upwards.
                height = float(np.interp(peak, radii, np.convolve(g, np.ones(3) / 3, "same")))
                checks.append(Check(name, peak, "Å", "", None))
                checks.append(Check(name.replace("peak", "height"), height, "", "", None))
                continue
            distance = _nearest(structure, a, b)
            passed = bool(abs(peak - distance) < PEAK)
            checks.append(Check(name, peak, "Å", f"{distance:.3g} ± {PEAK}", passed))
    return checks


def _check_bonds(run: System) -> list[Check]:
    """Check that no bond of a molecule breaks; also list mean bond lengths and angles."""
    start = observables.cut(run, 0)
    found = geometry(run, bonded_pairs(start))
    if not found.lengths:
        return []
    whole, expected = found.stretch < BROKEN, f"below {BROKEN}, over covalent radii"
    if is_network(start):  # it may melt
        whole, expected = None, "over covalent radii"
    checks = [Check("longest bond", found.stretch, "", expected, whole)]
    checks += [Check(f"mean bond {k}", x, "Å", "", None) for k, x in found.lengths.items()]
    return checks + [Check(f"mean angle {k}", x, "°", "", None) for k, x in found.angles.items()]


def _check_momenta(run: System) -> list[Check]:
    """Check that the system does not translate and, if isolated, does not rotate."""
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
    return [
        Check(name, x, "", expected, x < MOMENTUM, x >= LARGE_MOMENTUM)
        for name, x in momenta.items()
    ]


def _relative(vectors: np.ndarray) -> float:
    """Largest ratio, over time, of |Σ v| to Σ|v| of vectors v (time, atom, 3)."""
    total = np.linalg.norm(vectors.sum(axis=1), axis=-1)
    return float(np.max(total / np.linalg.norm(vectors, axis=-1).sum(axis=1)))


def _hold(checks: list[Check], expected: dict) -> list[Check]:
    """Compare checks with the values in `expected`; unknown names raise a ValueError."""
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
            check = check._replace(
                expected=f"{value:g} ± {tolerance:g}", passed=passed, serious=True
            )
        held.append(check)
    return held


def _symbols(run: System) -> list[str]:
    return Atoms(np.asarray(run.species)).get_chemical_symbols()


def _first_peak(radii: np.ndarray, g: np.ndarray) -> float:
    """Position (Å) of the maximum of g(r) in the first range above 1; NaN if there is none."""
    above = g > 1
    if not above.any():
        return float("nan")
    start = int(np.argmax(above))
    below = np.flatnonzero(~above[start:])
    stop = start + int(below[0]) if len(below) else len(g)
    return float(radii[start + np.argmax(g[start:stop])])


def _nearest(structure: Atoms, a: int, b: int) -> float:
    """Shortest distance (Å) between atoms of two species in the start structure."""
    from ase.neighborlist import neighbor_list

    first, second, distances = neighbor_list("ijd", structure, 6.0)
    chosen = (structure.numbers[first] == a) & (structure.numbers[second] == b)
    return float(distances[chosen].min()) if chosen.any() else float("nan")


def _check_crystal(run: System, structure: Atoms) -> list[Check]:
    """Check that atoms stay at their sites, and that these are the sites of the structure."""
    if run.cell is None or len(structure) != len(run.masses):
        return []
    cell = np.asarray(run.cell, np.float64)
    weights = np.asarray(run.masses, np.float64) / float(np.sum(run.masses))
    positions = np.asarray(run.positions, np.float64)
    positions = positions - np.einsum("tai,a->ti", positions, weights)[:, None]
    sites = positions.mean(axis=0)
    displacement = float(np.sqrt(np.mean(np.sum((positions - sites) ** 2, axis=-1))))
    away = sites - structure.get_scaled_positions() @ cell
    # Subtract atom 0 first, because a mean over atoms in different images would be meaningless.
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
