"""Systems are nouns (TOML files), actions are verbs: `python -m experiments.train quartz`."""

import difflib
from pathlib import Path

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
