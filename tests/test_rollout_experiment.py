"""The rollout command: interrupted, continued, replicated, failed, refused."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.optimize
from conftest import as_system, forecaster, quartz_atoms

import experiments
from trajcast_jax import io
from trajcast_jax.config import Experiment, RolloutSettings
from trajcast_jax.dynamics.rollout import RolloutError
from trajcast_jax.mechanics import maxwell_boltzmann, momentum
from trajcast_jax.network import checkpoint
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV
from trajcast_jax.workflow import folders
from trajcast_jax.workflow import rollout as command


class Bar:
    """A progress bar that says nothing, and interrupts at one of its updates."""

    def __init__(self, interrupt_at=None, **_):
        self.n, self.updates, self.interrupt_at = 0.0, 0, interrupt_at

    def update(self, n):
        self.n += n
        self.updates += 1
        if self.updates == self.interrupt_at:
            raise KeyboardInterrupt

    def set_postfix_str(self, text):
        assert "ns/day" in text

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an untrained checkpoint of a small network and a start frame."""
    folder = tmp_path_factory.mktemp("rollout")
    model = forecaster(blocks=1, channels=2, lmax=1, parity="natural", cutoff=2.5)
    checkpoint.save(folder / "model", model, model.init(0))
    io.write_extxyz(folder / "start.extxyz", as_system(quartz_atoms()))
    return folder


def run_of(folder, kelvins=(300.0,), **changes):
    values = {"duration": 360.0, "chunk": 4, "every": 2, "max_temperature": 1e6, "skin": 0.3}
    settings = RolloutSettings(**(values | changes))
    return command.Run(
        experiment=Experiment(name="tiny", system="tiny", rollout=settings),
        checkpoint=str(folder / "model"),
        start=str(folder / "start.extxyz"),
        thermalize=len(kelvins) > 1,
        temperatures=kelvins,
    )


@pytest.fixture(scope="module")
def whole(folder):
    """12 strides without interruption."""
    taken = command.forecast(run_of(folder), folder / "whole", Bar)
    assert taken["ns_per_day"] > 0
    return io.read_trajectory(folder / "whole" / "trajectory.h5")


def test_start_frame_and_times_are_in_the_file(folder, whole):
    trajectory, times = whole
    np.testing.assert_allclose(times, np.arange(0, 361, 60))
    start = io.read(folder / "start.extxyz")
    np.testing.assert_array_equal(trajectory.positions[0], start.positions)
    assert np.abs(np.diff(trajectory.positions, axis=0)).max() > 1e-3


def test_interrupted_and_continued_is_the_same_file(folder, whole):
    run, out = run_of(folder), folder / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        command.forecast(run, out, lambda **kw: Bar(interrupt_at=2, **kw))
    # As if killed after the frames were written and before the state was.
    before = (out / "state.npz").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        command.forecast(run, out, lambda **kw: Bar(interrupt_at=1, **kw))
    (out / "state.npz").write_bytes(before)
    command.forecast(run, out, Bar)
    trajectory, times = io.read_trajectory(out / "trajectory.h5")
    np.testing.assert_array_equal(times, whole[1])
    np.testing.assert_array_equal(trajectory.positions, whole[0].positions)
    np.testing.assert_array_equal(trajectory.velocities, whole[0].velocities)
    assert command.forecast(run, out, Bar) == {}  # there is nothing left to do


def test_a_short_rollout_made_longer_by_the_command_line(folder, whole, monkeypatch):
    out = folder / "longer"
    command.forecast(run_of(folder, duration=120.0), out, Bar)
    arguments = command.Arguments("quartz", duration=360.0, out=out, resume=True)
    run, found = command.old_run(arguments)
    assert (run, found) == (run_of(folder), out)
    command.forecast(run, out, Bar)
    trajectory, _ = io.read_trajectory(out / "trajectory.h5")
    np.testing.assert_array_equal(trajectory.positions, whole[0].positions)


