"""All settings, as frozen dataclasses.

Names, units and defaults of settings are defined here only. An experiment is one TOML
file whose tables are the fields of `Experiment`.
"""

import dataclasses
import math
import typing

import numpy as np


class Within(typing.NamedTuple):
    """Bounds of a number, which is always finite; its text completes "must be"."""

    text: str
    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    """Whether `low` itself is out of bounds."""
    whole: bool = False

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high and not (self.above and number == self.low)

    def __str__(self) -> str:
        return self.text


LARGEST = 2**31 - 1
"""The largest integer that JAX counts to by default."""
FINITE = Within("a finite number")
ABOVE_0 = Within("above 0 and finite", 0, above=True)
COUNT = Within(f"above 0 and at most {LARGEST}", 1, LARGEST, whole=True)
Finite = typing.Annotated[float, FINITE]
Positive = typing.Annotated[float, ABOVE_0]
NonNegative = typing.Annotated[float, Within("0 or above, and finite", 0)]
Fraction = typing.Annotated[float, Within("between 0 and 1", 0, 1)]
Count = typing.Annotated[int, COUNT]
NATURAL = Within(f"0 to {LARGEST}", 0, LARGEST, whole=True)
Natural = typing.Annotated[int, NATURAL]
Size = typing.Annotated[int, Within("1 to 10000", 1, 10_000, whole=True)]
Species = typing.Annotated[int, Within("an atomic number, 1 to 118", 1, 118, whole=True)]
Order = typing.Annotated[int, Within("1 to 6", 1, 6, whole=True)]


