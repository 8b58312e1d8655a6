"""Any ASE calculator as an engine. In Å, fs, Da, eV, K outside."""

import importlib
from pathlib import Path

import ase.units
import numpy as np
from ase.md.bussi import Bussi
from ase.md.velocitydistribution import (
    MaxwellBoltzmannDistribution,
    Stationary,
    ZeroRotation,
)
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE
from jaxtyping import Float

from trajcast_jax.config import ReferenceSettings
from trajcast_jax.reference.structure import as_system, build_structure, free_dimensions
from trajcast_jax.system import System
from trajcast_jax.units import BOLTZMANN

SMALL_FORCE = 0.02
"""eV/Å, where a minimisation ends."""


class AseEngine:
    """Atoms with an ASE calculator, with the methods of `LammpsEngine`."""

    def __init__(self, settings: ReferenceSettings):
        if settings.npt_time:
            raise ValueError(
                "An ASE calculator is not run at constant pressure; set reference.npt_time = 0."
            )
        self.settings = settings
        self.structure = build_structure(settings)
        self._atoms = self.structure.copy()
        self._atoms.calc = load_calculator(settings)
        self._dynamics = None

    def create(self, seed: int) -> None:
        """The start structure with velocities of the set temperature."""
        if self.settings.minimize:
            FIRE(self._atoms, logfile=None).run(fmax=SMALL_FORCE, steps=500)
        self.draw_velocities(seed)

    def load(self, path: Path) -> None:
        """The state that `save` wrote."""
        with np.load(path) as state:
            self.set_frame(state["positions"], state["velocities"])

    def save(self, path: Path) -> None:
        """The state to a file."""
        positions, velocities = self.frame()
        with open(path, "wb") as file:
            np.savez(file, positions=positions, velocities=velocities)

    def draw_velocities(self, seed: int) -> None:
        """Maxwell–Boltzmann velocities of the set temperature, without motion as a whole."""
        random = np.random.default_rng(seed)
        temperature = self.settings.temperature
        MaxwellBoltzmannDistribution(self._atoms, temperature_K=temperature, rng=random)
        kinetic = 0.5 * free_dimensions(self.structure) * BOLTZMANN * temperature
        self.set_kinetic_energy(kinetic)

    def constant_energy(self) -> None:
        """From here on the energy is constant (velocity Verlet)."""
        self._dynamics = VelocityVerlet(self._atoms, self.settings.time_step * ase.units.fs)

    def constant_temperature(self, seed: int) -> None:
        """From here on the temperature is held by CSVR."""
        s = self.settings
        bath = Bussi(
            self._atoms,
            s.time_step * ase.units.fs,
            temperature_K=s.temperature,
            taut=s.time_constant * ase.units.fs,
            rng=np.random.default_rng(seed),
        )
        bath.ndof = free_dimensions(self.structure)  # ASE counts the motion as a whole too
        bath.target_kinetic_energy = 0.5 * bath.ndof * ase.units.kB * s.temperature
        self._dynamics = bath

    def advance(self, n_steps: int) -> None:
        """Integrates `n_steps` steps."""
        self._dynamics.run(n_steps)

    def cell(self) -> Float[np.ndarray, "3 3"] | None:
        """The cell (3, 3) Å, rows are lattice vectors; None of an isolated molecule."""
        return self._atoms.cell.array.copy() if self._atoms.pbc.all() else None

    def set_cell(self, cell: Float[np.ndarray, "3 3"]) -> None:
        """Deforms the cell, atoms and all, to (3, 3) Å."""
        self._atoms.set_cell(cell, scale_atoms=True)

    def energies(self) -> tuple[float, float]:
        """Potential and kinetic energy of this step, eV."""
        return float(self._atoms.get_potential_energy()), float(self._atoms.get_kinetic_energy())

    def set_kinetic_energy(self, energy: float) -> None:
        """Takes out the motion as a whole and scales the velocities to a kinetic energy in eV."""
        Stationary(self._atoms, preserve_temperature=False)
        if not self._atoms.pbc.all():
            ZeroRotation(self._atoms, preserve_temperature=False)
        factor = np.sqrt(energy / self._atoms.get_kinetic_energy())
        self._atoms.set_velocities(factor * self._atoms.get_velocities())

    def frame(self) -> tuple[Float[np.ndarray, "atom 3"], Float[np.ndarray, "atom 3"]]:
        """Unwrapped positions (atom, 3) Å and velocities (atom, 3) Å/fs."""
        return self._atoms.positions.copy(), self._atoms.get_velocities() * ase.units.fs

    def set_frame(
        self, positions: Float[np.ndarray, "atom 3"], velocities: Float[np.ndarray, "atom 3"]
    ) -> None:
        """Puts the atoms at positions (Å, unwrapped) with velocities (Å/fs)."""
        self._atoms.positions = positions
        self._atoms.set_velocities(velocities / ase.units.fs)

    def system(self) -> System:
        """The present state as a System."""
        return as_system(self.structure, *self.frame(), cell=self.cell())

    def close(self) -> None:
        """Lets the calculator go."""
        self._atoms.calc = None


def load_calculator(settings: ReferenceSettings):
    """The ASE calculator that the settings name, made with their arguments."""
    module, colon, name = settings.calculator.partition(":")
    if not colon:
        raise ValueError(
            f"reference.calculator is '{settings.calculator}'; write it as package.module:Class, "
            "as in tblite.ase:TBLite."
        )
    try:
        kind = getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise ImportError(f"{module} has no calculator {name} ({error}).") from error
    except ImportError as error:
        raise ImportError(
            f"The calculator {settings.calculator} could not be loaded ({error}); install its "
            "package (tblite comes with pip install 'trajcast_jax[xtb]')."
        ) from error
    return kind(**settings.calculator_arguments)
