"""Forecast: map a System to the System Δt later, by network, normalisation and conservation."""

import dataclasses
import warnings
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from flax import struct
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, Int

from trajcast_jax.config import ModelSettings, Statistics
from trajcast_jax.neighbors.far_field import far_features
from trajcast_jax.neighbors.graph import Graph, Neighbors, disjoint_union, graph
from trajcast_jax.network.card import Card
from trajcast_jax.network.conservation import conserve_angular, conserve_linear
from trajcast_jax.network.familiar import completed, guessed, strangeness
from trajcast_jax.network.model import TrajCast
from trajcast_jax.system import System


@dataclasses.dataclass(frozen=True)
class Forecaster:
    """A forecast without its weights. It is static, so functions under `jit` can close over it.

    With x̂ the network's output for a field x of an atom of species s, x = baseline_s·v +
    scale_s·x̂. The result is projected onto the conserved momenta. The paper uses no baseline and
    one scale for all species.
    """

    settings: ModelSettings
    statistics: Statistics
    time_step: float  # fs

    def __post_init__(self):
        for name in ("net_momentum", "net_angular_momentum"):
            if len(getattr(self.settings, name)) not in (0, 3):
                raise ValueError(
                    f"model.{name} has {len(getattr(self.settings, name))} numbers; give 3, one of "
                    "each axis, or none."
                )

    @cached_property
    def model(self) -> TrajCast:
        """The flax module."""
        return TrajCast(self.settings, self.statistics, self.time_step)

    @cached_property
    def _index(self) -> np.ndarray:
        index = np.full(len(chemical_symbols), len(self.statistics.species), np.int32)
        index[0] = 0  # padding
        index[list(self.statistics.species)] = np.arange(len(self.statistics.species))
        return index

    @cached_property
    def _network(self):
        """The network, with a rule that evaluates a `vmap` over frames (replicas) in one pass.

        The rule applies to values only, which are computed by rows. Derivatives are those of the
        plain network, because reverse mode does not support `custom_vmap`.
        """
        apply = self.model.apply
        batched = custom_vmap(self.model.clone(by_rows=True).apply)

        @batched.def_vmap
        def rule(size, in_batched, params, *frame):
            if any(jax.tree.leaves(in_batched[0])):  # the weights are batched
                axes = jax.tree.map(lambda b: 0 if b else None, tuple(in_batched))
                return jax.vmap(apply, axes)(params, *frame), True
            frames = jax.tree.map(
                lambda x, b: x if b else jnp.broadcast_to(x, (size, *x.shape)),
                frame, tuple(in_batched[1:]),
            )  # fmt: skip
            return _on_union(batched, params, *frames), True

        network = jax.custom_jvp(batched)
        network.defjvp(lambda primals, tangents: jax.jvp(apply, primals, tangents))
        return network

    def species_index(self, species: Int[Array, "... atom"]) -> Int[Array, "... atom"]:
        """Index of each atomic number in the model's list of species; its length if unknown."""
        return jnp.asarray(self._index)[species]

    def scales(self, species: Int[Array, "... atom"], dtype=None) -> Float[Array, "... atom 2"]:
        """Scales of displacement (Å) and new velocity (Å/fs) of every atom."""
        # Forecasts for species that the model does not know are NaN.
        scales = np.vstack([self.statistics.scales, np.full(2, np.nan)])
        return jnp.asarray(scales, dtype)[self.species_index(species)]

    def baselines(self, species: Int[Array, "... atom"], dtype=None) -> Float[Array, "... atom 2"]:
        """Linear baselines a (fs) and b of every atom, for d ≈ a v and v' ≈ b v."""
        return jnp.asarray(self.statistics.baselines, dtype)[self.species_index(species)]

    def __reduce__(self):
        # Without what is cached: a compiled network cannot be sent to another process.
        return Forecaster, (self.settings, self.statistics, self.time_step)

    def shapes(self) -> Any:
        """Shapes and types of the weights, in the structure of `init`."""
        slot = jnp.zeros((1, 1), jnp.int32)
        empty = Graph(jnp.zeros((1, 1, 3)), slot, slot.astype(bool))
        far = ()
        if self.settings.far_field:
            far = (jnp.zeros((1, 2 * self._far_charges[0].shape[-1], 3)),)
        return jax.eval_shape(
            self.model.init, jax.random.key(0), empty, jnp.zeros((1, 3)), slot[0], *far
        )

    def init(self, seed: int) -> Any:
        """Draw initial weights from N(0, 1) on the host; Bessel frequencies are nπ.

        Drawing them inside jit would trace and compile the whole network.
        """
        rng = np.random.default_rng(seed)

        def draw(path, leaf):
            if path[-1].key == "frequencies":
                return jnp.pi * jnp.arange(1, leaf.shape[0] + 1, dtype=jnp.float32)
            return jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32)

        return jax.tree_util.tree_map_with_path(draw, self.shapes())

    def __call__(self, params, system: System, neighbors: Neighbors) -> System:
        """Forecast the system Δt later; positions stay unwrapped."""
        made_for = getattr(neighbors, "cutoff", 0.0)
        if self.settings.far_field and made_for and made_for != self.settings.cutoff:
            raise ValueError(
                f"The neighbour list and its mesh were made for a cutoff of {made_for:g} Å, but "
                f"the model's is {self.settings.cutoff:g} Å; make it by neighbor_list(system.cell, "
                "model.cutoff)."
            )
        return self.on_graph(params, system, graph(system, neighbors, self.settings.cutoff))

    def on_graph(self, params, system: System, edges: Graph) -> System:
        """Forecast the system Δt later, from given edges."""
        displacements, velocities = self.changes(params, system, edges)
        positions = system.positions + displacements
        return system.replace(positions=positions, velocities=velocities)

    def changes(
        self, params, system: System, edges: Graph
    ) -> tuple[Float[Array, "atom 3"], Float[Array, "atom 3"]]:
        """Displacements (Å) and new velocities (Å/fs), after conservation.

        In single precision, displacements are much more precise than differences of positions.
        """
        return self.fields(system, self._network(params, *self.inputs(system, edges)))

    def inputs(self, system: System, edges: Graph) -> tuple:
        """Network inputs of a frame: edges, velocities, species indices and any far field."""
        index = self.species_index(system.species)
        frame = edges, system.velocities, index
        if not self.settings.far_field:
            return frame
        dtype = system.positions.dtype
        charges, mixing = (jnp.asarray(x, dtype) for x in self._far_charges)
        sources = charges[index] * system.mask[:, None]
        far = far_features(system, sources, self.settings.cutoff, edges.mesh, self.time_step)
        far = jnp.einsum("aksx,kst->aktx", far, mixing, precision="highest")
        return *frame, far.reshape(len(far), -1, 3)

    @property
    def _far_charges(self) -> tuple[np.ndarray, np.ndarray]:
        """Species charges (species, field) of the summed fields, and mixing matrices.

        The matrices (2, field, field) mix the fields, and the changes of the fields.

        Raises:
          ValueError: the statistics have no `far_mixing` of this shape.
        """
        mixing = np.asarray(self.statistics.far_mixing)
        if mixing.ndim != 3 or mixing.shape[:2] != (2, len(self.statistics.species)):
            raise ValueError(
                "model.far_field needs statistics of the far field, which these lack; measure "
                "them by statistics(pairs, far=(cutoff, time_step))."
            )
        charges = np.linalg.svd(np.concatenate(mixing, axis=-1))[0][:, : mixing.shape[-1]]
        return charges, charges.T @ mixing

    def batch_changes(
        self, params, systems: System, edges: Graph
    ) -> tuple[Float[Array, "frame atom 3"], Float[Array, "frame atom 3"]]:
        """`changes` of many frames (arrays have a leading frame axis), in one network pass."""
        raw = _on_union(self.model.apply, params, *jax.vmap(self.inputs)(systems, edges))
        return jax.vmap(self.fields)(systems, raw)

    def fields(
        self, system: System, raw: Float[Array, "atom 2 3"]
    ) -> tuple[Float[Array, "atom 3"], Float[Array, "atom 3"]]:
        """Convert the network output `raw` to displacements (Å) and new velocities (Å/fs)."""
        dtype = system.positions.dtype
        scales = self.scales(system.species, dtype)
        baselines = self.baselines(system.species, dtype)
        fields = (
            baselines[..., None] * system.velocities[:, None] + scales[..., None] * raw
        ) * system.mask[:, None, None]
        return self._conserved(system, fields[:, 0], fields[:, 1])

    def _conserved(self, system: System, displacements, velocities):
        s = self.settings
        # With positions starting at 0, sums over displacements lose no precision.
        origin = system.replace(positions=jnp.zeros_like(system.positions))
        moved = origin.replace(positions=displacements, velocities=velocities)
        target = s.net_momentum or None
        moved = conserve_linear(origin, moved, self.time_step, target, s.uniform_center)
        displacements, velocities = moved.positions, moved.velocities
        if s.conserve_angular:
            after = system.replace(
                positions=system.positions + displacements, velocities=velocities
            )
            target = s.net_angular_momentum or None
            velocities = conserve_angular(system, after, target).velocities
        return displacements, velocities


