"""The clock of a file: doubled and missing frames, steps, times, and what options say of them."""

import numpy as np
import pytest
from dumps import MASSES, SYMBOLS, TRICLINIC, motion, write_dump
from test_generate import write_toml

from trajcast_jax import io, reference
from trajcast_jax.io import FileNote, ReadOptions
from trajcast_jax.io.intervals import intervals, odd
from trajcast_jax.io.resolved import resolved_scale
from trajcast_jax.reference import check_run
from trajcast_jax.system import make_system
from trajcast_jax.workflow import generate

METAL = ReadOptions(units="metal", md_step=1.0)
M = np.array([MASSES[s] for s in SYMBOLS])
Z = np.where(SYMBOLS == "Si", 14, 8)


def write_plain(path, rows, times=False, h=10.0):
    """Extended XYZ of chosen frames of the known motion."""
    r, v = motion(max(rows) + 1, h=h)
    run = make_system(r[rows], v[rows], Z, cell=TRICLINIC)
    io.write_extxyz(path, run, h * np.array(rows) if times else None)
    return path


DOUBLED = [*range(15), 14, *range(15, 30)]
MISSING = [*range(12), *range(16, 30)]


@pytest.mark.parametrize("kind", ["dump", "plain", "timed"])
def test_a_doubled_frame_is_left_out(tmp_path, kind):
    if kind == "dump":
        path, options = write_dump(tmp_path / "run.dump", rows=DOUBLED)[0], METAL
    else:
        path = write_plain(tmp_path / "run.extxyz", DOUBLED, kind == "timed")
        options = ReadOptions(time_step=10.0)
    with pytest.warns(FileNote, match="1 doubled frame, .* left out: 15"):
        run, times = io.read_trajectory(path, options=options)
    np.testing.assert_allclose(times, 10.0 * np.arange(30))
    np.testing.assert_allclose(run.velocities, motion(30)[1], atol=1e-7)
    with pytest.warns(FileNote, match="doubled"):
        _, some = io.read_trajectory(path, every=4, options=options)
    np.testing.assert_allclose(some, 40.0 * np.arange(8))


@pytest.mark.parametrize("kind", ["dump", "plain", "timed"])
def test_missing_frames_split_the_run(tmp_path, kind):
    if kind == "dump":
        path, options = write_dump(tmp_path / "run.dump", rows=MISSING)[0], METAL
    else:
        path = write_plain(tmp_path / "run.extxyz", MISSING, kind == "timed")
        options = ReadOptions(time_step=10.0)
    with pytest.raises(ValueError, match=r"a break is between frames 11 and 12, "):
        io.read_trajectory(path, options=options)
    runs, gaps = io.runs_of_file(path, options)
    assert [len(times) for _, times in runs] == [12, 14]
    assert len(gaps) == 1
    np.testing.assert_allclose(runs[1][0].velocities, motion(30)[1][16:], atol=1e-7)
    paths = reference.import_trajectories([path], tmp_path / "out", 1, options=options)
    assert [io.n_frames(p) for p in paths] == [12, 14]
    paths = reference.import_trajectories([path], tmp_path / "four", 4, options=options)
    assert [io.n_frames(p) for p in paths] == [6, 6, 7, 7]
    assert reference.complete_runs(tmp_path / "four") == paths


def test_the_clock_goes_back(tmp_path):
    rows = [*range(20), *range(15, 30)]  # the same states once more, as of a deterministic restart
    path, _, v = write_dump(tmp_path / "same.dump", rows=rows)
    with pytest.warns(FileNote, match="5 doubled frames"):
        run, _ = io.read_trajectory(path, options=METAL)
    np.testing.assert_allclose(run.velocities, v, atol=1e-7)
    path, _, _ = write_dump(tmp_path / "new.dump", steps=[*range(0, 150, 10), *range(0, 150, 10)])
    runs, gaps = io.runs_of_file(path, METAL)
    assert [len(times) for _, times in runs] == [15, 15]
    assert "clock goes back" in gaps[0]


