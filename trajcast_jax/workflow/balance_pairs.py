"""Pairs of a balance: those that are learned from, and those that tell what it is worth."""

import dataclasses
import itertools
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from trajcast_jax import io
from trajcast_jax.config import Experiment
from trajcast_jax.data.pairs import FramePairs, join, stride
from trajcast_jax.learning.held_out import HeldOut
from trajcast_jax.workflow.training_pairs import load_pairs, load_visited

ENOUGH = 256
"""Pairs of the validation runs, and at most as many of a file of visited pairs, that are held out.
One-step errors need fewer; mean gains are seen to 1/16 of what those of single pairs scatter by."""


class BalancePairs(NamedTuple):
    """The pairs of a balance.

    Attributes:
      reference: pairs of the reference runs that are learned from.
      groups: all that are learned from, one group for every mesh of the far field.
      held: pairs that are not, in such groups too.
    """

    reference: FramePairs
    groups: list[FramePairs]
    held: list[HeldOut]


def balance_pairs(
    experiment: Experiment, paths: list[Path], visited: tuple[Path, ...]
) -> BalancePairs:
    """The pairs of reference runs, and of files of visited ones."""
    reference, mirrored = load_pairs(experiment, paths, "train"), experiment.data.time_reversal
    apart = [set_apart(part, mirrored) for part in load_visited(experiment, visited)]
    learned = [reference, *(part for part, _ in apart)]
    parts = [validation_pairs(experiment, paths), *(part for _, part in apart)]
    held = held_out(parts, [len(part) for part in learned])
    return BalancePairs(reference, by_mesh(learned), held)


def by_mesh(parts: list[FramePairs]) -> list[FramePairs]:
    """The pairs, joined where their far field has the same mesh.

    One mesh for all would be the product of the largest in each direction.
    """
    groups: dict = {}
    for part in parts:
        groups.setdefault(part.mesh, []).append(part)
    return [join(group) for group in groups.values()]


def set_apart(visited: FramePairs, mirrored: bool) -> tuple[FramePairs, FramePairs]:
    """Visited pairs without the last tenth, and this tenth, which is of the last forecasts.

    If `mirrored`, the second half are mirror images in time of the first: those of the tenth are in
    neither, as they are not independent of it.
    """
    n = len(visited) // (2 if mirrored else 1)
    rest = n - min(n // 10, ENOUGH)
    learned = np.flatnonzero(np.arange(len(visited)) % n < rest)
    take = lambda some: jax.tree.map(lambda x: x[some], visited)  # noqa: E731
    return take(learned), take(np.arange(rest, n))


def held_out(parts: list[FramePairs], sizes: list[int]) -> list[HeldOut]:
    """Groups of pairs, of which the first part alone counts in one-step errors.

    What is balanced is the mean over all pairs that are learned from. Each part stands for those
    of its kind, and has their share of it: `sizes` are their numbers.
    """
    there = [len(part) > 0 for part in parts]
    total, groups = sum(itertools.compress(sizes, there)), {}
    for k in np.flatnonzero(there):
        shares = np.full(len(parts[k]), sizes[k] / total / len(parts[k]))
        counts = np.full(len(parts[k]), float(k == 0))
        groups.setdefault(parts[k].mesh, []).append((parts[k], shares, counts))
    joined = (zip(*group, strict=True) for group in groups.values())
    return [HeldOut(join(p), np.concatenate(s), np.concatenate(c)) for p, s, c in joined]


def validation_pairs(experiment: Experiment, paths: list[Path]) -> FramePairs:
    """`ENOUGH` pairs of the validation runs, or as many as there are; more if the settings say so.

    The settings' number may be what one-step errors need, and is at least taken.
    """
    data, found = experiment.data, []
    for path in (paths[run] for run in data.validation_runs if run < len(paths)):
        times = io.read_trajectory(path, 0, 2)[1]
        found.append(io.n_frames(path) - stride(data.time_step, float(times[1] - times[0])))
    there = len(found) * min(found, default=0)  # as many are drawn from each
    n = max(data.validation_pairs, min(ENOUGH, there))
    changed = dataclasses.replace(experiment, data=dataclasses.replace(data, validation_pairs=n))
    return load_pairs(changed, paths, "validation")
