"""Energy balance: measure whether a forecast conserves the mean energy of every kind of motion.

A network trained on squared errors forecasts means, which have less energy than the true motion.
So every stride loses a little energy, and more in motions that are hard to forecast. A thermostat
returns the energy to all motions equally, so that some become hot and others cold. Here, kinds of
motion are defined without normal modes, so that fluids have them too: by species, and by the
relative motion of neighbours along and across the line between them, for shells of distances.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trajcast_jax.neighbors.graph import Graph
from trajcast_jax.network.layers.radial import unit_vectors
from trajcast_jax.system import product

SHELL = 1.0
"""Å, distance between the centres of two shells of neighbours."""


def motion_sums(
    edges: Graph,
    species: Int[Array, "atom"],
    masses: Float[Array, "atom"],
    products: list[tuple[Float[Array, "atom 3"], Float[Array, "atom 3"]]],
    n_species: int,
    cutoff: float,
) -> Float[Array, "product group"]:
    """Sums Σ m a·b over atoms and Σ μ a_ij·b_ij over neighbours, for every product (a, b).

    The groups are the species, followed by, for every ordered pair of species and every shell, the
    components along r_ij and across it. Here a_ij = a_j − a_i, and μ is the reduced mass. For
    a = b = v, a sum is twice a kinetic energy: k_B T per degree of freedom at equilibrium.

    Args:
      edges: graph, Å.
      species: indices into the model's list, not atomic numbers.
      masses: Da; 0 for padding.
      products: pairs of vectors (a, b).
      n_species: number of species of the model.
      cutoff: of the graph, Å.
    """
    one_hot = jax.nn.one_hot(species, n_species) * (masses > 0)[:, None]
    lengths = jnp.linalg.norm(edges.vectors, axis=-1)
    centers = SHELL * jnp.arange(1, max(1, round(cutoff / SHELL)) + 1)
    hats = jnp.clip(1 - abs(lengths[..., None] - centers) / SHELL, 0.0)
    other = masses[edges.senders]
    reduced = masses[:, None] * other / jnp.maximum(masses[:, None] + other, 1e-9)
    hats = hats * (reduced * edges.mask)[..., None]
    axes = unit_vectors(edges.vectors)
    rows = []
    for a, b in products:
        a_ij, b_ij = a[edges.senders] - a[:, None], b[edges.senders] - b[:, None]
        along = jnp.sum(a_ij * axes, -1) * jnp.sum(b_ij * axes, -1)
        across = jnp.sum(a_ij * b_ij, -1) - along
        pairs = jnp.einsum(
            "iy,ijz,ijs,ijk->yzsk", one_hot, one_hot[edges.senders], hats,
            jnp.stack([along, across], -1), precision="highest",
        )  # fmt: skip
        single = product(masses * jnp.sum(a * b, -1), one_hot)
        rows.append(jnp.concatenate([single, pairs.ravel()]))
    return jnp.stack(rows)


def over_sizes(
    errors: Float[Array, "product group"], truth: Float[Array, "product group"]
) -> Float[Array, "product group"]:
    """Relative errors of `motion_sums`; 0 in empty groups.

    The products are v'·v', d·d and d·v, in this order. For a harmonic motion, they determine the
    kinetic and the potential energy after the stride.
    """
    squares = jnp.maximum(truth[:2], 0.0)
    # d·v changes sign with the phase of a motion, so √(v'² d²) is its scale.
    sizes = jnp.stack([squares[0], squares[1], jnp.sqrt(squares[0] * squares[1])])
    return jnp.where(sizes > 0, errors / jnp.where(sizes > 0, sizes, 1.0), 0.0)


def imbalance(
    forecast: Float[Array, "product group"], truth: Float[Array, "product group"], n_species: int
) -> Float[Array, ""]:
    """Mean square relative error of `motion_sums`, with groups weighted by their energies."""
    relative = over_sizes(forecast - truth, truth)
    energies = jnp.maximum(truth[0], 0.0)
    single = jnp.arange(truth.shape[1]) < n_species
    weights = sum(
        part * energies / jnp.maximum(jnp.sum(part * energies), 1e-30) for part in (single, ~single)
    )
    return jnp.sum(weights * relative**2) / (2 * len(relative))
