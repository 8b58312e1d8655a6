"""Save and restore checkpoints with orbax; writes are atomic, and damage is found.

A model checkpoint is a directory with `model.json` (settings, statistics, species, Δt, version,
digest), `params/` and, in most, a card (`network/card.py`). A training state is a directory with
the same `model.json`, and any pytree in `state/`. While one replaces another, the older one is
beside it, as `.NAME.old`, and is read if a kill leaves it there alone.
"""

import dataclasses
import glob
import hashlib
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
import tensorstore as ts

from trajcast_jax.config import ModelSettings, Statistics, from_dict
from trajcast_jax.io import locked
from trajcast_jax.network import card as cards
from trajcast_jax.network.forecast import Forecaster, TrainedForecast
from trajcast_jax.reading import load_json, reading

FORMAT = 1
"""Version of the format; increased when older checkpoints would be read wrongly."""
EARLIER = {
    "relative_speeds": False, "speed_limit": 0.0, "edge_rank": 0, "edge_activation": "silu",
    "velocity_activation": "silu", "even_activation": "silu", "odd_activation": "tanh",
    "gate_activation": "silu", "velocity_vector": False, "far_field": False, "substeps": 0,
}  # fmt: skip
"""Values of settings that are missing in older checkpoints, independent of today's defaults."""
MEANING = ("format", "time_step", "precision", "model", "statistics")
"""What of a description the digest is of; notes may be edited."""
MARKER = "commit_success.txt"
"""File that orbax writes into a folder after it is complete."""


def code_version() -> str:
    """Version of the installed package; "unknown" if run from a source tree."""
    try:
        return version("trajcast_jax")
    except PackageNotFoundError:
        return "unknown"


def pretrained(name: str) -> Path:
    """Folder of a model that the package ships: checkpoint, start frame and observables.

    Raises:
      FileNotFoundError: there is no model of this name.
    """
    folder = Path(__file__).parents[1] / "pretrained"
    known = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    if name not in known:
        raise FileNotFoundError(
            f"No model named {name} is shipped; there are {', '.join(known) or 'none'}. "
            "Train one by python -m experiments.train."
        )
    return folder / name


def save(
    path: str | Path,
    forecaster: Forecaster,
    params: Any,
    notes: dict | None = None,
    card: cards.Card | None = None,
) -> None:
    """Save a model checkpoint; an older one at `path` is replaced after the write is complete.

    `notes` (JSON) are stored as given, for instance the origin and the errors of the weights. A
    `card` is stored as that of these weights; the card of an older checkpoint does not stay.
    """
    _save(path, "params", forecaster, params, notes, card)


def save_card(path: str | Path, card: cards.Card) -> None:
    """Store the card of the model saved at `path`, as that of its weights."""
    restored, found = _params(path)
    del restored
    cards.write(_folder(path), dataclasses.replace(card, weights=found))


def load_card(path: str | Path) -> cards.Card | None:
    """The card of the model saved at `path`, without its weights; None if it has none.

    Raises:
      ValueError: the card is damaged, or one of other weights.
    """
    stated = _description(path).get("digest")
    found = cards.read(_folder(path))
    if found is None:
        return None
    return _require_own(found, stated or _params(path)[1], path)


def save_state(path: str | Path, forecaster: Forecaster, state: Any) -> None:
    """Save a training state (any pytree of arrays) with the description of its model."""
    _save(path, "state", forecaster, state)


def restore(path: str | Path) -> TrainedForecast:
    """Restore the model saved at `path` on JAX's default device.

    Weights saved in double precision are restored in double precision if JAX has it enabled.

    Raises:
      FileNotFoundError: there is no `model.json`.
      ValueError: the checkpoint is a training state, of another format, or incomplete; or its
        card is damaged, or of other weights.
    """
    params, found = _params(path)
    card = cards.read(_folder(path))
    if card is not None:
        card = _require_own(card, found, path)
    return TrainedForecast(params=params, forecaster=describe(path)[0], card=card)