def test_options_must_agree_with_the_file(tmp_path):
    path = write_plain(tmp_path / "run.extxyz", list(range(30)), times=True)
    with pytest.raises(ValueError, match=r"every 10 fs, by its own times, but time_step .* 5 fs"):
        io.read_trajectory(path, time_step=5.0)
    io.read_trajectory(path, time_step=10.0)
    ours = make_system(*motion(30), Z, cell=TRICLINIC)
    with io.H5MDWriter(tmp_path / "ours.h5", ours, 10.0) as writer:
        writer.append(ours)
    with pytest.raises(ValueError, match=r"every 10 fs, by its own times.* 20 fs"):
        io.read_trajectory(tmp_path / "ours.h5", every=2, time_step=20.0)
    io.read_trajectory(tmp_path / "ours.h5", every=2, time_step=10.0)
    dump, _, _ = write_dump(tmp_path / "run.dump")
    with pytest.raises(ValueError, match=r"steps of its frames \(every 10\).*--md-timestep"):
        io.read_trajectory(dump, options=ReadOptions(units="metal"))
    for wrong in (ReadOptions(units="metal", time_step=5.0), ReadOptions(units="metal", md_step=3)):
        with pytest.raises(ValueError, match=r"move by \S+ times what their velocities, read in "):
            io.read_trajectory(dump, options=wrong)
    both = ReadOptions(units="metal", time_step=10.0, md_step=2.0)
    with pytest.raises(ValueError, match=r"every 20 fs, .* says 10 fs"):
        io.read_trajectory(dump, options=both)
    timed, _, _ = write_dump(tmp_path / "timed.dump", time=True)
    with pytest.raises(ValueError, match=r"1 fs for a step, but md_step .* says 2 fs"):
        io.read_trajectory(timed, options=ReadOptions(units="metal", md_step=2.0))
    other = [10 * i if i < 15 else 145 + 5 * (i - 15) for i in range(30)]
    mixed, _, _ = write_dump(tmp_path / "mixed.dump", time=True, steps=other)
    with pytest.raises(ValueError, match=r"Steps and times .* disagree: from step"):
        io.read_trajectory(mixed, options=ReadOptions(units="metal"))
    for name, value in (("time_step", float("nan")), ("md_step", -1.0), ("every", 0)):
        with pytest.raises(ValueError, match=f"{name} is"):
            ReadOptions(**{name: value})


@pytest.mark.parametrize("n_atoms", [3, 8, 60])
def test_intervals_of_small_molecules_are_not_odd_by_chance(n_atoms):
    random = np.random.default_rng(n_atoms)
    for h in (0.5, 5.0, 20.0):
        w = 2 * np.pi / np.exp(random.uniform(np.log(9), np.log(1000), 3 * n_atoms))
        a = np.sqrt(-2 * np.log(random.uniform(size=3 * n_atoms))) / w
        angle = np.arange(3000)[:, None] * h * w + random.uniform(0, 2 * np.pi, 3 * n_atoms)
        r, v = (x.reshape(3000, -1, 3) for x in (a * np.cos(angle), -a * w * np.sin(angle)))
        assert not odd(intervals(r, v, np.ones(n_atoms), h)).any()
        keep = np.r_[0:500, 503:1000]
        if h < 1:
            found = intervals(r[keep], v[keep], np.ones(n_atoms), h)
            assert np.flatnonzero(odd(found)).tolist() == [499]
            assert found.scale[499] == pytest.approx(4.0, abs=0.2)


def test_check_run_sees_a_doubled_and_a_missing_frame(tmp_path):
    r, v = motion(60)
    for name, rows, expected in (
        ("good", list(range(60)), 0),
        ("twice", [*range(30), 29, *range(30, 60)], 1),
        ("missing", [*range(30), *range(33, 60)], 1),
    ):
        run = make_system(r[rows], v[rows], Z, cell=TRICLINIC)
        with io.H5MDWriter(tmp_path / f"{name}.h5", run, 10.0) as writer:
            writer.append(run)
        check = {c.name: c for c in check_run(tmp_path / f"{name}.h5")}["odd intervals"]
        assert check.value == expected
        assert check.passed == (expected == 0)


def test_frames_at_rest_are_left_out_by_first(tmp_path):
    r, v = motion(30)
    v[:3] = 0
    path = tmp_path / "cold.extxyz"
    io.write_extxyz(path, make_system(r, v, Z, cell=TRICLINIC), 10.0 * np.arange(30))
    with pytest.raises(ValueError, match=r"temperature of 0 K.* by first \(--first 3\)"):
        io.read_trajectory(path)
    run, times = io.read_trajectory(path, options=ReadOptions(first=3, last=20, every=2))
    np.testing.assert_allclose(times, np.arange(30.0, 201.0, 20.0))
    np.testing.assert_allclose(run.velocities, v[3:21:2], atol=1e-7)
    with pytest.raises(ValueError, match="not both"):
        io.read_trajectory(path, 3, options=ReadOptions(first=3))


def test_generate_asks_and_takes(tmp_path, capsys):
    write_toml(tmp_path / "argon.toml")
    text = (tmp_path / "argon.toml").read_text().split("[reference.structure]")[0]
    toml = tmp_path / "mine.toml"
    toml.write_text(text + '[reference.structure]\nsymbols = ["Si", "O"]\nspacegroup = 154\n'
                    "basis = [[0.47, 0, 0.6667], [0.41, 0.27, 0.79]]\n"
                    "cellpar = [5.3, 5.3, 5.85, 90.0, 90.0, 120.0]\n")  # fmt: skip
    dump, _, _ = write_dump(tmp_path / "run.dump", "id type x y z vx vy vz", flags="", rows=MISSING)
    given = {"out": tmp_path / "out", "sources": (dump,), "runs": 2}
    for more, message in (
        ({}, "does not tell their elements"),
        ({"species": ("Si", "O")}, "units metal or --units real"),
        ({"species": ("Si", "O"), "units": "metal"}, "--md-timestep"),
        ({"species": ("O", "Si"), "units": "metal", "md_step": 1.0}, "of Si1 O2"),
    ):
        with pytest.raises(ValueError, match=message):
            generate.main(str(toml), **given, reading=ReadOptions(**more))
    reading = ReadOptions(species=("Si", "O"), units="metal", time_step=10.0)
    generate.main(str(toml), **given, reading=reading)
    said = capsys.readouterr().out
    assert "is cut in 2 runs" in said
    assert "was read as O36 Si18, periodic" in said
    assert io.read(tmp_path / "out" / "run_001.h5").cell is not None
    with pytest.raises(ValueError, match="need some: --from"):
        generate.main(str(toml), out=tmp_path / "none", reading=ReadOptions(units="metal"))


