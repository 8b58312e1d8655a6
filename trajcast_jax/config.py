"""All settings, as frozen dataclasses; TOML in, validated, TOML out.

A setting has one name, one unit and one default, here. An experiment is one TOML
file whose tables are the fields of `Experiment`.
"""

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from pathlib import Path

import numpy as np

ABOVE_0 = "above 0"
Count = typing.Annotated[int, ABOVE_0]
Positive = typing.Annotated[float, ABOVE_0]


@dataclasses.dataclass(frozen=True)
class ReferenceSettings:
    """Reference molecular dynamics, run by LAMMPS or by an ASE calculator (`reference/`)."""

    structure: dict = dataclasses.field(default_factory=dict)
    """How to build the start structure: keyword arguments of `ase.spacegroup.crystal` (those
    with `spacegroup`), of `ase.build.molecule` (`name`) or of `ase.io.read` (`filename`), or
    `lammps_data`, the text of a LAMMPS data file with bonds (`periodic = false` for a molecule)."""
    repeat: tuple[int, int, int] = (1, 1, 1)
    random_orientations: bool = False
    """Turn every copy at random about its centre: molecules of a liquid."""
    minimize: bool = False
    """Go to a minimum of the energy before the dynamics."""
    calculator: str = ""
    """An ASE calculator as "package.module:Class"; LAMMPS when empty."""
    calculator_arguments: dict = dataclasses.field(default_factory=dict)
    lammps_units: str = "metal"
    lammps_atom_style: str = "charge"
    commands: str = ""
    """LAMMPS commands that define the force field, run after the atoms exist."""
    time_step: Positive = 1.0  # fs
    save_every: Positive = 5.0  # fs between stored frames
    temperature: Positive = 300.0  # K
    pressure: float = 1.0  # bar
    time_constant: Positive = 100.0  # fs, CSVR and barostat (×10) during equilibration
    npt_time: float = 10_000.0  # fs; 0 for none
    nvt_time: float = 50_000.0  # fs
    nve_time: float = 100_000.0  # fs of every production run, of either ensemble
    gap_time: float = 5_000.0  # fs of NVT between the starts of production runs
    runs: Count = 6
    redraw: bool = False
    """Draw new velocities before the gap that leads to a run. A stiff vibration of a molecule keeps
    its energy for longer than a run: else all runs have what it happens to have."""
    ensemble: str = "nve"
    """Of production runs: "nve", or "csvr" as forecasts have it, to hold those against."""
    expected: dict = dataclasses.field(default_factory=dict)
    """What the checks of a run shall find: name of the check = [value, largest difference]."""


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Frame pairs for training (`dataset.py`)."""

    time_step: Positive = 30.0  # fs, the stride Δt
    train_runs: tuple[int, ...] = (0, 1, 2, 3)
    validation_runs: tuple[int, ...] = (4,)
    test_runs: tuple[int, ...] = (5,)
    train_pairs: Count = 5_000
    validation_pairs: Count = 1_250
    test_pairs: Count = 1_000
    time_reversal: bool = True
    """Add to each training pair its mirror image in time."""


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The network (`model.py`); the defaults are the paper's."""

    cutoff: Positive = 4.5  # Å
    lmax: Count = 2
    channels: Count = 64
    blocks: Count = 4
    parity: str = "both"
    """"both" carries 0o, 1e, 2o too; "natural" only 0e, 1o, 2e."""
    n_radial: Count = 8
    envelope_power: Count = 6
    n_speed: Count = 8
    max_speed: Positive = 0.11  # Å/fs
    relative_speeds: bool = False
    """Stretch the speeds of heavy species to those of the fastest before their basis. Else they
    fill its first functions only; what the others weigh is learned from rare fast atoms, at
    random, and makes forecasts explode."""
    speed_limit: float = 0.0
    """What faster atoms are read as, in RMS components of the species' velocities; 0 for none.
    Weights of what only a few atoms of the training set ever reached are what chance made them,
    and forecasts that run longer get there."""
    edge_mlp: tuple[int, ...] = (64, 64, 64)
    velocity_mlp: tuple[int, ...] = (64, 64, 64)
    edge_rank: int = 0
    """Linear functions that the radial network ends in, found by `compress.py`; 0 for none."""
    edge_activation: str = "silu"
    """Of the hidden layers of `edge_mlp`: silu, bounded_silu, tanh, sigmoid, relu, gelu or
    identity."""
    velocity_activation: str = "silu"
    even_activation: str = "silu"
    """Of 0e scalars in the gate."""
    odd_activation: str = "tanh"
    """Of 0o scalars in the gate: tanh or identity."""
    gate_activation: str = "silu"
    """Of the scalars that multiply what has l ≥ 1."""
    velocity_vector: bool = False
    """Feed the velocity itself (over its RMS), not only its direction, to the first layer."""
    far_field: bool = False
    """Feed what atoms beyond the cutoff do to the first layer (`far_field.py`): where there are
    charges, it makes errors a fraction of what they are without."""
    substeps: int = 0
    """Steps in which pairs of neighbours move each other through the stride (`substeps.py`)."""
    conserve_angular: bool = False
    """Conserve angular momentum too; for isolated molecules only."""
    net_momentum: tuple[float, ...] = ()
    """Total momentum (Da·Å/fs) to impose; what the system has when empty."""
    net_angular_momentum: tuple[float, ...] = ()
    """Angular momentum (Da·Å²/fs) to impose, with `conserve_angular`; likewise."""
    uniform_center: bool = True
    """Move the centre of mass by P Δt/M. False is the PyTorch implementation's rule, for its
    weights: the centre rests if the momentum P is exactly 0, and else is left alone."""


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """Optimisation (`training.py`)."""

    updates: Count = 20_000
    batch_size: Count = 2
    validate_every: Count = 500  # updates
    optimizer: str = "adam"
    """"adam", "amsgrad" (by PyTorch's rule) or "soap" (`soap.py`)."""
    learning_rate: Positive = 0.01
    b1: float = 0.9
    b2: float = 0.999
    schedule: str = "cosine"
    """"cosine" (linear warm-up, then cosine to zero), "plateau" (the paper's) or "constant"."""
    warmup: float = 0.02  # fraction of all updates, cosine only
    plateau_factor: float = 0.8
    plateau_patience: int = 20  # validations without improvement before a reduction
    early_stop: int = 0  # validations without improvement before the end; 0 for never
    clip_norm: float = 1.0  # global gradient norm; 0 for none
    ema_decay: float = 0.999  # 0 for none
    displacement_weight: float = 0.5
    velocity_weight: float = 0.5
    strides: Count = 1
    """Of the loss: so many are forecast in a row, and the state after each is compared."""
    energy_balance: float = 0.0
    """Weight of `balance.imbalance` in the loss: for fine-tuning with batches of some frames."""
    per_species_scales: bool = True
    linear_baseline: bool = True
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class RolloutSettings:
    """A forecast trajectory (`rollout.py`)."""

    duration: Positive = 100_000.0  # fs
    every: Count = 1  # strides between stored frames
    chunk: Count = 100  # strides per compiled scan
    skin: float = 0.5  # Å
    ensemble: str = "csvr"
    """"csvr", "langevin" or "nve"."""
    temperature: Positive = 300.0  # K
    final_temperature: float | None = None  # K, of a linear ramp; None for constant
    time_constant: Positive = 75.0  # fs
    friction_time: float = 0.0
    """fs, of a weak Langevin thermostat beside that of the ensemble, which holds every vibration
    near the temperature, not only their sum, and the system as a whole at rest; 0 for none, and
    none at constant energy."""
    zero_momentum_every: int = 0  # strides; 0 for never
    max_temperature: Positive = 3000.0  # K; above it the rollout stops
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """Observables that hold a forecast against the reference (`evaluation.py`)."""

    rdf_max: Positive = 8.0  # Å
    rdf_bins: Count = 160
    rdf_pairs: tuple[tuple[str, str], ...] = ()
    """Pairs of chemical symbols; all pairs when empty."""
    rdf_frames: int = 0
    """At most, evenly spread; 0 for 1,000, and of few atoms so many more as have as many distances
    as 200 atoms have in these."""
    dihedrals: tuple[tuple[str, str, str, str], ...] = ()
    """Torsions whose free energies are compared, each the first chain of bonds of four elements."""
    vdos_segment: Positive = 5_000.0  # fs of a window; its inverse is the resolution
    msd_time: Positive = 10_000.0  # fs, longest lag
    closest_fraction: float = 0.7
    """Atoms closer than this fraction of the reference's shortest distance have collided."""
    equilibration: float = 0.1  # fraction of a trajectory left out
    n_blocks: Count = 5  # for block-averaged errors
    published_errors: tuple[float, ...] = ()
    """One-step errors of d and v (%) that somebody else's model has, to hold one's own against."""


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What normalises inputs and targets, measured on the training set.

    Per species (in the order of `species`): the RMS of what the baseline leaves of
    displacements (Å) and new velocities (Å/fs), the baselines d ≈ a v (fs) and
    v' ≈ b v, and the RMS velocity component (Å/fs).
    """

    species: tuple[int, ...]
    displacement_scale: tuple[float, ...]
    velocity_scale: tuple[float, ...]
    displacement_baseline: tuple[float, ...]
    velocity_baseline: tuple[float, ...]
    velocity_rms: tuple[float, ...]
    average_neighbors: float
    far_mixing: tuple[tuple[tuple[float, ...], ...], ...] = ()
    """(2, species, field): what the fields of unit charges on each species, and their changes, are
    multiplied by (Å²)."""
    longest_cell: float = 0.0
    """Å between opposite faces, the largest of all cells learned from; 0 where none is known."""

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
    """One system: how its reference is made, learned, forecast and judged."""

    name: str
    system: str = ""
    """Whose reference runs it uses: that of the experiment it is based on; "" for its own."""
    reference: ReferenceSettings = ReferenceSettings()
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    rollout: RolloutSettings = RolloutSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @property
    def reference_name(self) -> str:
        """The experiment whose reference runs, start frame and observables are its own."""
        return self.system or self.name


def from_dict(kind: type, values: dict, where: str = ""):
    """A settings dataclass from nested dicts; unknown keys and wrong types are errors."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind, include_extras=True)
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(fields)}."
            raise ValueError(f"Unknown setting '{where}{key}': {hint}")
    missing = [
        f.name
        for f in fields.values()
        if f.name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"Setting '{where}{missing[0]}' is missing and has no default.")
    return kind(**{k: _coerce(hints[k], v, where + k) for k, v in values.items()})


