"""What trajectories show of a system, and the settings that follow from it."""

import dataclasses
import json
import math

import ase.build
import ase.units
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.md.verlet import VelocityVerlet
from conftest import as_system
from salt import salt

from trajcast_jax import config, io, reference
from trajcast_jax.analysis.observables import cut
from trajcast_jax.config import Experiment, ReferenceSettings
from trajcast_jax.reference import lammps_engine
from trajcast_jax.system import make_system
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV, WAVENUMBER_PER_INVERSE_FEMTOSECOND
from trajcast_jax.workflow.campaign import choices, lengths, surroundings, vibrations
from trajcast_jax.workflow.campaign.findings import as_dict, find, polarity

PERIOD = 14.0
"""fs, of the diatomic molecule."""
FAST = {"ns_per_day": 1e4}


def lammps_is_missing() -> str:
    try:
        lammps_engine.load_lammps()
    except ImportError as error:
        return str(error)
    return ""


needs_lammps = pytest.mark.skipif(bool(lammps_is_missing()), reason=lammps_is_missing())


def diatomic(interval, frames=400, kelvin=300.0):
    """N–N along x, 1.1 Å long, that vibrates harmonically with `PERIOD`."""
    omega, mass = 2 * np.pi / PERIOD, 14.007
    amplitude = math.sqrt(BOLTZMANN * kelvin / (KINETIC_TO_EV * mass)) / omega
    angle = omega * interval * np.arange(frames) + 0.3
    along = np.array([[-0.5, 0, 0], [0.5, 0, 0]])
    positions = 1.1 * along + 2 * amplitude * along * np.cos(angle)[:, None, None]
    velocities = -2 * amplitude * omega * along * np.sin(angle)[:, None, None]
    return make_system(positions, velocities, [7, 7])


def gas(interval=4.0, frames=500, box=20.0, seed=0):
    """64 argon atoms in free flight at 100 K."""
    random = np.random.default_rng(seed)
    velocities = np.broadcast_to(random.normal(size=(64, 3)) * 1.44e-3, (frames, 64, 3))
    sites = np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 3) * box / 4
    places = sites + interval * np.arange(frames)[:, None, None] * velocities
    return make_system(places, velocities, [18] * 64, cell=box * np.eye(3))


@pytest.fixture(scope="module")
def copper():
    """Copper by effective medium theory, 32 atoms, 600 K, 1.6 ps in frames of 10 fs."""
    atoms = ase.build.bulk("Cu", a=3.65, cubic=True).repeat(2)
    atoms.calc = EMT()
    random = np.random.default_rng(0)
    MaxwellBoltzmannDistribution(atoms, temperature_K=1200.0, rng=random)
    Stationary(atoms)
    dynamics, frames = VelocityVerlet(atoms, 5 * ase.units.fs), []
    for _ in range(160):
        dynamics.run(2)
        frames.append((atoms.positions.copy(), atoms.get_velocities() * ase.units.fs))
    positions, velocities = (jnp.asarray(np.array(x)) for x in zip(*frames, strict=True))
    return as_system(atoms).replace(positions=positions, velocities=velocities)


@pytest.fixture(scope="module")
def of_copper(copper):
    return find([cut(copper, slice(0, 80)), cut(copper, slice(80, 160))], 10.0)


@pytest.fixture(scope="module")
def of_molecule():
    """Ethanol at rest but for noise, as if measured: a molecule of three elements."""
    ethanol = as_system(ase.build.molecule("CH3CH2OH"))
    random = np.random.default_rng(0)
    angle = 2 * np.pi / 9.0 * np.arange(200)[:, None, None]
    turns = random.normal(size=(1, 9, 3)) * 0.02
    run = ethanol.replace(
        positions=jnp.asarray(ethanol.positions + turns * np.cos(angle), jnp.float32),
        velocities=jnp.asarray(-turns * 2 * np.pi / 9.0 * np.sin(angle), jnp.float32),
    )
    return find([run, run], 1.0)


def test_a_known_frequency_is_found_where_frames_resolve_it():
    for interval in (1.0, 2.0, 4.0):
        found = vibrations.stiffest([diatomic(interval)], interval)
        assert found.resolved
        assert found.period == pytest.approx(PERIOD, rel=0.02)
        assert (found.atoms, found.folded) == ("N bonded to N", pytest.approx(0, abs=0.01))


