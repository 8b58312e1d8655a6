"""Commands, systems (TOML files) and studies: `python -m experiments.train quartz`.

The code of each command is a module of `trajcast_jax.workflow`; the studies are in this folder.
"""

import os

# Set before JAX is imported. For every cached program, XLA would warn that the CPU lacks the
# feature "+prefer-no-scatter", which is a preference of the compiler and not a CPU feature.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from trajcast_jax.workflow.command_line import FOLDER, load, run

__all__ = ["FOLDER", "load", "run"]
