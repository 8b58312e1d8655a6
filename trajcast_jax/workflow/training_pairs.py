"""Training pairs from reference runs and from states that a model has visited."""

import dataclasses
from pathlib import Path

from trajcast_jax import io
from trajcast_jax.config import Experiment
from trajcast_jax.data import FramePairs, frame_pairs, longest_cell
from trajcast_jax.network import checkpoint
from trajcast_jax.network.forecast import Forecaster

SEGMENT = 2
"""Frames per piece of a file of visited states: the state, and the state one stride later."""


def load_pairs(experiment: Experiment, paths: list[Path], part: str) -> FramePairs:
    """Load the "train", "validation" or "test" pairs of an experiment from its runs.

    Raises:
      ValueError: no run is named, or a run is missing.
    """
    data = experiment.data
    runs = getattr(data, f"{part}_runs")
    absent = [run for run in runs if run >= len(paths)]
    if not runs:
        raise ValueError(
            f"data.{part}_runs is empty; name one or more of the {len(paths)} runs, as in [0]."
        )
    if absent:
        raise ValueError(
            f"data.{part}_runs names run {absent[0]}, but there are only {len(paths)} runs; "
            "generate more, or change the setting."
        )
    strides = experiment.training.strides if part == "train" else 1
    return frame_pairs(
        [io.read_trajectory(paths[run]) for run in runs],
        data.time_step,
        experiment.model.cutoff,
        getattr(data, f"{part}_pairs") // strides,
        seed=("train", "validation", "test").index(part),
        time_reversal=data.time_reversal and part == "train",
        strides=strides,
    )


def load_visited(experiment: Experiment, paths: tuple[Path, ...]) -> list[FramePairs]:
    """Load all pairs of files that `experiments.visit` wrote, with their time-reversed pairs.

    Raises:
      ValueError: `training.strides` is above 1.
    """
    data, strides = experiment.data, experiment.training.strides
    if paths and strides > 1:
        raise ValueError(
            f"Visited pairs are single strides, but training.strides is {strides}; leave --visited "
            "out, or set it to 1."
        )
    parts = []
    for path in paths:
        run = io.read_trajectory(path)
        parts.append(
            frame_pairs(
                [run], data.time_step, experiment.model.cutoff, len(run[1]) // SEGMENT,
                time_reversal=data.time_reversal, segment=SEGMENT,
            )
        )  # fmt: skip
    return parts


def with_cells(forecaster: Forecaster, pairs: FramePairs) -> Forecaster:
    """Update `longest_cell` in the statistics of the forecaster with the cells of `pairs`."""
    known = forecaster.statistics
    longest = max(known.longest_cell, longest_cell(pairs))
    return dataclasses.replace(
        forecaster, statistics=dataclasses.replace(known, longest_cell=longest)
    )


def going_on(experiment: Experiment, path: Path) -> Experiment:
    """Replace the model settings of an experiment by those of the checkpoint to continue from.

    The cutoff of the training pairs then is that of the checkpoint, too.

    Raises:
      ValueError: the strides differ.
    """
    forecaster, _ = checkpoint.describe(path)
    own, asked = forecaster.time_step, experiment.data.time_step
    if own != asked:
        raise ValueError(
            f"{path} was trained for strides of {own:g} fs, but data.time_step is {asked:g}; set "
            "it to that, or train a new model in another folder (--out)."
        )
    return dataclasses.replace(experiment, model=forecaster.settings)
