"""The network: equivariant layers, the model built from them, and the forecast that wraps it.

`layers/` holds equivariant layers; `substeps` integrates stiff vibrations; `model` is the network
in normalised units; `conservation` projects onto conserved momenta; `forecast` maps a System to
the next one in physical units; `compress` reduces radial networks; `checkpoint` saves and
restores models; `card` tells where a model is valid, which `validity` measures and `familiar` holds
systems against.
"""

from trajcast_jax.network.checkpoint import pretrained, restore, save
from trajcast_jax.network.compress import compress
from trajcast_jax.network.forecast import Forecaster, TrainedForecast
from trajcast_jax.network.model import TrajCast

__all__ = [
    "Forecaster",
    "TrainedForecast",
    "TrajCast",
    "compress",
    "pretrained",
    "restore",
    "save",
]
