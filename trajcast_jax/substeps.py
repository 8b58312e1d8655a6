"""Substeps: the stiff part of a stride, followed on the way by accelerations that are learned.

The map over a stride of one or two periods of the stiffest vibration is a high power of the
force constants, which blocks have to build up one multiplication each. Here the blocks only say
how every pair of neighbours pulls, and leapfrog (Verlet, Phys. Rev. 159, 98 (1967),
doi:10.1103/PhysRev.159.98) multiplies. Nothing of it is given or trained on forces: like any
layer it learns from where the atoms are after the stride, and what it leaves is the read-out's.
"""

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from trajcast_jax.graph import Graph
from trajcast_jax.layers import Linear, in_blocks, polynomial_envelope, rows_at_once, scaled_silu
from trajcast_jax.layers.linear import normal
from trajcast_jax.layers.radial import safe_norm

WIDTH = 32
"""Hidden features of a pair."""
STRETCH = 0.3
"""Typical stretch of a stiff bond, over what a free atom moves in a stride."""
SIZES = (1.0, 0.3, 0.1)
"""First size of the coefficients of waves, of the stretch and of its square: small, so that an
update of the weights at a large rate changes a trajectory only a little."""
BOUND = 10.0
"""What the stretch levels off at, over its typical size: no pull, however wrong, knows no limit."""


def _sine_series(coefficients: list[jax.Array], angle: jax.Array) -> jax.Array:
    """Σ_n c_n sin(n·angle), n = 1, 2, ..., by Clenshaw's recurrence: a single sine and cosine."""
    double = 2.0 * jnp.cos(angle)
    later, last = jnp.zeros_like(angle), jnp.zeros_like(angle)
    for c in reversed(coefficients):
        later, last = c + double * later - last, later
    return later * jnp.sin(angle)


class Substeps(nn.Module):
    """Moves atoms through one stride in `steps` steps of leapfrog.

    The acceleration of atom i, times Δt², is (ℓ_i²/ℓ)·(Σ_j f_ij r̂_ij + g_i), with ℓ_i = v_i,rms·Δt
    and ℓ its largest value among the species: ℓ_i² goes as the inverse mass. The pull
    f_ij = u(r_ij(0)/r_c)·[Σ_n c_n R_n(r) + u(r/r_c)·(c'·y + c''·y²)], with y the stretch
    (r − r(0))/(0.3 ℓ), levelling off at ±10, changes on the way; g_i and the coefficients, which
    are symmetric in i and j, are read from the features at the start and do not.

    Attributes:
      steps: their number.
      cutoff: r_c, Å.
      envelope_power: of u.
    """

    steps: int
    cutoff: float
    envelope_power: int

    @nn.compact
    def __call__(
        self,
        graph: Graph,
        h: e3nn.IrrepsArray,
        edge_basis: Float[Array, "atom neighbor n"],
        flight: Float[Array, "atom 3"],
        reach: Float[Array, "atom"],
        largest_reach: float,
    ) -> tuple[Float[Array, "atom 3"], Float[Array, "atom 3"]]:
        """Displacement, and what the new velocity would move an atom by in a stride; both in Å.

        Args:
          h: features of the atoms at the start.
          edge_basis: radial functions R_n at the start.
          flight: v·Δt, Å.
          reach: ℓ_i, Å; `largest_reach` is ℓ.
        """
        dtype, n = flight.dtype, edge_basis.shape[-1]
        read = Linear(e3nn.Irreps(f"{WIDTH}x0e + 1x1o"), name="atoms")(h)
        node, steady = read.chunks[0][..., 0], 0.5 * read.chunks[1][:, 0]
        w_1 = self.param("w_pairs", normal, (n, WIDTH)).astype(dtype) * n**-0.5
        w_2 = self.param("w_pull", normal, (WIDTH, n + 2)).astype(dtype) * WIDTH**-0.5
        first = safe_norm(graph.vectors)
        smooth = jnp.where(graph.mask, self._envelope(first), 0.0)
        waves, stretch, square = SIZES
        sizes = jnp.asarray([waves * 2.0 / self.cutoff] * n + [stretch, square], dtype)

        def pulls(node_i, senders, basis, smooth):
            pairs = scaled_silu(0.6 * (node_i[:, None] + node[senders]) + basis @ w_1)
            return (pairs @ w_2) * sizes * smooth[..., None]

        of_atoms = node, graph.senders, edge_basis, smooth
        coefficients = in_blocks(pulls, of_atoms, rows_at_once(len(node)))
        *c_waves, c_1, c_2 = [c[..., 0] for c in lax.split(coefficients, [1] * (n + 2), 2)]
        response = (reach**2 / largest_reach)[:, None]

        def acceleration(moved):
            vectors = graph.vectors + moved[graph.senders] - moved[:, None]
            r = safe_norm(vectors)
            y = BOUND * jnp.tanh((r - first) / (BOUND * STRETCH * largest_reach))
            pull = _sine_series(c_waves, jnp.pi * r / self.cutoff) / (r + 1e-5)
            pull = (pull + y * (c_1 + c_2 * y)) * self._envelope(r) / (r + 1e-5)
            return response * (jnp.sum(pull[..., None] * vectors, axis=1) + steady)

        # Computed again for derivatives: what all pairs hold at a step is much more than it costs.
        @jax.checkpoint
        def leap(state, _):
            moved, flight = state
            moved = moved + (0.5 / self.steps) * flight
            flight = flight + acceleration(moved) / self.steps
            return (moved + (0.5 / self.steps) * flight, flight), None

        return lax.scan(leap, (jnp.zeros_like(flight), flight), None, self.steps)[0]

    def _envelope(self, lengths):
        return polynomial_envelope(lengths / self.cutoff, self.envelope_power)
