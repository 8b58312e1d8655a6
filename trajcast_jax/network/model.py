"""The network: embedding, message-passing blocks, read-out. Its outputs are normalised.

Thiemann et al., Nat. Mach. Intell. 8, 764 (2026), "EfficientTrajCastModel"; every size is a
setting. The network knows neither units nor conservation laws. Weights on which no output
depends are not created: in the last block, all that do not contribute to vectors (1o).
"""

from typing import NamedTuple

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from trajcast_jax.blocks import rows_at_once, stack_rows
from trajcast_jax.config import ModelSettings, Statistics
from trajcast_jax.neighbors.graph import Graph
from trajcast_jax.network.layers import (
    MLP,
    BesselBasis,
    Convolution,
    Linear,
    NodeTensorProduct,
    SpeciesLinear,
    activation,
    channelwise_paths,
    directions,
    gate,
    gate_irreps,
    odd_activation,
    speed_basis,
)
from trajcast_jax.network.layers.linear import normal
from trajcast_jax.network.layers.radial import safe_norm
from trajcast_jax.network.substeps import Substeps

LEVELLING = 0.15
"""Width of the smooth transition of speeds to `speed_limit`, in RMS velocity components."""


def feature_irreps(channels: int, lmax: int, parity: str) -> e3nn.Irreps:
    """Irreps C × (0e + 1o + 2e …), sorted by l; with parity "both" also C × (0o + 1e + 2o …).

    Raises:
      ValueError: `parity` is neither "natural" nor "both".
    """
    parities = {"natural": [0], "both": [0, 1]}
    if parity not in parities:
        raise ValueError(f"model.parity must be 'natural' or 'both', but is '{parity}'.")
    return e3nn.Irreps(
        [(channels, (l, (-1) ** (l + odd))) for l in range(lmax + 1) for odd in parities[parity]]  # noqa: E741
    )


def _reachable(irreps_in: e3nn.Irreps, lmax: int, allowed: e3nn.Irreps) -> e3nn.Irreps:
    """The `allowed` irreps that irreps_in ⊗ Y can produce."""
    found = {path.ir_out for path in channelwise_paths(irreps_in, lmax, allowed)}
    return e3nn.Irreps([(mul, ir) for mul, ir in e3nn.Irreps(allowed) if ir in found])


def _sources(irreps_in: e3nn.Irreps, lmax: int, needed: e3nn.Irreps) -> e3nn.Irreps:
    """The part of irreps_in whose product with Y contains any `needed` irrep."""
    used = {path.ir_in for path in channelwise_paths(irreps_in, lmax, needed)}
    return e3nn.Irreps([(mul, ir) for mul, ir in e3nn.Irreps(irreps_in) if ir in used])


class BlockIrreps(NamedTuple):
    """Irreps of the features inside a message-passing block.

    Attributes:
      convolved: output of the convolution, without irreps that cannot contribute to `out`.
      out: output of the block.
      gated: input of the gate, made by the velocity product and the linear layer after it.
    """

    convolved: e3nn.Irreps
    out: e3nn.Irreps
    gated: e3nn.Irreps


def block_irreps(settings: ModelSettings, block: int, h: e3nn.Irreps) -> BlockIrreps:
    """Irreps in block number `block` with input irreps `h`; the last block outputs vectors only."""
    s = settings
    every = feature_irreps(s.channels, s.lmax, s.parity)
    wanted = every if block < s.blocks - 1 else e3nn.Irreps(f"{s.channels}x1o")
    # From input to output, keep irreps that can be made and that the gate can use.
    convolved = _reachable(h, s.lmax, every)
    convolved = _sources(convolved, s.lmax, e3nn.Irreps([(1, "0e"), *wanted]))
    out = _reachable(convolved, s.lmax, wanted)
    return BlockIrreps(convolved, out, gate_irreps(out))


class SpeedMixing(nn.Module):
    """Mix the speed basis per species: Rv_k = (M·n_el)^(−½)·Σ_mz g_m e_z W_mzk."""

    n_species: int

    @nn.compact
    def __call__(
        self, basis: Float[Array, "atom n"], one_hot: Float[Array, "atom z"]
    ) -> Float[Array, "atom n"]:
        n = basis.shape[-1]
        weight = self.param("weights", normal, (n, self.n_species, n)).astype(basis.dtype)
        mixed = jnp.einsum("...m,...z,mzk->...k", basis, one_hot, weight)
        return mixed * (n * self.n_species) ** -0.5


