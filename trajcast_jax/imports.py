"""Modules of a large package without all the others that it would import at once."""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType


def submodules(package: str, *names: str) -> list[ModuleType]:
    """Modules `package.name`, imported without running the package's own `__init__`.

    jax-md's compiles the shapes of rigid molecules and imports every network that it knows, 4 to
    5 s of CPU at each start. What is imported here is private to the
    caller: an `import` of the package elsewhere, before or after, finds all of it as usual.
    """
    if package in sys.modules:
        return [importlib.import_module(f"{package}.{name}") for name in names]
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"The package {package} is missing; pip install it.")
    before = set(sys.modules)
    sys.modules[package] = importlib.util.module_from_spec(spec)  # a name and a place, never run
    try:
        return [importlib.import_module(f"{package}.{name}") for name in names]
    finally:
        for module in set(sys.modules) - before:
            if module == package or module.startswith(f"{package}."):
                del sys.modules[module]


@contextlib.contextmanager
def postponed(module: str) -> Iterator[None]:
    """What is imported meanwhile does not import `module`, a.b; it loads when a.b is first read.

    Only of packages that load what is asked of them, as SciPy does.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = ModuleType(module)  # `import a.b` binds a alone, and never sees it
    try:
        yield
    finally:
        del sys.modules[module]
