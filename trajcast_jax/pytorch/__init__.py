"""Models of the paper's PyTorch code: `importer` reads them, `parity` tests the converted models.

`weights` maps weight names and layouts; `oracle` reads files with results of the PyTorch code.
"""

from trajcast_jax.pytorch.importer import forecaster, params_of, read_config, read_state

__all__ = ["forecaster", "params_of", "read_config", "read_state"]
