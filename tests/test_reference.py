"""Reference dynamics: solid argon through LAMMPS, ASE calculators, imported trajectories."""

import dataclasses
import json

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones

import experiments
from experiments import generate
from trajcast_jax import io, observables, reference
from trajcast_jax.config import ReferenceSettings
from trajcast_jax.reference import checks, lammps_engine, protocol
from trajcast_jax.system import make_system
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV

ARGON = ReferenceSettings(
    structure={
        "symbols": ["Ar"],
        "basis": [[0.0, 0.0, 0.0]],
        "spacegroup": 225,
        "cellpar": [5.4, 5.4, 5.4, 90.0, 90.0, 90.0],
    },
    repeat=(2, 2, 2),
    lammps_atom_style="atomic",
    commands="pair_style lj/smooth/linear 5.2\npair_coeff 1 1 0.0104 3.4",
    time_step=2.0,
    save_every=10.0,
    temperature=20.0,
    npt_time=4_000.0,
    nvt_time=4_000.0,
    nve_time=5_000.0,
    gap_time=500.0,
    runs=2,
)
N_FRAMES = 500


def lammps_is_missing() -> str:
    try:
        lammps_engine.load_lammps()
    except ImportError as error:
        return str(error)
    return ""


needs_lammps = pytest.mark.skipif(bool(lammps_is_missing()), reason=lammps_is_missing())


def simulate(settings, out, seed=0):
    list(reference.reference_md(settings, out, seed))
    return out


@pytest.fixture(scope="module")
def argon(tmp_path_factory):
    return simulate(ARGON, tmp_path_factory.mktemp("argon"))


def total_energy(path):
    energies = io.read_observables(path)
    return energies["potential_energy"] + energies["kinetic_energy"]


# LAMMPS


@needs_lammps
def test_runs_hold_what_they_claim(argon):
    paths = reference.complete_runs(argon)
    assert [p.name for p in paths] == ["run_000.h5", "run_001.h5"]
    first_energies = [total_energy(p)[0] for p in paths]
    assert first_energies[0] == pytest.approx(first_energies[1], abs=1e-9)
    for path in paths:
        run, times = io.read_trajectory(path)
        assert run.positions.shape == (N_FRAMES, 32, 3)
        np.testing.assert_allclose(times, 10.0 * np.arange(N_FRAMES))
        momentum = np.einsum("a,tai->ti", run.masses, run.velocities)
        np.testing.assert_allclose(momentum, 0.0, atol=1e-6)
        kinetic = 0.5 * KINETIC_TO_EV * np.einsum("a,tai->t", run.masses, run.velocities**2)
        stored = io.read_observables(path)["kinetic_energy"]
        np.testing.assert_allclose(kinetic, stored, rtol=1e-5)
        found = reference.check_run(path, ARGON)
        assert {c.name for c in found if c.passed is None} == {
            "energy deviation",
            "temperature deviation",
            "density",
        }
        assert all(c.passed is not False for c in found), reference.format_checks(found)


@needs_lammps
def test_cell_keeps_its_shape_and_belongs_to_the_system(argon, tmp_path):
    cell = np.asarray(io.read(argon / "run_000.h5").cell)
    np.testing.assert_allclose(cell, cell[0, 0] * np.eye(3), atol=1e-5)
    assert cell[0, 0] != pytest.approx(10.8, abs=1e-3)  # the pressure has had its way
    other = simulate(dataclasses.replace(ARGON, runs=1), tmp_path, seed=7)
    np.testing.assert_array_equal(io.read(other / "run_000.h5").cell, cell)
    a, b = (io.read(folder / "run_000.h5", 0).velocities for folder in (argon, other))
    assert abs(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]) < 0.5


@needs_lammps
def test_hexagonal_cell_stays_hexagonal(tmp_path):
    hexagonal = {
        "symbols": ["Ar"],
        "basis": [[1 / 3, 2 / 3, 0.25]],
        "spacegroup": 194,
        "cellpar": [3.82, 3.82, 6.24, 90.0, 90.0, 120.0],
    }
    settings = dataclasses.replace(
        ARGON, structure=hexagonal, repeat=(4, 4, 2), nvt_time=400.0, nve_time=100.0, runs=1
    )
    run = io.read(simulate(settings, tmp_path) / "run_000.h5")
    a, b, c = np.asarray(run.cell, np.float64)
    assert np.linalg.norm(a) == pytest.approx(np.linalg.norm(b), rel=1e-5)
    assert a @ b / (a @ a) == pytest.approx(-0.5, abs=1e-5)
    assert c[2] / a[0] != pytest.approx(2 * 6.24 / (4 * 3.82), abs=1e-4)  # c is free