@dataclasses.dataclass(frozen=True)
class ReferenceSettings:
    """Reference molecular dynamics, run with LAMMPS or an ASE calculator (`reference/`)."""

    structure: dict = dataclasses.field(default_factory=dict)
    """How to build the start structure. Either keyword arguments of `ase.spacegroup.crystal` (if
    `spacegroup` is given), `ase.build.molecule` (`name`) or `ase.io.read` (`filename`); or
    `lammps_data`, the text of a LAMMPS data file with bonds (`periodic = false` for a molecule)."""
    repeat: tuple[Size, Size, Size] = (1, 1, 1)
    random_orientations: bool = False
    """Rotate every copy at random about its centre, for the molecules of a liquid."""
    minimize: bool = False
    """Minimise the energy before the dynamics."""
    calculator: str = ""
    """An ASE calculator as "package.module:Class". LAMMPS is used if this is empty."""
    calculator_arguments: dict = dataclasses.field(default_factory=dict)
    lammps_units: str = "metal"
    lammps_atom_style: str = "charge"
    commands: str = ""
    """LAMMPS commands that define the force field. They are run after the atoms are created. Atom
    types are the elements, in their order in the structure; isotopes are types of their own."""
    time_step: Positive = 1.0  # fs
    save_every: Positive = 5.0  # fs between stored frames
    temperature: Positive = 300.0  # K
    pressure: Finite = 1.0  # bar
    time_constant: Positive = 100.0  # fs, of CSVR during equilibration; the barostat's is ×10
    npt_time: NonNegative = 10_000.0  # fs; 0 for none
    nvt_time: NonNegative = 50_000.0  # fs
    nve_time: NonNegative = 100_000.0  # fs per production run, whatever its ensemble
    gap_time: NonNegative = 5_000.0  # fs of NVT between the starts of production runs
    runs: Count = 6
    redraw: bool = False
    """Draw new velocities before the NVT gap of every run. A stiff vibration of a molecule keeps
    its energy for longer than a run, so without new draws all runs share its initial energy."""
    ensemble: str = "nve"
    """Ensemble of the production runs: "nve", or "csvr" for a comparison with forecasts that use
    the CSVR thermostat."""
    expected: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    """Expected results of the checks of a run: name of the check = [value, tolerance]."""


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Frame pairs for training, validation and test (`data/pairs.py`)."""

    time_step: Positive = 30.0  # fs, the stride Δt
    train_runs: tuple[Natural, ...] = (0, 1, 2, 3)
    validation_runs: tuple[Natural, ...] = (4,)
    test_runs: tuple[Natural, ...] = (5,)
    train_pairs: Count = 15_000
    validation_pairs: Count = 64
    test_pairs: Count = 1_000
    time_reversal: bool = True
    """Add the time-reversed pair of each training pair."""


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The network (`network/model.py`).

    The defaults are the settings that learned fastest. The settings of the paper are in
    `experiments/quartz_paper.toml`.
    """

    cutoff: Positive = 4.5  # Å
    lmax: Order = 2
    channels: Size = 48
    blocks: Size = 5
    parity: str = "natural"
    """Parities of the features: "natural" for 0e, 1o, 2e only; "both" for 0o, 1e, 2o too."""
    n_radial: Size = 6
    envelope_power: Size = 6
    n_speed: Size = 8
    max_speed: Positive = 0.11  # Å/fs
    relative_speeds: bool = True
    """Scale the speeds of every species to those of the fastest species before the speed basis.
    Otherwise the speeds of heavy species overlap its first functions only. The weights of the
    other functions are then learned from a few fast atoms, and forecasts can explode."""
    speed_limit: NonNegative = 0.0
    """Largest speed in the speed basis, in units of the species' RMS velocity component; faster
    atoms are treated as this fast. 0 for no limit. Few atoms of the training set are faster, so
    the weights for such speeds are poorly determined, but long forecasts reach these speeds."""
    edge_mlp: tuple[Size, ...] = ()
    """Widths of the hidden layers of the radial network. With none, messages are linear in the
    radial functions."""
    velocity_mlp: tuple[Size, ...] = (32,)
    """Widths of the hidden layers of the network that weights velocity tensor products."""
    edge_rank: Natural = 0
    """Number of linear combinations to which `network/compress.py` reduces the last hidden features
    of the radial network; 0 for no reduction."""
    edge_activation: str = "silu"
    """Activation of the hidden layers of `edge_mlp`: silu, bounded_silu, tanh, sigmoid, relu, gelu
    or identity."""
    velocity_activation: str = "bounded_silu"
    """Activation of the hidden layers of `velocity_mlp`: as for `edge_activation`."""
    even_activation: str = "bounded_silu"
    """Activation of the 0e scalars in the gate."""
    odd_activation: str = "tanh"
    """Activation of the 0o scalars in the gate: tanh or identity."""
    gate_activation: str = "bounded_silu"
    """Activation of the scalars that multiply features with l ≥ 1."""
    velocity_vector: bool = True
    """Feed the velocity vector (divided by its RMS), not only its direction, to the first layer."""
    far_field: bool = False
    """Feed the electrostatic field of atoms beyond the cutoff to the first layer
    (`neighbors/far_field.py`). It lowers errors several-fold in systems with charges."""
    substeps: Natural = 8
    """Time steps per stride of the learned pair dynamics (`network/substeps.py`); about ten per
    period of the stiffest vibration. 0 for none."""
    conserve_angular: bool = False
    """Conserve angular momentum too. For isolated molecules only."""
    net_momentum: tuple[float, ...] = ()
    """Total momentum (Da·Å/fs) to impose. If empty, the total momentum of the system is kept."""
    net_angular_momentum: tuple[float, ...] = ()
    """Angular momentum (Da·Å²/fs) to impose with `conserve_angular`. If empty, it is kept."""
    uniform_center: bool = True
    """Move the centre of mass by P Δt/M, for total momentum P and mass M. False applies the rule of
    the PyTorch implementation, for its weights: the centre of mass is fixed if P is exactly 0 and
    not corrected otherwise."""


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """Optimisation (`learning/training.py`)."""

    updates: Count = 30_000
    batch_size: Count = 1
    """Frames per batch. About 150 to 200 atoms in total are a good batch, so use more frames for
    small systems."""
    validate_every: Count = 500  # updates
    optimizer: str = "soap"
    """"adam", "amsgrad" (PyTorch's definition) or "soap" (`learning/soap.py`)."""
    learning_rate: Positive = 0.03
    b1: Fraction = 0.9
    b2: Fraction = 0.95
    schedule: str = "cosine"
    """Learning rate schedule: "cosine" (linear warm-up, then cosine decay to zero), "plateau" (that
    of the paper) or "constant"."""
    warmup: Fraction = 0.02  # fraction of all updates, cosine only
    plateau_factor: Fraction = 0.8
    plateau_patience: Natural = 20  # validations without improvement before a reduction
    early_stop: Natural = 0  # validations without improvement before the end; 0 for never
    clip_norm: NonNegative = 1.0  # global gradient norm; 0 for none
    ema_decay: Fraction = 0.998  # of the exponential moving average of the weights; 0 for none
    displacement_weight: NonNegative = 0.5
    velocity_weight: NonNegative = 0.5
    strides: Count = 1
    """Number of consecutive strides in the loss. The loss compares the state after each of them."""
    energy_balance: NonNegative = 0.0
    """Weight of `learning.balancing.imbalance` in the loss. For fine-tuning with batches of several
    frames."""
    per_species_scales: bool = True
    linear_baseline: bool = True
    seed: Natural = 0


