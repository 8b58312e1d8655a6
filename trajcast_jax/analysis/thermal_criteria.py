"""Criteria of a verdict for failure and energy: temperatures, bands of modes, potential energy."""

from collections.abc import Iterator
from itertools import combinations

from trajcast_jax.analysis.criteria import CERTAIN, Criterion, Unchecked, decide, with_error
from trajcast_jax.units import BOLTZMANN

TEMPERATURE = 0.01
"""Largest deviation of the mean temperature, relative to the target (3 K at 300 K)."""
SPECIES = 1 / 30
"""Largest difference of the mean temperatures of two elements, relative to the mean of all atoms
(10 K at 300 K)."""
DRIFT = 1 / 30
"""Largest temperature change over a forecast at constant energy, relative to the mean."""
BANDS = 0.15
"""Largest deviation of the temperature of a band of modes, relative to the target. A good model has
0.05."""
POTENTIAL = 0.05
"""Largest deviation of the mean potential energy per atom, in k_B T. A harmonic solid that is 10 K
too hot at 300 K has it."""


def failure(report: dict) -> Criterion:
    """Judge that nothing failed."""
    time, reason = report["failure"]["time_ps"], report["failure"]["reason"]
    found = "none" if time is None else f"after {time:.2f} ps, {reason}"
    return Criterion(
        "failure", found, "none", "–", time is None, ratio=0.0 if time is None else None
    )


def temperature(report: dict) -> Iterator[Criterion]:
    """Judge the mean temperature, or the drift at constant energy; a ramp is not judged."""
    part = report["temperature"]
    mean, error, target = part["mean_K"], part["mean_K_error"], part["target_K"]
    noise = with_error(part["reference_mean_K"], part["reference_mean_K_error"], ".1f", " K")
    if target is not None:
        limit = TEMPERATURE * target
        passed = decide(abs(mean - target), error, limit)
        yield Criterion(
            "mean temperature",
            with_error(mean, error, ".1f", " K"),
            f"{target:g} ± {limit:.3g} K",
            noise,
            passed,
            "" if passed is not None else "the forecast is too short for a mean so exact",
            abs(mean - target) / limit,
        )
    elif part["constant_energy"] and part["drift_K_per_ps"] is not None:
        duration = report["measured_to_ps"] - report["measured_from_ps"]
        change, limit = duration * part["drift_K_per_ps"], DRIFT * mean
        passed = decide(abs(change), duration * (part["drift_K_per_ps_error"] or 0.0), limit)
        yield Criterion(
            "drift at constant energy",
            f"{change:+.1f} K in {duration:.4g} ps",
            f"± {limit:.3g} K",
            noise,
            passed,
            "" if passed is not None else "fluctuations are larger than the drift allowed",
            abs(change) / limit,
        )


def species(report: dict) -> Iterator[Criterion]:
    """Judge the two elements with the largest difference of means minus `CERTAIN` errors."""
    part = report["temperature"]
    own = {k: (x["mean_K"], x["mean_K_error"] or 0.0) for k, x in part["by_species"].items()}
    found = []
    for (a, (hot, e)), (b, (cold, f)) in combinations(own.items(), 2):
        error = (e**2 + f**2) ** 0.5
        found.append((abs(hot - cold) - CERTAIN * error, abs(hot - cold), error, a, b))
    if not found:
        return
    _, difference, error, a, b = max(found)
    limit = SPECIES * part["mean_K"]
    passed = decide(difference, error, limit)
    yield Criterion(
        "temperatures of elements",
        f"{a} {own[a][0]:.1f}, {b} {own[b][0]:.1f} K: {difference:.1f} ± {error:.1f} K apart",
        f"{limit:.3g} K apart",
        ", ".join(
            f"{k} {x['reference_mean_K']:.1f}"
            for k, x in part["by_species"].items()
            if x["reference_mean_K"] is not None
        )
        or "–",
        passed,
        "" if passed is not None else "the forecast is too short for means so exact",
        max(row[1] for row in found) / limit,
    )


def bands(report: dict) -> Iterator[Criterion | Unchecked]:
    """Judge the band of modes whose temperature is furthest from the target.

    A band that is off is not decided if the reference's own is off likewise, as in runs at constant
    energy that are too short to distribute it.
    """
    name, part = "temperatures of modes", report.get("modes")
    if not part or not part["bands"]:
        yield Unchecked(name, (part or {}).get("why", "there are no reference runs at hand"))
        return
    kelvin = report["temperature"]["target_K"] or report["temperature"]["mean_K"]
    limit, rows = BANDS * kelvin, []
    for band, own in part["bands"].items():
        off, there = own["mean_K"] - kelvin, own["reference_mean_K"] - part["reference_K"]
        passed, why = decide(abs(off), own["mean_K_error"], limit), ""
        if passed is None:
            why = "the forecast is too short for means so exact"
        elif not passed and off * there > 0 and abs(there) > BANDS * part["reference_K"]:
            passed, why = None, "the reference's own modes are as far off; it is too short"
        rows.append((passed, abs(off) / limit, band, own, why))
    order = {False: 0, None: 1, True: 2}
    passed, ratio, band, own, why = min(rows, key=lambda row: (order[row[0]], -row[1]))
    yield Criterion(
        name,
        f"{band} cm⁻¹: {with_error(own['mean_K'], own['mean_K_error'], '.1f', ' K')}",
        f"{kelvin:.4g} ± {limit:.3g} K",
        f"{own['reference_mean_K']:.1f} K",
        passed,
        why,
        ratio,
    )


def energy(report: dict) -> Iterator[Criterion | Unchecked]:
    """Judge the mean potential energy, which the engine of the reference has computed."""
    name, mean = "potential energy", report.get("potential_energy_eV")
    if mean is None:
        why = "the engine of the reference has computed none; evaluate --energies N"
        yield Unchecked(name, why)
        return
    part, theirs = report["temperature"], report["reference_potential_energy_eV"]
    thermal = report["n_atoms"] * BOLTZMANN * (part["target_K"] or part["mean_K"])
    errors = [
        (report.get(f"{whose}potential_energy_eV_error") or 0.0) / thermal
        for whose in ("", "reference_")
    ]
    off, error = (mean - theirs) / thermal, (errors[0] ** 2 + errors[1] ** 2) ** 0.5
    passed = decide(abs(off), error, POTENTIAL)
    yield Criterion(
        name,
        f"{off:+.3f} ± {error:.2g} k_B T per atom off",
        f"{POTENTIAL:g} k_B T per atom off",
        with_error(theirs, report.get("reference_potential_energy_eV_error"), ".5g", " eV"),
        passed,
        "" if passed is not None else "there are too few frames for a mean so exact",
        abs(off) / POTENTIAL,
    )
