"""Units of LAMMPS's dumps: by the file, by the options, or a question."""

from pathlib import Path

import numpy as np
from ase.data import covalent_radii

from trajcast_jax.io.checks import temperatures_in
from trajcast_jax.io.lammps_text import Frame
from trajcast_jax.io.options import ReadOptions, note
from trajcast_jax.io.species import Elements
from trajcast_jax.units import LAMMPS_UNITS, VELOCITY_UNITS

STATED_BY = {"angstrom/ps": "metal", "angstrom/fs": "real"}
"""Unit style that a unit of velocity implies."""
CONTACT = (0.7, 2.2)
"""Plausible shortest distance between two atoms, over the sum of their covalent radii."""
LIGHTEST = 0.5
"""Largest mass (Da) that is no element's."""
PAIRS = 2_000_000
"""Number of pairs of atoms among which the shortest distance is looked for."""


def stated_units(first: Frame, options: ReadOptions, path: Path) -> str:
    """LAMMPS's unit style by the file or the options; "" if neither tells."""
    said = options.units or STATED_BY.get(options.velocity_unit, "")
    if first.units and first.units not in LAMMPS_UNITS:
        raise ValueError(
            f"{path} is in units {first.units}, of which there are no Å and fs; multiply the dump "
            "by its σ, ε and mass first, and give it as extended XYZ."
        )
    if first.units and options.units and first.units != options.units:
        raise ValueError(
            f"{path} says that it is in units {first.units}, but {options.units} was given; leave "
            "--units out."
        )
    style = first.units or said
    if style:
        speed = VELOCITY_UNITS.get(options.velocity_unit, LAMMPS_UNITS[style][2])
        if not np.isclose(speed, LAMMPS_UNITS[style][2], rtol=1e-4):
            raise ValueError(
                f"{path} is in units {style}, whose velocities are not in {options.velocity_unit}; "
                "leave --velocity-unit out."
            )
    return style


def in_dalton(masses, units: str, path: Path) -> np.ndarray:
    """Masses (atom,) of a dump in the unit style `units` ("": not known) in Da.

    Raises:
      ValueError: the style is not known, and they are too small to be in Da.
    """
    if units:
        return np.asarray(masses) * LAMMPS_UNITS[units][3]
    largest = float(np.max(masses, initial=0.0))
    fit = [name for name, unit in LAMMPS_UNITS.items() if 1 < largest * unit[3] < 300]
    if 0 < largest < LIGHTEST and fit:
        raise ValueError(
            f"{path} gives masses up to {largest:.4g}, which are none in Da, but may be those of "
            f"units {' or '.join(fit)}, which it does not say; say it by units (--units {fit[0]})."
        )
    return np.asarray(masses)


def which_units(raw, elements: Elements, options: ReadOptions, path: Path) -> str:
    """The question for the units, with what the velocities (time, atom, 3) would mean."""
    if options.velocity_unit:
        return (
            f"{path} does not say in which of LAMMPS's units its lengths are; say it by units "
            "(--units metal, real, ...) instead of velocity_unit."
        )
    kelvin = {
        name: float(np.median(temperatures_in(raw * LAMMPS_UNITS[name][2], elements.masses)))
        for name in ("metal", "real")
    }
    return (
        f"{path} does not say in which of LAMMPS's units it is. Its velocities mean "
        f"{kelvin['metal']:.3g} K in units metal (Å/ps) and {kelvin['real']:.3g} K in units real "
        "(Å/fs): which? Say it by units (--units metal or --units real)."
    )


def units_of_lengths(positions, elements: Elements, box, path: Path) -> str:
    """A unit style with the lengths that make sense of the shortest distance, with a word.

    Positions (atom, 3) and the box (3, 3), if periodic, are in the unit that is looked for.

    Raises:
      ValueError: distances make sense in several units of length, or in none.
    """
    ratio = _closest(np.asarray(positions), elements, box)
    lengths = {LAMMPS_UNITS[name][0]: name for name in reversed(LAMMPS_UNITS)}
    fit = [x for x in lengths if CONTACT[0] < x * ratio < CONTACT[1]]
    if len(fit) == 1:
        note(
            f"{path} does not say in which of LAMMPS's units it is; by the shortest distance "
            f"between atoms, lengths are those of units {lengths[fit[0]]} ({fit[0]:g} Å)."
        )
        return lengths[fit[0]]
    what = "no unit" if not fit else "several: " + ", ".join(lengths[x] for x in fit)
    raise ValueError(
        f"{path} does not say in which of LAMMPS's units it is, and distances between its atoms "
        f"make sense in {what}; say it by units (--units metal, real, ...)."
    )


def _closest(positions, elements: Elements, box) -> float:
    """Shortest distance, over the sum of covalent radii (Å), from some atoms to all."""
    real = elements.species > 0
    positions, radii = positions[real], covalent_radii[elements.species[real]]
    n = min(len(positions), max(1, PAIRS // max(1, len(positions))))
    if len(positions) < 2:
        return float("nan")
    d = positions[:n, None] - positions
    if box is not None:
        d = d - np.round(d @ np.linalg.inv(box)) @ box
    ratio = np.linalg.norm(d, axis=-1) / (radii[:n, None] + radii)
    ratio[np.arange(n), np.arange(n)] = np.inf
    return float(ratio.min())
