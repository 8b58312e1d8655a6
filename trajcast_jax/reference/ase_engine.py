"""ASE calculators as engines of reference dynamics, with the package's units: Å, fs, Da, eV, K."""

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
from trajcast_jax.io import read_npz
from trajcast_jax.reference.structure import as_system, build_structure, free_dimensions
from trajcast_jax.system import System
from trajcast_jax.units import BOLTZMANN

SMALL_FORCE = 0.02
"""Largest force (eV/Å) at the end of a minimisation."""


class AseEngine:
    """Atoms with an ASE calculator and the methods of `LammpsEngine`.

    Raises:
      ValueError: the settings ask for constant pressure.
    """

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
        """Set up the start structure with velocities at the target temperature."""
        if self.settings.minimize:
            FIRE(self._atoms, logfile=None).run(fmax=SMALL_FORCE, steps=500)
        self.draw_velocities(seed)

    def load(self, path: Path) -> None:
        """The state that `save` wrote."""
        state = read_npz(path)
        # One that is in use knows more than the file, for instance the last wave function.
        self._atoms.calc = load_calculator(self.settings)
        self.set_frame(state["positions"], state["velocities"])

    def save(self, path: Path) -> None:
        """Write the state to a file."""
        positions, velocities = self.frame()
        with open(path, "wb") as file:
            np.savez(file, positions=positions, velocities=velocities)

    def draw_velocities(self, seed: int) -> None:
        """Draw Maxwell–Boltzmann velocities at the target temperature, without rigid motion."""
        random = np.random.default_rng(seed)
        temperature = self.settings.temperature
        MaxwellBoltzmannDistribution(self._atoms, temperature_K=temperature, rng=random)
        kinetic = 0.5 * free_dimensions(self.structure) * BOLTZMANN * temperature
        self.set_kinetic_energy(kinetic)

    def constant_energy(self) -> None:
        """Continue at constant energy (velocity Verlet)."""
        self._dynamics = VelocityVerlet(self._atoms, self.settings.time_step * ase.units.fs)

    def constant_temperature(self, seed: int) -> None:
        """Continue at constant temperature (CSVR)."""
        s = self.settings
        bath = Bussi(
            self._atoms,
            s.time_step * ase.units.fs,
            temperature_K=s.temperature,
            taut=s.time_constant * ase.units.fs,
            rng=np.random.default_rng(seed),
        )
        bath.ndof = free_dimensions(self.structure)  # ASE includes the rigid motion
        bath.target_kinetic_energy = 0.5 * bath.ndof * ase.units.kB * s.temperature
        self._dynamics = bath

    def advance(self, n_steps: int) -> None:
        """Integrate `n_steps` steps."""
        self._dynamics.run(n_steps)

    def cell(self) -> Float[np.ndarray, "3 3"] | None:
        """Cell (3, 3) in Å, rows are lattice vectors; None for an isolated molecule."""
        return self._atoms.cell.array.copy() if self._atoms.pbc.all() else None

    def set_cell(self, cell: Float[np.ndarray, "3 3"]) -> None:
        """Deform the cell (3, 3) in Å and the atoms with it."""
        self._atoms.set_cell(cell, scale_atoms=True)

    def energies(self) -> tuple[float, float]:
        """Potential and kinetic energy (eV) of the present state."""
        return float(self._atoms.get_potential_energy()), float(self._atoms.get_kinetic_energy())

    def set_kinetic_energy(self, energy: float) -> None:
        """Remove the rigid motion and scale the velocities to a kinetic energy (eV)."""
        Stationary(self._atoms, preserve_temperature=False)
        if not self._atoms.pbc.all():
            ZeroRotation(self._atoms, preserve_temperature=False)
        factor = np.sqrt(energy / self._atoms.get_kinetic_energy())
        self._atoms.set_velocities(factor * self._atoms.get_velocities())

    def frame(self) -> tuple[Float[np.ndarray, "atom 3"], Float[np.ndarray, "atom 3"]]:
        """Unwrapped positions (Å) and velocities (Å/fs), (atom, 3)."""
        return self._atoms.positions.copy(), self._atoms.get_velocities() * ase.units.fs

    def set_frame(
        self, positions: Float[np.ndarray, "atom 3"], velocities: Float[np.ndarray, "atom 3"]
    ) -> None:
        """Set unwrapped positions (Å) and velocities (Å/fs)."""
        self._atoms.positions = positions
        self._atoms.set_velocities(velocities / ase.units.fs)

    def system(self) -> System:
        """Present state as a System."""
        return as_system(self.structure, *self.frame(), cell=self.cell())

    def close(self) -> None:
        """Release the calculator."""
        self._atoms.calc = None


def load_calculator(settings: ReferenceSettings):
    """Make the ASE calculator that the settings name.

    Raises:
      ValueError: the name is not of the form "package.module:Class".
      ImportError: the calculator cannot be imported.
    """
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