@dataclasses.dataclass(frozen=True)
class RolloutSettings:
    """A forecast trajectory (`dynamics/rollout.py`, `workflow/rollout.py`)."""

    duration: Positive = 100_000.0  # fs
    every: Count = 1  # strides between stored frames
    chunk: Count = 100  # strides per compiled scan
    skin: NonNegative = 0.5  # Å
    ensemble: str = "csvr"
    """Ensemble or thermostat: "csvr", "langevin" or "nve"."""
    temperature: Positive = 300.0  # K
    final_temperature: NonNegative | None = None  # K, of a linear ramp; None for constant
    time_constant: Positive = 75.0  # fs
    friction_time: NonNegative = 0.0
    """Time constant (fs) of an additional weak Langevin thermostat; 0 for none. It thermostats
    every vibration separately, not only the total kinetic energy, and keeps the system as a whole
    at rest. It is not used with "nve"."""
    zero_momentum_every: Natural = 0  # strides; 0 for never
    max_temperature: Positive = 3000.0  # K; above it the rollout stops
    seed: Natural = 0


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """Observables that compare a forecast with the reference (`analysis/evaluation.py`)."""

    rdf_max: Positive = 8.0  # Å
    rdf_bins: Count = 160
    rdf_pairs: tuple[tuple[str, str], ...] = ()
    """Pairs of chemical symbols for radial distribution functions. All pairs if empty."""
    rdf_frames: Natural = 0
    """Largest number of frames (evenly spaced) for radial distribution functions. With 0 it is
    1,000 frames for 200 or more atoms. For fewer atoms it is larger, so that the number of
    distances is that of 200 atoms."""
    dihedrals: tuple[tuple[str, str, str, str], ...] = ()
    """Dihedral angles whose free energies are compared. Each is the first chain of bonds with these
    four elements."""
    vdos_segment: Positive = 5_000.0  # fs per window; its inverse is the frequency resolution
    msd_time: Positive = 10_000.0  # fs, longest lag
    closest_fraction: NonNegative = 0.7
    """Two atoms count as collided if their distance is below this fraction of the shortest distance
    in the reference."""
    equilibration: Fraction = 0.1  # fraction of the trajectory to discard at its start
    n_blocks: Count = 5  # for block averages
    published_errors: tuple[float, ...] = ()
    """Published single-step errors (%) of displacements and velocities, for comparison."""


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Normalisation constants of inputs and targets, measured on the training set.

    All are per species, in the order of `species`. The scales are RMS residuals of the
    displacements d (Å) and new velocities v' (Å/fs) after subtraction of the linear baselines
    d ≈ a v (a in fs) and v' ≈ b v. `velocity_rms` is the RMS velocity component (Å/fs).
    """

    species: tuple[Species, ...]
    displacement_scale: tuple[NonNegative, ...]
    velocity_scale: tuple[NonNegative, ...]
    displacement_baseline: tuple[float, ...]
    velocity_baseline: tuple[float, ...]
    velocity_rms: tuple[NonNegative, ...]
    average_neighbors: NonNegative
    far_mixing: tuple[tuple[tuple[float, ...], ...], ...] = ()
    """(2, species, field) factors (Å²) of the fields of unit charges on each species, and of the
    changes of these fields (`neighbors/far_field.py`)."""
    longest_cell: NonNegative = 0.0
    """Largest perpendicular height (Å) of all cells of the training set; 0 if unknown."""

    @property
    def scales(self) -> np.ndarray:
        """(species, 2): the scales of displacement (Å) and new velocity (Å/fs)."""
        return np.stack([self.displacement_scale, self.velocity_scale], axis=-1)

    @property
    def baselines(self) -> np.ndarray:
        """(species, 2): the baselines a (fs) and b."""
        return np.stack([self.displacement_baseline, self.velocity_baseline], axis=-1)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All settings for one system: reference, data, model, training, rollout, evaluation."""

    name: str
    system: str = ""
    """Name of the experiment whose reference runs are used, if this one is based on another; ""
    if it has its own."""
    reference: ReferenceSettings = ReferenceSettings()
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    rollout: RolloutSettings = RolloutSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @property
    def reference_name(self) -> str:
        """Name of the experiment that provides the reference runs, start frame and observables."""
        return self.system or self.name
