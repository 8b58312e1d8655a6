"""The parts of a report: when a forecast fails, and what it gets right until then.

Every part is a dict of plain numbers that go to JSON. `x_error` is the standard error of
`x` from blocks of time; None where there are too few blocks.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from trajcast_jax import measurement, observables
from trajcast_jax.config import Experiment
from trajcast_jax.images import images_within
from trajcast_jax.measurement import Measured
from trajcast_jax.mechanics import momentum, total_mass
from trajcast_jax.pairs import closest_approach
from trajcast_jax.soft_observables import diffusion_coefficient
from trajcast_jax.system import System

CLOSEST_ATOMS = 0.5
"""Å; whatever they are, two atoms closer than this have collided."""
HIGHEST = 4.0
"""k_B T; where a torsion's free energy is higher in the reference, too few frames have been."""
SQUARE_ANGSTROM_PER_FS = 0.1
"""1 Å²/fs in cm²/s."""


# Failure


class Failure(NamedTuple):
    """The first frame that is no longer physics, and what is wrong with it."""

    frame: int
    reason: str


def first_failure(
    trajectory: System,
    max_temperature: float,
    closest: Mapping[tuple[str, str], float],
    angular: bool = False,
) -> Failure | None:
    """The first frame with a NaN, a temperature above `max_temperature` (K), or two atoms closer
    than `closest` (Å, by pair of chemical symbols); None if there is none."""
    finite = np.isfinite(np.asarray(trajectory.positions)).all(axis=(1, 2))
    finite &= np.isfinite(np.asarray(trajectory.velocities)).all(axis=(1, 2))
    kelvin = measurement.temperatures(trajectory, angular)
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
    """The smallest distance between atoms of any of the pairs, over the limit of the pair."""
    symbols = measurement.elements(trajectory)
    order = list(symbols)
    # A pair without a limit is never too close.
    table = np.full((len(order) + 1,) * 2, 1e-6)
    for a, b in limits:
        table[order.index(a), order.index(b)] = table[order.index(b), order.index(a)] = limits[a, b]
    species = np.asarray(trajectory.species)
    kinds = np.full(len(species), len(order))
    for place, z in enumerate(symbols.values()):
        kinds[species == z] = place
    atoms = jnp.asarray(observables.select(trajectory))
    images = jnp.asarray(images_within(trajectory.cell, table.max()))
    scaled = closest_approach(
        trajectory.positions,
        trajectory.cell,
        atoms,
        atoms,
        images,
        jnp.asarray(kinds),
        jnp.asarray(table, trajectory.positions.dtype),
    )
    return np.asarray(scaled)


def _too_close(frame: System, limits: Mapping[tuple[str, str], float]) -> str:
    """Which pair is closest to, or furthest below, its limit in a trajectory of one frame."""
    (a, b), limit = min(limits.items(), key=lambda item: _closest_approach(frame, dict([item]))[0])
    distance = _closest_approach(frame, {(a, b): limit})[0] * limit
    return f"{a} and {b} are {distance:.2f} Å apart, closer than the limit of {limit:.2f} Å"


def closest_allowed(
    trajectory: System, reference: Measured, fraction: float
) -> dict[tuple[str, str], float]:
    """Per pair of species, `fraction` of the reference's shortest distance, but at least 0.5 Å."""
    limits = {}
    for a, b in measurement.species_pairs(trajectory):
        shortest = float(np.min(reference.get(f"closest/{a}-{b}", np.inf)))
        limits[a, b] = (
            max(CLOSEST_ATOMS, fraction * shortest) if shortest < np.inf else CLOSEST_ATOMS
        )
    return limits


def criterion(max_temperature: float, limits: Mapping[tuple[str, str], float]) -> str:
    """What `first_failure` looks for, in words."""
    pairs = ", ".join(f"{a}–{b} below {limit:.2f} Å" for (a, b), limit in limits.items())
    return f"NaN, a temperature above {max_temperature:g} K, or a distance {pairs}"


def held_temperature(settings: Experiment) -> float | None:
    """The one temperature (K) that the rollout was held at, if it was."""
    rollout = settings.rollout
    ramp = rollout.final_temperature not in (None, rollout.temperature)
    return None if ramp or rollout.ensemble == "nve" else rollout.temperature


