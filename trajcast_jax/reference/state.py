"""The state of a reference folder: the settings of its runs, and their progress.

`state.json` is written atomically and names the engine's restart file that belongs to it, so the
two are always consistent.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from trajcast_jax import io
from trajcast_jax.config import ReferenceSettings
from trajcast_jax.io import atomic_write, n_frames
from trajcast_jax.reading import load_json, reading

STATE = "state.json"


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of a simulation; with the engine's restart file it defines the continuation."""

    stage: int = 0
    """Index into `stages`."""
    frames: int = 0
    """Completed frames (of `save_every`) of this stage; for imported trajectories, the runs."""
    restart: str = ""
    """Name of the restart file; empty before the first."""
    cell: Sequence = ()
    """Sum of the cells over the second half of the constant-pressure stage, Å."""
    cell_samples: int = 0
    energy: float = 0.0
    """Sum of the total energy (eV) at constant temperature, without the first fifth of the stage
    (`protocol._sample_energy`)."""
    energy_samples: int = 0


def run_path(out: str | Path, run: int) -> Path:
    """Path of the file of one run."""
    return Path(out) / f"run_{run:03d}.h5"


def fingerprint(settings: ReferenceSettings, seed: int) -> dict:
    """All settings that determine the frames of a run: not the number of runs or the checks."""
    values = dataclasses.asdict(settings) | {"seed": seed}
    del values["runs"], values["expected"]
    return json.loads(json.dumps(values))  # tuples become lists, as in a file


def load_progress(out: Path, wanted: dict) -> Progress:
    """Read the progress in `out`.

    Raises:
      ValueError: the runs in `out` have another fingerprint than `wanted`, or none.
    """
    if not (out / STATE).exists():
        if any(out.glob("run_*.h5")):
            raise ValueError(
                f"{out} holds runs of unknown origin (it has no {STATE}); choose another folder."
            )
        return Progress()
    state = _state(out)
    found = _made_with(out / STATE)
    if ("sources" in found) != ("sources" in wanted):
        raise ValueError(
            f"{out} holds runs that were {'imported' if 'sources' in found else 'simulated'} and "
            "would mix with others; choose another folder (--out) or remove this one."
        )
    defaults = fingerprint(ReferenceSettings(), 0)
    for key in {**found, **wanted}:
        # Runs older than a setting were made with its default.
        old, new = (values.get(key, defaults.get(key)) for values in (found, wanted))
        if old != new:
            raise ValueError(
                f"{out} holds runs made with {key} = {old!r}, but {key} = {new!r} is asked for; "
                "choose another folder (--out) or remove this one."
            )
    with reading(out / STATE):
        return _progress(state.get("progress", {}))


def load_earlier(out: Path) -> list[Progress]:
    """Earlier moments of a simulation that it can go back to, the oldest first."""
    if not (out / STATE).exists():
        return []
    with reading(out / STATE):
        return [_progress(values) for values in _state(out).get("earlier", [])]


def _progress(values: dict) -> Progress:
    found = Progress(**values)
    numbers = (found.stage, found.frames, found.cell_samples, found.energy_samples)
    if not all(type(n) is int and n >= 0 for n in numbers) or Path(found.restart).name != (
        found.restart
    ):
        raise ValueError(f"the progress {values} is none")
    return found


def save_progress(
    out: Path, made_with: dict, progress: Progress, earlier: Sequence[Progress] = ()
) -> None:
    """Writes the state, and removes restart files of other moments than it and the `earlier`."""
    if progress.restart:
        _to_disk(out / progress.restart)
    state = {
        "fingerprint": json.dumps(made_with, sort_keys=True),
        "progress": dataclasses.asdict(progress),
        "earlier": [dataclasses.asdict(moment) for moment in earlier],
    }
    atomic_write(out / STATE, json.dumps(state, indent=1).encode())
    kept = {moment.restart for moment in (progress, *earlier)}
    for path in out.glob("state_*.restart"):
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Wait until a file is on the disk, before another names it."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def complete_runs(out: str | Path) -> list[Path]:
    """Paths of the complete runs in `out`, in order; also while others are being simulated."""
    out = Path(out)
    if not (out / STATE).exists():
        return []
    made_with = _made_with(out / STATE)
    if "sources" in made_with:
        with reading(out / STATE):
            done = _progress(_state(out)["progress"]).frames
        return [run_path(out, run) for run in range(done)]
    with reading(out / STATE):
        length = round(made_with["nve_time"] / made_with["save_every"])
    return [path for path in sorted(out.glob("run_*.h5")) if n_frames(path) >= length]


def require_settings(settings: ReferenceSettings, out: str | Path, seed: int) -> None:
    """Raise ValueError if `out` holds runs made with other settings or another seed."""
    load_progress(Path(out), fingerprint(settings, seed))


def seed_of(out: str | Path) -> int:
    """Seed of the runs in `out`; 0 if there are none."""
    path = Path(out) / STATE
    return _made_with(path).get("seed", 0) if path.exists() else 0


def _made_with(path: Path) -> dict:
    """What the runs of a folder were made with, from its `state.json` (`path`): a `fingerprint`, or
    the sources of an import."""
    with reading(path):
        found = json.loads(_state(path.parent)["fingerprint"])
        if not isinstance(found, dict):
            raise ValueError("it does not tell what its runs were made with")
        return found


def _state(out: Path) -> dict:
    return load_json(out / STATE)


def is_imported(out: str | Path) -> bool:
    """Whether the runs in `out` were imported from other trajectories."""
    path = Path(out) / STATE
    return path.exists() and "sources" in _made_with(path)


def origin(out: str | Path) -> tuple[str, str]:
    """Where the runs in `out` come from, in words, and a digest of what they were made with.

    Both are empty if it is not known.
    """
    path = Path(out) / STATE
    if not path.exists():
        return "", ""
    found = _made_with(path)
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    if "sources" in found:
        words = f"trajectories: {', '.join(str(source[0]) for source in found['sources'])}"
    else:
        words = found.get("calculator") or "LAMMPS"
    return words, f"sha256:{digest}"


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Lock the folder against other processes that simulate into it.

    Raises:
      OSError: another process holds the lock.
    """
    out.mkdir(parents=True, exist_ok=True)
    sentence = f"Another process is making runs in {out}; wait for it or choose another folder."
    with io.locked(out, sentence):
        yield


def frames_of(duration: float, save_every: float) -> int:
    """Number of stored frames in a duration; both arguments are in fs."""
    return math.floor(duration / save_every + 0.5)


def known_settings(out: str | Path) -> dict:
    """Settings that the simulated runs in `out` were made with; {} if there are none."""
    path = Path(out) / STATE
    if not path.exists() or is_imported(out):
        return {}
    names = {field.name for field in dataclasses.fields(ReferenceSettings)}
    return {key: value for key, value in _made_with(path).items() if key in names}
