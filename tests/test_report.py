"""Reports of known trajectories: their files, failures in them, their summary."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from salt import SETTINGS, salt, salt_reference

from trajcast_jax.analysis import block_observables
from trajcast_jax.analysis.evaluation import Step, compare, one_step_errors, write_report
from trajcast_jax.analysis.report import render, render_summary, summarize
from trajcast_jax.io import H5MDWriter


@pytest.fixture(scope="module")
def reference():
    return salt_reference()


def test_saved_observables_give_the_same_report(reference, tmp_path):
    path = tmp_path / "reference.npz"
    block_observables.save(path, reference)
    assert path.stat().st_size < 1e6
    trajectory = salt(5, 20.0, 600)
    before, _ = compare(trajectory, reference, SETTINGS, 20.0)
    after, _ = compare(trajectory, block_observables.load(path), SETTINGS, 20.0)
    flat, other = (jax.tree.leaves(r) for r in (before, after))
    assert len(flat) == len(other)
    for a, b in zip(flat, other, strict=True):
        assert a == (pytest.approx(b, rel=1e-3, abs=1e-9) if isinstance(a, float) else b)


def test_a_file_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", positions=np.zeros(3))
    with pytest.raises(ValueError, match="holds no 'time_step'"):
        block_observables.load(tmp_path / "other.npz")


def test_report_files_of_a_trajectory_file(reference, tmp_path):
    """From H5MD and .npz to report.json, report.md and four pictures; what is extra is in it."""
    trajectory = salt(5, 20.0, 600)
    with H5MDWriter(tmp_path / "forecast.h5", trajectory, 20.0) as writer:
        writer.append(trajectory)
    block_observables.save(tmp_path / "reference.npz", reference)
    x = np.ones((2, 8, 3))
    extra = {
        "one_step": one_step_errors(Step(1.1 * x, x), Step(x, x), x, trajectory.species, 20.0),
        "ns_per_day": 48.2,
    }
    out = tmp_path / "new" / "report"
    report = write_report(
        out, tmp_path / "forecast.h5", tmp_path / "reference.npz", SETTINGS, extra
    )
    assert json.loads((out / "report.json").read_text()) == report
    assert report["ns_per_day"] == 48.2
    assert report["time_step_fs"] == 20.0
    assert set(report["plots"]) == {"temperature", "rdf", "vdos", "msd"}
    for name in report["plots"].values():
        assert (out / name).read_bytes()[1:4] == b"PNG"
    text = (out / "report.md").read_text()
    assert text == render(report)
    assert report["verdict"]["sentence"] in text
    for words in ("Nyquist limit of 834 cm⁻¹", "| Cl-Na |", "48.2", "10.00"):
        assert words in text
    assert "nan" not in text.lower().replace("nan,", "")


def test_a_forecast_that_was_stopped_has_failed(reference, tmp_path):
    """The frame that was too hot is not among those that were kept."""
    stopped = "The temperature reached 53332808 K at step 601, which is above the limit."
    report = write_report(tmp_path, salt(5, 20.0, 600), reference, SETTINGS, {"stopped": stopped})
    assert report["failure"]["frame"] == 600
    text = (tmp_path / "report.md").read_text()
    assert report["verdict"]["passed"] is False
    assert f"**NOT passed. failure: after 12.00 ps, {stopped[:-1]} (limit: none)" in text
    assert "temperature" in report


@pytest.mark.parametrize("frame", [0, 15, 600 - 1])
def test_a_forecast_that_fails_still_gets_its_report(frame, reference, tmp_path):
    """Nothing after the failure is measured, and nothing at all when too little is before it."""
    trajectory = salt(5, 20.0, 600)
    trajectory = trajectory.replace(positions=trajectory.positions.at[frame:, 0].set(jnp.nan))
    report = write_report(tmp_path, trajectory, reference, SETTINGS, {})
    assert report["failure"]["frame"] == frame
    assert report["failure"]["time_ps"] == pytest.approx(frame * 0.02)
    text = (tmp_path / "report.md").read_text()
    assert f"It failed after {frame * 0.02:.2f} ps: a position or velocity is not a number" in text
    assert ("temperature" in report) == (frame > 15)
    assert np.isfinite([x for x in jax.tree.leaves(report) if isinstance(x, float)]).all()


def test_a_summary_has_every_run_and_the_error_over_runs():
    def report(kelvin, overlap, failure=None):
        return {
            "name": "salt", "duration_ps": 10.0, "failure": {"time_ps": failure},
            "temperature": {"mean_K": kelvin, "by_species": {"Na": {"mean_K": kelvin - 1}}},
            "vdos": {"overlap": {"all": {"overlap": overlap}}, "nyquist_cm-1": 500.0},
        }  # fmt: skip

    early = {"name": "salt", "duration_ps": 0.1, "failure": {"time_ps": 0.1}}
    summary = summarize([report(299.0, 0.9), report(305.0, 0.8, failure=9.0), early])
    assert summary["runs"] == 3
    assert summary["failed_after_ps"] == [None, 9.0, 0.1]
    assert set(summary["figures"]) == {
        "temperature/mean_K", "temperature/by_species/Na/mean_K", "vdos/overlap/all/overlap",
    }  # fmt: skip
    mean = summary["figures"]["temperature/mean_K"]
    assert mean["runs"] == [299.0, 305.0]
    assert mean["mean"] == pytest.approx(302.0)
    assert mean["mean_error"] == pytest.approx(3.0)  # s/√n with s = 6/√2
    text = render_summary(summary)
    assert "2 of 3 failed" in text
    assert "| temperature/mean_K | 302 ± 3 | 299, 305 |" in text
    assert summarize([early])["figures"] == {}
    without = report(301.0, None)
    part = summarize([without, report(299.0, 0.9)])["figures"]["vdos/overlap/all/overlap"]
    assert part == {"mean": 0.9, "mean_error": None, "runs": [None, 0.9]}
    assert "| 0.9 | –, 0.9 |" in render_summary(summarize([without, report(299.0, 0.9)]))