@pytest.mark.parametrize("interval", [9.0, 11.0, 20.0, 33.0])
def test_a_folded_frequency_is_told(interval):
    """Positions do not move as velocities at the folded frequency would move them."""
    found = vibrations.stiffest([diatomic(interval)], interval)
    assert not found.resolved
    assert found.folded > 0.3
    assert found.period == pytest.approx(PERIOD, rel=0.05)  # the only vibration there is


def test_rare_stiff_bonds_count():
    """One vibrating pair of nitrogen atoms among many slow atoms."""
    pair, crowd = diatomic(2.0), gas(interval=2.0, frames=400, box=40.0)
    crowd = crowd.replace(positions=crowd.positions + 5.0)
    both = make_system(
        np.concatenate([pair.positions, crowd.positions], axis=1),
        np.concatenate([pair.velocities, crowd.velocities], axis=1),
        [7, 7, *[18] * 64],
    )
    assert vibrations.stiffest([both], 2.0).period == pytest.approx(PERIOD, rel=0.03)


def test_findings_of_a_salt():
    runs = [salt(seed, 5.0, 400, repeat=2) for seed in range(2)]
    found = find(runs, 5.0)
    assert (found.kind, found.counts) == ("solid", {"Cl": 32, "Na": 32})
    assert found.vibration.resolved
    assert found.vibration.wavenumber == pytest.approx(650, rel=0.03)  # of 67 to 667
    assert found.polarity == pytest.approx(3.16 - 0.93)
    assert found.density == pytest.approx(2.21, abs=0.01)  # 4 NaCl in (5.6 Å)³
    assert found.heights == pytest.approx((11.2,) * 3)
    assert found.small
    assert found.durations == (2_000.0, 2_000.0)
    assert found.temperature == pytest.approx(300, rel=0.05)
    assert found.rms_speed == pytest.approx(found.temperature**0.5 * 1.902e-4, rel=0.05)
    # Shells of 6, 12, 8 end between 2.80, 3.96, 4.85 and 5.60 Å.
    assert found.neighbours.within(4.4) == pytest.approx(18, abs=1)
    assert any(3.1 < r < 3.7 for r in found.neighbours.minima)
    assert json.loads(json.dumps(as_dict(found)))["vibration"]["resolved"] is True


def test_findings_of_copper(of_copper, copper):
    f = of_copper
    assert (f.kind, f.n_atoms, f.polar, f.periodic) == ("solid", 32, False, True)
    assert f.density == pytest.approx(8.68, abs=0.01)
    assert f.vibration.resolved
    assert 90 < f.vibration.period < 140  # the top of the band of EMT's copper is at 280 cm⁻¹
    assert not find([copper], 90.0).vibration.resolved  # as if the frames were 90 fs apart
    assert 500 < f.temperature < 700
    assert f.temperature_error < 60
    assert f.neighbours.within(3.1) == pytest.approx(12, abs=0.3)
    assert f.neighbours.radius_of(18) == pytest.approx(3.9, abs=0.4)
    with pytest.raises(ValueError, match="32"):
        find([cut(copper, slice(0, 20))], 10.0)
    with pytest.raises(ValueError, match="no trajectories"):
        find([], 10.0)


def test_fluids_diffuse_and_molecules_are_isolated(of_molecule):
    assert find([gas()], 4.0).kind == "fluid"
    assert find([gas()], 4.0).polarity == 0.0
    f = of_molecule
    assert (f.kind, f.heights, f.rarest, f.lightest) == ("molecule", None, "O", "H")
    assert f.extent == pytest.approx(4.1, abs=0.3)
    assert f.torsions == (("C", "C", "O", "H"),)  # the methyl group is left out
    assert f.vibration.period == pytest.approx(9.0, rel=0.03)
    assert polarity(["C", "H"]) == pytest.approx(0.35)
    assert polarity(["Cu", "Au"]) == 0.0  # metals
    methanol = as_system(ase.build.molecule("CH3OH"))
    assert surroundings.torsions(methanol) == (("H", "C", "O", "H"),)
    assert surroundings.torsions(as_system(ase.build.molecule("C6H6"))) == ()


def chosen(findings, stated=frozenset(), experiment=None, **options):
    given = {"hours": 4.0, "engine": FAST, "imported": False} | options
    made, found = choices.choose(experiment or Experiment("x"), stated, findings, **given)
    assert config.from_dict(Experiment, dataclasses.asdict(made)) == made
    assert len({c.setting for c in found}) == len(found)
    assert all(c.because for c in found)
    return made, found


