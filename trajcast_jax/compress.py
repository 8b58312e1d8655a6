"""Fewer radial functions for a trained network: the same forecasts, in less time.

The hidden features of a radial network are functions of one number, the distance, and far from
independent: of 64 in the paper's network some 30 differ by more than a part in a million. Their
principal ones, found on a grid of distances, replace them; the last layer is turned to suit.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from trajcast_jax.forecast import Forecaster, TrainedForecast
from trajcast_jax.layers import MLP, BesselBasis, activation

GRID = 2_000
"""Distances at which the radial functions are looked at, evenly from CLOSEST to the cutoff."""
CLOSEST = 0.5
"""Å; no two atoms come closer, and what a network would say if they did is left out."""


def compress(model: TrainedForecast, tolerance: float = 1e-6) -> TrainedForecast:
    """The model with as few radial functions as keep all of them within `tolerance`.

    Args:
      model: with hidden layers in its radial network (`edge_mlp`); others come back as they are.
      tolerance: largest share of the largest singular value that is left out, 0 < tolerance < 1.

    For forecasts: what it has left out, further training cannot use.
    """
    if not 0 < tolerance < 1:
        raise ValueError(
            f"compress: the tolerance must be between 0 and 1, but is {tolerance:g}; 1e-6 is what "
            "single precision resolves."
        )
    settings = model.settings
    if not settings.edge_mlp or settings.edge_rank:
        return model
    with jax.enable_x64(True):
        params = jax.tree.map(np.float64, jax.device_get(model.params))["params"]
        names = [f"block_{k}" for k in range(settings.blocks)]
        bases = {name: _principal(settings, params, name) for name in names}
        rank = max(int((sizes > tolerance * sizes[0]).sum()) for sizes, _ in bases.values())
        if rank >= settings.edge_mlp[-1]:
            return model
        for name, (_, directions) in bases.items():
            params[name] = _turned(params[name], directions[:rank].T)
    dtype = jax.tree.leaves(model.params)[0].dtype
    forecaster = dataclasses.replace(
        model.forecaster, settings=dataclasses.replace(settings, edge_rank=rank)
    )
    return TrainedForecast(_as(forecaster, params, dtype), forecaster)


def _principal(settings, params: dict, block: str) -> tuple[np.ndarray, np.ndarray]:
    """Singular values of a block's radial features on the grid, and their right vectors in rows."""
    s = settings
    lengths = jnp.linspace(min(CLOSEST, s.cutoff / 2), s.cutoff, GRID)
    basis = BesselBasis(s.cutoff, s.n_radial, s.envelope_power)
    values = basis.apply({"params": params["bessel"]}, lengths)
    mlp = MLP(s.edge_mlp, activation(s.edge_activation))
    features = mlp.apply({"params": params[block]["edge_mlp"]}, values)
    _, sizes, directions = np.linalg.svd(np.asarray(features), full_matrices=False)
    return sizes, directions


def _turned(block: dict, basis: np.ndarray) -> dict:
    """A block's weights with its radial features projected onto the columns of `basis`."""
    weights = block["convolution"]["weights"]
    n, rank = basis.shape
    turned = np.einsum("nr,npc->rpc", basis, weights) * (rank / n) ** 0.5  # it divides by √rank
    return block | {"edge_projection": basis, "convolution": {"weights": turned}}


def _as(forecaster: Forecaster, params: dict, dtype) -> dict:
    """The weights in the tree and precision that the forecaster's network takes."""
    like = jax.tree.structure(forecaster.init(0))
    cast = jax.tree.map(lambda x: jnp.asarray(x, dtype), {"params": params})
    if jax.tree.structure(cast) != like:
        raise RuntimeError(
            f"compress made weights of the structure {jax.tree.structure(cast)}, but the network "
            f"takes {like}; this is an error of the package."
        )
    return cast
