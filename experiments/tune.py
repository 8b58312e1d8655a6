"""Tune a model on its own forecasts: `python -m experiments.tune`.

In the canonical ensemble, every vibration has the energy k_B T. The deviations of a forecast can
be measured on its own trajectory, without a reference. Their gradient with respect to the weights
is taken through the last few strides of the trajectory. The weights follow this gradient while
the trajectory continues; the loss of one-step forecasts is added as a constraint. The effects on
forecasts with other seeds, g(r), spectra and one-step errors are measured before and after.
"""

import dataclasses
import functools
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

import experiments
from experiments.tune_report import judge, plot, reweighting_strides
from trajcast_jax import io
from trajcast_jax.analysis.modes import NormalModes, normal_modes
from trajcast_jax.analysis.plots import save
from trajcast_jax.config import Experiment
from trajcast_jax.data.pairs import FramePairs, frame_pairs
from trajcast_jax.dynamics.ensemble import csvr
from trajcast_jax.dynamics.rollout import SimulatorState, require_sound, rollout, simulator
from trajcast_jax.learning.losses import batch_loss
from trajcast_jax.mechanics import maxwell_boltzmann
from trajcast_jax.neighbors.graph import neighbor_list
from trajcast_jax.network import checkpoint
from trajcast_jax.network.forecast import Forecaster, TrainedForecast
from trajcast_jax.reference import run_path
from trajcast_jax.system import System
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV
from trajcast_jax.workflow import folders
from trajcast_jax.workflow.progress import progress_bar
from trajcast_jax.workflow.reference_runs import ensure_reference


@dataclasses.dataclass(frozen=True)
class Settings:
    """Tune a quartz model on the temperatures of vibrations in its own forecasts."""

    updates: int = 300
    """Number of updates (SGD with momentum); the learning rate decays to 0 by a cosine."""
    strides: int = 4
    """Number of strides per update, through which the gradient is taken."""
    learning_rate: float = 6e-5
    """Learning rate. It is low because temperatures respond over picoseconds."""
    one_step: float = 1.0
    """Weight of the one-step loss; that of the temperatures is 1."""
    pairs: int = 400
    """Number of pairs of the training runs for the one-step loss; each update uses one."""
    memory: float = 1_000.0
    """Time constant of the running averages of temperatures, fs."""
    kinds: int = 12
    """Number of kinds of vibrations: groups of equally many modes, sorted by wavenumber."""
    settle: int = 200
    """Number of strides for the equilibration of every forecast."""
    compared: tuple[int, ...] = (1, 4, 16)
    """Numbers of strides whose gradients are compared."""
    windows: int = 10
    """Number of windows of the untuned forecast for this comparison."""
    apart: int = 40
    """Number of strides between these windows."""
    held_out: int = 900
    """Number of strides of each forecast before and after tuning, including `settle`."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of these forecasts; seed 0 is that of the tuning trajectory."""
    resume: Path | None = None
    """Folder of the quartz model to tune; by default the one that the package ships."""
    checkpoint: Path = Path("runs/tune/quartz")
    """Folder of the tuned model."""
    out: Path = Path("experiments/results/tune.json")


class Kinds:
    """Kinds of vibrations: groups of equally many normal modes, sorted by wavenumber."""

    def __init__(self, modes: NormalModes, number: int):
        self.modes = modes
        groups = np.array_split(np.arange(len(modes.wavenumbers)), number)
        self.ranges = [modes.wavenumbers[group[[0, -1]]].tolist() for group in groups]
        self.shares = np.array([len(group) for group in groups]) / len(modes.wavenumbers)
        self.vectors = [jnp.asarray(modes.vectors[:, group], jnp.float32) for group in groups]

    def temperatures(self, frames: System) -> Float[Array, "kind"]:
        """Mean kinetic temperature (K) of every kind in a trajectory."""
        momenta = frames.velocities * jnp.sqrt(frames.masses)[:, None]
        momenta = momenta.reshape(len(momenta), -1)
        squares = [jnp.mean(jnp.matmul(momenta, v, precision="highest") ** 2) for v in self.vectors]
        return KINETIC_TO_EV / BOLTZMANN * jnp.stack(squares)

    def pull(self, kelvin: Float[Array, "kind"], target: float) -> Float[Array, "kind"]:
        """Gradient (1/K) of ½ Σ p (T/T₀ − 1)² with respect to T (K); p is the share of modes."""
        return self.shares * (kelvin / target - 1) / target

    def imbalance(self, kelvin: Float[np.ndarray, "kind"], target: float) -> float:
        """Root mean square of T/T₀ − 1 over modes."""
        return float(np.sqrt(np.sum(self.shares * (np.asarray(kelvin) / target - 1) ** 2)))


