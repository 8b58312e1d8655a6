"""Compile for CPUs without XLA's YNN fusions, which make forecasts twice as slow.

By default from JAX 0.12 on, and in part before, XLA passes matrix products and the operations
around them to the library YNN. A stride consists of many small products and takes 2.1 to 2.5
times as long with YNN. An XLA option selects the fusions that YNN gets; its empty value selects
none. `without_ynn` sets the option for the whole process, `compiler_options` for one program.
"""

import functools
import mmap
import os
import warnings
from pathlib import Path

import jax
import jaxlib
from jax._src import xla_bridge  # no public function tells whether backends are initialised

OPTION = "xla_cpu_experimental_ynn_fusion_type"


@functools.cache
def is_known(option: str = OPTION) -> bool:
    """Whether the installed jaxlib knows an XLA option; XLA aborts the process on unknown flags.

    The option's name is searched for in the jaxlib binary, because a query to XLA would
    initialise its backends.
    """
    for path in Path(jaxlib.__file__).parent.glob("*jax_common*"):
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as binary:
            if binary.find(option.encode() + b"\0") >= 0:
                return True
    return False


def without_ynn() -> None:
    """Switch YNN fusions off for all programs of this process, including a user's own `jax.jit`.

    This appends the option to the environment variable XLA_FLAGS, unless it is set there. XLA
    reads XLA_FLAGS once, when JAX first uses a device. After that, a warning tells what to do.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if OPTION in flags or not is_known():
        return
    if not xla_bridge.backends_are_initialized():
        # First, for XLA reads no further than to a word that is no flag, as some recipes have it.
        os.environ["XLA_FLAGS"] = f"--{OPTION}= {flags}".strip()
    elif jax.default_backend() == "cpu":
        warnings.warn(
            "JAX was in use before trajcast_jax was imported, so that forecasts in a jax.jit of "
            "your own take about twice as long on this CPU. Import trajcast_jax first, or set the "
            f"environment variable XLA_FLAGS=--{OPTION}= before Python starts.",
            stacklevel=3,
        )


def compiler_options(**others: str) -> dict[str, str] | None:
    """Argument `compiler_options` for an outermost `jax.jit`; None on other devices than CPUs.

    Args:
      others: further XLA options for CPUs, as text.
    """
    if jax.default_backend() != "cpu":
        return None
    if OPTION not in os.environ.get("XLA_FLAGS", "") and is_known():
        others[OPTION] = ""
    return others or None
