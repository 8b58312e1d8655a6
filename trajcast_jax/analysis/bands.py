"""Temperatures of bands of modes: whether every kind of vibration has its share of the energy.

A band is a tenth of the modes of a crystal or a molecule (`modes`), from the softest to the
stiffest. Single modes are too noisy to be judged.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from trajcast_jax.analysis.bonds import bonded_pairs
from trajcast_jax.analysis.modes import (
    InternalModes,
    NormalModes,
    internal_modes,
    lattice_translations,
    mode_temperatures,
    normal_modes,
)
from trajcast_jax.analysis.observables import cut
from trajcast_jax.analysis.scores import of_blocks, pair
from trajcast_jax.system import System

BANDS = 10
"""Largest number of bands."""
COORDINATES = 20_000_000
"""Numbers of all frames of the reference that are used for modes; 160 MB in double precision."""
FRAMES = 20_000
"""Number of frames, at most, that are used for modes and temperatures."""
FEWEST = 20
"""Smallest number of frames per coordinate. Each unit cell of a crystal counts as a frame."""
ENOUGH_MODES = 8
"""Modes of a band from whose scatter its error is known."""


class Bands(NamedTuple):
    """Bands of the modes of a reference, and their temperatures there."""

    species: Int[np.ndarray, "atom"]
    modes: NormalModes | InternalModes
    members: list[Int[np.ndarray, "mode"]]
    reference: Float[np.ndarray, "run band"]
    """K, in every reference run."""


def modes_of(runs: list[System], torsions: bool = True) -> NormalModes | InternalModes:
    """Normal modes of a crystal, or modes of the distances and dihedral angles of a molecule."""
    if runs[0].cell is None:
        return internal_modes(runs, bonded_pairs(cut(runs[0], 0)), torsions=torsions)
    return normal_modes(runs)


def find_bands(runs: list[System]) -> Bands:
    """Find the modes in reference runs and their bands.

    Raises:
      ValueError: the runs are too short for modes, or a molecule has no bonds.
    """
    first = runs[0]
    if first.cell is None and not len(bonded_pairs(cut(first, 0))):
        raise ValueError("there are no bonds, so that there are no modes of a molecule")
    size = 3 * len(first.masses)
    kept = [thinned(run, frames_of_run(first, len(runs))) for run in runs]
    frames = sum(len(run.positions) for run in kept)
    if frames < FEWEST * size and frames * _copies(kept[0]) < FEWEST * size:
        raise ValueError(f"{frames} frames of reference are too few for {size} modes")
    modes = modes_of(kept)
    count = len(modes.wavenumbers)
    if not count:
        raise ValueError("there is nothing that vibrates")
    members = np.array_split(np.arange(count), min(BANDS, count))
    found = [_means(run, modes, members) for run in kept]
    return Bands(np.asarray(first.species), modes, members, np.stack(found))


def frames_of_run(system: System, runs: int) -> int:
    """Number of frames of each of several reference runs that `find_bands` uses."""
    return min(FRAMES, COORDINATES // (3 * len(system.masses))) // runs


def compare_bands(run: System, bands: Bands, n_blocks: int) -> dict:
    """Mean temperatures (K) of all bands in a run and in the reference, as part of a report.

    The standard error of a band is that of blocks of time, or that from the scatter of its modes,
    if this is larger: a mode may keep its energy for longer than a block. In silicon, 65 modes at
    93 to 162 cm⁻¹ had 803 to 1356 K in six forecasts of 25 ps, with 12 to 27 K from blocks of
    2 ps and 75 to 107 K from the modes.

    Args:
      run: a trajectory after equilibration.
      bands: those of the reference.
      n_blocks: number of blocks of time for standard errors.
    """
    run = thinned(run, FRAMES)
    length = max(1, len(run.positions) // n_blocks)
    starts = range(0, length * n_blocks, length)
    parts = [cut(run, slice(k, k + length)) for k in starts if k < len(run.positions)]
    blocks = np.stack([mode_temperatures(part, bands.modes) for part in parts])
    found = {}
    for k, members in enumerate(bands.members):
        kelvin = blocks[:, members]
        mean, error = of_blocks(kelvin.mean(axis=1))
        if len(members) >= ENOUGH_MODES:
            scatter = kelvin.mean(axis=0).std(ddof=1) / len(members) ** 0.5
            error = np.fmax(error, scatter)
        ends = bands.modes.wavenumbers[members[[0, -1]]]
        name = "–".join(f"{x:.0f}" for x in ends)
        found[name if name not in found else f"{name} ({k})"] = {
            "modes": len(members),
            **pair("mean_K", mean, error),
            **pair("reference_mean_K", *of_blocks(bands.reference[:, k])),
        }
    weights = np.array([len(members) for members in bands.members])
    mean = bands.reference.mean(axis=0) @ weights / weights.sum()
    return {"bands": found, "reference_K": float(mean)}


def _copies(run: System) -> int:
    """Number of lattice translations of a crystal; 1 for a molecule."""
    if run.cell is None:
        return 1
    centers = np.asarray(run.positions, np.float64).mean(axis=0)
    return len(lattice_translations(centers, np.asarray(run.cell), np.asarray(run.species)))


def _means(run: System, modes, members) -> Float[np.ndarray, "band"]:
    kelvin = mode_temperatures(run, modes)
    return np.array([kelvin[band].mean() for band in members])


def thinned(run: System, frames: int) -> System:
    """At most `frames` evenly spaced frames of a run, copied to the host."""
    kept = cut(run, slice(None, None, -(-len(run.positions) // max(1, frames))))
    return jax.tree.map(np.array, kept)
