"""Checks of reference runs: what they measure, and what they notice."""

import numpy as np
import pytest
from test_reference import ARGON

from trajcast_jax import io, reference
from trajcast_jax.reference import checks
from trajcast_jax.system import make_system
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV


def harmonic(lag=0.0, factor=1.0, n_frames=400, time_step=5.0):
    """Thermal harmonic oscillators about the sites of a crystal; velocities `lag` fs old."""
    random = np.random.default_rng(1)
    sites = reference.build_structure(ARGON).positions
    frequency = 2 * np.pi / random.uniform(60, 400, size=(32, 3))  # rad/fs
    amplitude = np.sqrt(BOLTZMANN * 20 / (39.95 * KINETIC_TO_EV)) / frequency
    phase = random.uniform(0, 2 * np.pi, size=(32, 3))
    amplitude = amplitude * np.sqrt(2)
    angle = np.arange(n_frames)[:, None, None] * time_step * frequency + phase
    velocities = -amplitude * frequency * np.sin(angle - frequency * lag)
    velocities = velocities - velocities.mean(axis=1, keepdims=True)
    moved = amplitude * np.cos(angle)
    positions = sites + moved - moved.mean(axis=1, keepdims=True)
    system = make_system(
        positions, factor * velocities, [18] * 32, cell=reference.build_structure(ARGON).cell.array
    )
    return system, np.arange(n_frames) * time_step


@pytest.mark.parametrize("lag", [0.0, 0.5, -1.0])
def test_lag_of_velocities_is_measured(lag):
    run, _ = harmonic(lag=lag)
    found, scale = checks.velocity_lag_and_scale(run, 5.0)
    assert found == pytest.approx(lag, abs=0.02)
    assert scale == pytest.approx(1.0, abs=0.02)


def write_run(path, run, **observables):
    with io.H5MDWriter(path, run, 5.0) as writer:
        writer.append(run, observables)
    return path


def failed(path, settings=ARGON):
    return {c.name for c in reference.check_run(path, settings) if c.passed is False}


def test_checks_fail_where_they_must(tmp_path):
    run, times = harmonic()
    assert failed(write_run(tmp_path / "good.h5", run)) == set()
    lagging, _ = harmonic(lag=0.5)
    assert failed(write_run(tmp_path / "lag.h5", lagging)) == {"velocity lag"}
    ps, _ = harmonic(factor=10.0)
    found = failed(write_run(tmp_path / "unit.h5", ps))
    assert found == {"velocity scale", "mean temperature", "velocity lag"} & found
    assert {"velocity scale", "mean temperature"} <= found

    # Velocities that belong to a time step a tenth longer or shorter.
    for factor in (0.9, 1.1):
        other, _ = harmonic(factor=factor)
        assert "velocity scale" in failed(write_run(tmp_path / f"{factor}.h5", other))
    coarse = run.replace(positions=run.positions[::4], velocities=run.velocities[::4])
    assert checks.velocity_scale_by_simpson(coarse, 20.0)[1] > checks.ROUGH
    assert checks.velocity_scale_by_simpson(run, 5.0)[0] == pytest.approx(1.0, abs=1e-3)

    for lost, serious in ((3e-5, False), (3e-2, True)):
        moving = run.replace(velocities=run.velocities + lost * abs(run.velocities).mean())
        found = reference.check_run(write_run(tmp_path / f"{lost}.h5", moving), ARGON)
        off = {c.name for c in found if c.passed is False}
        assert off == {"total momentum"}
        assert [reference.failed(c) for c in found if c.name in off] == [serious]
        assert ("minor" in reference.format_checks(found)) == (not serious)

    kinetic = 0.5 * KINETIC_TO_EV * np.einsum("a,tai->t", run.masses, run.velocities**2)
    drifting = -kinetic + 32 * 1e-3 * (1e-3 * times)  # 1 meV/atom/ps
    path = write_run(tmp_path / "drift.h5", run, potential_energy=drifting, kinetic_energy=kinetic)
    assert failed(path) == {"energy drift"}
    path = write_run(
        tmp_path / "kinetic.h5", run, potential_energy=-2 * kinetic, kinetic_energy=2 * kinetic
    )
    assert failed(path) == {"kinetic energy difference"}


def test_checks_notice_a_crystal_that_is_none(tmp_path):
    run, _ = harmonic()
    random = np.random.default_rng(2)
    away = np.linspace(0, 1, 400)[:, None, None] * random.normal(size=(32, 3)) * 2.0
    flowing = run.replace(positions=run.positions + away)
    assert "RMS displacement from sites" in failed(write_run(tmp_path / "flow.h5", flowing))
    moved = run.replace(positions=run.positions.at[:, 3].add(1.5))
    assert "farthest site from the start" in failed(write_run(tmp_path / "moved.h5", moved))
    images = np.asarray(run.cell)[0] * (np.arange(32) % 3)[:, None] + 5.0
    same = run.replace(positions=run.positions + images)  # other images, and shifted as a whole
    assert failed(write_run(tmp_path / "images.h5", same)) == set()


def test_velocities_of_each_species_and_axis_are_checked(tmp_path):
    run, _ = harmonic()
    r, v = np.asarray(run.positions), np.asarray(run.velocities)
    z = np.array([18] * 28 + [36] * 4)
    cell = np.asarray(run.cell)

    def names(velocities, positions=r):
        system = make_system(positions, velocities, z, cell=cell)
        (tmp_path / "run.h5").unlink(missing_ok=True)
        found = reference.check_run(write_run(tmp_path / "run.h5", system))
        return {c.name: c for c in found if c.passed is False}

    assert names(v) == {}
    assert "velocity scale of Kr" in names(np.where((z == 36)[:, None], 2 * v, v))
    none = names(v * np.array([1.0, 1.0, 0.0]))["velocity scale along z"]
    assert "velocities are 0" in none.expected
    assert {"velocity scale along x", "velocity scale along y"} <= set(names(v[..., [1, 0, 2]]))
    steady = np.broadcast_to(v[:1], v.shape)  # constant velocities: no lag can be told
    moved = r[:1] + 5.0 * np.arange(len(r))[:, None, None] * steady
    assert "velocity lag" not in names(steady, moved)
    assert np.isnan(checks.velocity_lag_and_scale(make_system(moved, steady, z), 5.0)[0])
