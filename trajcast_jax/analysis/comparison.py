"""The parts of a report: when a forecast fails, and how it compares with the reference before.

Every part is a dict of plain numbers that can be written as JSON. `x_error` is the standard error
of `x` from block averages; it is None if there are too few blocks.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from trajcast_jax import averages
from trajcast_jax.analysis import block_observables, observables
from trajcast_jax.analysis.block_observables import Measured
from trajcast_jax.analysis.scores import common, jackknife, number, of_blocks, onto, pair, score
from trajcast_jax.analysis.soft_observables import diffusion_coefficient
from trajcast_jax.config import Experiment
from trajcast_jax.mechanics import momentum, total_mass
from trajcast_jax.neighbors.distances import closest_approach
from trajcast_jax.neighbors.multi_image import images_within
from trajcast_jax.system import System

CLOSEST_ATOMS = 0.5
"""Å. Two atoms of any species that are closer than this have collided."""
HIGHEST = 4.0
"""k_B T. Dihedral angles with a higher free energy in the reference have too few samples."""
SQUARE_ANGSTROM_PER_FS = 0.1
"""1 Å²/fs in cm²/s."""
FAR = 1.0
"""Å², smallest mean squared displacement of an element that diffuses. By Lindemann's rule, a
crystal of atoms 3 to 4 Å apart melts below it."""
TINY = 1e-12
"""Smallest value (any unit) that is a divisor."""


# Failure


class Failure(NamedTuple):
    """The first unphysical frame, and what is wrong with it."""

    frame: int
    reason: str


def first_failure(
    trajectory: System,
    max_temperature: float,
    closest: Mapping[tuple[str, str], float],
    angular: bool = False,
) -> Failure | None:
    """Find the first frame with a NaN, a temperature above `max_temperature` (K), or two atoms
    closer than `closest` (Å, by pair of chemical symbols); None if there is none."""
    finite = np.isfinite(np.asarray(trajectory.positions)).all(axis=(1, 2))
    finite &= np.isfinite(np.asarray(trajectory.velocities)).all(axis=(1, 2))
    kelvin = block_observables.temperatures(trajectory, angular)
    found = []

    def look(bad, reason):
        if bad.any():
            found.append(Failure(int(np.argmax(bad)), reason(int(np.argmax(bad)))))

    look(~finite, lambda _: "a position or velocity is not a number")
    look(
        kelvin > max_temperature,
        lambda i: f"the temperature is {kelvin[i]:.0f} K, above the limit of {max_temperature:g} K",
    )
    if closest:
        near = _closest_approach(trajectory, closest)
        look(near < 1, lambda i: _too_close(observables.cut(trajectory, slice(i, i + 1)), closest))
    return min(found, default=None)


def _closest_approach(
    trajectory: System, limits: Mapping[tuple[str, str], float]
) -> Float[np.ndarray, "time"]:
    """Smallest ratio of a distance to the limit (Å) of its pair of species, in every frame."""
    symbols = block_observables.elements(trajectory)
    order = list(symbols)
    # Pairs without a limit are never too close.
    table = np.full((len(order) + 1,) * 2, 1e-6)
    for a, b in limits:
        table[order.index(a), order.index(b)] = table[order.index(b), order.index(a)] = limits[a, b]
    species = np.asarray(trajectory.species)
    kinds = np.full(len(species), len(order))
    for place, z in enumerate(symbols.values()):
        kinds[species == z] = place
    atoms = observables.select(trajectory)
    images = images_within(trajectory.cell, table.max())
    scaled = closest_approach(
        trajectory.positions,
        trajectory.cell,
        atoms,
        atoms,
        images,
        kinds,
        table.astype(trajectory.positions.dtype),
    )
    return np.asarray(scaled)


def _too_close(frame: System, limits: Mapping[tuple[str, str], float]) -> str:
    """Describe the pair with the smallest ratio of distance to limit, in one frame."""
    (a, b), limit = min(limits.items(), key=lambda item: _closest_approach(frame, dict([item]))[0])
    distance = _closest_approach(frame, {(a, b): limit})[0] * limit
    return f"{a} and {b} are {distance:.2f} Å apart, closer than the limit of {limit:.2f} Å"


def closest_allowed(
    trajectory: System, reference: Measured, fraction: float
) -> dict[tuple[str, str], float]:
    """Distance limits (Å) by pair: `fraction` of the reference's shortest, at least 0.5 Å."""
    limits = {}
    for a, b in block_observables.species_pairs(trajectory):
        shortest = float(np.min(reference.get(f"closest/{a}-{b}", np.inf)))
        limits[a, b] = (
            max(CLOSEST_ATOMS, fraction * shortest) if shortest < np.inf else CLOSEST_ATOMS
        )
    return limits


