"""The one unit system of the package: Å, fs, Da, eV, K.

Masses are in dalton, so a kinetic energy ½mv² comes out in Da·(Å/fs)² and is
multiplied by `KINETIC_TO_EV` to give eV. Everything that enters from elsewhere
(ASE, LAMMPS) is converted at the door with the constants below.
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
"""Simulated fs per wall second, times this, is ns/day."""
