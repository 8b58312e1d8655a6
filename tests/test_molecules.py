"""Reference dynamics of molecules: bonds in LAMMPS, ASE calculators, isolated systems, checks."""

import dataclasses
import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from conftest import as_system, quartz_atoms
from test_reference import needs_lammps

import experiments
from trajcast_jax import config, io, mechanics, reference
from trajcast_jax.analysis import bonds
from trajcast_jax.analysis.observables import cut
from trajcast_jax.config import ReferenceSettings
from trajcast_jax.reference import checks, protocol, structure
from trajcast_jax.system import make_system
from trajcast_jax.units import BOLTZMANN

needs_tblite = pytest.mark.skipif(
    importlib.util.find_spec("tblite") is None, reason="tblite is not installed"
)

BRIEF = {"nvt_time": 20.0, "gap_time": 5.0, "nve_time": 25.0, "runs": 2, "expected": {}}
METHANOL = ReferenceSettings(
    structure={"name": "CH3OH"},
    calculator="ase.calculators.emt:EMT",
    time_step=0.5,
    save_every=1.0,
    npt_time=0.0,
    minimize=True,
    **BRIEF,
)


def brief(name, **changes) -> ReferenceSettings:
    """An experiment's reference, but a few fs of it."""
    return dataclasses.replace(experiments.load(name).reference, **(BRIEF | changes))


@pytest.fixture(scope="module")
def water(tmp_path_factory):
    out = tmp_path_factory.mktemp("water")
    list(reference.reference_md(brief("water", save_every=1.0, runs=1), out))
    return out / "run_000.h5"


def failed(path, settings):
    return {c.name for c in reference.check_run(path, settings) if c.passed is False}


# Start structures