def restore_state(path: str | Path, like: Any) -> Any:
    """Restore the training state saved at `path`, in the structure of `like`."""
    values = _description(path)
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), like)
    return _load(_folder(path) / "state", target, values)[0]


def exists(path: str | Path) -> bool:
    """Whether a checkpoint is at `path`, also if a kill left it beside it while it was replaced."""
    return _folder(path).exists()


def digest(tree: Any, description: dict) -> str:
    """SHA-256 of weights, by name, type, shape and value, and of what decides their meaning."""
    result = hashlib.sha256()
    meaning = {key: description.get(key) for key in MEANING}
    result.update(json.dumps(meaning, sort_keys=True).encode())
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for name, leaf in sorted((jax.tree_util.keystr(path), leaf) for path, leaf in leaves):
        array = np.asarray(leaf)
        array = array.astype(array.dtype.newbyteorder("<"), order="C")
        result.update(f"{name} {array.dtype.name} {array.shape} ".encode())
        result.update(array.tobytes())
    return f"sha256:{result.hexdigest()}"


def describe(path: str | Path) -> tuple[Forecaster, dict]:
    """Read a checkpoint's forecaster (without weights) and notes."""
    values = _description(path)
    return _forecaster(values, path), values.get("notes", {})


def _params(path: str | Path) -> tuple[Any, str]:
    """Weights of the model saved at `path`, and their digest."""
    values, folder = _description(path), _folder(path)
    if (folder / "state").exists():
        raise ValueError(
            f"{path} holds the state of a training run, not a model: the run goes on from it when "
            "started again with the same folder (--out); the weights to start from or to forecast "
            "with are in 'best' beside it, or in 'ema' once the run has ended."
        )
    forecaster = _forecaster(values, path)
    with reading(folder / "model.json"):
        precision = np.dtype(values.get("precision", "float32"))
        shapes = forecaster.shapes()
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, precision), shapes)
    return _load(folder / "params", target, values)


def _require_own(card: cards.Card, weights: str, path: str | Path) -> cards.Card:
    if card.weights != weights:
        raise ValueError(
            f"The card {_folder(path) / cards.JSON} is one of other weights or settings than the "
            "checkpoint has: it does not tell where this model is valid. Copy the whole checkpoint "
            "again, or remove card.json and card.md."
        )
    return card


def _forecaster(values: dict, path: str | Path) -> Forecaster:
    with reading(_folder(path) / "model.json"):
        time_step = values["time_step"]
        if not isinstance(time_step, int | float) or not 0 < time_step < float("inf"):
            raise ValueError(f"time_step must be above 0 and finite, but is {time_step!r}.")
        return Forecaster(
            settings=from_dict(ModelSettings, EARLIER | values["model"], "model."),
            statistics=_statistics(values["statistics"]),
            time_step=time_step,
        )


def _statistics(values: dict) -> Statistics:
    found = from_dict(Statistics, values, "statistics.")
    count = len(found.species)
    for field in dataclasses.fields(found):
        value = getattr(found, field.name)
        if isinstance(value, tuple) and field.name != "far_mixing" and len(value) != count:
            raise ValueError(
                f"statistics.{field.name} has {len(value)} numbers, but there are {count} species."
            )
    return found


def _folder(path: str | Path) -> Path:
    """The folder of a checkpoint; the older one if a kill came while it was replaced."""
    path = Path(path).absolute()
    old = path.with_name(f".{path.name}.old")
    return old if old.exists() and not path.exists() else path


def _description(path: str | Path) -> dict:
    """Read model.json and check its format."""
    file = _folder(path) / "model.json"
    if not file.exists():
        raise FileNotFoundError(
            f"{path} is no checkpoint: it has no model.json; give the directory that "
            "`python -m experiments.fit` wrote (it ends in 'best' or 'ema')."
        )
    try:
        values = load_json(file)
        found = values["format"]
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{file} is not a model description: {error}; restore a backup."
        ) from error
    if found != FORMAT:
        raise ValueError(
            f"The checkpoint {path} has format {found} (trajcast_jax {values.get('version')}), but "
            f"this version reads format {FORMAT}; install the version that wrote it or retrain."
        )
    return values


