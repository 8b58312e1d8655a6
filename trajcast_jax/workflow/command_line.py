"""Shared by all commands: load the experiment, cache compiled programs, print errors briefly."""

import contextlib
import difflib
import math
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import jax
import tyro

from trajcast_jax import config
from trajcast_jax.config.settings import Within
from trajcast_jax.io import FileNote, ReadOptions
from trajcast_jax.io.options import read_options
from trajcast_jax.reading import is_sentence
from trajcast_jax.workflow.stopping import end_with_parent, exit_status, heed_termination

FOLDER = Path(__file__).parents[2] / "experiments"
"""Where the experiments that come with the package are: beside it, in a checkout and installed."""
SENTENCES = (ValueError, OSError, ImportError, RuntimeError, FloatingPointError)
"""Errors whose messages are for users."""
Reading = Annotated[
    ReadOptions,
    tyro.conf.arg(constructor=read_options, name=""),
    tyro.conf.FlagCreatePairsOff,
]
"""Options of a command that reads files of other programs: --species, --units, ..."""


def load(name: str | Path, changes: tuple[str, ...] = ()) -> config.Experiment:
    """Load an experiment by name (a TOML file in experiments/) or by the path of a TOML file.

    `changes` are settings to replace, such as "training.updates=1000", with values in TOML.

    Raises:
      FileNotFoundError: there is no such experiment.
    """
    return config.changed(config.load(path_of(name)), changes)


def path_of(name: str | Path) -> Path:
    """Path of the TOML file of an experiment.

    Raises:
      FileNotFoundError: there is no such experiment.
    """
    path = Path(name) if Path(name).suffix == ".toml" else FOLDER / f"{name}.toml"
    if not path.is_file() and Path(name).suffix == ".toml":
        raise FileNotFoundError(f"There is no file {path}; check the path.")
    if not path.is_file():
        known = sorted(p.stem for p in FOLDER.glob("*.toml"))
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}."
        raise FileNotFoundError(f"There is no experiment {name}: {hint}")
    return path


def require_within(name: str, value: float, bounds: Within) -> None:
    """Raise ValueError if the number that an option has is out of bounds."""
    if not (math.isfinite(value) and value in bounds):
        raise ValueError(f"{name} must be {bounds}, but is {value}.")


@contextlib.contextmanager
def notes_printed() -> Iterator[None]:
    """Print the notes of readers in the `with` block as sentences, at its end."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FileNote)
        try:
            yield
        finally:
            notes = [w for w in caught if issubclass(w.category, FileNote)]
            for sentence in dict.fromkeys(str(note.message) for note in notes):
                print(f"note: {sentence}")
    for warning in (w for w in caught if w not in notes):
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def run(command: Callable[[], int | None]) -> None:
    """Run a command and exit with its status; expected errors are printed without a traceback."""
    _keep_compiled()
    heed_termination()
    end_with_parent()
    sys.argv[0] = f"python -m experiments.{Path(sys.argv[0]).stem}"  # as usage texts have it
    try:
        sys.exit(command())
    except KeyboardInterrupt as stopped:
        print("\nStopped.", file=sys.stderr)
        sys.exit(exit_status(stopped))
    except Exception as error:
        if isinstance(error, SENTENCES) or is_sentence(error):
            sys.exit(f"error: {error}")
        raise  # a mistake in the code, which must show where it is


def _keep_compiled() -> None:
    """Enable JAX's persistent compilation cache, so that later runs start quickly.

    It is in `trajcast_jax/<host>` in the user's cache folder, because programs are specific to
    the CPU; or in the environment's JAX_COMPILATION_CACHE_DIR.
    """
    if jax.config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update(
            "jax_compilation_cache_dir", str(cache / "trajcast_jax" / platform.node())
        )
        # Compiling about three hundred small programs takes a third of the time of a report.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
