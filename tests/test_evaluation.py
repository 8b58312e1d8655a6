"""Evaluation: errors on hand-made numbers, failures on purpose, reports of known trajectories."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import forecaster

from trajcast_jax import comparison, measurement, observables
from trajcast_jax.config import EvaluationSettings, Experiment, ModelSettings, RolloutSettings
from trajcast_jax.dataset import frame_pairs
from trajcast_jax.evaluation import (
    Step,
    compare,
    evaluate_one_step,
    one_step_errors,
    one_step_predictions,
    reference_observables,
    write_report,
)
from trajcast_jax.forecast import TrainedForecast
from trajcast_jax.graph import neighbor_list
from trajcast_jax.io import H5MDWriter
from trajcast_jax.report import render, render_summary, summarize
from trajcast_jax.system import make_system
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV

SETTINGS = Experiment(
    name="salt",
    evaluation=EvaluationSettings(
        rdf_max=6.0, rdf_bins=60, rdf_frames=100, vdos_segment=2_000.0, msd_time=1_000.0, n_blocks=4
    ),
    rollout=RolloutSettings(temperature=300.0, max_temperature=2_000.0),
)
SETTINGS = dataclasses.replace(SETTINGS, data=dataclasses.replace(SETTINGS.data, time_step=20.0))

WHOLE = dataclasses.replace(
    SETTINGS, evaluation=dataclasses.replace(SETTINGS.evaluation, equilibration=0.0)
)
"""With nothing left out."""


def salt(seed, time_step, frames, kelvin=300.0, repeat=1):
    """A rock salt of independent oscillators, every mode at the mean energy, momentum 0."""
    rng = np.random.default_rng(seed)
    corners = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    basis = np.concatenate([corners, corners + 0.5])
    cells = np.stack(np.meshgrid(*[np.arange(repeat)] * 3), axis=-1).reshape(-1, 3)
    sites = 5.6 * (cells[:, None] + basis).reshape(-1, 3)
    species = np.tile([11] * 4 + [17] * 4, len(cells))
    system = make_system(sites, 0 * sites, species, cell=5.6 * repeat * np.eye(3))
    mass = np.asarray(system.masses)[:, None]
    omega = 2 * np.pi * rng.uniform(0.002, 0.02, size=sites.shape)  # rad/fs: 67 to 667 cm⁻¹
    amplitude = np.sqrt(2 * BOLTZMANN * kelvin / (KINETIC_TO_EV * mass)) / omega
    angle = omega * np.arange(frames)[:, None, None] * time_step
    angle = angle + 2 * np.pi * rng.random(sites.shape)
    velocities = -amplitude * omega * np.sin(angle)
    velocities -= np.sum(mass * velocities, axis=1, keepdims=True) / mass.sum()
    return system.replace(
        positions=jnp.asarray(sites + amplitude * np.cos(angle), jnp.float32),
        velocities=jnp.asarray(velocities, jnp.float32),
    )


@pytest.fixture(scope="module")
def reference():
    runs = [salt(seed, 10.0, 1_200) for seed in range(2)]
    return reference_observables(runs, 10.0, 20.0, SETTINGS)


# One step


def test_one_step_errors_of_hand_made_numbers():
    """Two pairs of Si and O; every number by hand."""
    target = Step(np.full((2, 2, 3), 2.0), np.full((2, 2, 3), -0.5))
    off = np.array([[0.1, 0.3], [0.1, 0.5]])[..., None] * np.array([1, -1, 1])
    predicted = Step(target.displacements + off, target.velocities + 0.1 * off)
    velocities = np.full((2, 2, 3), 0.5)
    species = np.array([14, 8])
    errors = one_step_errors(predicted, target, velocities, species, 3.0, n_blocks=2)
    assert list(errors) == ["all", "Si", "O", "n_pairs", "time_step"]
    for group, mae, error in [("all", 0.25, 0.05), ("Si", 0.1, 0.0), ("O", 0.4, 0.1)]:
        d, v = errors[group]["displacements"], errors[group]["velocities"]
        assert np.isclose(d["mae"], mae)
        assert np.isclose(d["relative_percent"], 100 * mae / 2)
        assert np.isclose(d["mae_error"], error, atol=1e-7)
        assert np.isclose(v["mae"], 0.1 * mae)
        assert np.isclose(v["relative_percent"], 100 * 0.1 * mae / 0.5)
        # Going on at 0.5 Å/fs for 3 fs makes 1.5 instead of 2, and 0.5 instead of −0.5.
        assert np.isclose(d["persistence_percent"], 25)
        assert np.isclose(v["persistence_percent"], 200)


def test_one_step_errors_leave_padding_out():
    """Systems of different sizes: what the padding holds does not count."""
    target = Step(np.ones((2, 2, 3)), np.ones((2, 2, 3)))
    wrong = target.displacements.copy()
    wrong[0] += 0.5
    wrong[1, 1] = 99.0
    species = np.array([[8, 1], [8, 0]])
    errors = one_step_errors(Step(wrong, wrong), target, np.ones((2, 2, 3)), species, 1.0)
    assert np.isclose(errors["all"]["displacements"]["mae"], 1 / 3)
    assert np.isclose(errors["O"]["displacements"]["mae"], 0.25)
    assert np.isclose(errors["H"]["displacements"]["mae"], 0.5)


def test_one_step_predictions_are_the_forecast_of_each_pair():
    """Against the forecast on a neighbour list of its own; and the errors are those from it."""
    untrained = forecaster(species=(11, 17), time_step=20.0, blocks=1, channels=2)
    model = TrainedForecast(untrained.init(0), untrained)
    run, times = salt(0, 20.0, 30), 20.0 * np.arange(30)
    pairs = frame_pairs([(run, times)], 20.0, model.cutoff, 3)
    step = one_step_predictions(model, pairs)
    neighbors = neighbor_list(run.cell, model.cutoff)
    forecast = jax.jit(model.forecast)
    for k in range(3):
        frame = run.replace(
            positions=pairs.system.positions[k], velocities=pairs.system.velocities[k]
        )
        after = forecast(frame, neighbors.allocate(frame, capacity=64))
        moved = after.positions - frame.positions
        np.testing.assert_allclose(step.displacements[k], moved, atol=2e-5)
        np.testing.assert_allclose(step.velocities[k], after.velocities, atol=1e-6)
    errors = evaluate_one_step(model, pairs)
    off = np.abs(np.asarray(step.displacements) - pairs.displacements)
    assert np.isclose(errors["all"]["displacements"]["mae"], off.mean(), rtol=1e-4)
    assert errors["n_pairs"] == 3
    assert errors["time_step"] == 20.0


# Failure


def broken(frame, how):
    """50 good frames of salt, but one."""
    trajectory = salt(0, 20.0, 50)
    positions, velocities = (np.array(x) for x in (trajectory.positions, trajectory.velocities))
    if how == "nan":
        positions[frame, 3, 1] = np.nan
    if how == "hot":
        velocities[frame] *= 5
    if how == "close":
        # Across the boundary of the cell.
        positions[frame, 4] = positions[frame, 0] + np.array([5.6 - 0.9, 0, 5.6])
    return trajectory.replace(positions=jnp.asarray(positions), velocities=jnp.asarray(velocities))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("nan", "not a number"),
        ("hot", "K, above the limit of 2000 K"),
        ("close", "Cl and Na are 0.90 Å apart, closer than the limit of 1.50 Å"),
    ],
)
def test_a_failure_is_found_at_its_frame(how, reason):
    limits = {("Cl", "Na"): 1.5, ("Na", "Na"): 0.5}
    failure = comparison.first_failure(broken(37, how), 2_000.0, limits)
    assert failure.frame == 37
    assert reason in failure.reason


def test_the_first_failure_counts_and_none_is_none():
    limits = {("Cl", "Na"): 1.5}
    both = broken(20, "nan")
    late = broken(30, "close")
    both = both.replace(positions=both.positions.at[30:].set(late.positions[30:]))
    assert comparison.first_failure(both, 2_000.0, limits).frame == 20
    assert comparison.first_failure(salt(0, 20.0, 50), 2_000.0, limits) is None


def test_allowed_distances_follow_the_reference(reference):
    """A fraction of the shortest distance in the reference, but never below 0.5 Å."""
    trajectory = salt(0, 10.0, 2)
    limits = comparison.closest_allowed(trajectory, reference, 0.7)
    shortest = reference["closest/Cl-Na"].min()
    assert 1.5 < shortest < 2.8
    assert np.isclose(limits["Cl", "Na"], 0.7 * shortest)
    assert set(limits) == {("Cl", "Cl"), ("Cl", "Na"), ("Na", "Na")}
    assert set(comparison.closest_allowed(trajectory, {}, 0.7).values()) == {0.5}


# Forecast against reference


def test_a_trajectory_against_itself_has_no_deviation():
    trajectory = salt(3, 20.0, 600)
    itself = reference_observables([trajectory], 20.0, 20.0, WHOLE)
    report, curves = compare(trajectory, itself, WHOLE, 20.0)
    assert report["failure"]["time_ps"] is None
    assert {own["deviation_percent"] for own in report["rdf"].values()} == {0.0}
    assert all(own["overlap"] == pytest.approx(1) for own in report["vdos"]["overlap"].values())
    assert set(report["vdos"]["overlap"]) == {"all", "Na", "Cl"}
    for symbol in ("Na", "Cl"):
        own = report["msd"][symbol]
        assert own["msd_A2"] == pytest.approx(own["reference_msd_A2"])
    assert curves.keys() == itself.keys()


def test_the_numbers_of_a_report_are_right(reference):
    """Temperatures, deviations, drift and momentum against what they are computed from here."""
    trajectory = salt(5, 20.0, 600, kelvin=330.0)
    report, _ = compare(trajectory, reference, SETTINGS, 20.0)
    used = np.asarray(trajectory.velocities, np.float64)[60:]
    mass = np.asarray(trajectory.masses)[:, None]
    kelvin = KINETIC_TO_EV * np.sum(mass * used**2, axis=(1, 2)) / (21 * BOLTZMANN)
    part = report["temperature"]
    assert report["measured_from_ps"] == pytest.approx(1.2)
    assert report["duration_ps"] == pytest.approx(12.0)
    assert part["degrees_of_freedom"] == 21
    assert part["mean_K"] == pytest.approx(kelvin.mean(), rel=1e-4)
    assert part["deviation_K"] == pytest.approx(kelvin.std(), rel=1e-3)
    assert part["expected_deviation_K"] == pytest.approx(300 * np.sqrt(2 / 21))
    blocks = kelvin.reshape(4, -1).mean(axis=1)
    assert part["mean_K_error"] == pytest.approx(blocks.std(ddof=1) / 2, rel=1e-2)
    assert part["reference_mean_K"] == pytest.approx(300, rel=0.05)
    slope = np.polyfit(np.arange(len(kelvin)) * 0.02, kelvin, 1)[0]
    assert part["drift_K_per_ps"] == pytest.approx(slope, rel=1e-2, abs=1e-3)
    assert report["momentum"]["largest_momentum"] < 1e-5
    # Other oscillators at another temperature: neither equal nor unlike.
    assert all(1 < own["deviation_percent"] < 60 for own in report["rdf"].values())
    assert all(0.2 < own["overlap"] < 0.99 for own in report["vdos"]["overlap"].values())


def test_the_deviation_of_g_is_the_stated_formula(reference):
    trajectory = salt(5, 20.0, 600)
    report, curves = compare(trajectory, reference, SETTINGS, 20.0)
    g, target = curves["rdf/Cl-Na"].mean(axis=0), reference["rdf/Cl-Na"].mean(axis=0)
    first = np.flatnonzero(g + target)[0]
    expected = 100 * abs(g - target)[first:].sum() / target[first:].sum()
    assert report["rdf"]["Cl-Na"]["deviation_percent"] == pytest.approx(expected, rel=1e-5)


def test_a_stride_folds_the_reference_as_it_folds_the_forecast(reference):
    """Stored every 10 fs and seen every 20 fs: the spectrum of a forecast in strides of 20 fs."""
    runs = [observables.cut(salt(s, 10.0, 1_200), slice(None, None, 2)) for s in range(2)]
    direct = reference_observables(runs, 20.0, 20.0, SETTINGS)
    assert reference["vdos/wavenumbers"][-1] == pytest.approx(33356.4 / 40, rel=1e-5)
    assert reference["vdos_stored/wavenumbers"][-1] == pytest.approx(33356.4 / 20, rel=1e-5)
    for symbol in ("Na", "Cl"):
        pair = (m[f"vdos/{symbol}"].mean(axis=0) for m in (reference, direct))
        assert observables.vdos_overlap(*pair) > 0.97


def test_a_reference_of_another_stride_gives_no_overlap(reference, tmp_path):
    settings = dataclasses.replace(SETTINGS, rollout=RolloutSettings(every=2))
    report = write_report(tmp_path, salt(5, 40.0, 600), reference, settings, {})
    assert report["vdos"]["overlap"] == {}
    assert "another interval" in (tmp_path / "report.md").read_text()


def test_a_stride_that_is_no_whole_number_of_frames_is_refused():
    with pytest.raises(ValueError, match="whole number"):
        reference_observables([salt(0, 10.0, 50)], 10.0, 25.0, SETTINGS)


def test_too_few_frames_and_unknown_pairs_are_refused():
    with pytest.raises(ValueError, match="has 5 frames 20 fs apart, too few"):
        reference_observables([salt(0, 10.0, 10)], 10.0, 20.0, SETTINGS)
    evaluation = dataclasses.replace(SETTINGS.evaluation, rdf_pairs=(("Si", "Na"),))
    with pytest.raises(ValueError, match="asks for Na-Si, but the pairs of this system are Cl-Cl"):
        measurement.measure([salt(0, 10.0, 50)], 10.0, 10.0, evaluation)


def test_other_bins_than_the_reference_has_are_refused(reference):
    evaluation = dataclasses.replace(SETTINGS.evaluation, rdf_bins=50)
    settings = dataclasses.replace(SETTINGS, evaluation=evaluation)
    with pytest.raises(ValueError, match=r"60 bins to 5\.95 Å, the settings ask for 50"):
        compare(salt(5, 20.0, 600), reference, settings, 20.0)


def test_jackknife_of_a_mean_is_the_standard_error():
    blocks = np.random.default_rng(0).normal(size=(7, 3))
    value, error = comparison.jackknife(blocks, lambda mean: 2 * mean)
    np.testing.assert_allclose(value, 2 * blocks.mean(axis=0))
    np.testing.assert_allclose(error, 2 * blocks.std(axis=0, ddof=1) / np.sqrt(7))
    assert np.isnan(comparison.jackknife(blocks[:1, 0], lambda mean: mean)[1])


# Reports


def test_saved_observables_give_the_same_report(reference, tmp_path):
    path = tmp_path / "reference.npz"
    measurement.save(path, reference)
    assert path.stat().st_size < 1e6
    trajectory = salt(5, 20.0, 600)
    before, _ = compare(trajectory, reference, SETTINGS, 20.0)
    after, _ = compare(trajectory, measurement.load(path), SETTINGS, 20.0)
    flat, other = (jax.tree.leaves(r) for r in (before, after))
    assert len(flat) == len(other)
    for a, b in zip(flat, other, strict=True):
        assert a == (pytest.approx(b, rel=1e-4, abs=1e-9) if isinstance(a, float) else b)


def test_a_file_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", positions=np.zeros(3))
    with pytest.raises(ValueError, match="holds no 'time_step'"):
        measurement.load(tmp_path / "other.npz")


def test_report_files_of_a_trajectory_file(reference, tmp_path):
    """From H5MD and .npz to report.json, report.md and four pictures; what is extra is in it."""
    trajectory = salt(5, 20.0, 600)
    with H5MDWriter(tmp_path / "forecast.h5", trajectory, 20.0) as writer:
        writer.append(trajectory)
    measurement.save(tmp_path / "reference.npz", reference)
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
    for words in ("It did not fail", "Nyquist limit of 834 cm⁻¹", "| Cl-Na |", "48.2", "10.00"):
        assert words in text
    assert "nan" not in text.lower().replace("nan,", "")


def test_a_forecast_that_was_stopped_has_failed(reference, tmp_path):
    """The frame that was too hot is not among those that were kept."""
    stopped = "The temperature reached 53332808 K at step 601, which is above the limit."
    report = write_report(tmp_path, salt(5, 20.0, 600), reference, SETTINGS, {"stopped": stopped})
    assert report["failure"]["frame"] == 600
    text = (tmp_path / "report.md").read_text()
    assert f"**It failed after 12.00 ps: {stopped[:-1]}.**" in text
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


def test_an_isolated_molecule_without_rotation_is_measured(tmp_path):
    """CO₂ far from any cell: 3N−5 degrees of freedom, distances instead of g(r)."""
    time_step, frames = 2.0, 400
    stretch = 0.05 * np.sin(0.25 * np.arange(frames) * time_step)
    speed = 0.05 * 0.25 * np.cos(0.25 * np.arange(frames) * time_step)
    along = np.array([0.0, 1.0, -1.0])
    positions, velocities = np.zeros((2, frames, 3, 3))
    positions[..., 2], velocities[..., 2] = (
        along * (1.16 + stretch[:, None]),
        along * speed[:, None],
    )
    trajectory = make_system(positions, velocities, [6, 8, 8])
    settings = dataclasses.replace(WHOLE, model=ModelSettings(conserve_angular=True))
    measured = reference_observables([trajectory], time_step, time_step, settings)
    assert measured["degrees_of_freedom"] == 4
    assert {"rdf/O-O", "rdf/O-C"} <= measured.keys()
    assert "rdf/C-C" not in measured
    report, _ = compare(trajectory, measured, settings, time_step)
    assert report["failure"]["reason"] is None
    peak = measured["vdos/wavenumbers"][np.argmax(measured["vdos/O"][0])]
    assert abs(peak - 0.25 / (2 * np.pi) * 33356.4) < measured["vdos/wavenumbers"][1]


def peroxide(degrees, length=1.45, seed=0):
    """Frames of H–O–O–H with these torsions: bonds of 0.97 Å and `length`, right angles."""
    turn = np.radians(degrees)[:, None]
    ends = np.concatenate([np.cos(turn), -np.sin(turn), 0 * turn], axis=1) * 0.97
    middle = np.array([0.0, 0.0, length])
    still = np.broadcast_to([[0.97, 0, 0], [0, 0, 0], middle], (len(turn), 3, 3))
    positions = np.concatenate([still, (ends + middle)[:, None]], axis=1)
    velocities = np.random.default_rng(seed).normal(size=positions.shape) * 0.002
    one = make_system(positions[0], velocities[0], [1, 8, 8, 1])
    return one.replace(positions=jnp.asarray(positions), velocities=jnp.asarray(velocities))


def torsions(seed, barrier, frames=80_000):
    """Degrees of density exp(−b cos²φ) by rejection, b = barrier in k_B T."""
    rng = np.random.default_rng(seed)
    drawn = rng.uniform(-180, 180, 8 * frames)
    kept = drawn[rng.random(8 * frames) < np.exp(-barrier * np.cos(np.radians(drawn)) ** 2)]
    return kept[:frames]


def test_distances_of_a_molecule_are_taken_from_every_frame_that_there_is():
    """1,000 frames hold a thousand distances of one pair, which leaves g(r) noise."""
    run = peroxide(torsions(0, 2.0, frames=6_000))
    chosen = EvaluationSettings(rdf_max=4.0, rdf_bins=40, n_blocks=2, vdos_segment=500.0)
    found = measurement.measure([run], 1.0, 1.0, chosen)["rdf/H-H"]
    distances = np.linalg.norm(run.positions[:, 0] - run.positions[:, 3], axis=-1)
    for g, part in zip(found, np.split(distances, 2), strict=True):
        density, _ = np.histogram(part, 40, (0.0, 4.0), density=True)
        np.testing.assert_allclose(g, density, atol=0.02)
    few = dataclasses.replace(chosen, rdf_frames=100)
    assert abs(measurement.measure([run], 1.0, 1.0, few)["rdf/H-H"] - found).max() > 0.2


def test_bonds_angles_and_free_energies_of_torsions_are_compared():
    chosen = EvaluationSettings(
        rdf_max=4.0, rdf_frames=50, n_blocks=4, dihedrals=(("H", "O", "O", "H"),),
        vdos_segment=500.0, msd_time=100.0, equilibration=0.0,
    )  # fmt: skip
    settings = dataclasses.replace(SETTINGS, name="peroxide", evaluation=chosen)
    same, longer = (
        peroxide(torsions(seed, barrier), length)
        for seed, barrier, length in ((1, 2.0, 1.45), (2, 3.5, 1.47))
    )
    reference = reference_observables([peroxide(torsions(0, 2.0))], 1.0, 1.0, settings)
    for forecast, stretch, deviation in ((same, 0.0, 0.0), (longer, 0.02, 0.478)):
        report, _ = compare(forecast, reference, settings, 1.0)
        part = report["molecules"]
        assert part["bonds"]["O–O"]["difference_A"] == pytest.approx(stretch, abs=1e-5)
        assert part["bonds"]["O–H"]["difference_A"] == pytest.approx(0.0, abs=1e-5)
        assert part["angles"]["O–O–H"]["mean_degrees"] == pytest.approx(90.0, abs=1e-3)
        # Of 1.5 cos² φ the mean absolute difference from its mean is 1.5/π; the rest is noise.
        found = part["dihedrals"]["H–O–O–H"]
        assert found["deviation_kT"] == pytest.approx(deviation, abs=0.06)
        assert found["deviation_kT_among_reference"] < 0.15
    text = render(report)
    assert "| O–O | 1.4700 ± 0.0000 | 1.4500 ± 0.0000 | +0.0200 |" in text
    assert "torsions, in k_B T" in text


def test_a_bond_that_breaks_on_the_way_is_a_long_one():
    """It is one in the first frame, but not in the first of the second half."""
    run = peroxide(torsions(0, 2.0, frames=2_000))
    run = run.replace(positions=run.positions.at[1_000:, 0, 0].add(3.0))
    chosen = EvaluationSettings(rdf_max=4.0, rdf_bins=40, n_blocks=2, vdos_segment=500.0)
    found = measurement.measure([run], 1.0, 1.0, chosen)["bond/O–H"]
    np.testing.assert_allclose(found, [0.97, 0.97 + 1.5], rtol=1e-5)


def test_a_torsion_that_the_forecast_never_visits_is_infinitely_off():
    even, half = np.full(4, 0.25), np.array([0.5, 0.5, 0.0, 0.0])
    assert comparison.free_energy_deviation(half, even) == np.inf
    assert comparison.free_energy_deviation(even, half) == 0.0  # where it was, it was alike