def _load(path: Path, target: Any, description: dict) -> tuple[Any, str]:
    """Restore a pytree, and its digest, held against that in its description, if there is one."""
    # Checkpoints from a GPU restore on a CPU only into a target on the CPU. In NumPy, double
    # precision is kept until the digest is known.
    there = ocp.args.PyTreeRestore(
        item=target,
        restore_args=jax.tree.map(
            lambda x: ocp.RestoreArgs(restore_type=np.ndarray, dtype=x.dtype), target
        ),
    )
    try:
        _require_whole(path.absolute())
        handler = ocp.PyTreeCheckpointHandler()
        with ocp.Checkpointer(handler) as checkpointer:
            _require_shapes(handler.metadata(path.absolute()), target)
            restored = checkpointer.restore(path.absolute(), args=there)
    except Exception as error:  # orbax and tensorstore raise many types of errors
        raise ValueError(
            f"{path} does not hold the weights that its model.json describes ({error}); the "
            "checkpoint is incomplete or was edited: copy it again or retrain."
        ) from error
    stated, found = description.get("digest"), digest(restored, description)
    if stated is not None and found != stated:
        raise ValueError(
            f"{path.parent} is damaged or was edited: its weights and settings do not have the "
            "digest that its model.json states. Copy it again, or, if you have edited it, take "
            "the digest out."
        )
    # orbax commits arrays to a device, and so all results computed from them. A function that is
    # called with its own results would then be compiled a second time.
    tree = jax.tree.map(lambda x, like: jnp.asarray(np.asarray(x, like.dtype)), restored, target)
    return tree, found


def _require_whole(path: Path) -> None:
    """Read all entries of a folder of arrays, which have checksums, one by one.

    Where one of several entries is damaged, orbax closes its event loop before the others are read,
    and each of these then prints "Event loop is closed".
    """
    if (path / "manifest.ocdbt").exists():
        store = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{path}/"}).result()
        for key in store.list().result():
            store.read(key).result()


def _require_shapes(metadata: Any, target: Any) -> None:
    """Raise ValueError, before memory is asked for, if arrays are not of the target's shapes."""
    tree = getattr(metadata, "item_metadata", metadata)
    tree = getattr(tree, "tree", tree)
    found = {tuple(x.shape) for x in jax.tree.leaves(tree) if hasattr(x, "shape")}
    for leaf in jax.tree.leaves(target):
        if found and tuple(leaf.shape) not in found:
            raise ValueError(f"no array has the shape {leaf.shape}")


def _save(path, part: str, forecaster: Forecaster, tree: Any, notes=None, card=None) -> None:
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the lock of the folder `path`, which is replaced.
    guarded = path.with_name(f"{path.name}.checkpoint")
    with locked(guarded, f"Another process is saving {path}; save elsewhere."):
        _sweep(path)
        _replace(path, part, forecaster, tree, notes, card)


def _sweep(path: Path) -> None:
    """Undo what a kill left of an earlier save: half a swap, and unfinished folders."""
    old = path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():
        os.replace(old, path)
    for folder in (old, *path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}")):
        shutil.rmtree(folder, ignore_errors=True)


def _replace(path: Path, part: str, forecaster: Forecaster, tree: Any, notes, card) -> None:
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
        # As it comes back from the file, where tuples are lists.
        description = json.loads(json.dumps(description))
        description["digest"] = digest(tree, description)
        (unfinished / "model.json").write_text(json.dumps(description, indent=1) + "\n")
        if card is not None:
            cards.write(unfinished, dataclasses.replace(card, weights=description["digest"]))
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(unfinished / part, tree)  # leaving the context waits for the write
        for file in unfinished.rglob(MARKER):
            # orbax only tests whether the file exists; its text contains a path of this machine.
            file.write_text("Checkpoint commit was successful\n")
        old = path.with_name(f".{path.name}.old")
        if path.exists():
            path.rename(old)
        os.replace(unfinished, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
