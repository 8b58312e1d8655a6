"""Evaluation: failures on purpose, and forecasts against known references."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from salt import SETTINGS, WHOLE, salt, salt_reference

from trajcast_jax.analysis import block_observables, comparison, observables
from trajcast_jax.analysis.evaluation import compare, reference_observables, write_report
from trajcast_jax.config import RolloutSettings
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV


@pytest.fixture(scope="module")
def reference():
    return salt_reference()


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
        block_observables.measure([salt(0, 10.0, 50)], 10.0, 10.0, evaluation)


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