def test_choices_for_copper(of_copper):
    crystal = {"symbols": ["Cu"], "spacegroup": 225}
    engine = ReferenceSettings(structure=crystal, calculator="x:Y", temperature=600.0)
    made, _ = chosen(of_copper, experiment=Experiment("x", reference=engine))
    assert 20 <= made.data.time_step <= 30
    assert made.data.time_step == 2 * made.reference.save_every
    assert (made.reference.npt_time, made.reference.redraw, made.reference.runs) == (0, False, 6)
    assert made.reference.nve_time == pytest.approx(312_000, rel=0.01)  # 10 ns · atoms
    assert (made.data.train_runs, made.data.validation_runs) == ((0, 1, 2, 3), (4,))
    assert made.data.test_runs == (5,)
    assert made.model.max_speed == pytest.approx(0.0112, rel=0.01)
    assert (made.model.far_field, made.model.conserve_angular) == (False, False)
    assert 2 <= made.model.substeps <= 4
    assert 4.0 <= made.model.cutoff <= 4.8
    assert (made.training.batch_size, made.rollout.skin) == (5, 1.3)
    assert (made.rollout.temperature, made.rollout.max_temperature) == (600, 1800)
    assert made.evaluation.rdf_max == 4.0  # a small cell
    by_lammps = dataclasses.replace(engine, calculator="")
    made, _ = chosen(of_copper, experiment=Experiment("x", reference=by_lammps))
    assert made.reference.npt_time == 10_000
    assert choices.candidates(of_copper) == [("model.lmax=2",), ("model.lmax=1",)]


def test_choices_for_a_molecule(of_molecule):
    made, found = chosen(of_molecule, engine={"ns_per_day": 5.0})
    assert (made.data.time_step, made.reference.save_every, made.reference.time_step) == (6, 3, 0.5)
    assert (made.reference.runs, made.reference.redraw, made.reference.minimize) == (20, True, True)
    assert made.data.train_runs == tuple(range(16))
    assert made.data.test_runs == (18, 19)
    s = made.reference  # one hour of four, by an engine that makes 208 ps an hour
    total = s.npt_time + s.nvt_time + s.runs * (s.gap_time + s.nve_time)
    assert total == pytest.approx(208_333, rel=0.02)
    why = {c.setting: c.because for c in found}
    assert "no more than 1 h" in why["reference.nve_time"]
    assert "g(r) of O" in why["reference.nve_time"]
    assert (made.model.cutoff, made.model.speed_limit, made.model.substeps) == (4.5, 4.25, 7)
    assert (made.model.far_field, made.model.conserve_angular) == (True, True)
    assert made.training.batch_size == 16
    assert made.rollout.duration == 1e6  # one oxygen
    assert made.evaluation.dihedrals == (("C", "C", "O", "H"),)
    assert ("model.lmax=2", "model.far_field=false") in choices.candidates(of_molecule)