def _on_union(network, params, edges: Graph, *arrays) -> jax.Array:
    """Apply `network` to the disjoint union of frames; results have a leading frame axis."""
    frames, atoms, _ = edges.senders.shape
    together = (x.reshape(frames * atoms, *x.shape[2:]) for x in arrays)
    raw = network(params, disjoint_union(edges), *together)
    return raw.reshape(frames, atoms, *raw.shape[1:])


@struct.dataclass
class TrainedForecast:
    """A forecaster with its weights, as `network.checkpoint.restore` returns it."""

    params: Any
    forecaster: Forecaster = struct.field(pytree_node=False)
    card: Card | None = struct.field(pytree_node=False, default=None)
    """Where the model is valid, and what it was measured to do; None if it has no card."""

    def forecast(self, system: System, neighbors: Neighbors) -> System:
        """Forecast the system `time_step` later."""
        return self.forecaster(self.params, system, neighbors)

    @property
    def cutoff(self) -> float:
        """Cutoff of the neighbour list, Å."""
        return self.forecaster.settings.cutoff

    @property
    def time_step(self) -> float:
        """The stride Δt, fs."""
        return self.forecaster.time_step

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers the model was trained on."""
        return tuple(self.forecaster.statistics.species)

    @property
    def settings(self) -> ModelSettings:
        """Settings of the network."""
        return self.forecaster.settings

    @property
    def statistics(self) -> Statistics:
        """Normalisation constants."""
        return self.forecaster.statistics

    def check(self, system: System, temperature: float | None = None) -> None:
        """Check that the model can forecast this system.

        A warning is given for every quantity of the system that is outside of what the model has
        learned from: temperature, density, neighbours, composition, masses, the cell's heights,
        closest distances and speeds, as far as its card tells; without a card, what its statistics
        tell. `temperature` (K) is what the system is to have, by default that of its velocities.

        Raises:
          ValueError: a species is unknown to the model, or the system is periodic but the model
            conserves angular momentum.
        """
        unknown = sorted(set(np.asarray(system.species)[np.asarray(system.mask)].tolist())
                         - set(self.species))  # fmt: skip
        if unknown:
            known = ", ".join(chemical_symbols[z] for z in self.species)
            raise ValueError(
                f"The system holds {', '.join(chemical_symbols[z] for z in unknown)}, but the "
                f"checkpoint was trained on {known} only; train a model on these species."
            )
        if self.settings.conserve_angular and system.cell is not None:
            raise ValueError(
                "The checkpoint conserves angular momentum, which a periodic cell does not; "
                "forecast an isolated molecule (no cell) with it."
            )
        learned = guessed(self.statistics, self.cutoff, system)
        if self.card is not None:
            learned = completed(self.card.validity, learned)
        for sentence in strangeness(system, learned, self.cutoff, temperature):
            warnings.warn(sentence, stacklevel=2)
