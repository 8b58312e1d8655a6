"""Forecasts are compiled without XLA's YNN fusions, whoever compiles them."""

import os

import jax
import pytest
from conftest import run_alone

import trajcast_jax as tj
from trajcast_jax import compiling

FUSION = "__ynn_fusion"

FORECAST = """
import os, warnings
{before}
import trajcast_jax as tj
import jax
model = tj.restore(tj.pretrained("paracetamol"))
start = tj.read(tj.pretrained("paracetamol") / "start.extxyz")
neighbors = tj.neighbor_list(start.cell, model.cutoff, 0.5).allocate(start)
program = jax.jit(model.forecast).lower(start, neighbors).compile().as_text()
assert ("__ynn_fusion" in program) == {fused}, program.count("__ynn_fusion")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quartz", "water", "paracetamol", "paracetamol_xtb"])
def test_a_users_own_jit_of_a_shipped_rollout_has_no_ynn_fusion(name):
    model = tj.restore(tj.pretrained(name))
    start = tj.read(tj.pretrained(name) / "start.extxyz")
    fns = tj.neighbor_list(start.cell, model.cutoff, 0.5)
    sim = tj.simulator(model.forecast, fns, tj.csvr(300.0, 75.0), time_step=model.time_step)
    state = sim.init(jax.random.key(0), start)
    program = jax.jit(tj.rollout(sim.step, 2)).lower(state).compile().as_text()
    assert "fusion" in program
    assert FUSION not in program


def test_an_option_of_xla_is_known_or_not():
    assert compiling.is_known()
    assert not compiling.is_known("xla_cpu_no_such_option")


@pytest.fixture
def plain(monkeypatch):
    """An environment that says nothing to XLA, for fresh interpreters."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


@pytest.mark.slow
@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("flags", ["--xla_cpu_enable_fast_math=false", "no_flag=1", ""])
def test_the_option_is_set_before_jax_starts_and_other_flags_stay(monkeypatch, flags):
    monkeypatch.setenv("XLA_FLAGS", flags)
    flags = f"--{compiling.OPTION}= {flags}".strip()
    check = f"assert os.environ['XLA_FLAGS'] == '{flags}'\n"
    run_alone(FORECAST.format(before="", fused=False) + check)


@pytest.mark.slow
@pytest.mark.usefixtures("plain")
def test_what_the_environment_says_of_the_option_holds():
    before = f"os.environ['XLA_FLAGS'] = '--{compiling.OPTION}=LIBRARY_FUSION_TYPE_DOT'"
    run_alone(FORECAST.format(before=before, fused=True))


@pytest.mark.slow
@pytest.mark.usefixtures("plain")
def test_too_late_is_said_and_our_own_programs_go_without():
    before = (
        "import jax; jax.devices()\n"
        "warnings.simplefilter('error')\n"
        "try:\n"
        "    import trajcast_jax\n"
        "    raise SystemExit('no warning')\n"
        "except UserWarning as warning:\n"
        "    assert 'Import trajcast_jax first' in str(warning), warning\n"
        "warnings.simplefilter('default')"
    )
    after = (
        "from trajcast_jax.compiling import compiler_options\n"
        "options = compiler_options(xla_backend_optimization_level='1')\n"
        f"assert options == {{'xla_backend_optimization_level': '1', '{compiling.OPTION}': ''}}\n"
        "again = jax.jit(model.forecast, compiler_options=options).lower(start, neighbors)\n"
        "assert '__ynn_fusion' not in again.compile().as_text()\n"
    )
    run_alone(FORECAST.format(before=before, fused=True) + after)


def test_versions_that_do_not_know_the_option_get_nothing(monkeypatch):
    monkeypatch.setattr(compiling, "is_known", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", "")
    compiling.without_ynn()
    assert os.environ["XLA_FLAGS"] == ""
    assert compiling.compiler_options() is None