def test_what_is_stated_is_never_changed(of_copper):
    experiment = config.changed(
        Experiment("x"),
        ("data.time_step=24.0", "model.cutoff=3.3", "reference.runs=8", "data.test_runs=[0]",
         "rollout.temperature=700.0", "reference.nve_time=9000.0"),
    )  # fmt: skip
    names = {"data.time_step", "model.cutoff", "reference.runs", "data.test_runs",
             "rollout.temperature", "reference.nve_time"}  # fmt: skip
    made, found = chosen(of_copper, frozenset(names), experiment)
    assert not names & {c.setting for c in found}
    assert (made.data.time_step, made.model.cutoff, made.reference.runs) == (24, 3.3, 8)
    assert made.reference.save_every == 12
    assert (made.data.test_runs, made.data.validation_runs) == ((0,), (7,))
    assert made.data.train_runs == tuple(range(1, 7))
    assert (made.rollout.temperature, made.reference.nve_time) == (700, 9000)
    assert made.data.train_pairs == 6 * (9000 // 12 - 2 - 1)
    text = choices.table(made, found, frozenset(names))
    rows = {line.split()[0]: line for line in text.splitlines() if line[0] != " "}
    assert set(rows) == {"setting", *names, *(c.setting for c in found)}
    assert all(rows[name].endswith("stated") for name in names)
    assert max(map(len, text.splitlines())) <= choices.WIDTH
    odd = config.changed(Experiment("x"), ("data.time_step=25.0", "reference.save_every=10.0"))
    with pytest.raises(ValueError, match="no whole number of frames"):
        chosen(of_copper, frozenset({"data.time_step", "reference.save_every"}), odd)


def test_choices_for_trajectories_that_were_brought(of_copper, copper):
    made, found = chosen(of_copper, imported=True, engine=None)
    assert made.data.time_step == 30  # of frames 10 fs apart
    assert made.reference.save_every == 10
    assert made.reference.temperature == round(of_copper.temperature)
    assert (made.data.train_runs, made.data.test_runs) == ((0,), (1,))
    assert made.data.validation_runs == (1,)
    assert "only 2 runs" in {c.setting: c.because for c in found}["data.test_runs"]
    one = find([copper], 10.0)
    made, found = chosen(one, imported=True, engine=None)
    assert made.reference.runs == 3  # short pieces of one trajectory
    assert made.data.train_pairs < 80
    assert "cut in time" in {c.setting: c.because for c in found}["reference.runs"]
    words = choices.system_in_words(find([copper], 90.0))
    assert "which the frames do not resolve" in words
    made, found = chosen(find([copper], 90.0), imported=True, engine=None)
    assert made.data.time_step == 90  # nothing shorter is stored


def test_memory_bounds_the_pairs(of_copper, monkeypatch):
    monkeypatch.setattr(lengths, "_memory", lambda: 3 * 772 * 32 * 2 * 1_000.0)
    made, found = chosen(of_copper)
    assert made.data.train_pairs == 1_000
    assert "hold no more" in {c.setting: c.because for c in found}["data.train_pairs"]


SILICON = ReferenceSettings(
    structure={
        "symbols": ["Si"],
        "basis": [[0.0, 0.0, 0.0]],
        "spacegroup": 227,
        "cellpar": [5.45, 5.45, 5.45, 90.0, 90.0, 90.0],
    },
    repeat=(2, 2, 2),
    lammps_atom_style="atomic",
    commands="pair_style sw\npair_coeff * * Si.sw Si",
    temperature=1000.0,
)
ARGON = ReferenceSettings(
    structure={
        "symbols": ["Ar"],
        "basis": [[0.0, 0.0, 0.0]],
        "spacegroup": 225,
        "cellpar": [5.9, 5.9, 5.9, 90.0, 90.0, 90.0],
    },
    repeat=(3, 3, 3),
    lammps_atom_style="atomic",
    commands="pair_style lj/smooth/linear 7.0\npair_coeff 1 1 0.0104 3.4",
    temperature=150.0,
)


def measured(settings, out):
    list(reference.reference_md(settings, out))
    runs = [io.read_trajectory(path)[0] for path in reference.complete_runs(out)]
    return find(runs, settings.save_every), reference.engine_speed(out)


@needs_lammps
def test_silicon_gets_the_settings_that_were_found_by_hand(tmp_path, monkeypatch):
    lammps = pytest.importorskip("lammps")
    potentials = f"{lammps.__path__[0]}/share/lammps/potentials"
    monkeypatch.setenv("LAMMPS_POTENTIALS", potentials)
    quick = dataclasses.replace(lengths.preflight(SILICON, 1_500.0), save_every=5.0)
    found, engine = measured(quick, tmp_path)
    assert found.kind == "solid"
    assert found.vibration.period == pytest.approx(60, abs=4)
    made, _ = chosen(found, engine=engine, experiment=Experiment("si", reference=SILICON))
    assert (made.data.time_step, made.reference.save_every) == (30, 15)
    assert (made.model.substeps, made.rollout.skin) == (6, 1.3)
    assert made.model.max_speed == pytest.approx(0.0218, rel=0.01)
    assert made.model.cutoff == pytest.approx(4.4, abs=0.2)
    assert made.reference.npt_time == 10_000


@needs_lammps
def test_argon_melts_in_its_preflight(tmp_path):
    quick = dataclasses.replace(lengths.preflight(ARGON, 4_000.0), time_step=4.0, save_every=8.0)
    found, engine = measured(quick, tmp_path)
    assert found.kind == "fluid"
    made, _ = chosen(found, engine=engine, experiment=Experiment("ar", reference=ARGON))
    assert (made.data.time_step, made.reference.time_step) == (28, 2)
    assert (made.reference.npt_time, made.rollout.skin) == (0, 0.8)
    assert made.model.cutoff == pytest.approx(6.3, abs=0.4)


def test_wavenumber_and_period_belong_together(of_copper):
    v = of_copper.vibration
    assert v.period * v.wavenumber == pytest.approx(WAVENUMBER_PER_INVERSE_FEMTOSECOND)
