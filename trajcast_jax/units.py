"""The unit system of the package: Å, fs, Da, eV, K.

Masses are in dalton, so a kinetic energy ½mv² is in Da·(Å/fs)²; `KINETIC_TO_EV` converts it
to eV. Values from other programs (ASE, LAMMPS) are converted on input with the constants
below.
"""

# CODATA 2018.
BOLTZMANN = 8.617333262145179e-5
"""Boltzmann constant, eV/K."""

KINETIC_TO_EV = 103.64269574711572
"""1 Da·(Å/fs)² in eV."""

ASE_FEMTOSECOND = 0.09822694788464063
"""1 fs in ASE's time unit Å·√(Da/eV). Velocities: v[Å/fs] = v[ASE] · ASE_FEMTOSECOND."""

WAVENUMBER_PER_INVERSE_FEMTOSECOND = 33356.40951981521
"""1 fs⁻¹ (ordinary frequency) in cm⁻¹."""

FS_PER_DAY_TO_NS = 1e-6 * 86400.0
"""1 fs of simulated time per second of wall time, in ns/day."""

BOHR = 0.529177210903
"""1 bohr in Å."""

ATOMIC_TIME = 0.02418884326586
"""1 atomic unit of time in fs."""

DALTON_PER_CUBIC_ANGSTROM = 1.66053906660
"""1 Da/Å³ in g/cm³."""

VELOCITY_UNITS = {
    "angstrom/fs": 1.0,
    "angstrom/ps": 1e-3,
    "nm/ps": 1e-2,
    "nm/fs": 10.0,
    "m/s": 1e-5,
    "ase": ASE_FEMTOSECOND,
    "bohr/atu": BOHR / ATOMIC_TIME,
    "amber": 20.455e-3,
}
"""Factors to Å/fs of the units of velocity that files have, by the name that options give them."""

DALTON = 1.66053906660e-27
"""1 Da in kg."""

LAMMPS_UNITS = {
    "metal": (1.0, 1e3, 1e-3, 1.0),
    "real": (1.0, 1.0, 1.0, 1.0),
    "electron": (BOHR, 1.0, BOHR, 1.0),
    "nano": (10.0, 1e6, 1e-5, 1e-21 / DALTON),
    "micro": (1e4, 1e9, 1e-5, 1e-15 / DALTON),
    "si": (1e10, 1e15, 1e-5, 1 / DALTON),
    "cgs": (1e8, 1e15, 1e-7, 1e-3 / DALTON),
}
"""LAMMPS's `units` styles: length in Å, time in fs, velocity in Å/fs, mass in Da, as it integrates.

docs.lammps.org/units gives velocities of `electron` in bohr/(1.03275 fs), but LAMMPS moves atoms by
velocity times time step, which is in fs: they are in bohr/fs, as its own temperatures say.
"""
