"""Normalisation constants of a training set: scales, baselines, neighbour counts, far fields."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols

from trajcast_jax.config import Statistics
from trajcast_jax.data.pairs import FramePairs
from trajcast_jax.neighbors.far_field import decorrelation, far_features, neutral_charges
from trajcast_jax.system import System, heights, product

FAR_FRAMES = 100
"""Number of frames of the training set from which the far field is normalised."""


def statistics(
    pairs: FramePairs,
    per_species: bool = True,
    baseline: bool = True,
    far: tuple[float, float] | None = None,
) -> Statistics:
    """Scales, linear baselines and mean number of neighbours of a training set.

    The baselines of a species are the least-squares slopes of displacement and new velocity on
    the velocity. The scales are the RMS components of the residuals.

    Args:
      pairs: the training set.
      per_species: whether every species has its own scales, or all share those of all atoms.
      baseline: whether to fit baselines; otherwise they are 0.
      far: cutoff (Å) and stride (fs), to normalise the far field too.

    Raises:
      ValueError: all atoms of a species are at rest, so that nothing can be normalised by them.
    """
    z = np.asarray(pairs.system.species)
    species = tuple(int(s) for s in np.unique(z[z > 0]))
    v = np.asarray(pairs.system.velocities, np.float64)
    _require_motion(v, z, species)
    fields = [np.asarray(x, np.float64) for x in (pairs.displacements, pairs.velocities)]
    slopes, scales = np.zeros((2, len(species))), np.zeros((2, len(species)))
    for k, field in enumerate(fields):
        left = field.copy()
        for i, s in enumerate(species):
            here = z == s
            if baseline:
                slopes[k, i] = (field[here] * v[here]).sum() / (v[here] ** 2).sum()
            left[here] -= slopes[k, i] * v[here]
            scales[k, i] = np.sqrt((left[here] ** 2).mean())
        if not per_species:
            scales[k] = np.sqrt((left[z > 0] ** 2).mean())
    neighbors = (np.asarray(pairs.idx) < z.shape[-1]).sum() / (z > 0).sum()
    return Statistics(
        species=species,
        displacement_scale=tuple(scales[0].tolist()),
        velocity_scale=tuple(scales[1].tolist()),
        displacement_baseline=tuple(slopes[0].tolist()),
        velocity_baseline=tuple(slopes[1].tolist()),
        velocity_rms=tuple(float(np.sqrt((v[z == s] ** 2).mean())) for s in species),
        average_neighbors=float(neighbors),
        far_mixing=() if far is None else _far_mixing(pairs, species, *far),
    )


def updated(known: Statistics, measured: Statistics) -> Statistics:
    """Statistics of a model for another training set; it may have fewer species than the model.

    All values are the measured ones, but for species that are not in the training set, and for
    `far_mixing`, whose basis the weights have learned.

    Raises:
      ValueError: the model does not know a species of the training set.
    """
    unknown = [s for s in measured.species if s not in known.species]
    if unknown:
        names, all_known = (
            ", ".join(chemical_symbols[s] for s in x) for x in (unknown, known.species)
        )
        raise ValueError(
            f"The training pairs have {names}, but the model knows {all_known} only; train a new "
            "model, or start from one that knows all species."
        )

    def both(old: tuple, new: tuple) -> tuple:
        of_species = dict(zip(known.species, old, strict=True))
        return tuple((of_species | dict(zip(measured.species, new, strict=True))).values())

    per_species = ("displacement_scale", "velocity_scale", "displacement_baseline",
                   "velocity_baseline", "velocity_rms")  # fmt: skip
    changes = {name: both(getattr(known, name), getattr(measured, name)) for name in per_species}
    return dataclasses.replace(known, average_neighbors=measured.average_neighbors, **changes)


def _require_motion(velocities: np.ndarray, z: np.ndarray, species: tuple[int, ...]) -> None:
    """An error that names the species, if all atoms of one are at rest in all frames."""
    still = [s for s in species if not np.any(velocities[z == s])]
    if still:
        names = ", ".join(chemical_symbols[s] for s in still)
        raise ValueError(
            f"No atom of {names} moves in the training pairs (frozen atoms?). A forecast moves all "
            "atoms and keeps the total momentum: let them move in the reference, or leave them out."
        )


def longest_cell(pairs: FramePairs) -> float:
    """Largest perpendicular height (Å) of all cells; 0 without a cell.

    It is the longest wavelength in the training set.
    """
    if pairs.system.cell is None:
        return 0.0
    return float(jax.vmap(heights)(jnp.asarray(pairs.system.cell)).max())


def _far_mixing(pairs: FramePairs, species, cutoff: float, time_step: float):
    some = np.unique(np.linspace(0, len(pairs) - 1, FAR_FRAMES).astype(int))
    frames = jax.tree.map(lambda x: jnp.asarray(x[some]), pairs.system)

    z = np.asarray(pairs.system.species)
    counts = np.array([(z == s).sum() for s in species])
    charges = np.eye(len(species)) if pairs.mesh is None else neutral_charges(counts)

    def one(frame: System):
        dtype = frame.positions.dtype
        one_hot = (frame.species[:, None] == jnp.asarray(species)).astype(dtype)
        sources = product(one_hot, jnp.asarray(charges, dtype))
        return far_features(frame, sources, cutoff, pairs.mesh, time_step)

    mixing = decorrelation(jax.device_get(jax.jit(lambda x: jax.lax.map(one, x))(frames)))
    return tuple(tuple(map(tuple, matrix)) for matrix in (charges @ mixing).tolist())