def criterion(max_temperature: float, limits: Mapping[tuple[str, str], float]) -> str:
    """Describe the criteria of `first_failure` in words."""
    pairs = ", ".join(f"{a}–{b} below {limit:.2f} Å" for (a, b), limit in limits.items())
    return f"NaN, a temperature above {max_temperature:g} K, or a distance {pairs}"


def held_temperature(settings: Experiment) -> float | None:
    """Constant target temperature (K) of the rollout; None for a ramp or constant energy."""
    rollout = settings.rollout
    ramp = rollout.final_temperature not in (None, rollout.temperature)
    return None if ramp or rollout.ensemble == "nve" else rollout.temperature


def temperatures(
    used: System, forecast: Measured, reference: Measured, settings: Experiment, time_step: float
) -> dict:
    """Compare mean, standard deviation and drift of the temperature, and means by species.

    The standard deviation is compared with the canonical T √(2/N_f) if the target is constant.
    """
    n_blocks, angular = settings.evaluation.n_blocks, settings.model.conserve_angular
    series = block_observables.temperatures(used, angular)
    target, dof = held_temperature(settings), int(forecast["degrees_of_freedom"])
    slope = averages.drift(series, np.arange(len(series)) * time_step * 1e-3)
    length = len(series) // n_blocks
    pieces = (series - series.mean())[: length * n_blocks].reshape(n_blocks, length)
    moments = np.stack([pieces.mean(axis=1), (pieces**2).mean(axis=1)], axis=1)
    _, spread = jackknife(moments, lambda m: (m[1] - m[0] ** 2) ** 0.5)
    by_species = jax.tree.map(np.asarray, observables.temperature_by_species(used, angular))
    return {
        "degrees_of_freedom": dof,
        "target_K": target,
        "constant_energy": settings.rollout.ensemble == "nve",
        **pair("mean_K", *averages.block_average(series, n_blocks)),
        **pair("deviation_K", series.std(), spread),
        "expected_deviation_K": (
            observables.canonical_temperature_deviation(target, dof) if target else None
        ),
        **pair("drift_K_per_ps", *slope),
        **pair("reference_mean_K", *of_blocks(reference.get("temperature/all"))),
        **pair("reference_deviation_K", *of_blocks(reference.get("temperature/deviation"))),
        "by_species": {
            symbol: pair("mean_K", *averages.block_average(by_species[z], n_blocks))
            | pair("reference_mean_K", *of_blocks(reference.get(f"temperature/{symbol}")))
            for symbol, z in block_observables.elements(used).items()
        },
    }


def structure(forecast: Measured, reference: Measured) -> dict:
    """Compare g(r) of every pair by the deviation Σ|g − g_ref| / Σ g_ref (%) over all bins.

    Empty bins at short distances do not contribute.

    Raises:
      ValueError: the reference has other bins.
    """
    pairs = {}
    for key in common("rdf/", forecast, reference, but="r"):
        grid, target = forecast["rdf/r"], reference["rdf/r"]
        if len(grid) != len(target) or not np.allclose(grid, target, rtol=1e-4):
            raise ValueError(
                f"The reference's g(r) has {len(target)} bins to {target[-1]:.2f} Å, the settings "
                f"ask for {len(grid)} to {grid[-1]:.2f} Å; measure the reference anew with these."
            )

        def deviation(g, against):
            return 100 * np.abs(g - against).sum() / against.sum()

        pairs[key.removeprefix("rdf/")] = score(
            "deviation_percent", deviation, forecast[key], reference[key]
        )
    return pairs


def vibrations(forecast: Measured, reference: Measured) -> dict:
    """Compare the VDOS of every element by overlap; both are folded at the same Nyquist limit."""
    nyquist = observables.nyquist_wavenumber(float(forecast["time_step"]))
    part = {
        "time_step_fs": float(forecast["time_step"]),
        "nyquist_cm-1": nyquist,
        "resolution_cm-1": float(forecast["vdos/wavenumbers"][1]),
    }
    if not np.isclose(forecast["time_step"], reference["time_step"]):
        return part | {"overlap": {}}
    overlaps = {}
    grid = forecast["vdos/wavenumbers"]
    for key in common("vdos/", forecast, reference, but="wavenumbers"):
        # The grid of a short forecast is coarser than that of the reference.
        target = onto(grid, reference["vdos/wavenumbers"], reference[key])
        overlaps[key.removeprefix("vdos/")] = score(
            "overlap", observables.vdos_overlap, forecast[key], target
        )
    return part | {"overlap": overlaps}


