"""Reference dynamics: solid argon through LAMMPS."""

import dataclasses

import numpy as np
import pytest

from trajcast_jax import io, reference
from trajcast_jax.analysis import observables
from trajcast_jax.config import ReferenceSettings
from trajcast_jax.reference import lammps_engine, protocol
from trajcast_jax.units import KINETIC_TO_EV

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


@needs_lammps
def test_isotopes_keep_their_masses(tmp_path):
    """Atoms of one element with several masses are of several types."""
    atoms = reference.build_structure(ARGON)
    masses = np.where(np.arange(len(atoms)) % 3, 39.95, 36.0)
    atoms.set_masses(masses)
    atoms.write(tmp_path / "argon.extxyz", columns=["symbols", "positions", "masses"])
    settings = dataclasses.replace(
        ARGON, structure={"filename": str(tmp_path / "argon.extxyz")}, repeat=(1, 1, 1),
        commands="pair_style lj/smooth/linear 5.2\npair_coeff * * 0.0104 3.4", npt_time=0.0,
    )  # fmt: skip
    engine = lammps_engine.LammpsEngine(settings)
    engine.create(seed=1)
    _, velocities = engine.frame()
    kinetic = 0.5 * KINETIC_TO_EV * np.sum(masses[:, None] * velocities**2)
    assert engine.energies()[1] == pytest.approx(kinetic, rel=1e-6)
    np.testing.assert_allclose(engine.system().masses, masses, rtol=1e-6)
    engine.close()