def test_molecules_are_whole_and_apart_in_the_start_of_a_liquid():
    settings = experiments.load("water").reference
    atoms = reference.build_structure(settings)
    assert len(atoms) == 192
    assert atoms.cell.lengths() == pytest.approx([12.4172] * 3)
    np.testing.assert_array_equal(atoms.numbers, [8, 1, 1] * 64)
    oxygen, hydrogen = atoms.positions[::3], atoms.positions[1::3]
    arms = hydrogen - oxygen
    np.testing.assert_allclose(np.linalg.norm(arms, axis=1), 1.013, atol=0.01)
    # The mean of 64 random unit vectors is about 1/8 long, of ordered ones 1.
    assert np.linalg.norm(arms.mean(axis=0)) < 0.4
    distances = atoms.get_all_distances(mic=True)
    strangers = np.arange(192)[:, None] // 3 != np.arange(192) // 3
    assert distances[strangers].min() > structure.CLOSEST_COPIES
    again = reference.build_structure(settings)
    np.testing.assert_array_equal(atoms.positions, again.positions)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"structure": {"a": 1}}, "reference.structure has a; it needs one of spacegroup"),
        ({"repeat": (2, 1, 1)}, "An isolated molecule cannot be repeated"),
        ({"npt_time": 10.0}, "set reference.npt_time = 0"),
        ({"calculator": "EMT"}, "write it as package.module:Class"),
        ({"calculator": "nowhere.to:Find"}, "nowhere.to:Find could not be loaded"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises((ValueError, ImportError), match=message):
        reference.make_engine(dataclasses.replace(METHANOL, **changes))


@needs_lammps
def test_an_isolated_molecule_has_no_pressure():
    with pytest.raises(ValueError, match="An isolated molecule has no pressure"):
        reference.make_engine(brief("paracetamol", npt_time=10.0))


def test_another_reference_is_another_system():
    assert experiments.load("paracetamol_xtb").system == ""
    assert experiments.load("quartz_paper").system == "quartz"


# Engines


@needs_lammps
def test_liquid_runs_and_goes_on_from_any_image_of_a_frame(water):
    settings = brief("water", save_every=1.0)
    assert failed(water, settings) <= {"mean temperature"}  # it has had 20 fs
    run, times = io.read_trajectory(water)
    np.testing.assert_allclose(times, np.arange(25.0))
    assert len(bonds.bonded_pairs(cut(run, 0))) == 128
    assert not bonds.is_network(cut(run, 0))
    engine = reference.engine_for_frames(settings, run.cell)
    positions, velocities = (np.asarray(x[5], np.float64) for x in (run.positions, run.velocities))
    images = np.random.default_rng(0).integers(-2, 3, size=(192, 3)) @ np.asarray(run.cell)
    engine.set_frame(positions + images, velocities)
    np.testing.assert_allclose(engine.frame()[0], positions + images, atol=1e-9)
    engine.advance(10)
    found, speeds = engine.frame()
    potential = engine.energies()[0]
    engine.close()
    np.testing.assert_allclose(found - images, run.positions[10], atol=2e-5)
    np.testing.assert_allclose(speeds, run.velocities[10], atol=5e-6)
    stored = io.read_observables(water)["potential_energy"][10]
    assert potential == pytest.approx(stored, abs=1e-3)


def isolated():
    return [
        pytest.param(brief("paracetamol"), marks=needs_lammps, id="lammps"),
        pytest.param(METHANOL, id="ase"),
        pytest.param(brief("paracetamol_xtb", nvt_time=4.0), marks=needs_tblite, id="tblite"),
    ]


@pytest.mark.parametrize("settings", isolated())
def test_molecule_does_not_turn_and_is_at_its_temperature(settings):
    engine = reference.make_engine(settings)
    engine.create(seed=3)
    dof = structure.free_dimensions(engine.structure)
    assert dof == 3 * len(engine.structure) - 6
    kinetic = 0.5 * dof * BOLTZMANN * 300.0
    assert engine.energies()[1] == pytest.approx(kinetic, rel=1e-5)
    engine.constant_temperature(seed=4)
    engine.advance(10)
    engine.set_kinetic_energy(kinetic)
    engine.constant_energy()
    start = sum(engine.energies())
    engine.advance(10)
    assert sum(engine.energies()) == pytest.approx(start, abs=0.02)
    system = engine.system()
    assert system.cell is None
    np.testing.assert_allclose(mechanics.momentum(system), 0.0, atol=1e-5)
    np.testing.assert_allclose(mechanics.angular_momentum(system), 0.0, atol=1e-5)
    energies = engine.energies()
    positions, velocities = engine.frame()
    away = np.array([30.0, -20.0, 50.0])  # far from where its box was
    engine.set_frame(positions + away, velocities)
    assert engine.energies() == pytest.approx(energies, abs=1e-5)
    engine.close()


@pytest.mark.parametrize("settings", isolated()[:2])
def test_interrupted_simulation_goes_on(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "CHUNK", 10)
    list(reference.reference_md(settings, tmp_path / "whole"))
    for wanted in (10, 20):
        for index, frames in reference.reference_md(settings, tmp_path / "cut"):
            if index == len(reference.stages(settings)) - 1 and frames == wanted:
                break
    list(reference.reference_md(settings, tmp_path / "cut"))
    for run in (0, 1):
        found, whole = (
            io.read_trajectory(reference.run_path(tmp_path / name, run))[0]
            for name in ("cut", "whole")
        )
        assert found.positions.shape[0] == 25
        np.testing.assert_allclose(found.positions, whole.positions, atol=1e-5)
        np.testing.assert_allclose(found.velocities, whole.velocities, atol=1e-6)
        allowed = {"mean temperature"}  # after 20 fs of a small system
        assert failed(reference.run_path(tmp_path / "cut", run), settings) <= allowed


def test_mean_energy_is_known_without_waiting_for_the_bath():
    """In a harmonic system V − K has the mean 0, however far both are from theirs."""
    atoms = Atoms("Ar4", np.eye(4)[:, :3] * 4)
    expected = 0.5 * structure.free_dimensions(atoms) * BOLTZMANN * 300.0
    series = iter([(expected * s + 0.5, expected * s) for s in (0.2, 0.4, 0.7, 2.0)])
    engine = SimpleNamespace(
        structure=atoms, advance=lambda steps: None, energies=lambda: next(series)
    )
    sim = protocol.Simulation(engine, METHANOL, None, 0, 1)
    progress = protocol._sample_energy(sim, protocol.Stage("nvt", -1, 4), protocol.Progress(), n=4)
    assert progress.energy / progress.energy_samples == pytest.approx(2 * expected + 0.5)


# What the checks notice


def vibrating_water(n_frames=50):
    """One molecule whose angle of 104.5° swings by 10° and whose bonds of 0.97 Å by 0.02 Å."""
    phase = np.linspace(0, 2 * np.pi, n_frames, endpoint=False)
    half = np.radians(104.5 + 10 * np.sin(phase)) / 2
    length = 0.97 + 0.02 * np.cos(phase)
    arm = length[:, None] * np.stack([np.sin(half), np.cos(half)], axis=1)
    positions = np.zeros((n_frames, 3, 3))
    positions[:, 1, :2], positions[:, 2, :2] = arm, arm * [-1, 1]
    return make_system(positions, np.zeros_like(positions), [8, 1, 1])


def test_bonds_and_angles_are_measured_across_the_cell_too():
    run = vibrating_water()
    measured = lambda run: bonds.geometry(run, bonds.bonded_pairs(cut(run, 0)))  # noqa: E731
    found = measured(run)
    assert found.lengths == pytest.approx({"O–H": 0.97}, abs=1e-4)
    assert found.angles == pytest.approx({"H–O–H": 104.5}, abs=0.01)
    assert found.stretch == pytest.approx(0.99 / 0.97, abs=1e-3)
    cell = np.diag([5.0, 6.0, 7.0])
    images = np.array([[0, 0, 0], [1, 0, -1], [0, 2, 0]]) @ cell
    periodic = run.replace(positions=run.positions + images, cell=cell)
    for a, b in zip(measured(periodic), found, strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    none = run.replace(positions=run.positions * 3)
    assert measured(none).lengths == {}


def test_melts_have_no_bonds_that_break():
    """Metals have none at all; those of a network are looked at, not held against anything."""

    def checked(atoms, moved):
        positions = np.stack([atoms.positions] * 2)
        positions[1, 0] += moved
        cell = atoms.cell.array if atoms.pbc.all() else None
        run = make_system(positions, np.zeros_like(positions), atoms.numbers, cell=cell)
        return {check.name: check.passed for check in checks._check_bonds(run)}

    copper = bulk("Cu", cubic=True) * 3
    assert checked(copper, 1.5) == {}
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    assert checked(salt, 2.0)["longest bond"] is None
    assert bonds.is_network(as_system(quartz_atoms()))
    chain = Atoms("CH2", [[0, 0, 0], [0, 0.9, 0.6], [0, -0.9, 0.6]], cell=[1.4, 9, 9], pbc=True)
    assert checked(chain * (3, 1, 1), 0.0)["longest bond"] is None
    molecule = Atoms("H2O", [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]], cell=9 * np.eye(3))
    for pbc in (True, False):
        molecule.pbc = pbc
        assert checked(molecule, 0.0)["longest bond"] is True
        assert checked(molecule, [0, -1.0, 0])["longest bond"] is False


def test_checks_notice_molecules_that_break_move_or_turn(tmp_path):
    list(reference.reference_md(METHANOL, tmp_path))
    found = {c.name: c.value for c in reference.check_run(tmp_path / "run_000.h5", METHANOL)}
    length = found["mean bond O–C"]  # EMT is no force field for molecules
    settings = dataclasses.replace(METHANOL, expected={"mean bond O–C": [length, 0.01]})
    run, _ = io.read_trajectory(tmp_path / "run_000.h5")
    looked_at = {"longest bond", "mean bond O–C", "total momentum", "total angular momentum"}

    def names(settings=settings, **changes):
        path = tmp_path / "changed.h5"
        path.unlink(missing_ok=True)
        with io.H5MDWriter(path, run, 1.0) as writer:
            writer.append(run.replace(**changes))
        return looked_at & failed(path, settings)

    assert names() == set()
    turning = 1e-3 * np.cross([0.0, 0.0, 1.0], run.positions)
    assert "total angular momentum" in names(velocities=run.velocities + turning)
    assert "total momentum" in names(velocities=run.velocities + 1e-3)
    assert "longest bond" in names(positions=run.positions.at[10:, 0].add(3.0))
    long = dataclasses.replace(settings, expected={"mean bond O–C": [length + 0.1, 0.05]})
    assert names(long) == {"mean bond O–C"}
    unknown = dataclasses.replace(settings, expected={"mean bond X–Y": [1.0, 0.1]})
    with pytest.raises(ValueError, match="names 'mean bond X–Y', but the checks are"):
        names(unknown)


def test_what_is_expected_does_not_decide_the_frames():
    changed = dataclasses.replace(METHANOL, expected={"mean bond O–H": (1.0, 0.1)})
    a, b = (reference.state.fingerprint(s, 0) for s in (METHANOL, changed))
    assert a == b
    assert config.from_dict(ReferenceSettings, dataclasses.asdict(changed)) == changed
    assert checks._hold([], {}) == []
