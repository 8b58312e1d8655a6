"""Energy balance: does a forecast keep, on average, the energy of every kind of motion?

A network trained on squared errors forecasts means, and a mean moves less than what it is the
mean of: each stride loses a little energy, more in motions that are hard to forecast. A
thermostat gives it back to all alike, and easy motions end up hot and hard ones cold. Kinds of
motion are told apart without normal modes, so that fluids have them too: by species, and by the
motion of neighbours along and across the line between them, shell by shell.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from trajcast_jax.graph import Graph
from trajcast_jax.layers.radial import unit_vectors
from trajcast_jax.system import product

SHELL = 1.0
"""Å between the centres of two shells of neighbours."""


def motion_sums(
    edges: Graph,
    species: Int[Array, "atom"],
    masses: Float[Array, "atom"],
    products: list[tuple[Float[Array, "atom 3"], Float[Array, "atom 3"]]],
    n_species: int,
    cutoff: float,
) -> Float[Array, "product group"]:
    """Σ m a·b over atoms, and Σ μ a_ij·b_ij over neighbours, for every product (a, b).

    Groups: each species; then, for every ordered pair of species and every shell, what is
    along r_ij and what is across it, with a_ij = a_j − a_i and the reduced mass μ. With
    a = b = v each is twice a kinetic energy, and k_B T per degree of freedom at equilibrium.

    Args:
      species: indices into the model's list, not atomic numbers.
      masses: Da; 0 for padding.
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
    """Errors of `motion_sums` over the sizes of what they are errors of; 0 in empty groups.

    The products are v'·v', d·d and d·v, in this order: of a harmonic motion they give the
    kinetic and the potential energy after the stride.
    """
    squares = jnp.maximum(truth[:2], 0.0)
    # d·v changes sign with the phase of a motion; what it is measured by does not.
    sizes = jnp.stack([squares[0], squares[1], jnp.sqrt(squares[0] * squares[1])])
    return jnp.where(sizes > 0, errors / jnp.where(sizes > 0, sizes, 1.0), 0.0)


def imbalance(
    forecast: Float[Array, "product group"], truth: Float[Array, "product group"], n_species: int
) -> Float[Array, ""]:
    """Mean square of the relative error of `motion_sums`, groups weighted by their energies."""
    relative = over_sizes(forecast - truth, truth)
    energies = jnp.maximum(truth[0], 0.0)
    single = jnp.arange(truth.shape[1]) < n_species
    weights = sum(
        part * energies / jnp.maximum(jnp.sum(part * energies), 1e-30) for part in (single, ~single)
    )
    return jnp.sum(weights * relative**2) / (2 * len(relative))
