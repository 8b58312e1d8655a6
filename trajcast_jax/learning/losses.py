"""Losses of a forecast: scaled squared errors of one or several strides, and energy balance."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trajcast_jax.config import TrainingSettings
from trajcast_jax.data.pairs import FramePairs
from trajcast_jax.learning.motions import imbalance, motion_sums
from trajcast_jax.learning.optimizer import Params
from trajcast_jax.neighbors.graph import Graph
from trajcast_jax.network.forecast import Forecaster


def pair_errors(
    forecaster: Forecaster, params: Params, pair: FramePairs
) -> tuple[Float[Array, "atom 3"], Float[Array, "atom 3"]]:
    """Errors of the displacements (Å) and new velocities (Å/fs) of one pair."""
    edges = pair.edges(forecaster.settings.cutoff)
    displacements, velocities = forecaster.changes(params, pair.system, edges)
    return displacements - pair.displacements, velocities - pair.velocities


def pair_loss(
    forecaster: Forecaster,
    settings: TrainingSettings,
    pair: FramePairs,
    errors: tuple[Float[Array, "atom 3"], Float[Array, "atom 3"]],
) -> Float[Array, ""]:
    """Loss w_d·MSE(d/s_d) + w_v·MSE(v/s_v) over real atoms and components, from `pair_errors`."""
    scales = forecaster.scales(pair.system.species, pair.velocities.dtype)
    weights = (settings.displacement_weight, settings.velocity_weight)
    mask = pair.system.mask[:, None]
    n = 3 * pair.system.mask.sum()
    return sum(
        weight * jnp.sum(jnp.where(mask, error / scales[:, k, None], 0.0) ** 2) / n
        for k, (weight, error) in enumerate(zip(weights, errors, strict=True))
    )


def batch_errors(
    forecaster: Forecaster, params: Params, batch: FramePairs
) -> tuple[Graph, tuple[Float[Array, "pair atom 3"], Float[Array, "pair atom 3"]]]:
    """Graphs of a batch, and errors of its displacements and velocities, in one network pass."""
    edges = jax.vmap(lambda pair: pair.edges(forecaster.settings.cutoff))(batch)
    displacements, velocities = forecaster.batch_changes(params, batch.system, edges)
    return edges, (displacements - batch.displacements, velocities - batch.velocities)


def unrolled_loss(
    forecaster: Forecaster, settings: TrainingSettings, params: Params, batch: FramePairs
) -> Float[Array, ""]:
    """Mean of `pair_loss` over the states of several consecutive (unrolled) strides.

    Arrays of the batch are (sequence, stride, …). A state is the true frame plus the error of the
    forecast. It uses the neighbours of the true frame; any other neighbours are near the cutoff
    and have little weight. The reverse pass stores the states and recomputes their strides.
    """

    @jax.checkpoint
    def stride(off, pairs):
        true = pairs.system
        here = true.replace(positions=true.positions + off[0], velocities=true.velocities + off[1])
        _, errors = batch_errors(forecaster, params, pairs.replace(system=here))
        off = off[0] + errors[0], errors[1]
        return off, jax.vmap(partial(pair_loss, forecaster, settings))(pairs, off).mean()

    pairs = jax.tree.map(lambda x: x.swapaxes(0, 1), batch)
    start = (jnp.zeros_like(pairs.displacements[0]),) * 2
    return jax.lax.scan(stride, start, pairs)[1].mean()


def batch_loss(
    forecaster: Forecaster, settings: TrainingSettings, params: Params, batch: FramePairs
) -> Float[Array, ""]:
    """Mean of `pair_loss` plus `energy_balance` times the `imbalance` of the batch."""
    if settings.strides > 1:
        return unrolled_loss(forecaster, settings, params, batch)
    edges, errors = batch_errors(forecaster, params, batch)
    losses = jax.vmap(partial(pair_loss, forecaster, settings))(batch, errors)
    if not settings.energy_balance:
        return losses.mean()
    sums = jax.vmap(partial(motion_energies, forecaster))(batch, edges, errors)
    forecast, truth = (x.sum(0) for x in sums)
    n_species = len(forecaster.statistics.species)
    return losses.mean() + settings.energy_balance * imbalance(forecast, truth, n_species)


def motion_energies(
    forecaster: Forecaster,
    pair: FramePairs,
    edges: Graph,
    errors: tuple[Float[Array, "atom 3"], Float[Array, "atom 3"]],
) -> tuple[Float[Array, "product group"], Float[Array, "product group"]]:
    """`motion_sums` of v'·v', d·d and d·v, for the forecast and for the true frame."""
    system, cutoff = pair.system, forecaster.settings.cutoff
    index = forecaster.species_index(system.species)
    n_species = len(forecaster.statistics.species)

    def sums(d, v):
        products = [(v, v), (d, d), (d, system.velocities)]
        return motion_sums(edges, index, system.masses, products, n_species, cutoff)

    d, v = pair.displacements, pair.velocities
    return sums(d + errors[0], v + errors[1]), sums(d, v)


def error_sums(forecaster: Forecaster, params: Params, pairs: FramePairs) -> Float[Array, "2 2"]:
    """Sums Σ|error| and Σ|target| (columns) over all pairs, of displacements and velocities."""

    def one(pair):
        errors = pair_errors(forecaster, params, pair)
        mask = pair.system.mask[:, None]
        return jnp.stack(
            [
                jnp.stack([jnp.sum(mask * abs(e)), jnp.sum(mask * abs(x))])
                for e, x in zip(errors, (pair.displacements, pair.velocities), strict=True)
            ]
        )

    return jax.lax.map(one, pairs).sum(0)
