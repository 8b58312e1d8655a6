"""Model + statistics + conservation = a map from one System to the next, Δt later."""

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
from trajcast_jax.conservation import conserve_angular, conserve_linear
from trajcast_jax.far_field import far_features
from trajcast_jax.graph import Graph, Neighbors, disjoint_union, graph
from trajcast_jax.model import TrajCast
from trajcast_jax.system import System, heights

LONGER = 1.05
"""Than the longest cell learned from, over it: from here on a cell is said to be too long."""


@dataclasses.dataclass(frozen=True)
class Forecaster:
    """The forecast without its weights: everything static, so it can be closed over by jit.

    With x̂ the network's output for a field x of species s, x = baseline_s·v + scale_s·x̂;
    then the momenta are projected. Baseline 0 and one scale for all species are the paper's.
    """

    settings: ModelSettings
    statistics: Statistics
    time_step: float  # fs

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
        """The network, which a `vmap` over frames (replicas) passes once for all of them.

        Only values are, and pass it by rows: reverse mode knows no rule for `custom_vmap`, so that
        derivatives are those of the plain network.
        """
        apply = self.model.apply
        batched = custom_vmap(self.model.clone(by_rows=True).apply)

        @batched.def_vmap
        def rule(size, in_batched, params, *frame):
            if any(jax.tree.leaves(in_batched[0])):  # many networks
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
        """Position of each atomic number in the model's list of species; its end if not there."""
        return jnp.asarray(self._index)[species]

    def scales(self, species: Int[Array, "... atom"], dtype=None) -> Float[Array, "... atom 2"]:
        """Per atom the scales of displacement (Å) and new velocity (Å/fs)."""
        # Of species that the model does not know everything comes out as NaN.
        scales = np.vstack([self.statistics.scales, np.full(2, np.nan)])
        return jnp.asarray(scales, dtype)[self.species_index(species)]

    def baselines(self, species: Int[Array, "... atom"], dtype=None) -> Float[Array, "... atom 2"]:
        """Per atom the linear baselines a (fs) and b of d ≈ a v, v' ≈ b v."""
        return jnp.asarray(self.statistics.baselines, dtype)[self.species_index(species)]

    def init(self, seed: int) -> Any:
        """Fresh weights, N(0, 1) but for the Bessel frequencies (nπ), drawn on the host.

        Drawing them inside jit would trace and compile the whole network for nothing.
        """
        slot = jnp.zeros((1, 1), jnp.int32)
        empty = Graph(jnp.zeros((1, 1, 3)), slot, slot.astype(bool))
        far = ()
        if self.settings.far_field:
            far = (jnp.zeros((1, 2 * self._far_charges[0].shape[-1], 3)),)
        shapes = jax.eval_shape(
            self.model.init, jax.random.key(0), empty, jnp.zeros((1, 3)), slot[0], *far
        )
        rng = np.random.default_rng(seed)

        def draw(path, leaf):
            if path[-1].key == "frequencies":
                return jnp.pi * jnp.arange(1, leaf.shape[0] + 1, dtype=jnp.float32)
            return jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32)

        return jax.tree_util.tree_map_with_path(draw, shapes)

    def __call__(self, params, system: System, neighbors: Neighbors) -> System:
        """The system Δt later; positions stay unwrapped."""
        return self.on_graph(params, system, graph(system, neighbors, self.settings.cutoff))

    def on_graph(self, params, system: System, edges: Graph) -> System:
        """The same on edges that the caller made."""
        displacements, velocities = self.changes(params, system, edges)
        positions = system.positions + displacements
        return system.replace(positions=positions, velocities=velocities)

    def changes(
        self, params, system: System, edges: Graph
    ) -> tuple[Float[Array, "atom 3"], Float[Array, "atom 3"]]:
        """Displacements (Å) and new velocities (Å/fs), after conservation.

        In single precision a displacement is far sharper than the difference of positions.
        """
        return self.fields(system, self._network(params, *self.inputs(system, edges)))

    def inputs(self, system: System, edges: Graph) -> tuple:
        """All that the network reads of a frame: edges, velocities, species, any far field."""
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
        """(species, field) the charges whose fields are summed, and (2, field, field) how these,
        and their changes, are mixed."""
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
        """`changes` of many frames (every array has a leading axis), in one pass of the network."""
        raw = _on_union(self.model.apply, params, *jax.vmap(self.inputs)(systems, edges))
        return jax.vmap(self.fields)(systems, raw)

    def fields(
        self, system: System, raw: Float[Array, "atom 2 3"]
    ) -> tuple[Float[Array, "atom 3"], Float[Array, "atom 3"]]:
        """What an output `raw` of the network means for `system`, as `changes` returns it."""
        dtype = system.positions.dtype
        scales = self.scales(system.species, dtype)
        baselines = self.baselines(system.species, dtype)
        fields = (
            baselines[..., None] * system.velocities[:, None] + scales[..., None] * raw
        ) * system.mask[:, None, None]
        return self._conserved(system, fields[:, 0], fields[:, 1])

    def _conserved(self, system: System, displacements, velocities):
        s = self.settings
        # Positions that start from 0 are displacements: nothing cancels in their sums.
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
    """`network` on the disjoint union of frames (leading axis), its results frame by frame."""
    frames, atoms, _ = edges.senders.shape
    together = (x.reshape(frames * atoms, *x.shape[2:]) for x in arrays)
    raw = network(params, disjoint_union(edges), *together)
    return raw.reshape(frames, atoms, *raw.shape[1:])


@struct.dataclass
class TrainedForecast:
    """A forecaster with its weights; `restore` of `checkpoint.py` makes one."""

    params: Any
    forecaster: Forecaster = struct.field(pytree_node=False)

    def forecast(self, system: System, neighbors: Neighbors) -> System:
        """The system `time_step` later."""
        return self.forecaster(self.params, system, neighbors)

    @property
    def cutoff(self) -> float:
        """Å."""
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
        """Sizes of the network."""
        return self.forecaster.settings

    @property
    def statistics(self) -> Statistics:
        """What normalises it."""
        return self.forecaster.statistics

    def check(self, system: System) -> None:
        """Raise if the model cannot forecast this system; warn if its cell is a longer one.

        How waves longer than the cells that a model has learned from move is chance.
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
        learned = self.statistics.longest_cell
        if learned and system.cell is None:
            warnings.warn(
                "The system has no cell, but the checkpoint has learned from periodic matter "
                "alone; give the cell if there is one.",
                stacklevel=2,
            )
        longest = 0.0 if system.cell is None else float(heights(system.cell).max())
        if 0 < LONGER * learned < longest:
            warnings.warn(
                f"The cell is {longest:.1f} Å long, but the checkpoint has learned from cells of "
                f"at most {learned:.1f} Å: longer waves may heat or grow until the forecast "
                "fails. Hold its first picoseconds against reference MD, or train on pairs from "
                "longer cells too (experiments/README.md, Larger cells).",
                stacklevel=2,
            )