def displacements(forecast: Measured, reference: Measured, periodic: bool = True) -> dict:
    """Compare mean squared displacements (Å²) at the longest common lag, and diffusion.

    The diffusion coefficient (cm²/s) is a sixth of the slope over the second half of the lags. In
    a crystal it is 0 within its error. `diffuses` tells which elements of a `periodic` system
    diffuse in the reference (`diffusing`).
    """
    lags = forecast["msd/times"]
    lags = lags[lags <= reference["msd/times"][-1] * (1 + 1e-6)]
    half = len(lags) // 2

    def last(curve):
        return curve[-1]

    def diffusion(curve):
        return SQUARE_ANGSTROM_PER_FS * diffusion_coefficient(curve[half:], lags[half:])

    def growth(curve, target):
        return 100 * (curve[-1] / max(target[-1], TINY) - 1)

    part, moving = {"lag_ps": float(lags[-1]) * 1e-3}, diffusing(reference) if periodic else []
    for key in common("msd/", forecast, reference, but="times"):
        ours = forecast[key][:, : len(lags)]
        theirs = onto(lags, reference["msd/times"], reference[key])
        part[key.removeprefix("msd/")] = {
            **pair("msd_A2", *jackknife(ours, last)),
            **pair("reference_msd_A2", *jackknife(theirs, last)),
            **pair("diffusion_cm2_per_s", *jackknife(ours, diffusion)),
            **pair("reference_diffusion_cm2_per_s", *jackknife(theirs, diffusion)),
            **score("deviation_percent", growth, ours, theirs),
            "diffuses": key.removeprefix("msd/") in moving,
        }
    return part


def diffusing(reference: Measured) -> list[str]:
    """Elements that diffuse: at least half of their mean squared displacement is linear in time.

    It is above `FAR` at the longest lag too, which vibrations of a crystal do not reach.
    """
    lags = reference["msd/times"]
    half, found = len(lags) // 2, []
    for key in common("msd/", reference, reference, but="times"):
        curve = reference[key].mean(axis=0)
        if not half or curve[-1] < FAR:
            continue
        if 6 * diffusion_coefficient(curve[half:], lags[half:]) * lags[-1] > curve[-1] / 2:
            found.append(key.removeprefix("msd/"))
    return found


def molecules(forecast: Measured, reference: Measured) -> dict:
    """Compare bond lengths (Å), angles (degrees) and free energies of dihedral angles (k_B T).

    Widths of lengths and angles are compared in %. `unmatched` names what was not measured in the
    reference.
    """
    part = {}
    for kind, unit in (("bond", "A"), ("angle", "degrees")):
        part[f"{kind}s"] = {
            key.removeprefix(f"{kind}/"): pair(f"mean_{unit}", *of_blocks(forecast[key]))
            | pair(f"reference_mean_{unit}", *of_blocks(reference[key]))
            | score(f"difference_{unit}", np.subtract, forecast[key], reference[key])
            for key in common(f"{kind}/", forecast, reference)
        }
    part["widths"] = {
        key.partition("/")[2]: score("deviation_percent", _percent, forecast[key], reference[key])
        for kind in ("bond_width/", "angle_width/")
        for key in common(kind, forecast, reference)
    }
    part["dihedrals"] = {
        key.removeprefix("dihedral/"): score(
            "deviation_kT", free_energy_deviation, forecast[key], reference[key]
        )
        for key in common("dihedral/", forecast, reference, but="degrees")
    }
    kinds = {
        "bond/": "bond lengths",
        "angle/": "angles",
        "bond_width/": "widths of bonds and angles",
        "dihedral/": "torsions",
    }
    part["unmatched"] = [
        name
        for kind, name in kinds.items()
        if any(key.startswith(kind) for key in forecast.keys() - reference.keys())
    ]
    stretch = reference.get("stretch/all")
    part["reference_stretch"] = None if stretch is None else number(np.max(stretch))
    return part


def _percent(value: float, reference: float) -> float:
    return 100 * (value / max(reference, TINY) - 1)


def free_energy_deviation(
    density: Float[np.ndarray, "bin"], reference: Float[np.ndarray, "bin"]
) -> float:
    """Mean absolute difference (k_B T) of the free energies −ln p of two densities.

    Bins up to HIGHEST above the reference's minimum are used, after aligning the mean free
    energies there. The result is infinite if `density` is 0 in one of these bins.
    """
    used = reference > reference.max() * np.exp(-HIGHEST)
    if (density[used] <= 0).any():
        return float("inf")
    difference = np.log(reference[used]) - np.log(density[used])
    return float(np.abs(difference - difference.mean()).mean())


def speeds(forecast: Measured, reference: Measured) -> dict:
    """Largest difference (%) of cumulative speed distributions from Maxwell–Boltzmann's."""
    return {
        key.removeprefix("speed/"): pair("distance_percent", *of_blocks(100 * forecast[key]))
        | pair("reference_distance_percent", *of_blocks(100 * reference[key]))
        for key in common("speed/", forecast, reference)
    }


def motion(used: System) -> dict:
    """Largest total momentum (Da·Å/fs) and largest speed of the centre of mass (Å/fs)."""
    momenta = np.asarray(observables.over_time(momentum, used))
    largest = float(np.linalg.norm(momenta, axis=-1).max())
    return {
        "largest_momentum": largest,
        "largest_center_of_mass_speed": largest / float(total_mass(used)),
    }
