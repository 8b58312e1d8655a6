"""Systems are nouns (TOML files), actions are verbs: `python -m experiments.train quartz`."""

import difflib
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

# Before JAX is imported: XLA warns at every kept program that the CPU lacks "+prefer-no-scatter",
# which is a preference of its own and no feature of a CPU.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax

from trajcast_jax import config

FOLDER = Path(__file__).parent


def load(name: str | Path, changes: tuple[str, ...] = ()) -> config.Experiment:
    """The experiment of a name (a TOML file in this folder) or of a path to a TOML file.

    `changes` are settings that differ: "training.updates=1000", the value in TOML.
    """
    path = Path(name) if Path(name).suffix == ".toml" else FOLDER / f"{name}.toml"
    if not path.is_file():
        known = sorted(p.stem for p in FOLDER.glob("*.toml"))
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}."
        raise FileNotFoundError(f"There is no experiment {name}: {hint}")
    return config.changed(config.load(path), changes)


def run(command: Callable[[], int | None]) -> None:
    """Run a command line and exit: compiled programs are kept, and errors are sentences."""
    _keep_compiled()
    sys.argv[0] = f"python -m experiments.{Path(sys.argv[0]).stem}"  # as usage texts have it
    try:
        sys.exit(command())
    except (ValueError, OSError, ImportError, RuntimeError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


def _keep_compiled() -> None:
    """Let compiled programs outlive the process, so that the next run starts at once.

    They are kept in `trajcast_jax` of the user's cache folder, apart for each computer, because
    they are made for its CPU; or where the environment's JAX_COMPILATION_CACHE_DIR says.
    """
    if jax.config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update(
            "jax_compilation_cache_dir", str(cache / "trajcast_jax" / platform.node())
        )
        # A report is made by some three hundred small programs: together a third of its time.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