class Interaction(nn.Module):
    """One message-passing block: convolution, velocity product, gate, skip."""

    settings: ModelSettings
    block: int
    n_species: int
    average_neighbors: float

    @nn.compact
    def __call__(
        self, of_all, h, species, senders, edge_basis, edge_harmonics, speed_features,
        speed_harmonics,
    ):  # fmt: skip
        """Compute new features of some atoms.

        `of_all` holds the features of all atoms; all other arguments hold rows of these atoms.
        """
        s, average_neighbors = self.settings, self.average_neighbors
        convolved, out, gated = block_irreps(s, self.block, h.irreps)

        radial = MLP(s.edge_mlp, activation(s.edge_activation), name="edge_mlp")(edge_basis)
        if s.edge_rank:
            shape = (radial.shape[-1], s.edge_rank)
            radial = radial @ self.param("edge_projection", normal, shape).astype(radial.dtype)
        messages = Convolution(convolved, s.lmax, average_neighbors, name="convolution")(
            of_all, radial, edge_harmonics, senders
        )
        update = Linear(convolved, name="contract")(messages * (1.0 / average_neighbors))

        speed_mlp = MLP(s.velocity_mlp, activation(s.velocity_activation), name="velocity_mlp")
        product = NodeTensorProduct(
            e3nn.Irreps([(s.channels, ir) for _, ir in gated]), s.lmax, name="velocity_product"
        )(update, speed_mlp(speed_features), speed_harmonics)
        update = gate(
            Linear(gated, name="update")(product), out, activation(s.even_activation),
            odd_activation(s.odd_activation), activation(s.gate_activation),
        )  # fmt: skip
        skip = SpeciesLinear(out, self.n_species, name="skip")(h, species)
        return _add(update, skip) * 0.5**0.5


def _passed(module: nn.Module, shared, rows: tuple, by_rows: bool):
    """Apply `module(shared, *rows)`; if `by_rows`, block by block as `in_blocks` does."""
    n = len(rows[1])
    if not by_rows or n <= rows_at_once(n):
        return module(shared, *rows)
    stacked, restore = stack_rows(rows, rows_at_once(n))
    scan = nn.scan(
        lambda part, _, own, whole: (None, part(whole, *own)),
        variable_broadcast="params", split_rngs={"params": False}, in_axes=(0, nn.broadcast),
    )  # fmt: skip
    return restore(scan(module, None, stacked, shared)[1])


def _add(x: e3nn.IrrepsArray, y: e3nn.IrrepsArray) -> e3nn.IrrepsArray:
    """Compute x + y, where y may lack some irreps of x."""
    there = {ir: chunk for (_, ir), chunk in zip(y.irreps, y.chunks, strict=True)}
    chunks = [
        chunk + there[ir] if ir in there else chunk
        for (_, ir), chunk in zip(x.irreps, x.chunks, strict=True)
    ]
    return e3nn.from_chunks(x.irreps, chunks, x.shape[:-1], x.dtype)


