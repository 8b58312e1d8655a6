"""Evaluation of molecules: pair distances, bonds, angles and free energies of torsions."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from salt import SETTINGS, WHOLE

from trajcast_jax.analysis import block_observables, comparison
from trajcast_jax.analysis.evaluation import compare, reference_observables
from trajcast_jax.analysis.report import render
from trajcast_jax.config import EvaluationSettings, ModelSettings
from trajcast_jax.system import make_system


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
    found = block_observables.measure([run], 1.0, 1.0, chosen)["rdf/H-H"]
    distances = np.linalg.norm(run.positions[:, 0] - run.positions[:, 3], axis=-1)
    for g, part in zip(found, np.split(distances, 2), strict=True):
        density, _ = np.histogram(part, 40, (0.0, 4.0), density=True)
        np.testing.assert_allclose(g, density, atol=0.02)
    few = dataclasses.replace(chosen, rdf_frames=100)
    assert abs(block_observables.measure([run], 1.0, 1.0, few)["rdf/H-H"] - found).max() > 0.2


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
    assert "| O–O | 1.4700 ± 0.0000 | 1.4500 ± 0.0000 | +0.0200 ± 0.0000 |" in text
    assert "torsions, in k_B T" in text


def test_a_bond_that_breaks_on_the_way_is_a_long_one():
    """It is one in the first frame, but not in the first of the second half."""
    run = peroxide(torsions(0, 2.0, frames=2_000))
    run = run.replace(positions=run.positions.at[1_000:, 0, 0].add(3.0))
    chosen = EvaluationSettings(rdf_max=4.0, rdf_bins=40, n_blocks=2, vdos_segment=500.0)
    found = block_observables.measure([run], 1.0, 1.0, chosen)["bond/O–H"]
    np.testing.assert_allclose(found, [0.97, 0.97 + 1.5], rtol=1e-5)


def test_a_torsion_that_the_forecast_never_visits_is_infinitely_off():
    even, half = np.full(4, 0.25), np.array([0.5, 0.5, 0.0, 0.0])
    assert comparison.free_energy_deviation(half, even) == np.inf
    assert comparison.free_energy_deviation(even, half) == 0.0  # where it was, it was alike
