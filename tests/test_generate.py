"""The command `generate`: reference runs, their checks and their report."""

import dataclasses
import json
import re

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


@pytest.mark.parametrize(
    ("frames", "stride", "message"),
    [
        (2, 10.0, r"has 2 frames, 5 fs apart, but a stride of 10 fs .* needs 3: no pair"),
        (2, 12.0, r"run_000\.h5: A stride of 12 fs is no whole number of frames"),
        (3, 10.0, ""),
        (2, 5.0, ""),
    ],
)
def test_runs_without_a_pair_are_said_to_be_of_no_use(tmp_path, capsys, frames, stride, message):
    run, times = harmonic(n_frames=frames)
    io.write_extxyz(tmp_path / "short.extxyz", run, times)
    write_toml(tmp_path / "argon.toml")
    given = {"sources": (tmp_path / "short.extxyz",), "runs": 1, "out": tmp_path / "out"}
    given["set"] = (f"data.time_step={stride}",)
    if not message:
        generate.main(str(tmp_path / "argon.toml"), **given)
        assert "all checks passed" in capsys.readouterr().out
        return
    with pytest.raises(SystemExit) as stopped:
        generate.main(str(tmp_path / "argon.toml"), **given)
    output = capsys.readouterr()
    assert stopped.value.code == 1
    assert re.search(message, output.err)
    assert "all checks passed" not in output.out
    assert not json.loads((tmp_path / "out" / "report.json").read_text())["passed"]
