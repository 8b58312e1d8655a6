"""Energy gains: the energies that the errors of a forecast add to kinds of motion.

Each class is a function of a pair, its graph and the errors of its displacements and velocities. It
returns the gain of every kind; `weights` has one weight for every kind. Kinds are groups of normal
modes of a crystal, modes of the distances and torsions of a molecule, or the sums of `motions.py`
for any matter.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from trajcast_jax.analysis.modes import InternalModes, NormalModes
from trajcast_jax.data.pairs import FramePairs
from trajcast_jax.learning.losses import motion_energies
from trajcast_jax.learning.motions import over_sizes
from trajcast_jax.neighbors.graph import Graph
from trajcast_jax.network.forecast import Forecaster
from trajcast_jax.system import product
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV, WAVENUMBER_PER_INVERSE_FEMTOSECOND

SAME_CELL = 1e-4
"""Relative difference of equal cells; files store them in single precision."""


def kinds(n_modes: int, largest: int = 24) -> list[np.ndarray]:
    """Group modes by rising wavenumber: two, two, and then more and more.

    The first groups are small, because single slow modes can gain energy without limit.
    """
    cuts = [0, 2]
    while cuts[-1] < n_modes:
        cuts.append(min(n_modes, cuts[-1] + int(min(largest, 2 + cuts[-1] / 4))))
    return [np.arange(a, b) for a, b in itertools.pairwise(cuts)]


def squares_of(modes: NormalModes | InternalModes) -> np.ndarray:
    """Return ω² (1/fs²) of every mode."""
    return (2 * np.pi * modes.wavenumbers / WAVENUMBER_PER_INVERSE_FEMTOSECOND) ** 2


def energy_added(q, p, dq, dp, squares):
    """Return ½(p + dp)² − ½p² + ½ω²(q + dq)² − ½ω²q² without a difference of large numbers."""
    return 0.5 * (dp * (2 * p + dp) + squares * dq * (2 * q + dq))


class Vibrations:
    """Energy gain of every kind of vibration, in k_B T per mode.

    Pairs can be in several cells, and each cell has its own modes. A pair in another cell has the
    gain 0. The gains of the other pairs are divided by their share, so that the mean over all pairs
    is the mean over these.
    """

    def __init__(self, modes: NormalModes, groups: list[FramePairs], kelvin: float):
        for pairs in groups:
            if pairs.displacements[0].size != len(modes.vectors):
                raise ValueError(
                    f"The modes are those of {len(modes.centers)} atoms, but some pairs have "
                    f"{pairs.displacements.shape[1]}; give runs and pairs of equal size."
                )
        cells = np.concatenate([pairs.system.cell for pairs in groups])
        share = np.isclose(cells, modes.cell, rtol=SAME_CELL).all(axis=(1, 2)).mean()
        if share == 0:
            lengths = " x ".join(f"{x:.2f}" for x in np.linalg.norm(modes.cell, axis=-1))
            raise ValueError(
                f"No pair is in the cell of {lengths} Å whose modes are to be balanced; give such "
                "pairs by --visited (experiments.visit --reference)."
            )
        groups = kinds(len(modes.wavenumbers))
        mean = np.zeros((len(modes.wavenumbers), len(groups)))
        for k, group in enumerate(groups):
            mean[group, k] = 1 / len(group)
        as_array = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
        self.vectors, self.squares = as_array(modes.vectors), as_array(squares_of(modes))
        self.mean = as_array(mean * KINETIC_TO_EV / (BOLTZMANN * kelvin * share))
        self.centers, self.cell = as_array(modes.centers), as_array(modes.cell)
        # Weights are between those of a mean over kinds and those of a mean over modes. In
        # a mean over modes, the few slow ones would hardly count.
        sizes = np.sqrt([len(group) for group in groups])
        self.weights = as_array(sizes / sizes.sum())

    def __call__(self, pair: FramePairs, edges: Graph, errors) -> Float[Array, "kind"]:
        """Return the gains of one pair, from the errors of its displacements and velocities."""
        masses = pair.system.masses

        def amplitudes(x):
            return product((x * jnp.sqrt(masses)[:, None]).reshape(-1), self.vectors)

        after = pair.system.positions + pair.displacements
        q = amplitudes(after - product(masses, after) / masses.sum() - self.centers)
        p, dq, dp = (amplitudes(x) for x in (pair.velocities, *errors))
        found = product(energy_added(q, p, dq, dp, self.squares), self.mean)
        there = jnp.allclose(pair.system.cell, self.cell, rtol=SAME_CELL)
        return jnp.where(there, found, 0.0)


class Motions:
    """Gains of `motion_sums` relative to their means, for any matter.

    The sums are per atom, because some pairs can be in larger cells than others.
    """

    def __init__(self, forecaster: Forecaster, pairs: FramePairs):
        self.forecaster = forecaster
        self.mean = jax.jit(lambda pairs: jax.lax.map(self._truth, pairs).mean(0))(pairs)
        weights = jnp.tile(jnp.sqrt(self.mean[0]), len(self.mean))
        self.weights = weights / weights.sum()

    def _an_atom(self, pair: FramePairs, edges: Graph, errors):
        sums = motion_energies(self.forecaster, pair, edges, errors)
        return [some / pair.system.mask.sum() for some in sums]

    def _truth(self, pair: FramePairs):
        zeros = jnp.zeros_like(pair.displacements)
        return self._an_atom(pair, pair.edges(self.forecaster.settings.cutoff), (zeros, zeros))[1]

    def __call__(self, pair: FramePairs, edges: Graph, errors) -> Float[Array, "kind"]:
        """Return the gains of one pair, from the errors of its displacements and velocities."""
        forecast, truth = self._an_atom(pair, edges, errors)
        return over_sizes(forecast - truth, self.mean).ravel()


class OfMesh:
    """Gains of the pairs whose far field has one mesh; other pairs have the gain 0.

    `share` is the share of these pairs. A loss in one cell must not compensate a gain in another,
    so each mesh has its own kinds.
    """

    def __init__(self, gains: Motions, mesh: tuple[int, int, int] | None, share: float):
        self.gains, self.mesh, self.share = gains, mesh, share
        self.weights = share * gains.weights

    def __call__(self, pair: FramePairs, edges: Graph, errors) -> Float[Array, "kind"]:
        """Return the gains over the share; their mean over all pairs is that of these pairs."""
        if pair.mesh != self.mesh:
            return jnp.zeros_like(self.weights)
        return self.gains(pair, edges, errors) / self.share


class InternalVibrations:
    """Energy gain of every mode of a molecule, in k_B T."""

    def __init__(self, modes: InternalModes, kelvin: float):
        scale = (KINETIC_TO_EV / (BOLTZMANN * kelvin)) ** 0.5
        as_array = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
        self.vectors, self.squares = as_array(scale * modes.vectors), as_array(squares_of(modes))
        self.modes = modes._replace(centers=as_array(modes.centers))
        self.weights = jnp.full_like(self.squares, 1 / len(self.squares))

    def __call__(self, pair: FramePairs, edges: Graph, errors) -> Float[Array, "kind"]:
        """Return the gains of one pair, from the errors of its displacements and velocities."""

        def coordinates(positions):
            return self.modes.deviations(pair.system.replace(positions=positions))

        after = pair.system.positions + pair.displacements
        state = jax.jvp(coordinates, (after,), (pair.velocities,))
        forecast = jax.jvp(coordinates, (after + errors[0],), (pair.velocities + errors[1],))
        q, p = (product(x, self.vectors) for x in state)
        dq, dp = (product(b - a, self.vectors) for a, b in zip(state, forecast, strict=True))
        return energy_added(q, p, dq, dp, self.squares)


class Together:
    """Gains of several sets of kinds; the ratios of their weights are kept."""

    def __init__(self, *parts):
        self.parts = parts
        weights = jnp.concatenate([part.weights for part in parts])
        self.weights = weights / weights.sum()

    def __call__(self, pair: FramePairs, edges: Graph, errors) -> Float[Array, "kind"]:
        """Return the gains of one pair, from the errors of its displacements and velocities."""
        return jnp.concatenate([part(pair, edges, errors) for part in self.parts])


Kinds = Vibrations | Motions | OfMesh | InternalVibrations | Together
