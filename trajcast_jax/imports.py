"""Import single modules of a large package without the cost of importing all of it."""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType


def submodules(package: str, *names: str) -> list[ModuleType]:
    """Import the modules `package.name` without running the `__init__` of the package.

    The `__init__` of jax-md compiles the shapes of rigid molecules and imports all of its
    networks, which takes 4 to 5 s of CPU time at every start. The imported modules are private to
    the caller: an `import` of the package elsewhere, before or after, works as usual.

    Raises:
      ModuleNotFoundError: the package is not installed.
    """
    if package in sys.modules:
        return [importlib.import_module(f"{package}.{name}") for name in names]
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"The package {package} is missing; pip install it.")
    before = set(sys.modules)
    sys.modules[package] = importlib.util.module_from_spec(spec)  # gives the path; never executed
    try:
        return [importlib.import_module(f"{package}.{name}") for name in names]
    finally:
        for module in set(sys.modules) - before:
            if module == package or module.startswith(f"{package}."):
                del sys.modules[module]


@contextlib.contextmanager
def postponed(module: str) -> Iterator[None]:
    """Keep imports inside the `with` block from importing `module` ("a.b").

    The module is loaded when a.b is first accessed. This works only for packages that load their
    modules on access, as SciPy does.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = ModuleType(module)  # `import a.b` binds only a, not this placeholder
    try:
        yield
    finally:
        del sys.modules[module]
