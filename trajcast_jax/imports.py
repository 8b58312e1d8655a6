"""Modules of a large package without all the others that its `__init__` imports."""

import importlib
import importlib.util
import sys
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
