"""Training pairs and held-out pairs of a balance."""

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
"""Number of held-out pairs of the validation runs, and largest number of a file of visited pairs.
One-step errors need fewer. The standard error of mean gains is 1/16 of the scatter of single
pairs."""


class BalancePairs(NamedTuple):
    """The pairs of a balance.

    Attributes:
      reference: training pairs of the reference runs.
      groups: all training pairs, in one group for every mesh of the far field.
      held: held-out pairs, also in groups.
    """

    reference: FramePairs
    groups: list[FramePairs]
    held: list[HeldOut]


def balance_pairs(
    experiment: Experiment, paths: list[Path], visited: tuple[Path, ...]
) -> BalancePairs:
    """Load the pairs of reference runs and of files of visited pairs."""
    reference, mirrored = load_pairs(experiment, paths, "train"), experiment.data.time_reversal
    apart = [set_apart(part, mirrored) for part in load_visited(experiment, visited)]
    learned = [reference, *(part for part, _ in apart)]
    parts = [validation_pairs(experiment, paths), *(part for _, part in apart)]
    held = held_out(parts, [len(part) for part in learned])
    return BalancePairs(reference, by_mesh(learned), held)


def by_mesh(parts: list[FramePairs]) -> list[FramePairs]:
    """Join the pairs whose far fields have the same mesh.

    A common mesh of all pairs would have the largest number of points along every axis.
    """
    groups: dict = {}
    for part in parts:
        groups.setdefault(part.mesh, []).append(part)
    return [join(group) for group in groups.values()]


def set_apart(visited: FramePairs, mirrored: bool) -> tuple[FramePairs, FramePairs]:
    """Split visited pairs into training pairs and the last tenth, which is held out.

    The last tenth comes from the last forecasts. If `mirrored`, the second half of the pairs are
    mirror images in time of the first half. The mirror images of the held-out pairs are left out,
    because they are not independent of them.
    """
    n = len(visited) // (2 if mirrored else 1)
    rest = n - min(n // 10, ENOUGH)
    learned = np.flatnonzero(np.arange(len(visited)) % n < rest)
    take = lambda some: jax.tree.map(lambda x: x[some], visited)  # noqa: E731
    return take(learned), take(np.arange(rest, n))


def held_out(parts: list[FramePairs], sizes: list[int]) -> list[HeldOut]:
    """Make groups of held-out pairs; only the first part enters one-step errors.

    The balanced quantity is the mean over all training pairs. Each part represents training pairs
    of its kind, and `sizes` are the numbers of these. The weight of a part is their share.
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
    """Load pairs of the validation runs: `ENOUGH`, or as many as there are.

    The number is at least `data.validation_pairs`.
    """
    data, found = experiment.data, []
    for path in (paths[run] for run in data.validation_runs if run < len(paths)):
        times = io.read_trajectory(path, 0, 2)[1]
        found.append(io.n_frames(path) - stride(data.time_step, float(times[1] - times[0])))
    there = len(found) * min(found, default=0)  # equally many are drawn from each run
    n = max(data.validation_pairs, min(ENOUGH, there))
    changed = dataclasses.replace(experiment, data=dataclasses.replace(data, validation_pairs=n))
    return load_pairs(changed, paths, "validation")
