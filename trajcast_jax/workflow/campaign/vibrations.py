"""The stiffest vibration of a system, and whether the frames of its trajectories resolve it.

Atoms are put into classes by their element and those of the atoms bonded to them, so that a rare
stiff bond (one O–H in a large molecule) has a spectrum of its own.
"""

from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float, Int

from trajcast_jax.analysis.bonds import NONMETALS, bonded_pairs
from trajcast_jax.analysis.observables import cut, nyquist_wavenumber
from trajcast_jax.system import System
from trajcast_jax.units import WAVENUMBER_PER_INVERSE_FEMTOSECOND

SEGMENT = 4_000.0
"""fs, longest window of a spectrum."""
SEGMENTS = 8
"""Largest number of windows of a run."""
ATOMS = 64
"""Largest number of atoms of a class, in a run."""
BELOW = 0.99
"""Share of the velocities' power of a class that lies below its highest wavenumber. A bond has
about a third of the power of its lighter atom; anharmonic overtones and the tails of the spectra
of liquids have less than a hundredth."""
SLOWEST = 3
"""Number of lowest frequencies that are not compared: the window changes them."""
FOLDED = 0.03
"""Share of the velocities' power that positions may miss. Rounding and anharmonic motion miss
less, and a vibration that is folded has more."""
NEAR_NYQUIST = 0.85
"""Wavenumber over the Nyquist limit above which a spectrum that goes so far may go on."""


class Stiffest(NamedTuple):
    """The stiffest vibration that trajectories show."""

    wavenumber: float
    """cm⁻¹, below which `BELOW` of the power of each class of atoms lies; less one frequency of the
    grid, as the window broadens lines by so much. If it is not resolved,
    this is a guess, mostly too low, from how far positions move at the velocities' power."""
    atoms: str
    """Class of the atoms that reach it: "H bonded to O"."""
    folded: float
    """Largest share of the power of a class that belongs to vibrations faster than the Nyquist
    limit of the frames: positions move less than velocities at that wavenumber would move them."""
    resolved: bool
    """Whether the wavenumber can be trusted; if not, the true one is probably higher."""

    @property
    def period(self) -> float:
        """Period (fs) of this vibration."""
        return WAVENUMBER_PER_INVERSE_FEMTOSECOND / self.wavenumber


class _Power(NamedTuple):
    """Power over frequency of a class of atoms, not normalised."""

    velocities: Float[np.ndarray, "frequency"]
    squares: Float[np.ndarray, "frequency"]
    """That of the positions."""


def stiffest(runs: list[System], interval: float) -> Stiffest:
    """Find the stiffest vibration in runs with frames `interval` fs apart.

    For a resolved motion, the power of the velocities at each frequency is ω² times that of the
    positions. A vibration above the Nyquist limit appears at a lower frequency, where its
    velocities are too large for its displacements. This tells folded spectra from others.
    """
    length = min([len(run.positions) for run in runs] + [max(32, round(SEGMENT / interval))])
    length -= length % 2
    frequencies = np.fft.rfftfreq(length, interval)
    powers: dict[str, _Power] = {}
    for run in runs:
        for name, atoms in classes(cut(run, 0)).items():
            found = _power(run, _some(atoms, ATOMS), length)
            known = powers.get(name, _Power(np.zeros(1), np.zeros(1)))
            powers[name] = _Power(*(a + b for a, b in zip(known, found, strict=True)))
    highest, folded = {}, {}
    for name, power in powers.items():
        total = max(power.velocities.sum(), 1e-300)
        share = np.cumsum(power.velocities) / total
        highest[name] = float(np.interp(BELOW, share, frequencies) - frequencies[1])
        own = power.velocities[SLOWEST:].sum()
        implied = ((2 * np.pi * frequencies) ** 2 * power.squares)[SLOWEST:].sum()
        folded[name] = float(np.clip((own - implied) / total, 0, 1))
    name, worst = max(highest, key=highest.get), max(folded.values())
    limit = NEAR_NYQUIST * nyquist_wavenumber(interval) / WAVENUMBER_PER_INVERSE_FEMTOSECOND
    resolved = worst < FOLDED and highest[name] < limit
    if not resolved:
        highest = {key: max(highest[key], _unfolded(powers[key])) for key in highest}
        name = max(highest, key=highest.get)
    wavenumber = highest[name] * WAVENUMBER_PER_INVERSE_FEMTOSECOND
    return Stiffest(max(wavenumber, 1.0), name, worst, resolved)


def _unfolded(power: _Power) -> float:
    """Highest frequency (1/fs) by the ratio of velocities to displacements, where folded."""
    own, squares = (x[SLOWEST:] for x in (power.velocities, power.squares))
    frequencies = np.sqrt(own / np.maximum(squares, 1e-300)) / (2 * np.pi)
    order = np.argsort(frequencies)
    share = np.cumsum(own[order]) / max(own.sum(), 1e-300)
    return float(frequencies[order][np.searchsorted(share, BELOW)])


def classes(frame: System) -> dict[str, Int[np.ndarray, "selected"]]:
    """Atoms by element and bonded elements, such as "O bonded to H H".

    Only bonds of nonmetals count: those of metals and ions come and go.
    """
    species = np.asarray(frame.species)
    around: dict[int, list[int]] = {i: [] for i in np.flatnonzero(np.asarray(frame.mask)).tolist()}
    bonds = bonded_pairs(frame)
    for i, j in bonds[np.isin(species[bonds], NONMETALS).all(axis=1)].tolist():
        around[i].append(int(species[j]))
        around[j].append(int(species[i]))
    found: dict[str, list[int]] = {}
    for i, others in around.items():
        symbols = " ".join(chemical_symbols[z] for z in sorted(others, reverse=True))
        name = chemical_symbols[species[i]] + (f" bonded to {symbols}" if symbols else "")
        found.setdefault(name, []).append(i)
    return {name: np.array(atoms) for name, atoms in found.items()}


def _some(values: np.ndarray, most: int) -> np.ndarray:
    return values[:: -(-len(values) // most)]


def _power(run: System, atoms, length: int) -> _Power:
    frames = len(run.positions)
    starts = np.arange(0, frames - length + 1, length // 2)
    window = np.hanning(length + 1)[:-1, None, None]
    ramp = np.linspace(-1.0, 1.0, length)[:, None, None]
    totals = np.zeros((2, length // 2 + 1))
    positions, velocities = np.asarray(run.positions), np.asarray(run.velocities)
    for start in _some(starts, SEGMENTS).tolist():
        rows = slice(start, start + length)
        x = np.asarray(positions[rows, atoms], np.float64)
        v = np.asarray(velocities[rows, atoms], np.float64)
        x = x - x.mean(axis=0)
        x = x - ramp * (ramp * x).sum(axis=0) / (ramp**2).sum()
        spectra = (np.abs(np.fft.rfft(window * y, axis=0)) ** 2 for y in (v, x))
        totals += [s.sum(axis=(1, 2)) for s in spectra]
    return _Power(*totals)
