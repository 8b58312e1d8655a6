"""The notebooks agree with the scripts that they are paired with, hold no outputs, and run."""

import os
import shutil
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONGEST = 600
"""s for one cell, on a machine that does much else."""

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(notebook):
    """What a notebook and its script must share."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_every_notebook_is_a_pair():
    scripts = {path.stem for path in (ROOT / "notebooks").glob("*.py")}
    assert scripts == {path.stem for path in NOTEBOOKS}
    known = {"01_quickstart", "02_train_your_own", "03_inside_the_model", "04_differentiable"}
    assert known <= scripts


@every_notebook
def test_script_and_notebook_agree(path):
    script = jupytext.read(path.with_suffix(".py"))
    notebook = nbformat.read(path, as_version=4)
    assert cells(notebook) == cells(script), f"run jupytext --sync notebooks/{path.name}"
    assert notebook.metadata.kernelspec == script.metadata.kernelspec
    # And back: the script that jupytext would write from the notebook is the one that is there.
    again = jupytext.reads(jupytext.writes(notebook, fmt="py:percent"), fmt="py:percent")
    assert cells(again) == cells(script)


@every_notebook
def test_outputs_are_stripped(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs, f"strip {path.name}: see notebooks/README.md"
            assert cell.execution_count is None


@pytest.fixture(scope="module")
def surroundings():
    """The environment of the kernels."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"TRAJCAST_NOTEBOOK_FAST": "1", "PYTHONPATH": paths}


@every_notebook
@pytest.mark.slow
def test_notebook_runs_as_in_jupyter(path, surroundings, tmp_path):
    """In a fresh kernel, with little of everything; a cell that raises fails the test."""
    copy = shutil.copy(path, tmp_path)  # away from the repository's own files
    notebook = nbformat.read(copy, as_version=4)
    folder = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=LONGEST, resources=folder).execute(env=surroundings)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    figures = [o for o in outputs if "image/png" in o.get("data", {})]
    shown = sum(cell.source.count("plt.show()") for cell in notebook.cells)
    assert len(figures) == shown > 0
