"""Reference runs of other sources: ASE calculators, imported trajectories."""

import re

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones
from test_checks import failed, harmonic
from test_reference import ARGON, simulate, total_energy

from trajcast_jax import io, reference
from trajcast_jax.reference import checks


def dimer() -> Atoms:
    """Two argon atoms that vibrate."""
    atoms = Atoms("Ar2", [[0, 0, 0], [0, 0, 3.9]])
    atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=20.0)
    atoms.set_velocities([[0, 0, 0.02], [0, 0, -0.02]])
    return atoms


def test_a_run_of_an_ase_calculator_goes_on_without_a_frame_twice(tmp_path):
    whole, parts = dimer(), dimer()
    reference.ase_reference(whole, tmp_path / "whole.h5", 9, time_step=2.0, save_every=4.0)
    for n_frames in (5, 4):
        reference.ase_reference(parts, tmp_path / "parts.h5", n_frames, 2.0, 4.0)
    run, times = io.read_trajectory(tmp_path / "whole.h5")
    joined, joined_times = io.read_trajectory(tmp_path / "parts.h5")
    np.testing.assert_array_equal(times, joined_times)
    np.testing.assert_allclose(run.positions, joined.positions, atol=1e-6)
    np.testing.assert_allclose(run.velocities, joined.velocities, atol=1e-9)


def test_ase_calculator_runs_at_constant_energy(tmp_path):
    atoms = dimer()
    path = tmp_path / "dimer.h5"
    reference.ase_reference(atoms, path, n_frames=250, time_step=2.0, save_every=4.0)
    run, times = io.read_trajectory(path)
    assert run.cell is None
    np.testing.assert_allclose(times, 4.0 * np.arange(250))
    energy = total_energy(path)
    assert np.ptp(energy) < 1e-3 * io.read_observables(path)["kinetic_energy"].max()
    lag, scale = checks.velocity_lag_and_scale(run, 4.0)
    assert abs(lag) < 0.01
    assert scale == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_allclose(atoms.positions, run.positions[-1], atol=1e-5)


def test_one_trajectory_is_cut_into_runs(tmp_path):
    run, times = harmonic()
    source = tmp_path / "mine.extxyz"
    io.write_extxyz(source, run, times)
    paths = reference.import_trajectories([source], tmp_path / "out", 3, gap=50.0)
    assert paths == reference.complete_runs(tmp_path / "out")
    assert reference.is_imported(tmp_path / "out")
    for i, path in enumerate(paths):
        block, block_times = io.read_trajectory(path)
        assert len(block_times) == 133 - 10  # less 50 fs
        assert block_times[1] == pytest.approx(5.0)
        expected = run.positions[133 * i : 133 * i + 123]
        steps = np.diff(block.positions, axis=0) - np.diff(expected, axis=0)
        np.testing.assert_allclose(steps, 0.0, atol=1e-5)
        assert failed(path, None) == set()
    again = reference.import_trajectories([source], tmp_path / "out", 3, gap=50.0)
    assert again == paths
    with pytest.warns(io.FileNote, match="holds 3 runs of these files already"):
        reference.import_trajectories([source], tmp_path / "out", 3, gap=50.0)
    other = tmp_path / "other" / "mine.extxyz"  # of the same name and size
    other.parent.mkdir()
    text = source.read_text()
    at = text.rindex(".") + 1
    other.write_text(text[:at] + str(9 - int(text[at])) + text[at + 1 :])
    assert other.stat().st_size == source.stat().st_size
    with pytest.raises(ValueError, match="made with digests"):
        reference.import_trajectories([other], tmp_path / "out", 3, gap=50.0)
    with pytest.raises(ValueError, match="made with runs = 3, but runs = 2"):
        reference.import_trajectories([source], tmp_path / "out", 2, gap=50.0)
    with pytest.raises(ValueError, match="imported and would mix"):
        simulate(ARGON, tmp_path / "out")


def test_bad_sources_are_refused(tmp_path):
    run, times = harmonic(n_frames=10)
    source = tmp_path / "mine.extxyz"
    io.write_extxyz(source, run, times**1.5)
    with pytest.raises(ValueError, match="give evenly spaced frames"):
        reference.import_trajectories([source], tmp_path / "a", 2)
    io.write_extxyz(source, run, times)
    with pytest.raises(ValueError, match="10 frames, too few for 6 runs"):
        reference.import_trajectories([source], tmp_path / "b", 6)
    assert reference.complete_runs(tmp_path / "b") == []
    assert len(reference.import_trajectories([source], tmp_path / "b", 2)) == 2


def write_part(path, rows, n_frames=60, decimals=9):
    """Extended XYZ of some frames of the known motion, with so many digits."""
    run, times = harmonic(n_frames=n_frames)
    system = run.replace(positions=run.positions[rows], velocities=run.velocities[rows])
    io.write_extxyz(path, system, times[rows])
    text = re.sub(r"-?\d+\.\d+(e-\d+)?", lambda m: f"{float(m[0]):.{decimals}g}", path.read_text())
    path.write_text(text)
    return path


def test_the_same_source_twice_is_refused(tmp_path):
    a = write_part(tmp_path / "a.extxyz", slice(0, 30))
    (tmp_path / "link.extxyz").symlink_to(a)
    (tmp_path / "copy.extxyz").write_bytes(a.read_bytes())
    for second in (a, tmp_path / "link.extxyz", tmp_path / "copy.extxyz"):
        with pytest.raises(ValueError, match=r"are the same file, or hold the same"):
            reference.import_trajectories([a, second], tmp_path / "out", 1)
    rounded = write_part(tmp_path / "rounded.extxyz", slice(0, 30), decimals=6)
    with pytest.raises(
        ValueError, match=r"30 of the 30 frames of \S+rounded.extxyz stand in \S+a.ex"
    ):
        reference.import_trajectories([a, rounded], tmp_path / "out", 1)
    overlap = write_part(tmp_path / "overlap.extxyz", slice(25, 60))
    with pytest.raises(ValueError, match=r"5 of the 35 frames .*--first, --last"):
        reference.import_trajectories([a, overlap], tmp_path / "out", 1)
    assert reference.complete_runs(tmp_path / "out") == []
    after = write_part(tmp_path / "after.extxyz", slice(29, 60))  # as a restarted run begins
    with pytest.warns(io.FileNote, match=r"Frame 0 of \S+after.extxyz stands in"):
        assert len(reference.import_trajectories([a, after], tmp_path / "out", 1)) == 2


def test_a_file_that_holds_its_frames_twice_is_refused(tmp_path):
    a = write_part(tmp_path / "a.extxyz", slice(0, 30))
    once = re.sub(r" time=\S+", "", a.read_text())
    a.write_text(once + once)
    with pytest.raises(ValueError, match=r"30 of the 30 frames .* stand in .*from 0 fs on"):
        reference.import_trajectories([a], tmp_path / "out", 2, time_step=5.0)