@needs_lammps
def test_interrupted_simulation_goes_on(argon, tmp_path, monkeypatch):
    """Stopped in the middle of run 1, once between chunks, once between file and state."""
    last = len(reference.stages(ARGON)) - 1
    for index, frames in reference.reference_md(ARGON, tmp_path):
        if (index, frames) == (last, 200):
            break
    assert len(reference.complete_runs(tmp_path)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(protocol, "save_progress", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            simulate(ARGON, tmp_path)
    assert io.n_frames(tmp_path / "run_001.h5") == 400
    simulate(ARGON, tmp_path)
    for run in (0, 1):
        expected, _ = io.read_trajectory(reference.run_path(argon, run))
        found, _ = io.read_trajectory(reference.run_path(tmp_path, run))
        np.testing.assert_allclose(found.positions, expected.positions, atol=1e-4)
        np.testing.assert_allclose(found.velocities, expected.velocities, atol=1e-6)
    assert len(list(tmp_path.glob("*.restart"))) == 1


@needs_lammps
def test_finished_simulation_is_not_repeated_but_extended(argon, tmp_path, monkeypatch):
    short = dataclasses.replace(ARGON, nve_time=500.0, runs=1)
    simulate(short, tmp_path)
    before = (tmp_path / "run_000.h5").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(protocol, "make_engine", None)
        simulate(short, tmp_path)
    simulate(dataclasses.replace(short, runs=2), tmp_path)
    assert (tmp_path / "run_000.h5").read_bytes() == before
    assert len(reference.complete_runs(tmp_path)) == 2
    energies = [total_energy(path)[0] for path in reference.complete_runs(tmp_path)]
    assert energies[0] == pytest.approx(energies[1], abs=1e-9)


@needs_lammps
def test_other_settings_or_seeds_do_not_mix(argon, tmp_path):
    for settings, seed, message in (
        (ARGON, 1, "made with seed = 0, but seed = 1 is asked for"),
        (dataclasses.replace(ARGON, temperature=30.0), 0, "temperature = 20.0"),
        (dataclasses.replace(ARGON, structure=ARGON.structure | {"spacegroup": 1}), 0, "structure"),
    ):
        with pytest.raises(ValueError, match=message):
            simulate(settings, argon, seed)
    with pytest.raises(ValueError, match="simulated and would mix"):
        reference.import_trajectories([argon / "run_000.h5"], argon, 1)
    (tmp_path / "run_000.h5").write_bytes((argon / "run_000.h5").read_bytes())
    with pytest.raises(ValueError, match="runs of unknown origin"):
        simulate(ARGON, tmp_path)


@needs_lammps
def test_runs_that_are_gone_are_missed(argon, tmp_path):
    for path in argon.iterdir():
        if path.is_file() and path.name != "run_000.h5":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(FileNotFoundError, match=r"run_000\.h5 was made but is gone"):
        simulate(dataclasses.replace(ARGON, runs=3), tmp_path)


@needs_lammps
def test_units_of_lammps_do_not_matter():
    """The same atoms in `metal` and in `real` units."""
    kcal = 0.0104 * 23.060548
    real = dataclasses.replace(
        ARGON,
        lammps_units="real",
        commands=f"pair_style lj/smooth/linear 5.2\npair_coeff 1 1 {kcal} 3.4",
    )
    found = []
    for settings in (ARGON, real):
        engine = reference.LammpsEngine(settings)
        engine.create(seed=5)
        engine.constant_energy()
        engine.advance(50)
        found.append((*engine.energies(), *engine.frame()))
        engine.close()
    for metal, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, metal, rtol=1e-4, atol=1e-5 * np.max(np.abs(metal)))


@needs_lammps
def test_bad_commands_are_named(tmp_path):
    with pytest.raises(RuntimeError, match="LAMMPS does not take 'pair_style lj/cutt 5'"):
        simulate(dataclasses.replace(ARGON, commands="pair_style lj/cutt 5"), tmp_path)


@needs_lammps
def test_runs_of_the_canonical_ensemble_exchange_energy_with_a_bath(argon, tmp_path):
    bath = dataclasses.replace(ARGON, ensemble="csvr", runs=1)
    path = reference.run_path(simulate(bath, tmp_path), 0)
    isolated, exchanging = (total_energy(p).std() for p in (argon / "run_000.h5", path))
    assert exchanging > 20 * isolated
    checks = {check.name: check for check in reference.check_run(path, bath)}
    assert checks["energy drift"].passed is None
    assert [check.name for check in checks.values() if check.passed is False] == []
    canonical = observables.canonical_temperature_deviation(20.0, 3 * 32 - 3)
    assert checks["temperature deviation"].value == pytest.approx(canonical, rel=0.3)
    with pytest.raises(ValueError, match="ensemble = 'csvr', but ensemble = 'nve' is asked"):
        simulate(ARGON, tmp_path)


@needs_lammps
def test_velocities_are_drawn_anew_before_every_run_if_asked_for(tmp_path):
    """Atoms that feel nothing keep their velocities through bath and gap, but for a factor."""
    free = dataclasses.replace(
        ARGON, commands="pair_style zero 5.2\npair_coeff * *", npt_time=0.0, nve_time=100.0, runs=2
    )

    def likeness(settings, out):
        runs = [io.read_trajectory(p)[0] for p in reference.complete_runs(simulate(settings, out))]
        first, second = (np.ravel(run.velocities[0]) for run in runs)
        return first @ second / np.linalg.norm(first) / np.linalg.norm(second)

    assert likeness(free, tmp_path / "kept") == pytest.approx(1.0, abs=1e-4)
    assert abs(likeness(dataclasses.replace(free, redraw=True), tmp_path / "drawn")) < 0.4


def test_bad_settings_are_named(tmp_path):
    with pytest.raises(ValueError, match="ensemble is 'nvt', but runs are 'nve' or"):
        simulate(dataclasses.replace(ARGON, ensemble="nvt"), tmp_path)
    with pytest.raises(ValueError, match=r"save_every = 10 fs is no whole number"):
        simulate(dataclasses.replace(ARGON, time_step=3.0), tmp_path)
    with pytest.raises(ValueError, match="lammps_units is 'lj'; known are metal, real"):
        reference.LammpsEngine(dataclasses.replace(ARGON, lammps_units="lj"))


def test_stages_are_those_of_the_protocol():
    kinds = [(s.kind, s.run, s.n_frames) for s in reference.stages(ARGON)]
    assert kinds == [
        ("npt", -1, 400),
        ("nvt", -1, 400),
        ("gap", 0, 50),
        ("run", 0, 500),
        ("gap", 1, 50),
        ("run", 1, 500),
    ]
    without = dataclasses.replace(ARGON, npt_time=0.0, gap_time=0.0, runs=1)
    assert [s.kind for s in reference.stages(without)] == ["nvt", "run"]


# What the checks notice


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


# Other sources


def test_ase_calculator_runs_at_constant_energy(tmp_path):
    atoms = Atoms("Ar2", [[0, 0, 0], [0, 0, 3.9]])
    atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=20.0)
    atoms.set_velocities([[0, 0, 0.02], [0, 0, -0.02]])
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