def temperatures(
    used: System, forecast: Measured, reference: Measured, settings: Experiment, time_step: float
) -> dict:
    """Mean, deviation and drift of the temperature, and means by species, against the expected.

    The deviation is compared with the canonical T √(2/N_f), where one temperature was held.
    """
    n_blocks, angular = settings.evaluation.n_blocks, settings.model.conserve_angular
    series = jnp.asarray(measurement.temperatures(used, angular))
    target, dof = held_temperature(settings), int(forecast["degrees_of_freedom"])
    slope = observables.drift(series, jnp.arange(len(series)) * time_step * 1e-3)
    length = len(series) // n_blocks
    pieces = (series - series.mean())[: length * n_blocks].reshape(n_blocks, length)
    moments = jnp.stack([pieces.mean(axis=1), (pieces**2).mean(axis=1)], axis=1)
    _, spread = jackknife(moments, lambda m: (m[1] - m[0] ** 2) ** 0.5)
    by_species = observables.temperature_by_species(used, angular)
    return {
        "degrees_of_freedom": dof,
        "target_K": target,
        **_pair("mean_K", *observables.block_average(series, n_blocks)),
        **_pair("deviation_K", series.std(), spread),
        "expected_deviation_K": (
            observables.canonical_temperature_deviation(target, dof) if target else None
        ),
        **_pair("drift_K_per_ps", *slope),
        **_pair("reference_mean_K", *_of_blocks(reference["temperature/all"])),
        **_pair("reference_deviation_K", *_of_blocks(reference["temperature/deviation"])),
        "by_species": {
            symbol: _pair("mean_K", *observables.block_average(by_species[z], n_blocks))
            | _pair("reference_mean_K", *_of_blocks(reference.get(f"temperature/{symbol}")))
            for symbol, z in measurement.elements(used).items()
        },
    }


def structure(forecast: Measured, reference: Measured) -> dict:
    """g(r) by pair: mean absolute deviation Σ|g − g_ref| / Σ g_ref (%) over all bins.

    Bins below the first that is not empty add nothing, so it is over the range from
    there to the largest distance.
    """
    pairs = {}
    for key in _common("rdf/", forecast, reference, but="r"):
        grid, target = forecast["rdf/r"], reference["rdf/r"]
        if len(grid) != len(target) or not np.allclose(grid, target, rtol=1e-4):
            raise ValueError(
                f"The reference's g(r) has {len(target)} bins to {target[-1]:.2f} Å, the settings "
                f"ask for {len(grid)} to {grid[-1]:.2f} Å; measure the reference anew with these."
            )

        def deviation(g, against):
            return 100 * np.abs(g - against).sum() / against.sum()

        pairs[key.removeprefix("rdf/")] = _score(
            "deviation_percent", deviation, forecast[key], reference[key]
        )
    return pairs


def vibrations(forecast: Measured, reference: Measured) -> dict:
    """VDOS by element: the overlap with the reference, both folded at one Nyquist limit."""
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
    for key in _common("vdos/", forecast, reference, but="wavenumbers"):
        # A short forecast resolves less than the reference does.
        target = _onto(grid, reference["vdos/wavenumbers"], reference[key])
        overlaps[key.removeprefix("vdos/")] = _score(
            "overlap", observables.vdos_overlap, forecast[key], target
        )
    return part | {"overlap": overlaps}


def displacements(forecast: Measured, reference: Measured) -> dict:
    """Mean squared displacement by element at the longest common lag, and diffusion.

    The diffusion coefficient is a sixth of the slope over the second half of the lags,
    in cm²/s; in a crystal it is 0 within its error.
    """
    lags = forecast["msd/times"]
    lags = lags[lags <= reference["msd/times"][-1] * (1 + 1e-6)]
    half = len(lags) // 2

    def last(curve):
        return curve[-1]

    def diffusion(curve):
        return SQUARE_ANGSTROM_PER_FS * diffusion_coefficient(curve[half:], lags[half:])

    part = {"lag_ps": float(lags[-1]) * 1e-3}
    for key in _common("msd/", forecast, reference, but="times"):
        ours = forecast[key][:, : len(lags)]
        theirs = _onto(lags, reference["msd/times"], reference[key])
        part[key.removeprefix("msd/")] = {
            **_pair("msd_A2", *jackknife(ours, last)),
            **_pair("reference_msd_A2", *jackknife(theirs, last)),
            **_pair("diffusion_cm2_per_s", *jackknife(ours, diffusion)),
            **_pair("reference_diffusion_cm2_per_s", *jackknife(theirs, diffusion)),
        }
    return part


