"""Frames that stand in several sources: what trains must not test."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from trajcast_jax.io.digests import digest
from trajcast_jax.io.options import note

DIRECTIONS = 6
"""Number of random directions, in the space of all velocities, along which frames are compared."""
ALIKE = 1e-4
"""Distance of frames that are one: files round to some digits, and others are about 1 apart."""
MANY = 2
"""Number of shared frames that are a pair; one is what a continued run begins with."""


def require_other_files(sources: list[Path]) -> None:
    """No two files are the same one, or have the same content.

    Raises:
      ValueError: two are.
    """
    known = {}
    for source in sources:
        key = digest(source) or str(source)
        if key in known:
            raise ValueError(
                f"{known[key]} and {source} are the same file, or hold the same; what a model "
                "learns from would also test it: give each trajectory once."
            )
        known[key] = source


class Seen:
    """Frames that came before, of whichever file; they are known by their velocities."""

    def __init__(self):
        self._found: list[tuple[str, np.ndarray]] = []

    def add(self, velocities: Float[np.ndarray, "time atom 3"], name: str) -> None:
        """Remember the frames of a run.

        Raises:
          ValueError: two of them, or more, came before.
        """
        mine = fingerprints(velocities)
        if len(mine) > 1 and np.median(np.abs(np.diff(mine, axis=0)).max(axis=1)) < ALIKE:
            return  # velocities that stay the same tell no frame
        for other, theirs in self._found:
            shared = np.flatnonzero(_nearest(mine, theirs) < ALIKE)
            if len(shared) >= MANY:
                raise ValueError(
                    f"{len(shared)} of the {len(mine)} frames of {name} stand in {other} too (the "
                    f"first is the {shared[0]}th); what a model learns from would also test it: "
                    "give each trajectory once, or leave frames out (--first, --last)."
                )
            if len(shared):
                note(f"Frame {shared[0]} of {name} stands in {other} too; it was kept in both.")
        self._found.append((name, mine))


def fingerprints(velocities: Float[np.ndarray, "time atom 3"]) -> Float[np.ndarray, "time number"]:
    """A few numbers of order 1 that tell frames apart.

    They are the velocities along random directions over their size, the logarithm of their size,
    and the number of atoms, so that runs of other systems are far apart.
    """
    n_atoms = velocities.shape[1]
    random = np.random.default_rng(n_atoms)
    directions = random.normal(size=(3 * n_atoms, DIRECTIONS)) / np.sqrt(3 * n_atoms)
    blocks = [velocities[i : i + 1000] for i in range(0, len(velocities), 1000)]
    flat = [np.asarray(b, np.float64).reshape(len(b), -1) for b in blocks]
    size = np.concatenate([np.sqrt(np.mean(x**2, axis=1)) for x in flat])
    along = np.concatenate([x @ directions for x in flat]) / np.maximum(size, 1e-30)[:, None]
    return np.column_stack([along, np.log(np.maximum(size, 1e-30)), np.full(len(size), n_atoms)])


def _nearest(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Distance (time,) of each frame to the nearest other one; infinite above `ALIKE`."""
    from scipy.spatial import cKDTree

    return cKDTree(theirs).query(mine, distance_upper_bound=ALIKE)[0]