@pytest.mark.slow
def test_replicas_write_a_trajectory_each(folder):
    out = folder / "replicas"
    run = run_of(folder, kelvins=(200.0, 800.0), duration=240.0)
    with pytest.raises(KeyboardInterrupt):
        command.forecast(run, out, lambda **kw: Bar(interrupt_at=1, **kw))
    command.forecast(run, out, Bar)
    assert [p.name for p in command.replica_folders(run, out)] == ["replica_00", "replica_01"]
    first, second = (
        io.read_trajectory(p / "trajectory.h5")[0] for p in command.replica_folders(run, out)
    )
    assert first.positions.shape == second.positions.shape == (5, 9, 3)
    np.testing.assert_array_equal(first.positions[0], second.positions[0])
    masses = np.asarray(first.masses)[:, None]
    energies = [np.sum(masses * np.asarray(t.velocities[0]) ** 2) for t in (first, second)]
    assert 2.0 < energies[1] / energies[0] < 8.0


def test_failure_keeps_the_frames_and_says_where(folder):
    out = folder / "hot"
    run = run_of(folder, max_temperature=1.0)
    with pytest.raises(RolloutError, match="at step 1, which is above the limit"):
        command.forecast(run, out, Bar)
    trajectory, _ = io.read_trajectory(out / "trajectory.h5")
    assert len(trajectory.positions) == 1
    with pytest.raises(RolloutError, match="at step 1"):
        command.forecast(run, out, Bar)


def test_a_failed_replica_is_named_again_on_resuming(folder):
    out = folder / "one_hot"
    run = run_of(folder, (1.0, 5000.0), max_temperature=1000.0)
    for _ in range(2):
        with pytest.raises(RolloutError, match="of replica 1") as caught:
            command.forecast(run, out, Bar)
        assert caught.value.replica == 1


def test_chunks_are_of_one_length_and_reach_the_duration():
    for duration, every, chunk, done in (
        (1e5, 1, 100, 0),
        (1e3, 4, 10, 8),
        (900.0, 1, 7, 29),
        (3e4, 1000, 100, 0),
        (3e4, 10, 1, 0),
        (1e5, 7, 100, 0),
    ):
        settings = RolloutSettings(duration=duration, every=every, chunk=chunk)
        chunks, length = command.plan(settings, 30.0, done)
        assert length % every == 0
        assert duration <= 30.0 * (done + chunks * length) < duration + 30.0 * chunks * every
        assert length < max(chunk, every) + every
    assert command.plan(RolloutSettings(duration=900.0), 30.0, 30) == (0, 1)


def test_couplings_of_the_settings():
    for name in ("nve", "csvr", "langevin"):
        settings = RolloutSettings(ensemble=name, final_temperature=100.0, zero_momentum_every=3)
        assert command.make_coupling(settings, 300.0, False)
    with pytest.raises(ValueError, match="'nvt', but must be one of nve, csvr, langevin"):
        command.make_coupling(RolloutSettings(ensemble="nvt"), 300.0, False)
    settings = RolloutSettings(friction_time=5_000.0, zero_momentum_every=3)
    with pytest.raises(ValueError, match="removed at every stride; leave one of the two out"):
        command.make_coupling(settings, 300.0, False)
    assert command.make_coupling(dataclasses.replace(settings, zero_momentum_every=1), 300.0, False)


def test_command_line_refusals(folder, whole):
    with pytest.raises(ValueError, match="already holds a rollout"):
        command.new_run(command.Arguments("quartz", out=folder / "whole"))
    with pytest.raises(ValueError, match="3 replicas cannot have 2 temperatures"):
        command.new_run(command.Arguments("quartz", replicas=3, temperatures=(1.0, 2.0)))
    for wrong in ({"duration": -5.0}, {"set": ("rollout.chunk=0",)}, {"set": ("rollout.every=0",)}):
        with pytest.raises(ValueError, match="must be above 0"):
            command.new_run(command.Arguments("quartz", **wrong))
    with pytest.raises(ValueError, match="--temperature has no effect"):
        command.old_run(command.Arguments("quartz", temperature=1.0, resume=True))
    with pytest.raises(FileNotFoundError, match="leave --resume out"):
        command.old_run(command.Arguments("quartz", out=folder / "none", resume=True))


def test_a_system_of_ones_own_needs_a_model_and_a_start(folder, monkeypatch):
    monkeypatch.chdir(folder)
    mine = folder / "mine.toml"
    mine.write_text("")
    known = r"runs/mine/model or runs/mine/train/best; make one by .*train mine\.toml"
    with pytest.raises(FileNotFoundError, match=known):
        command.new_run(command.Arguments(str(mine)))
    with pytest.raises(FileNotFoundError, match=r"no start frame of mine.* --start, or make runs"):
        command.new_run(command.Arguments(str(mine), checkpoint=folder / "model"))
    with pytest.raises(FileNotFoundError, match=r"^Modes .* there; .*generate mine\.toml --out"):
        folders.runs(experiments.load(mine), Path("there"), "Modes are of runs")
    with pytest.raises(FileNotFoundError, match=r"generate quartz --out there\.$"):
        folders.runs(experiments.load("quartz"), Path("there"), "Modes are of runs")