# The command


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
    assert generate.ensure_reference(experiment, out) == [out / "run_000.h5"]
    warmer = dataclasses.replace(experiment.reference, temperature=25.0)
    with pytest.raises(ValueError, match=r"made with temperature = 20\.0"):
        generate.ensure_reference(dataclasses.replace(experiment, reference=warmer), out)

    generate.main(
        str(tmp_path / "argon.toml"), out=tmp_path / "mine", sources=(out / "run_000.h5",), runs=2
    )
    assert len(reference.complete_runs(tmp_path / "mine")) == 2
    assert generate.ensure_reference(experiment, tmp_path / "mine") == reference.complete_runs(
        tmp_path / "mine"
    )


def test_failed_checks_are_loud(tmp_path, capsys):
    run, times = harmonic(lag=1.0)
    io.write_extxyz(tmp_path / "leapfrog.extxyz", run, times)
    with pytest.raises(SystemExit):
        generate.main(
            "quartz", out=tmp_path / "out", sources=(tmp_path / "leapfrog.extxyz",), runs=1
        )
    output = capsys.readouterr()
    assert "CHECKS FAILED" in output.err
    assert "FAILED velocity lag" in output.out
    assert not json.loads((tmp_path / "out" / "report.json").read_text())["passed"]
    generate.ensure_reference(experiments.load("quartz"), tmp_path / "out")
    assert "warning: the runs in" in capsys.readouterr().err


def test_unknown_experiment_names_the_nearest():
    with pytest.raises(FileNotFoundError, match="did you mean 'quartz'"):
        experiments.load("quarz")
