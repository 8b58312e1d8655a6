"""Checkpoints by orbax: self-contained (settings, statistics, species, Δt, version) and atomic.

A model checkpoint is a directory with `model.json` and `params/`. A training state is any
pytree under `state/` beside the same `model.json`.
"""

import dataclasses
import json
import os
import shutil
import uuid
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from trajcast_jax.config import ModelSettings, Statistics, from_dict
from trajcast_jax.forecast import Forecaster, TrainedForecast

FORMAT = 1
"""Raised whenever a checkpoint of the old format would be read wrongly."""
MARKER = "commit_success.txt"
"""A file that orbax leaves in a folder that it has written to the end."""


def code_version() -> str:
    """Version of the installed package; "unknown" when run from a bare source tree."""
    try:
        return version("trajcast_jax")
    except PackageNotFoundError:
        return "unknown"


def pretrained(name: str) -> Path:
    """The folder that the package ships for a system: checkpoint, start frame, observables."""
    folder = Path(__file__).parent / "pretrained"
    known = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    if name not in known:
        raise FileNotFoundError(
            f"No model named {name} is shipped; there are {', '.join(known) or 'none'}. "
            "Train one by python -m experiments.train."
        )
    return folder / name


def save(path: str | Path, forecaster: Forecaster, params: Any, notes: dict | None = None) -> None:
    """Write a model checkpoint; an older one at `path` is replaced only once this is complete.

    `notes` is kept as given (JSON): how the weights came to be, their errors.
    """
    _save(path, "params", forecaster, params, notes)


def save_state(path: str | Path, forecaster: Forecaster, state: Any) -> None:
    """Write a training state (any pytree of arrays) beside what its model is."""
    _save(path, "state", forecaster, state, None)


def restore(path: str | Path) -> TrainedForecast:
    """The model saved at `path`, on whatever device is the default here.

    Weights saved in double precision come back so where JAX has it enabled.
    """
    values = _description(path)
    if (Path(path) / "state").exists():
        raise ValueError(
            f"{path} holds the state of a training run, not a model: the run goes on from it when "
            "started again with the same folder (--out); the weights to start from or to forecast "
            "with are in 'best' beside it, or in 'ema' once the run has ended."
        )
    forecaster = _forecaster(values)
    dtype = jax.dtypes.canonicalize_dtype(values.get("precision", "float32"))
    like = jax.tree.map(lambda x: x.astype(dtype), forecaster.init(0))
    params = _load(Path(path) / "params", _like(like))
    return TrainedForecast(params=params, forecaster=forecaster)


def restore_state(path: str | Path, like: Any) -> Any:
    """The training state saved at `path`, in the structure of `like`."""
    return _load(Path(path) / "state", _like(like))


def describe(path: str | Path) -> tuple[Forecaster, dict]:
    """What model a checkpoint holds, and its notes."""
    values = _description(path)
    return _forecaster(values), values["notes"]


def _forecaster(values: dict) -> Forecaster:
    return Forecaster(
        settings=from_dict(ModelSettings, values["model"], "model."),
        statistics=from_dict(Statistics, values["statistics"], "statistics."),
        time_step=values["time_step"],
    )


def _description(path: str | Path) -> dict:
    """What model.json says, checked to be of this format."""
    file = Path(path) / "model.json"
    if not file.exists():
        raise FileNotFoundError(
            f"{path} is no checkpoint: it has no model.json; give the directory that "
            "`python -m experiments.train` wrote (it ends in 'best' or 'ema')."
        )
    try:
        values = json.loads(file.read_text())
        found = values["format"]
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(
            f"{file} is not a model description: {error}; restore a backup."
        ) from error
    if found != FORMAT:
        raise ValueError(
            f"The checkpoint {path} has format {found} (trajcast_jax {values.get('version')}), but "
            f"this version reads format {FORMAT}; install the version that wrote it or retrain."
        )
    return values


def _like(tree: Any) -> Any:
    # A target on this machine's device: a checkpoint from a GPU restores on a CPU only so.
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x), sharding=sharding), tree
    )


def _load(path: Path, target: Any) -> Any:
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            restored = checkpointer.restore(path.absolute(), target)
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise ValueError(
            f"{path} does not hold the weights that its model.json describes ({error}); the "
            "checkpoint is incomplete or was edited: copy it again or retrain."
        ) from error
    # orbax ties arrays to a device. What is computed from them would be so too, and a function
    # that is given its own results would be compiled once more.
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), restored)


def _save(path, part: str, forecaster: Forecaster, tree: Any, notes: dict | None) -> None:
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    unfinished.mkdir()
    try:
        description = {
            "format": FORMAT,
            "version": code_version(),
            "time_step": forecaster.time_step,
            "precision": str(jax.tree.leaves(tree)[0].dtype) if part == "params" else "float32",
            "model": dataclasses.asdict(forecaster.settings),
            "statistics": dataclasses.asdict(forecaster.statistics),
            "notes": notes or {},
        }
        (unfinished / "model.json").write_text(json.dumps(description, indent=1) + "\n")
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(unfinished / part, tree)  # leaving the context waits for the write
        for file in unfinished.rglob(MARKER):
            # orbax only asks whether it exists; what it wrote there is a path of this machine.
            file.write_text("Checkpoint commit was successful\n")
        old = path.with_name(f".{path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.rename(old)
        os.replace(unfinished, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
