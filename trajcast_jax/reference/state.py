"""What a reference folder remembers: of which settings its runs are, and how far they are.

`state.json` is written whole or not at all and names the LAMMPS restart file that goes
with it, so that the two are never from different moments.
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from trajcast_jax.config import ReferenceSettings
from trajcast_jax.io import atomic_write, n_frames

STATE = "state.json"


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a simulation stands; with the restart file of the engine, all that goes on from it."""

    stage: int = 0
    """Index into `stages`."""
    frames: int = 0
    """Frames (of `save_every`) done in this stage; of imported trajectories, the runs."""
    restart: str = ""
    """Name of the restart file; empty before the first."""
    cell: Sequence = ()
    """Sum of the cells over the second half of constant pressure, Å."""
    cell_samples: int = 0
    energy: float = 0.0
    """Sum of the total energy at constant temperature (`_sample_energy`), without the first
    fifth, eV."""
    energy_samples: int = 0


def run_path(out: str | Path, run: int) -> Path:
    """The file of one run."""
    return Path(out) / f"run_{run:03d}.h5"


def fingerprint(settings: ReferenceSettings, seed: int) -> dict:
    """All that decides the frames of a run; how many there are and what is checked does not."""
    values = dataclasses.asdict(settings) | {"seed": seed}
    del values["runs"], values["expected"]
    return json.loads(json.dumps(values))  # tuples become lists, as they come back from a file


def load_progress(out: Path, wanted: dict) -> Progress:
    """The progress in `out`, or an error if it is not that of the wanted fingerprint."""
    if not (out / STATE).exists():
        if any(out.glob("run_*.h5")):
            raise ValueError(
                f"{out} holds runs of unknown origin (it has no {STATE}); choose another folder."
            )
        return Progress()
    state = json.loads((out / STATE).read_text())
    found = json.loads(state["fingerprint"])
    if ("sources" in found) != ("sources" in wanted):
        raise ValueError(
            f"{out} holds runs that were {'imported' if 'sources' in found else 'simulated'} and "
            "would mix with others; choose another folder (--out) or remove this one."
        )
    defaults = fingerprint(ReferenceSettings(), 0)
    for key in {**found, **wanted}:
        # A setting younger than the runs was at its default for them.
        old, new = (values.get(key, defaults.get(key)) for values in (found, wanted))
        if old != new:
            raise ValueError(
                f"{out} holds runs made with {key} = {old!r}, but {key} = {new!r} is asked for; "
                "choose another folder (--out) or remove this one."
            )
    return Progress(**state.get("progress", {}))


def save_progress(out: Path, made_with: dict, progress: Progress) -> None:
    """Writes the state, and removes restart files of earlier moments."""
    state = {
        "fingerprint": json.dumps(made_with, sort_keys=True),
        "progress": dataclasses.asdict(progress),
    }
    atomic_write(out / STATE, json.dumps(state, indent=1).encode())
    for path in out.glob("state_*.restart"):
        if path.name != progress.restart:
            path.unlink(missing_ok=True)


def complete_runs(out: str | Path) -> list[Path]:
    """The runs in `out` that are complete, by number; also while others are being made."""
    out = Path(out)
    if not (out / STATE).exists():
        return []
    made_with = _made_with(out / STATE)
    if "sources" in made_with:
        done = json.loads((out / STATE).read_text())["progress"]["frames"]
        return [run_path(out, run) for run in range(done)]
    length = round(made_with["nve_time"] / made_with["save_every"])
    return [path for path in sorted(out.glob("run_*.h5")) if n_frames(path) >= length]


def require_settings(settings: ReferenceSettings, out: str | Path, seed: int) -> None:
    """An error if `out` holds runs of other settings or of another seed."""
    load_progress(Path(out), fingerprint(settings, seed))


def seed_of(out: str | Path) -> int:
    """The seed that the runs in `out` are made with; 0 if there are none."""
    path = Path(out) / STATE
    return _made_with(path).get("seed", 0) if path.exists() else 0


def _made_with(path: Path) -> dict:
    return json.loads(json.loads(path.read_text())["fingerprint"])


def is_imported(out: str | Path) -> bool:
    """Whether the runs in `out` come from somebody's trajectory."""
    path = Path(out) / STATE
    return path.exists() and "sources" in _made_with(path)


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keeps other processes from simulating into the same folder."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "w") as file:
        try:
            import fcntl
        except ImportError:  # not on Windows
            yield
            return
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OSError(
                f"Another process is making runs in {out}; wait for it or choose another folder."
            ) from error
        yield


def frames_of(duration: float, save_every: float) -> int:
    """Stored frames in a duration (fs)."""
    return math.floor(duration / save_every + 0.5)