def molecules(forecast: Measured, reference: Measured) -> dict:
    """Bond lengths (Å), angles (degrees) and free energies of torsions of bonded atoms."""
    part = {}
    for kind, unit in (("bond", "A"), ("angle", "degrees")):
        part[f"{kind}s"] = {
            key.removeprefix(f"{kind}/"): _pair(f"mean_{unit}", *_of_blocks(forecast[key]))
            | _pair(f"reference_mean_{unit}", *_of_blocks(reference[key]))
            | {f"difference_{unit}": number(forecast[key].mean() - reference[key].mean())}
            for key in _common(f"{kind}/", forecast, reference)
        }
    part["dihedrals"] = {
        key.removeprefix("dihedral/"): _score(
            "deviation_kT", free_energy_deviation, forecast[key], reference[key]
        )
        for key in _common("dihedral/", forecast, reference, but="degrees")
    }
    return part


def free_energy_deviation(
    density: Float[np.ndarray, "bin"], reference: Float[np.ndarray, "bin"]
) -> float:
    """Mean absolute difference of the free energies −ln p, in k_B T, of two densities.

    Over the bins up to HIGHEST above the reference's minimum, after both are aligned by their
    means there; infinite where the first density has none of what the other has.
    """
    used = reference > reference.max() * np.exp(-HIGHEST)
    if (density[used] <= 0).any():
        return float("inf")
    difference = np.log(reference[used]) - np.log(density[used])
    return float(np.abs(difference - difference.mean()).mean())


def speeds(forecast: Measured, reference: Measured) -> dict:
    """Largest distance of the cumulative speed distribution from Maxwell and Boltzmann's (%)."""
    return {
        key.removeprefix("speed/"): _pair("distance_percent", *_of_blocks(100 * forecast[key]))
        | _pair("reference_distance_percent", *_of_blocks(100 * reference[key]))
        for key in _common("speed/", forecast, reference)
    }


def motion(used: System) -> dict:
    """The largest total momentum (Da·Å/fs), and speed of the centre of mass (Å/fs)."""
    largest = float(jnp.linalg.norm(observables.over_time(momentum, used), axis=-1).max())
    return {
        "largest_momentum": largest,
        "largest_center_of_mass_speed": largest / float(total_mass(used)),
    }


# Numbers


def number(x) -> float | None:
    """A plain float; None for what is not finite."""
    return float(x) if np.isfinite(x) else None


def jackknife(blocks: Float[ArrayLike, "block ..."], function: Callable) -> tuple:
    """`function` of the mean of the blocks, and its standard error from leaving each out.

    For what is not linear in the blocks, such as an overlap; NaN with one block.
    """
    blocks = np.asarray(blocks)
    n, total = len(blocks), blocks.sum(axis=0)
    left = np.asarray([function((total - block) / max(n - 1, 1)) for block in blocks])
    error = ((n - 1) / n * ((left - left.mean(axis=0)) ** 2).sum(axis=0)) ** 0.5
    return function(total / n), error if n > 1 else np.full_like(error, np.nan)


def _pair(name: str, value, error) -> dict:
    return {name: number(value), f"{name}_error": number(error)}


def _of_blocks(blocks) -> tuple:
    """Mean and standard error of independent blocks, NaN for none."""
    return (
        (np.nan, np.nan)
        if blocks is None
        else observables.block_average(jnp.asarray(blocks), len(blocks))
    )


def _common(prefix: str, a: Measured, b: Measured, but: str = "") -> list[str]:
    return [key for key in a if key.startswith(prefix) and key in b and key != prefix + but]


def _onto(grid, old_grid, curves) -> np.ndarray:
    """Curves (block, point) interpolated from one grid to another."""
    return np.stack([np.interp(grid, old_grid, curve) for curve in curves])


def _score(name: str, function: Callable, ours, theirs) -> dict:
    """`function(forecast, reference)` of two sets of curves (block, point).

    Beside it, as the noise to judge it by, the mean of the same for each block of the
    reference against its others.
    """
    target = theirs.mean(axis=0)
    n, total = len(theirs), theirs.sum(axis=0)
    alike = [function(block, (total - block) / (n - 1)) for block in theirs] if n > 1 else [np.nan]
    value = jackknife(ours, lambda curve: function(curve, target))
    return _pair(name, *value) | {f"{name}_among_reference": number(np.mean(alike))}