def test_suggested_commands_name_a_file_that_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = Experiment("mine")
    assert folders.command(Experiment("quartz"), "fit") == "python -m experiments.fit quartz"
    assert folders.command(mine, "fit").endswith(" mine.toml")
    made = Path("runs/mine/mine.toml")
    made.parent.mkdir(parents=True)
    made.touch()
    assert folders.command(mine, "fit").endswith(" runs/mine/mine.toml")
    Path("mine.toml").touch()
    assert folders.command(mine, "fit").endswith(" mine.toml")


def test_command_line_settings():
    arguments = command.Arguments("quartz", duration=3e3, seed=7, temperatures=(250.0, 350.0))
    run, out = command.new_run(dataclasses.replace(arguments, set=("rollout.every=5",)))
    settings = run.experiment.rollout
    assert (settings.duration, settings.seed, settings.every) == (3e3, 7, 5)
    assert run.temperatures == (250.0, 350.0)
    assert run.start.endswith("pretrained/quartz/start.extxyz")
    assert out.parent.as_posix() == "runs/quartz/rollout"


def test_there_is_no_friction_at_constant_energy():
    system = as_system(quartz_atoms())
    settings = RolloutSettings(ensemble="nve", friction_time=3_000.0)
    coupling = command.make_coupling(settings, 300.0, False)
    state = coupling.init(jax.random.key(0), system)
    _, after = coupling.apply(state, system, jax.random.key(1), 30.0)
    np.testing.assert_array_equal(after.velocities, system.velocities)


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", ["langevin", "csvr"])
def test_friction_holds_what_gains_and_what_loses(ensemble):
    """Of velocities that grow by 1 + g a stride, without any exchange between the species.

    One that grows so after friction c = exp(−Δt/τ) and noise has T/T₀ = (1 − c²)/(1 − c²(1 + g)²).
    CSVR, which would drive them apart without end, takes from all g the same.
    """
    gains, shares = np.array([0.002, -0.002]), np.array([2 / 3, 1 / 3])  # oxygen, silicon
    friction = {
        "langevin": {"time_constant": 3_000.0, "zero_momentum_every": 1},
        "csvr": {"friction_time": 3_000.0},
    }
    settings = RolloutSettings(ensemble=ensemble, **friction[ensemble])
    coupling = command.make_coupling(settings, 300.0, False)
    system = as_system(quartz_atoms((3, 3, 1)))
    silicon = np.asarray(system.species) == 14
    growth = 1 + gains[silicon.astype(int)][:, None]

    def stride(carry, key):
        state, system = coupling.apply(*carry, key, 30.0)
        squares = system.masses[:, None] * system.velocities**2
        grown = system.replace(velocities=growth * system.velocities)
        return (state, grown), (squares.mean(1), momentum(system))

    start = system.replace(velocities=maxwell_boltzmann(jax.random.key(0), system, 300.0))
    carry = coupling.init(jax.random.key(1), start), start
    keys = jax.random.split(jax.random.key(2), 20_000)
    _, (squares, momenta) = jax.jit(lambda carry: jax.lax.scan(stride, carry, keys))(carry)
    kelvins = KINETIC_TO_EV / BOLTZMANN * np.asarray(squares)[1_000:].mean(0)
    kelvins = np.array([kelvins[~silicon].mean(), kelvins[silicon].mean()]) * 81 / 80

    def expected(taken):
        c = np.exp(-30.0 / 3_000.0)
        return 300.0 * (1 - c**2) / (1 - c**2 * (1 + gains - taken) ** 2)

    taken = 0.0
    if ensemble == "csvr":
        taken = scipy.optimize.brentq(lambda x: shares @ expected(x) - 300.0, -1e-3, 1e-3)
    # 19,000 strides are 380 correlation times of 81 and more components.
    np.testing.assert_allclose(kelvins, expected(taken), rtol=5 * (2 / (81 * 380)) ** 0.5)
    np.testing.assert_allclose(momenta, 0, atol=1e-4)