class TrajCast(nn.Module):
    """Network from edges and velocities to normalised displacements and new velocities.

    Attributes:
      settings: sizes and options.
      statistics: normalisation constants of the training set.
      time_step: the stride Δt, fs.
      by_rows: process atoms in blocks of rows. For many atoms on CPUs, values are 20 to 33 %
        faster and derivatives 14 % slower.
    """

    settings: ModelSettings
    statistics: Statistics
    time_step: float
    by_rows: bool = False

    @nn.compact
    def __call__(
        self,
        graph: Graph,
        velocities: Float[Array, "atom 3"],
        species: Int[Array, "atom"],
        far: Float[Array, "atom field 3"] | None = None,
    ) -> Float[Array, "atom 2 3"]:
        """Apply the network to one frame.

        Args:
          graph: edges, Å.
          velocities: Å/fs.
          species: indices into the model's list of species, not atomic numbers.
          far: the far field, of mean square 1; only with `settings.far_field`.

        Returns (atom, 2, 3): displacement and new velocity, minus their baselines, divided by
        their scales.
        """
        s, dtype = self.settings, velocities.dtype
        n_species = len(self.statistics.species)
        lengths = safe_norm(graph.vectors)
        edge_basis = BesselBasis(s.cutoff, s.n_radial, s.envelope_power, name="bessel")(lengths)
        edge_basis = jnp.where(graph.mask[..., None], edge_basis, 0.0)
        edge_harmonics = directions(graph.vectors, s.lmax)
        one_hot = jnp.eye(n_species, dtype=dtype)[species]
        speeds = speed_basis(self._speeds(velocities, species), s.n_speed, s.max_speed)
        speed_features = SpeedMixing(n_species, name="speed_mixing")(speeds, one_hot)
        speed_harmonics = directions(velocities, s.lmax)
        # Stored only if the caller makes the collection "intermediates" mutable.
        self.sow("intermediates", "edge_harmonics", edge_harmonics)
        self.sow("intermediates", "speed_harmonics", speed_harmonics)

        parts = [
            e3nn.IrrepsArray(f"{n_species}x0e", one_hot),
            e3nn.IrrepsArray(f"{s.n_speed}x0e", speed_features),
            e3nn.IrrepsArray(e3nn.Irreps.spherical_harmonics(s.lmax), speed_harmonics)[..., 1:],
        ]
        if s.velocity_vector:
            scale = jnp.asarray(self.statistics.velocity_rms, dtype)[species, None]
            parts.append(e3nn.IrrepsArray("1o", velocities / scale))
        if s.far_field:
            parts.append(e3nn.IrrepsArray(f"{far.shape[1]}x1o", far.reshape(len(far), -1)))
        natural = feature_irreps(s.channels, s.lmax, "natural")
        h = Linear(natural, name="embed")(e3nn.concatenate(parts))

        outputs = []
        for block in range(s.blocks):
            if s.substeps and block == s.blocks - 1:  # features after it are vectors only
                outputs.append(self._substeps(graph, h, edge_basis, velocities, species))
            of_atoms = (
                h, species, graph.senders, edge_basis, edge_harmonics, speed_features,
                speed_harmonics,
            )  # fmt: skip
            interaction = Interaction(
                s, block, n_species, self.statistics.average_neighbors, name=f"block_{block}"
            )
            h = _passed(interaction, h, of_atoms, self.by_rows)
        h = Linear(e3nn.Irreps(f"{max(s.channels // 4, 1)}x1o"), name="read_out_1")(h)
        outputs.append(Linear(e3nn.Irreps("2x1o"), name="read_out_2")(h).chunks[0])
        return sum(outputs)

    def _speeds(self, velocities, species):
        """Speeds (Å/fs) for the speed basis, with `speed_limit` and `relative_speeds` applied."""
        s, rms = self.settings, np.asarray(self.statistics.velocity_rms)
        speeds = safe_norm(velocities)
        if s.speed_limit:
            sigma = jnp.asarray(rms, speeds.dtype)[species]
            below = s.speed_limit - speeds / sigma
            speeds = sigma * (s.speed_limit - LEVELLING * jax.nn.softplus(below / LEVELLING))
        if s.relative_speeds:
            speeds = speeds * jnp.asarray(rms.max() / rms, speeds.dtype)[species]
        return speeds

    def _substeps(self, graph, h, edge_basis, velocities, species):
        """Displacements and new velocities of `Substeps`, normalised like the output."""
        s, dtype, of = self.settings, velocities.dtype, self.statistics
        reach = np.asarray(of.velocity_rms) * self.time_step
        displacements, flights = Substeps(s.substeps, s.cutoff, s.envelope_power, name="substeps")(
            graph, h, edge_basis, velocities * self.time_step,
            jnp.asarray(reach, dtype)[species], float(reach.max()),
        )  # fmt: skip
        fields = jnp.stack([displacements, flights / self.time_step], axis=1)
        rest = fields - jnp.asarray(of.baselines, dtype)[species, :, None] * velocities[:, None]
        return rest / jnp.asarray(of.scales, dtype)[species, :, None]