class Forecasts:
    """Forecasts of one system with the CSVR thermostat, as functions of the weights."""

    def __init__(self, forecaster: Forecaster, start: System, experiment: Experiment):
        self.forecaster, self.start = forecaster, start
        self.kelvin = experiment.rollout.temperature
        self.neighbors = neighbor_list(start.cell, forecaster.settings.cutoff, skin=0.5)
        self.thermostat = csvr(self.kelvin, experiment.rollout.time_constant)

    def _simulator(self, params):
        forecast = functools.partial(self.forecaster, params)
        return simulator(forecast, self.neighbors, self.thermostat, self.forecaster.time_step)

    def first(self, seed: int) -> SimulatorState:
        """Initial state: the start positions, with velocities and random key of a seed."""
        key, drawn = jax.random.split(jax.random.key(seed))
        velocities = maxwell_boltzmann(drawn, self.start, self.kelvin)
        sim = self._simulator(None)
        state = sim.init(key, self.start.replace(velocities=velocities))
        return sim.grow(state, state.neighbors.idx.shape[-1] + 8)

    @functools.partial(jax.jit, static_argnums=(0, 3))
    def run(self, params, state: SimulatorState, strides: int) -> tuple[SimulatorState, System]:
        """Run `strides` strides; return the last state and all frames."""
        return rollout(self._simulator(params).step, strides)(state)

    @functools.partial(jax.jit, static_argnums=(0, 4, 5))
    def gradient(self, params, state: SimulatorState, pull, strides: int, kinds: Kinds):
        """Gradient of Σ pull·T with respect to the weights, T the temperatures of the next strides.

        Also returns T (K) and the last state. The initial state is treated as constant.
        """

        def pulled(params):
            end, frames = rollout(self._simulator(params).step, strides, remat=1)(state)
            kelvin = kinds.temperatures(frames)
            return jnp.vdot(pull, kelvin), (kelvin, end)

        gradient, (kelvin, end) = jax.grad(pulled, has_aux=True)(params)
        return gradient, kelvin, end


def common_share(gradients: Float[np.ndarray, "window weight"]) -> tuple[float, float]:
    """Unbiased |mean gradient|² / mean |gradient|², and its jackknife error."""
    products = gradients @ gradients.T

    def share(p):
        n = len(p)
        return (p.sum() - np.trace(p)) / (n - 1) / np.trace(p)

    n = len(products)
    left = [share(np.delete(np.delete(products, k, axis=0), k, axis=1)) for k in range(n)]
    return share(products), np.sqrt((n - 1) * np.var(left))


def compare_lengths(forecasts: Forecasts, kinds: Kinds, params, states, pull, s: Settings) -> dict:
    """Signal (`common_share`) and CPU time of gradients through k strides, for every k."""
    result, means = {}, {}
    for k in progress_bar(s.compared, desc="gradients through k strides"):
        found = []
        for number, state in enumerate(states):
            if number == 1:  # the first call includes compilation
                begin = time.process_time()
            gradient, _, end = forecasts.gradient(params, state, pull, k, kinds)
            require_sound(end)
            found.append(np.asarray(ravel_pytree(gradient)[0], np.float64))
        seconds = (time.process_time() - begin) / (len(states) - 1)
        share, error = common_share(np.stack(found))
        means[k] = np.mean(found, axis=0)
        result[k] = {"signal": share, "signal_error": error, "cpu_s": seconds}
    longest = means[max(means)]
    for k, mean in means.items():
        norms = np.linalg.norm(mean) * np.linalg.norm(longest)
        result[k]["cosine_with_longest"] = float(mean @ longest / norms)
        result[k]["length"] = float(np.linalg.norm(mean))
    return result


def explore(forecasts: Forecasts, kinds: Kinds, params, settings: Settings):
    """Equilibrated states of the untuned forecast, `apart` strides apart, and mean T (K)."""
    state, _ = forecasts.run(params, forecasts.first(0), settings.settle)
    states, kelvins = [], []
    for _ in progress_bar(range(settings.windows), desc="untuned"):
        state, frames = forecasts.run(params, state, settings.apart)
        require_sound(state)
        states.append(state)
        kelvins.append(kinds.temperatures(frames))
    return states, jnp.mean(jnp.stack(kelvins), axis=0)


