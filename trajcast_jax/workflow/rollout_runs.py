"""The command line and the settings of a rollout, which are stored beside it in run.json."""

import dataclasses
import datetime
from pathlib import Path

import tyro

from trajcast_jax.config import Experiment, changed, from_dict, stated
from trajcast_jax.config.settings import ABOVE_0
from trajcast_jax.io import ReadOptions, read
from trajcast_jax.network.checkpoint import load_card
from trajcast_jax.reading import load_json, reading
from trajcast_jax.reference.structure import with_structure
from trajcast_jax.system import System
from trajcast_jax.workflow import folders
from trajcast_jax.workflow.cards import with_settings_of
from trajcast_jax.workflow.command_line import Reading, load, notes_printed, path_of, require_within


@dataclasses.dataclass
class Arguments:
    """Forecast a trajectory with a trained model, and compare it with the reference."""

    experiment: tyro.conf.Positional[str]
    """Name of a TOML file in experiments/, or the path of one."""
    duration: float | None = None
    """fs. The default is the setting of the experiment, also for temperature and seed."""
    temperature: float | None = None
    """K."""
    seed: int | None = None
    """Random seed of the thermostat and of --thermalize."""
    set: tuple[str, ...] = ()
    """Other settings to replace: rollout.every=5 rollout.ensemble=nve."""
    checkpoint: Path | None = None
    """Folder of the model; by default the one that the package ships, or the best of training."""
    start: Path | None = None
    """File whose last frame is the start; by default the one that the package ships, or the last
    reference run."""
    thermalize: bool = False
    """Draw the start velocities at the temperature. The start frame needs no velocities then, so it
    may be a structure (CIF, POSCAR, ...)."""
    replicas: int = 1
    """Number of runs side by side, each with its own random numbers."""
    temperatures: tuple[float, ...] = ()
    """K, one for each replica, if they differ."""
    out: Path | None = None
    """Output folder; by default runs/<name>/rollout/<time>, with --resume the newest of these."""
    resume: bool = False
    """Continue a rollout that was stopped, or make it longer by --duration."""
    extxyz: bool = False
    """Write the trajectory as extended XYZ too."""
    reading: Reading = ReadOptions()  # noqa: RUF009 (frozen)
    """What the file of --start leaves open; its frame --last is the start."""
    held_out: bool = False
    """Compare with the validation and test runs alone, which are not trained on."""
    report: bool = True
    """Report on the forecast and judge it. `evaluate --rollout` does so later, of several."""


@dataclasses.dataclass(frozen=True)
class Run:
    """Settings and files that a rollout is made from; stored in run.json."""

    experiment: Experiment
    checkpoint: str
    start: str
    thermalize: bool
    temperatures: tuple[float, ...]
    """K, one for each replica."""
    reading: ReadOptions = ReadOptions()  # noqa: RUF009 (frozen)
    """What the file of the start leaves open."""


def new_run(arguments: Arguments) -> tuple[Run, Path]:
    """Make a run from the command line; return it and its folder.

    Raises:
      ValueError: the folder holds a rollout already, or the options contradict each other.
    """
    given = {"duration": arguments.duration, "temperature": arguments.temperature}
    given |= {"seed": arguments.seed}
    if arguments.temperatures:
        given["temperature"] = arguments.temperatures[0]
    changes = tuple(f"rollout.{k}={v}" for k, v in given.items() if v is not None)
    changes = (*arguments.set, *changes)
    experiment = load(arguments.experiment, changes)
    model = arguments.checkpoint or folders.model(experiment)
    known = stated(path_of(arguments.experiment), changes)
    experiment, taken = with_settings_of(load_card(model), experiment, known)
    count = len(arguments.temperatures) or arguments.replicas
    kelvins = arguments.temperatures or (experiment.rollout.temperature,) * count
    if count < 1 or arguments.replicas not in (1, count):
        raise ValueError(
            f"{arguments.replicas} replicas cannot have {len(kelvins)} temperatures; "
            "give one for each, or leave one of the two options out."
        )
    for kelvin in kelvins:
        require_within("A temperature of --temperatures", kelvin, ABOVE_0)
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H%M%S")
    out = arguments.out or folders.rollouts(experiment) / stamp
    if (out / "run.json").exists():
        raise ValueError(
            f"{out} already holds a rollout; go on with it by --resume, or give another --out."
        )
    run = Run(
        experiment=experiment,
        checkpoint=str(model),
        start=str(arguments.start or folders.start(experiment)),
        thermalize=arguments.thermalize,
        temperatures=tuple(kelvins),
        reading=arguments.reading,
    )
    if taken:
        print(taken)
    return run, out


def old_run(arguments: Arguments) -> tuple[Run, Path]:
    """Read the run to continue; return it and its folder.

    Raises:
      ValueError: an option has no effect with --resume.
      FileNotFoundError: the folder holds no rollout.
    """
    allowed = {"experiment", "duration", "out", "resume", "extxyz", "held_out", "report"}
    for field in dataclasses.fields(arguments):
        if field.name not in allowed and getattr(arguments, field.name) != field.default:
            what = {"reading": "options of how to read --start have"}.get(
                field.name, f"--{field.name} has"
            )
            raise ValueError(
                "--resume goes on with the settings that the rollout began with, so that "
                f"{what} no effect; only --duration may be new."
            )
    folder = folders.rollouts(load(arguments.experiment))
    found = sorted(folder.glob("*/run.json"))
    out = arguments.out or (found[-1].parent if found else folder)
    if not (out / "run.json").exists():
        raise FileNotFoundError(f"There is no rollout in {out} to go on with; leave --resume out.")
    run = read_run(out / "run.json")
    if arguments.duration is not None:
        experiment = changed(run.experiment, (f"rollout.duration={arguments.duration}",))
        run = dataclasses.replace(run, experiment=experiment)
    return run, out


def start_frame(run: Run) -> System:
    """Read the start frame of a run: the last of its file, or the frame that `reading` names.

    Raises:
      ValueError: the file leaves something open, or the options select several frames.
    """
    options = run.reading
    if options.first or options.every != 1:
        raise ValueError(
            "A rollout starts from one frame, so that --first and --every select nothing; name "
            "the frame by --last."
        )
    if options != ReadOptions():
        options = with_structure(options, run.experiment.reference)
    index = -1 if options.last is None else options.last
    with notes_printed():
        return read(run.start, index, still=run.thermalize, options=options)


def replica_folders(run: Run, out: Path) -> list[Path]:
    """Return the folder of every replica; a single replica uses `out` itself."""
    count = len(run.temperatures)
    return [out] if count == 1 else [out / f"replica_{i:02d}" for i in range(count)]


def read_run(path: Path) -> Run:
    """Read a run.json."""
    with reading(path):
        return from_dict(Run, load_json(path))


def require_same(run: Run, out: Path) -> None:
    """Raise ValueError if the folder holds a rollout with other settings than the duration."""
    path = out / "run.json"
    if path.exists() and _but_duration(read_run(path)) != _but_duration(run):
        raise ValueError(
            f"{out} already holds another rollout; go on with it by --resume, or give another "
            "--out."
        )


def _but_duration(run: Run) -> Run:
    return dataclasses.replace(run, experiment=changed(run.experiment, ("rollout.duration=1.0",)))