@pytest.mark.parametrize("h", [2.0, 10.0, 20.0])
def test_dense_velocities_tell_the_time_between_frames(tmp_path, h):
    path = write_plain(tmp_path / "run.extxyz", list(range(60)), h=h)
    io.read_trajectory(path, time_step=h)
    for wrong in (0.92, 1.06, 1.2):
        said = rf"imply {h:g}\.?\d* ± .*\(--time-step\) says {wrong * h:g} fs; give {h:g}"
        with pytest.raises(ValueError, match=said):
            io.read_trajectory(path, time_step=wrong * h)
    dump, _, _ = write_dump(tmp_path / "run.dump")
    with pytest.raises(ValueError, match=r"imply 10 ± .*--timestep\) says 1\.1 fs; give 1 fs"):
        io.read_trajectory(dump, options=ReadOptions(units="metal", md_step=1.1))


def vibration(n_frames, h, w, lag=0.0, step=None, n_atoms=30):
    """Oscillators of frequencies w (rad/fs), by velocity Verlet if it has a step."""
    random = np.random.default_rng(0)
    w = np.broadcast_to(w, (n_atoms, 3)) * random.uniform(0.9, 1.0, (n_atoms, 3))
    angle = np.arange(n_frames)[:, None, None] * h * w + random.uniform(0, 6.28, (n_atoms, 3))
    slower = 1.0 if step is None else np.sin(w * step) / (w * step)
    return np.cos(angle), -slower * w * np.sin(angle - w * lag)


def test_the_error_of_the_scale_is_larger_than_that_of_coarse_or_old_velocities():
    z = np.ones(30, int)
    for w in (0.02, 0.1, 0.3, 0.68):  # 100 to 3,600 cm⁻¹
        for h in (0.5, 1.0, 2.0, 5.0, 7.0, 10.0, 30.0):
            for lag, step in ((0.0, None), (0.5, None), (1.0, None), (0.0, min(h, 1.0))):
                found = resolved_scale(*vibration(300, h, w, lag, step), z, h)
                assert abs(found.value - 1) <= found.error, (w, h, lag, step, found)
    assert resolved_scale(*vibration(300, 2.0, 0.3), z, 2.0).error < 0.04
    assert resolved_scale(*vibration(5, 2.0, 0.3), z, 2.0).error == np.inf


@pytest.mark.parametrize("n_atoms", [1, 2, 4])
def test_tiny_systems_have_no_odd_intervals_by_chance(n_atoms):
    for seed in range(20):
        random = np.random.default_rng(seed)
        w = 2 * np.pi / np.exp(random.uniform(np.log(9), np.log(1000), 3 * n_atoms))
        a = np.sqrt(-2 * np.log(random.uniform(size=3 * n_atoms))) / w
        phase = random.uniform(0, 6.28, 3 * n_atoms)
        if seed % 2:  # along a line
            a = a * (np.arange(3 * n_atoms) % 3 == 0)
        for h in (0.5, 5.0, 20.0):
            angle = np.arange(1000)[:, None] * h * w + phase
            r, v = (x.reshape(1000, -1, 3) for x in (a * np.cos(angle), -a * w * np.sin(angle)))
            assert not odd(intervals(r, v, np.ones(n_atoms), h)).any(), (seed, h)
            assert not odd(intervals(r[:12], v[:12], np.ones(n_atoms), h)).any(), (seed, h)
        keep = np.r_[0:500, 503:1000]
        angle = np.arange(1000)[:, None] * 0.3 * w + phase
        r, v = (x.reshape(1000, -1, 3)[keep] for x in (a * np.cos(angle), -a * w * np.sin(angle)))
        assert set(np.flatnonzero(odd(intervals(r, v, np.ones(n_atoms), 0.3)))) <= {499}


@pytest.mark.parametrize("every", [4, 10])
def test_many_gaps_and_doubles_do_not_hide_one_another(every):
    r, v = motion(200)
    kept = [i for i in range(200) if i % every]  # one missing in every few
    found = intervals(r[kept], v[kept], M, 10.0)
    assert np.array_equal(odd(found), np.diff(kept) > 1)
    twice = np.sort(np.r_[np.arange(200), np.arange(0, 200, every)])
    assert np.array_equal(odd(intervals(r[twice], v[twice], M, 10.0)), np.diff(twice) == 0)
    short = [0, 1, 2, 4, 5]
    found = odd(intervals(r[short], v[short], M, 10.0))
    assert np.flatnonzero(found).tolist() == [2]
