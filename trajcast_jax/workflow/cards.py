"""Cards of models: that of a training, and what a rollout takes from one."""

import dataclasses
import datetime
import json
import shlex
import sys
from pathlib import Path

import jax

from trajcast_jax import config
from trajcast_jax.config import Experiment
from trajcast_jax.data import FramePairs
from trajcast_jax.network import checkpoint
from trajcast_jax.network.card import Card, Made, validity_of
from trajcast_jax.network.forecast import Forecaster
from trajcast_jax.reference import engine_speed, origin, processor


def training_card(
    experiment: Experiment,
    forecaster: Forecaster,
    pairs: list[FramePairs],
    paths: list[Path],
    hours: float | None = None,
) -> Card:
    """The card of a model that has learned from `pairs`, and has not been judged.

    Args:
      experiment: the experiment.
      forecaster: its statistics know the longest cell of earlier trainings, too.
      pairs: groups of pairs.
      paths: of the reference runs that they are from.
      hours: of training.
    """
    validity = validity_of(pairs, forecaster.time_step, forecaster.settings.cutoff)
    if validity.longest_cell:
        longest = max(validity.longest_cell, forecaster.statistics.longest_cell)
        validity = dataclasses.replace(validity, longest_cell=longest)
    folder = paths[0].parent if paths else Path()
    speed = engine_speed(folder) or {}
    source, fingerprint = origin(folder)
    made = Made(
        command=f"{sys.argv[0]} {shlex.join(sys.argv[1:])}",
        date=datetime.date.today().isoformat(),
        version=checkpoint.code_version(),
        jax=jax.__version__,
        hours=hours,
        processor=processor(),
        reference=source,
        fingerprint=fingerprint,
        pairs=sum(map(len, pairs)),
        atoms=speed.get("n_atoms"),
        engine_ns_per_day=speed.get("ns_per_day"),
    )
    return Card(validity=validity, name=experiment.name, made=made)


def after(card: Card, seconds: float, errors: tuple[float, float] | None = None) -> Card:
    """The card after `seconds` of training, with one-step errors (%, of d and v) on validation."""
    card = dataclasses.replace(card, made=dataclasses.replace(card.made, hours=seconds / 3600))
    if errors is None:
        return card
    measured = dataclasses.replace(
        card.measured,
        one_step=dict(zip(("displacements", "velocities"), errors, strict=True)),
        one_step_pairs="validation pairs, by which these weights were chosen",
    )
    return dataclasses.replace(card, measured=measured)


def with_settings_of(card: Card | None, experiment: Experiment, stated: frozenset[str]):
    """The experiment with the stride and the settings of rollouts of a card, if not `stated`.

    Also returns a line that says which were taken; "" if none was.
    """
    if card is None:
        return experiment, ""
    settings = {f"rollout.{name}": value for name, value in card.rollout.stated().items()}
    if card.validity.stride:
        settings["data.time_step"] = card.validity.stride
    taken = {name: value for name, value in settings.items() if name not in stated}
    if not taken:
        return experiment, ""
    changes = tuple(f"{name}={json.dumps(value)}" for name, value in taken.items())
    listed = ", ".join(change.replace("=", " = ", 1) for change in changes)
    line = f"From the model's card, as neither the experiment nor an option states them: {listed}."
    return config.changed(experiment, changes), line
