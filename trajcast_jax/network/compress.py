"""Reduce the radial functions of a trained network, for equal forecasts in less time.

The last hidden features of a radial network are functions of the distance only and are nearly
linearly dependent: the 64 of the paper's network have a rank of about 30 to a relative 1e-6.
They are replaced by their principal components on a grid of distances, and the output layer is
transformed accordingly.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from trajcast_jax.network.forecast import Forecaster, TrainedForecast
from trajcast_jax.network.layers import MLP, BesselBasis, activation

GRID = 2_000
"""Number of equidistant grid points from CLOSEST to the cutoff."""
CLOSEST = 0.5
"""Å, smallest distance of the grid. Atoms do not come closer."""


def compress(model: TrainedForecast, tolerance: float = 1e-6) -> TrainedForecast:
    """Reduce a model to the fewest radial functions that span all of them within `tolerance`.

    The result is for forecasts; further training cannot restore the removed functions.

    Args:
      model: a model with hidden layers in its radial network (`edge_mlp`). Other models are
        returned unchanged.
      tolerance: components with singular values up to `tolerance` times the largest are removed;
        0 < tolerance < 1.

    Raises:
      ValueError: the tolerance is out of range.
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
    """Singular values and right singular vectors (rows) of a block's radial features."""
    s = settings
    lengths = jnp.linspace(min(CLOSEST, s.cutoff / 2), s.cutoff, GRID)
    basis = BesselBasis(s.cutoff, s.n_radial, s.envelope_power)
    values = basis.apply({"params": params["bessel"]}, lengths)
    mlp = MLP(s.edge_mlp, activation(s.edge_activation))
    features = mlp.apply({"params": params[block]["edge_mlp"]}, values)
    _, sizes, directions = np.linalg.svd(np.asarray(features), full_matrices=False)
    return sizes, directions


def _turned(block: dict, basis: np.ndarray) -> dict:
    """Project the radial features of a block's weights onto the columns of `basis`."""
    weights = block["convolution"]["weights"]
    n, rank = basis.shape
    # The convolution divides by √rank instead of √n.
    turned = np.einsum("nr,npc->rpc", basis, weights) * (rank / n) ** 0.5
    return block | {"edge_projection": basis, "convolution": {"weights": turned}}


def _as(forecaster: Forecaster, params: dict, dtype) -> dict:
    """Cast the weights to `dtype` and check their tree against that of the forecaster's network."""
    like = jax.tree.structure(forecaster.init(0))
    cast = jax.tree.map(lambda x: jnp.asarray(x, dtype), {"params": params})
    if jax.tree.structure(cast) != like:
        raise RuntimeError(
            f"compress made weights of the structure {jax.tree.structure(cast)}, but the network "
            f"takes {like}; this is an error of the package."
        )
    return cast
