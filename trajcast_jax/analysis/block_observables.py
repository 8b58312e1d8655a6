"""All observables of trajectories, block by block, as a flat dict of arrays.

Forecast and reference are measured by the same code, so the dicts have the same keys. They are
small enough to be stored (`save`, `load`). Arrays have a leading block axis, except grids and
settings. A block is a run or a part of one; standard errors come from the scatter of the blocks.
Keys, for species A and B by chemical symbol:

  time_step                 fs between the frames that are measured
  stored_every              fs between the frames that are stored
  duration                  fs of all trajectories together
  degrees_of_freedom        3N−3 (3N−6 for isolated molecules with conserved angular momentum)
  rdf/r, rdf/A-B            bin centres (Å), g(r)
  closest/A-B               shortest distance (Å), rounded down to a bin of g(r)
  vdos/wavenumbers, vdos/A  cm⁻¹ up to the Nyquist limit of `time_step`, density (cm)
  vdos/all                  the same for all atoms, weighted by mass
  vdos_stored/…             the same up to the Nyquist limit of `stored_every`; no block axis
  msd/times, msd/A          lags (fs), mean squared displacement (Å²)
  temperature/all, /A       mean temperature (K), of all atoms and by species
  temperature/deviation     standard deviation of the temperature over frames (K)
  bond/A–B, angle/A–B–C     mean length (Å), mean angle (degrees) of bonded atoms
  bond_width/A–B, angle_width/A–B–C  standard deviation of a length (Å), of an angle (degrees)
  stretch/all               longest bond in units of the sum of covalent radii
  dihedral/degrees, /A–B–C–D  bin centres, density of a dihedral angle (1/degree)
  speed/A                   Kolmogorov–Smirnov distance of the speed distribution from the
                            Maxwell–Boltzmann distribution at the block's mean temperature
"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from trajcast_jax.analysis import observables
from trajcast_jax.analysis.bonds import bonded_chain, bonded_pairs, geometry
from trajcast_jax.analysis.soft_observables import dihedrals
from trajcast_jax.config import EvaluationSettings
from trajcast_jax.data.pairs import stride
from trajcast_jax.io import read_npz
from trajcast_jax.mechanics import degrees_of_freedom, temperature
from trajcast_jax.system import System
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV

Measured = dict[str, np.ndarray]

FRAMES, DISTANCES = 1_000, 40_000_000
"""By default, g(r) uses this number of frames or of interatomic distances, whichever is more."""
SPEED_BINS = 1_000
DIHEDRAL_BINS = 72


def measure(
    trajectories: Sequence[System],
    stored_every: float,
    time_step: float,
    settings: EvaluationSettings,
    angular: bool = False,
) -> Measured:
    """Measure the observables of trajectories, subsampled to frames `time_step` fs apart.

    With frames Δt apart, a spectrum above 33356/(2Δt) cm⁻¹ folds back below this limit. For a
    comparison of a reference stored every 5 fs with a forecast in strides of 30 fs, only every
    sixth frame of the reference is used, so that both spectra fold alike.

    Args:
      trajectories: unwrapped, with a time axis.
      stored_every: time between their frames, fs.
      time_step: time between the frames to measure, fs; a multiple of `stored_every`.
      settings: bins, lags and number of blocks.
      angular: whether angular momentum is conserved, which removes 3 degrees of freedom.

    Raises:
      ValueError: a trajectory has fewer than 8 frames `time_step` apart.
    """
    every = stride(time_step, stored_every)
    blocks = split(trajectories, stored_every, settings)
    shortest = min(len(block.positions) for block in blocks)
    if shortest // every < 8:
        raise ValueError(
            f"The shortest trajectory has {shortest // every} frames {time_step:g} fs apart, "
            "too few to measure anything; at least 8 are needed."
        )
    # Use the bonds of the very first frame, so that later blocks include broken bonds.
    first = observables.cut(blocks[0], 0)
    bonds = bonded_pairs(first)
    chains = {"–".join(symbols): bonded_chain(first, symbols) for symbols in settings.dihedrals}
    measured = [
        _structure(block, settings, len(blocks))
        | _vibrations(block, shortest, stored_every, every, settings)
        | _displacements(block, shortest, time_step, every, settings)
        | _temperatures(block, angular)
        | _molecules(block, bonds, chains)
        for block in blocks
    ]
    grids = ("rdf/r", "vdos/wavenumbers", "vdos_stored/wavenumbers", "msd/times",
             "dihedral/degrees")  # fmt: skip
    together = {}
    for key in measured[0]:
        values = np.stack([block[key] for block in measured])
        together[key] = values[0] if key in grids else values
        if key.startswith("vdos_stored/") and key not in grids:
            together[key] = values.mean(axis=0)
    return together | {
        "time_step": np.asarray(time_step),
        "stored_every": np.asarray(stored_every),
        "duration": np.asarray(sum(len(t.positions) for t in trajectories) * stored_every),
        "degrees_of_freedom": np.asarray(int(degrees_of_freedom(first, angular=angular))),
    }


def split(
    trajectories: Sequence[System], stored_every: float, settings: EvaluationSettings
) -> list[System]:
    """Split trajectories into at least `n_blocks` blocks, none shorter than a VDOS window.

    Blocks hold NumPy arrays: XLA would compile a program for each way of cutting them.
    """
    wanted = math.ceil(settings.n_blocks / len(trajectories))
    blocks = []
    for trajectory in trajectories:
        trajectory = jax.tree.map(np.asarray, trajectory)
        frames = len(trajectory.positions)
        pieces = max(1, min(wanted, int(frames * stored_every // settings.vdos_segment)))
        length = frames // pieces
        blocks += [
            observables.cut(trajectory, slice(i * length, (i + 1) * length)) for i in range(pieces)
        ]
    return blocks


def elements(system: System) -> dict[str, int]:
    """Atomic numbers by chemical symbol, heaviest first."""
    species = np.asarray(system.species)[np.asarray(system.mask)]
    return {chemical_symbols[z]: int(z) for z in np.unique(species)[::-1]}


def species_pairs(system: System) -> list[tuple[str, str]]:
    """All pairs of chemical symbols for which the system has a pair of atoms (or images)."""
    symbols = elements(system)
    counts = {s: len(observables.select(system, z)) for s, z in symbols.items()}
    return [
        (a, b)
        for a, b in itertools.combinations_with_replacement(symbols, 2)
        if a != b or counts[a] > 1 or system.cell is not None
    ]


def _structure(block: System, settings: EvaluationSettings, n_blocks: int) -> Measured:
    by_default = max(FRAMES, DISTANCES // int(block.mask.sum()) ** 2)
    frames = max(1, (settings.rdf_frames or by_default) // n_blocks)
    block = observables.cut(block, slice(None, None, math.ceil(len(block.positions) / frames)))
    pairs = species_pairs(block)
    asked = {frozenset(pair) for pair in settings.rdf_pairs or pairs}
    if unknown := asked - {frozenset(pair) for pair in pairs}:
        raise ValueError(
            f"Setting 'evaluation.rdf_pairs' asks for {'-'.join(sorted(unknown.pop()))}, but the "
            f"pairs of this system are {', '.join('-'.join(pair) for pair in pairs)}."
        )
    measured = {}
    for a, b in pairs:
        r, g = observables.radial_distribution_function(
            block, atomic_numbers[a], atomic_numbers[b], settings.rdf_max, settings.rdf_bins
        )
        r, g = np.asarray(r), np.asarray(g)
        filled = np.flatnonzero(g)
        measured[f"closest/{a}-{b}"] = np.asarray(r[filled[0]] - r[0] if len(filled) else np.inf)
        if {a, b} in asked:
            measured |= {"rdf/r": r, f"rdf/{a}-{b}": g}
    return measured


def _vibrations(
    block: System, shortest: int, stored_every: float, every: int, settings: EvaluationSettings
) -> Measured:
    """Densities of states at the stride (averaged over offsets) and at the stored interval."""
    measured = {}
    strides = {"vdos": every} | ({"vdos_stored": 1} if every > 1 else {})
    for key, n in strides.items():
        time_step, frames = stored_every * n, len(block.velocities) // n
        velocities = block.velocities[: frames * n].reshape(frames, n, -1, 3)
        segment = min(round(settings.vdos_segment / time_step), shortest // n)
        for symbol, z in {"all": None, **elements(block)}.items():
            atoms = observables.select(block, z)
            weights = block.masses[atoms] if z is None else None
            spectra = [
                observables.vibrational_density_of_states(
                    velocities[:, offset, atoms], time_step, weights, segment
                )
                for offset in range(n)
            ]
            measured[f"{key}/wavenumbers"] = np.asarray(spectra[0][0])
            measured[f"{key}/{symbol}"] = np.mean([np.asarray(s[1]) for s in spectra], axis=0)
    return measured


def _displacements(
    block: System, shortest: int, time_step: float, every: int, settings: EvaluationSettings
) -> Measured:
    lags = min(round(settings.msd_time / time_step), shortest // every // 2) + 1
    # Float64, because the rounding error of the FFT is relative to the largest displacement.
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda x: x.astype(np.float64) if np.issubdtype(x.dtype, np.floating) else x,
            observables.cut(block, slice(None, None, every)),
        )
        curves = {
            f"msd/{symbol}": np.asarray(observables.mean_squared_displacement(wide, z)[:lags])
            for symbol, z in elements(block).items()
        }
    return {"msd/times": np.arange(lags) * time_step, **curves}


def _temperatures(block: System, angular: bool) -> Measured:
    series = temperatures(block, angular)
    kelvin = series.mean()
    measured = {"temperature/all": kelvin, "temperature/deviation": series.std()}
    by_species = observables.temperature_by_species(block, angular)
    for symbol, z in elements(block).items():
        atoms = observables.select(block, z)
        # Conservation of the total momentum reduces the velocity variance by the fraction m/M.
        mass = block.masses[atoms[0]]
        mass = float(mass / max(1 - mass / block.masses.sum(), 1e-6))
        width = (BOLTZMANN * kelvin / (mass * KINETIC_TO_EV)) ** 0.5
        speeds, density = observables.speed_distribution(
            block.velocities[:, atoms], 8 * float(width), SPEED_BINS
        )
        expected = observables.maxwell_boltzmann_density(speeds, mass, float(kelvin))
        differences = np.cumsum(np.asarray(density - expected)) * float(speeds[1] - speeds[0])
        measured[f"temperature/{symbol}"] = np.asarray(by_species[z]).mean()
        measured[f"speed/{symbol}"] = np.abs(differences).max()
    return {key: np.asarray(value) for key, value in measured.items()}


def _molecules(block: System, bonds: np.ndarray, chains: dict[str, tuple[int, ...]]) -> Measured:
    """Mean bond lengths and angles, and densities of dihedral angles."""
    shape = geometry(block, bonds)
    measured = {f"bond/{name}": np.asarray(length) for name, length in shape.lengths.items()}
    measured |= {f"angle/{name}": np.asarray(angle) for name, angle in shape.angles.items()}
    measured |= {f"bond_width/{k}": np.asarray(x) for k, x in shape.length_widths.items()}
    measured |= {f"angle_width/{k}": np.asarray(x) for k, x in shape.angle_widths.items()}
    if len(bonds):
        measured["stretch/all"] = np.asarray(shape.stretch)
    edges = np.linspace(-180.0, 180.0, DIHEDRAL_BINS + 1)
    for name, chain in chains.items():
        degrees = np.degrees(np.asarray(dihedrals(block, [chain])))
        measured["dihedral/degrees"] = (edges[1:] + edges[:-1]) / 2
        measured[f"dihedral/{name}"] = np.histogram(degrees, edges, density=True)[0]
    return measured


def temperatures(trajectory: System, angular: bool = False) -> np.ndarray:
    """Temperature (K) of every frame."""
    dof = degrees_of_freedom(observables.cut(trajectory, 0), angular=angular)
    return np.asarray(_temperatures_of(trajectory, dof))


@jax.jit
def _temperatures_of(trajectory: System, dof):
    return observables.over_time(lambda frame: temperature(frame, dof), trajectory)


def save(path: str | Path, measured: Measured) -> None:
    """Write observables to a compressed .npz file, in single precision."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    arrays = {k: v.astype(np.float32) if v.ndim else v for k, v in measured.items()}
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def load(path: str | Path) -> Measured:
    """The observables in a file that `save` wrote."""
    measured = read_npz(path)
    missing = [
        k for k in ("time_step", "rdf/r", "vdos/wavenumbers", "msd/times") if k not in measured
    ]
    if missing:
        raise ValueError(
            f"{path} holds no '{missing[0]}', so it is no file of reference observables; "
            "make one by python -m experiments.evaluate with --save-reference."
        )
    return measured
