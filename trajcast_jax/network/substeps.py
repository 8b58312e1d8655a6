"""Substeps: integrate learned pair accelerations through one stride, for stiff vibrations.

A stride covers one or two periods of the stiffest vibration, so its map is a high power of the
force constants; a message-passing block contributes about one factor. Here the network only
predicts the pair accelerations, and leapfrog integration (Verlet, Phys. Rev. 159, 98 (1967),
doi:10.1103/PhysRev.159.98) gives the powers. No forces are given or used in training. Like
other layers, this one is trained on positions and velocities after the stride; the read-out adds
the remaining part.
"""

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from trajcast_jax.blocks import in_blocks, rows_at_once
from trajcast_jax.neighbors.graph import Graph
from trajcast_jax.network.layers import Linear, polynomial_envelope, scaled_silu
from trajcast_jax.network.layers.linear import normal
from trajcast_jax.network.layers.radial import safe_norm

WIDTH = 32
"""Number of hidden features per pair."""
STRETCH = 0.3
"""Typical stretch of a stiff bond, relative to the path of a free atom in a stride."""
SIZES = (1.0, 0.3, 0.1)
"""Initial sizes of the coefficients of the Bessel functions, of the stretch and of its square.
They are small, so that updates at a large learning rate change a trajectory only slightly."""
BOUND = 10.0
"""Largest stretch, in units of the typical stretch; approached smoothly, to bound all pulls."""


def _sine_series(coefficients: list[jax.Array], angle: jax.Array) -> jax.Array:
    """Compute Σ_n c_n sin(n·angle), n = 1, 2, ..., by Clenshaw's recurrence.

    It evaluates a single sine and a single cosine.
    """
    double = 2.0 * jnp.cos(angle)
    later, last = jnp.zeros_like(angle), jnp.zeros_like(angle)
    for c in reversed(coefficients):
        later, last = c + double * later - last, later
    return later * jnp.sin(angle)


class Substeps(nn.Module):
    """Move atoms through one stride in `steps` leapfrog steps.

    The acceleration of atom i, times Δt², is (ℓ_i²/ℓ)·(Σ_j f_ij r̂_ij + g_i), with
    ℓ_i = v_i,rms·Δt and ℓ the largest ℓ_i of all species; ℓ_i² is proportional to the inverse
    mass. The pull f_ij = u(r_ij(0)/r_c)·[Σ_n c_n R_n(r) + u(r/r_c)·(c'·y + c''·y²)] is evaluated
    at every step. Here y is the stretch (r − r(0))/(0.3 ℓ), smoothly limited to ±10. The
    coefficients c, which are symmetric in i and j, and g_i are computed once, from the features
    at the start of the stride.

    Attributes:
      steps: number of steps.
      cutoff: r_c, Å.
      envelope_power: exponent p of the envelope u.
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
        """Integrate one stride; return displacements (Å) and new velocities times Δt (Å).

        Args:
          graph: edges at the start of the stride.
          h: features of the atoms at the start.
          edge_basis: radial functions R_n at the start.
          flight: v·Δt at the start, Å.
          reach: ℓ_i, Å.
          largest_reach: ℓ, Å.
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

        # Derivatives recompute a step: storing the intermediates of all pairs takes much memory.
        @jax.checkpoint
        def leap(state, _):
            moved, flight = state
            moved = moved + (0.5 / self.steps) * flight
            flight = flight + acceleration(moved) / self.steps
            return (moved + (0.5 / self.steps) * flight, flight), None

        return lax.scan(leap, (jnp.zeros_like(flight), flight), None, self.steps)[0]

    def _envelope(self, lengths):
        return polynomial_envelope(lengths / self.cutoff, self.envelope_power)
