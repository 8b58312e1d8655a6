"""The command `generate`: reference runs, their checks and their report."""

import dataclasses
import json

import pytest
from test_checks import harmonic
from test_reference import ARGON, needs_lammps

import experiments
from trajcast_jax import io, reference
from trajcast_jax.workflow import generate, reference_runs


def write_toml(path):
    lines = ["[reference]"]
    values = dataclasses.asdict(ARGON) | {"runs": 1, "nve_time": 2000.0}
    structure = values.pop("structure")
    lines += [f"{k} = {json.dumps(v)}" for k, v in values.items()]
    lines += ["[reference.structure]"] + [f"{k} = {json.dumps(v)}" for k, v in structure.items()]
    path.write_text("\n".join(lines))


@needs_lammps
def test_command_makes_checks_and_reports(tmp_path, capsys):
    write_toml(tmp_path / "argon.toml")
    out = tmp_path / "out"
    generate.main(str(tmp_path / "argon.toml"), out=out)
    report = json.loads((out / "report.json").read_text())
    assert report["passed"]
    assert list(report["runs"]) == ["run_000.h5"]
    assert "all checks passed" in capsys.readouterr().out
    experiment = experiments.load(tmp_path / "argon.toml")
    assert reference_runs.ensure_reference(experiment, out) == [out / "run_000.h5"]
    warmer = dataclasses.replace(experiment.reference, temperature=25.0)
    with pytest.raises(ValueError, match=r"made with temperature = 20\.0"):
        reference_runs.ensure_reference(dataclasses.replace(experiment, reference=warmer), out)

    generate.main(
        str(tmp_path / "argon.toml"), out=tmp_path / "mine", sources=(out / "run_000.h5",), runs=2
    )
    assert len(reference.complete_runs(tmp_path / "mine")) == 2
    assert reference_runs.ensure_reference(
        experiment, tmp_path / "mine"
    ) == reference.complete_runs(tmp_path / "mine")


def test_failed_checks_are_loud(tmp_path, capsys):
    run, times = harmonic(lag=1.0)
    io.write_extxyz(tmp_path / "leapfrog.extxyz", run, times)
    write_toml(tmp_path / "argon.toml")
    argon, sources = str(tmp_path / "argon.toml"), (tmp_path / "leapfrog.extxyz",)
    with pytest.raises(ValueError, match=r"holds Ar32, but the structure .* is of Si1 O2"):
        generate.main("quartz", out=tmp_path / "out", sources=sources, runs=1)
    with pytest.raises(SystemExit):
        generate.main(argon, out=tmp_path / "out", sources=sources, runs=1)
    output = capsys.readouterr()
    assert "CHECKS FAILED" in output.err
    assert "FAILED velocity lag" in output.out
    assert not json.loads((tmp_path / "out" / "report.json").read_text())["passed"]
    reference_runs.ensure_reference(experiments.load(argon), tmp_path / "out")
    assert "warning: the runs in" in capsys.readouterr().err


def test_unknown_experiment_names_the_nearest():
    with pytest.raises(FileNotFoundError, match="did you mean 'quartz'"):
        experiments.load("quarz")
