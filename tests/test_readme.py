"""The README's code runs as it stands, and its commands are those of CI."""

import re
from pathlib import Path

import jax.numpy as jnp
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.slow
def test_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["trajectory"].positions.shape == (20, 162, 3)
    assert (tmp_path / "quartz.h5").exists()
    assert jnp.isfinite(names["slope"]).all()
    assert abs(names["slope"]).max() > 0


def test_commands_are_those_of_ci():
    script = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    commands = [line for block in blocks("bash") for line in block.splitlines() if "&&" in line]
    assert len(commands) == 2
    for command in commands:
        assert command in script


def test_files_it_names_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), f"the README links to {target}"
    for target in set(re.findall(r"`(tests/\w+\.py)`", README)):
        assert (ROOT / target).exists(), f"the README names {target}"