def _coerce(hint, value, name: str):
    """`value` as the annotated type, or an error that names the setting."""
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, value, f"{name}.")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        value = _coerce(args[0], value, name)
        if not value > 0:
            raise ValueError(f"Setting '{name}' must be {ABOVE_0}, but is {value}.")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _coerce(next(a for a in args if a is not type(None)), value, name)
    if origin is tuple and isinstance(value, list | tuple):
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(inner) == len(value):
            return tuple(_coerce(a, v, name) for a, v in zip(inner, value, strict=True))
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    wanted = hint.__name__ if isinstance(hint, type) else hint
    raise ValueError(f"Setting '{name}' must be {wanted}, but is {value!r}.")


def load(path: str | Path) -> Experiment:
    """The experiment described by a TOML file.

    A file may name another one beside it as its `base`, and say only what differs.
    """
    return from_dict(Experiment, _read(Path(path)))


def _read(path: Path) -> dict:
    with open(path, "rb") as file:
        try:
            values = tomllib.load(file)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path} is no TOML: {error}.") from error
    own = {"name": path.stem}
    if "base" in values:
        base = _read(path.with_name(values.pop("base") + path.suffix))
        own["system"] = base.get("system") or base["name"]
        if "reference" in values:  # made in another way, so its own
            own["system"] = ""
        tables = {k: base.get(k, {}) | v for k, v in values.items() if isinstance(v, dict)}
        values = base | values | tables
        return values | own
    return own | values


def changed(experiment: Experiment, changes: tuple[str, ...]) -> Experiment:
    """The experiment with settings replaced, each given as "table.name=value" (value in TOML)."""
    values = dataclasses.asdict(experiment)
    for change in changes:
        name, equals, text = change.partition("=")
        table, _, key = name.strip().partition(".")
        if not equals or not key:
            raise ValueError(
                f"'{change}' is no setting: write table.name=value, as in training.updates=1000."
            )
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()  # a bare word is a string
        if not isinstance(values.setdefault(table, {}), dict):
            raise ValueError(f"'{change}' is no setting: {table} is no table of settings.")
        values[table][key] = value
    return from_dict(Experiment, values)


def to_json(settings) -> str:
    """Any settings dataclass as JSON; `from_dict(kind, json.loads(text))` reads it back."""
    return json.dumps(dataclasses.asdict(settings), indent=1)