def tune(
    forecasts: Forecasts,
    kinds: Kinds,
    params,
    state: SimulatorState,
    average: Float[Array, "kind"],
    pairs: FramePairs,
    experiment: Experiment,
    settings: Settings,
):
    """Tune the weights; also return imbalance (of running averages) and loss for every update."""
    one_step = dataclasses.replace(experiment.training, energy_balance=0.0)
    schedule = optax.cosine_decay_schedule(settings.learning_rate, settings.updates)
    # Not Adam: a few of its steps, equally large for all weights, would undo the training.
    rule = optax.sgd(schedule, momentum=0.9)
    span = settings.strides * forecasts.forecaster.time_step
    keep = float(np.exp(-span / settings.memory))

    @jax.jit
    def held_back(params, pair):
        return jax.value_and_grad(
            lambda params: batch_loss(forecasts.forecaster, one_step, params, pair)
        )(params)

    @jax.jit
    def follow(params, optimizer, gradient, other):
        total = jax.tree.map(lambda a, b: a + settings.one_step * b, gradient, other)
        steps, optimizer = rule.update(total, optimizer)
        return optax.apply_updates(params, steps), optimizer

    optimizer, course = rule.init(params), []
    for update in (bar := progress_bar(range(settings.updates), desc="tuning")):
        chosen = slice(update % len(pairs), update % len(pairs) + 1)
        pair = jax.tree.map(lambda x, chosen=chosen: x[chosen], pairs)
        loss, other = held_back(params, pair)
        pull = kinds.pull(average, forecasts.kelvin)
        gradient, kelvin, state = forecasts.gradient(params, state, pull, settings.strides, kinds)
        require_sound(state)
        params, optimizer = follow(params, optimizer, gradient, other)
        average = keep * average + (1 - keep) * kelvin
        course.append([kinds.imbalance(average, forecasts.kelvin), float(loss)])
        bar.set_postfix(imbalance=course[-1][0], loss=course[-1][1], refresh=False)
    return params, np.array(course)


def data(experiment: Experiment, model: TrainedForecast, settings: Settings):
    """Kinds of normal modes, their temperatures in the reference, and pairs for tuning and test."""
    ensure_reference(experiment)
    folder, split = folders.reference(experiment), experiment.data
    runs = [io.read_trajectory(run_path(folder, k)) for k in split.train_runs]
    tests = [io.read_trajectory(run_path(folder, k)) for k in split.test_runs]
    modes = normal_modes([run for run, _ in runs])
    kinds = Kinds(modes, settings.kinds)
    truth = np.mean([kinds.temperatures(run) for run, _ in tests], axis=0)
    pairs = frame_pairs(runs, model.time_step, model.cutoff, settings.pairs)
    order = np.random.default_rng(0).permutation(len(pairs))
    pairs = jax.tree.map(lambda x: x[order], pairs)
    return kinds, truth, pairs, frame_pairs(tests, model.time_step, model.cutoff, split.test_pairs)


def main(settings: Settings) -> None:
    """Write the tuned checkpoint, the results (JSON) and a plot beside them."""
    if 0 in settings.seeds:
        raise ValueError("Seed 0 is tuned on, so that it is not held out; give other seeds.")
    begin = time.process_time()
    experiment = experiments.load("quartz")
    shipped = checkpoint.pretrained("quartz")
    model = checkpoint.restore(settings.resume or shipped)
    start = io.read(shipped / "start.extxyz")
    kinds, truth, pairs, tests = data(experiment, model, settings)
    forecasts = Forecasts(model.forecaster, start, experiment)
    states, average = explore(forecasts, kinds, model.params, settings)
    spent = time.process_time()
    params, course = tune(
        forecasts, kinds, model.params, states[-1], average, pairs, experiment, settings
    )
    spent = time.process_time() - spent
    notes = {"tuned": "python -m experiments.tune", "updates": settings.updates}
    checkpoint.save(settings.checkpoint, model.forecaster, params, notes)
    before, old = judge(forecasts, kinds, model.params, tests, experiment, settings)
    after, new = judge(forecasts, kinds, params, tests, experiment, settings)
    pull = kinds.pull(average, forecasts.kelvin)
    lengths = compare_lengths(forecasts, kinds, model.params, states, pull, settings)
    kept = float(np.exp(-model.time_step / experiment.rollout.time_constant))
    result = {
        "settings": dataclasses.asdict(settings), "jax": jax.__version__,
        "temperature_K": forecasts.kelvin, "kinds_cm-1": kinds.ranges,
        "reference_K": truth.tolist(), "untuned_K": average.tolist(),
        "gradients": lengths, "tuning_cpu_s": spent,
        "before": before, "after": after,
        "reweighting_strides": reweighting_strides(old, new, tests, forecasts.kelvin, kept),
        "course": course.tolist(), "cpu_s": time.process_time() - begin,
    }  # fmt: skip
    text = json.dumps(result, indent=1, default=str) + "\n"
    io.atomic_write(settings.out, text.encode())
    save(settings.out.with_suffix(".png"), lambda: plot(result))
    print(f"The tuned model is in {settings.checkpoint}, what became of it in {settings.out}.")


if __name__ == "__main__":
    experiments.run(lambda: main(tyro.cli(Settings)))
