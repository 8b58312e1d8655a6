"""Tunes a model on its own forecasts: `python -m experiments.tune`.

In the canonical ensemble every kind of vibration holds k_B T. What a forecast holds instead is
seen in its own trajectory and asks for no reference; so does the slope of it by the weights,
through the last few strides of that trajectory. The weights follow that slope while the
trajectory goes on, held back by the loss of one-step forecasts. What this does to forecasts of
other seeds, to g(r), spectra and one-step errors is measured, before and after.
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
from matplotlib.figure import Figure
from tqdm import tqdm

import experiments
from experiments import folders
from experiments.generate import ensure_reference
from trajcast_jax import checkpoint, io, measurement
from trajcast_jax.config import Experiment
from trajcast_jax.dataset import FramePairs, frame_pairs
from trajcast_jax.ensemble import csvr
from trajcast_jax.evaluation import Step, compare, one_step_errors, one_step_predictions
from trajcast_jax.forecast import Forecaster, TrainedForecast
from trajcast_jax.graph import neighbor_list
from trajcast_jax.mechanics import maxwell_boltzmann
from trajcast_jax.modes import NormalModes, mode_temperatures, normal_modes
from trajcast_jax.observables import cut
from trajcast_jax.plots import FORECAST, LIMIT, STORED, save
from trajcast_jax.reference import run_path
from trajcast_jax.report import summarize
from trajcast_jax.rollout import SimulatorState, require_sound, rollout, simulator
from trajcast_jax.system import System
from trajcast_jax.training import batch_loss
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV


@dataclasses.dataclass(frozen=True)
class Settings:
    """Tunes a quartz model on the temperatures of vibrations in its own forecasts."""

    updates: int = 300
    """Of the weights, by momentum; the rate falls to 0 as half a cosine."""
    strides: int = 4
    """Of the trajectory in each update, which the gradient goes back through."""
    learning_rate: float = 6e-5
    """Low, as temperatures answer over picoseconds, more than a few strides tell."""
    one_step: float = 1.0
    """Weight of the one-step loss beside that of the temperatures."""
    pairs: int = 400
    """Of the training runs, for the one-step loss; each update takes one."""
    memory: float = 1_000.0
    """fs, of the running averages of temperatures."""
    kinds: int = 12
    """Of vibrations, alike in number, by rising wavenumber."""
    settle: int = 200
    """Strides that every forecast is given to come to its own equilibrium."""
    compared: tuple[int, ...] = (1, 4, 16)
    """Numbers of strides whose gradients are compared."""
    windows: int = 10
    """Windows of the untuned forecast, for that."""
    apart: int = 40
    """Strides from one of them to the next."""
    held_out: int = 900
    """Strides of each forecast before and after, `settle` among them."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Of those; the trajectory that is tuned on has seed 0."""
    resume: Path | None = None
    """Folder of the quartz model to tune; by default the one that the package ships."""
    checkpoint: Path = Path("runs/tune/quartz")
    """Folder of the tuned model."""
    out: Path = Path("experiments/results/tune.json")


class Kinds:
    """Kinds of vibrations: normal modes in groups of equal number, by rising wavenumber."""

    def __init__(self, modes: NormalModes, number: int):
        self.modes = modes
        groups = np.array_split(np.arange(len(modes.wavenumbers)), number)
        self.ranges = [modes.wavenumbers[group[[0, -1]]].tolist() for group in groups]
        self.shares = np.array([len(group) for group in groups]) / len(modes.wavenumbers)
        self.vectors = [jnp.asarray(modes.vectors[:, group], jnp.float32) for group in groups]

    def temperatures(self, frames: System) -> Float[Array, "kind"]:
        """Mean kinetic temperature (K) of every kind in a trajectory (with a time axis)."""
        momenta = frames.velocities * jnp.sqrt(frames.masses)[:, None]
        momenta = momenta.reshape(len(momenta), -1)
        squares = [jnp.mean(jnp.matmul(momenta, v, precision="highest") ** 2) for v in self.vectors]
        return KINETIC_TO_EV / BOLTZMANN * jnp.stack(squares)

    def pull(self, kelvin: Float[Array, "kind"], target: float) -> Float[Array, "kind"]:
        """Slope (1/K) of ½ Σ p (T/T₀ − 1)² by the temperatures T; p the share of modes."""
        return self.shares * (kelvin / target - 1) / target

    def imbalance(self, kelvin: Float[np.ndarray, "kind"], target: float) -> float:
        """Root of the mean over modes of (T/T₀ − 1)²."""
        return float(np.sqrt(np.sum(self.shares * (np.asarray(kelvin) / target - 1) ** 2)))


class Forecasts:
    """Forecasts of one system under CSVR as functions of the weights."""

    def __init__(self, forecaster: Forecaster, start: System, experiment: Experiment):
        self.forecaster, self.start = forecaster, start
        self.kelvin = experiment.rollout.temperature
        self.neighbors = neighbor_list(start.cell, forecaster.settings.cutoff, skin=0.5)
        self.thermostat = csvr(self.kelvin, experiment.rollout.time_constant)

    def _simulator(self, params):
        forecast = functools.partial(self.forecaster, params)
        return simulator(forecast, self.neighbors, self.thermostat, self.forecaster.time_step)

    def first(self, seed: int) -> SimulatorState:
        """The start positions with velocities and noise of a seed."""
        key, drawn = jax.random.split(jax.random.key(seed))
        velocities = maxwell_boltzmann(drawn, self.start, self.kelvin)
        sim = self._simulator(None)
        state = sim.init(key, self.start.replace(velocities=velocities))
        return sim.grow(state, state.neighbors.idx.shape[-1] + 8)

    @functools.partial(jax.jit, static_argnums=(0, 3))
    def run(self, params, state: SimulatorState, strides: int) -> tuple[SimulatorState, System]:
        """The state and the frames after every one of `strides`."""
        return rollout(self._simulator(params).step, strides)(state)

    @functools.partial(jax.jit, static_argnums=(0, 4, 5))
    def gradient(self, params, state: SimulatorState, pull, strides: int, kinds: Kinds):
        """Of Σ pull·T by the weights, T the kinds' temperatures in the next strides.

        Also these temperatures and the state at the end. The start is a constant.
        """

        def pulled(params):
            end, frames = rollout(self._simulator(params).step, strides, remat=1)(state)
            kelvin = kinds.temperatures(frames)
            return jnp.vdot(pull, kelvin), (kelvin, end)

        gradient, (kelvin, end) = jax.grad(pulled, has_aux=True)(params)
        return gradient, kelvin, end


def common_share(gradients: Float[np.ndarray, "window weight"]) -> tuple[float, float]:
    """|mean gradient|² over the mean of |gradient|², without bias; its error by the jackknife."""
    products = gradients @ gradients.T

    def share(p):
        n = len(p)
        return (p.sum() - np.trace(p)) / (n - 1) / np.trace(p)

    n = len(products)
    left = [share(np.delete(np.delete(products, k, axis=0), k, axis=1)) for k in range(n)]
    return share(products), np.sqrt((n - 1) * np.var(left))


def compare_lengths(forecasts: Forecasts, kinds: Kinds, params, states, pull, s: Settings) -> dict:
    """How much of a gradient through k strides is signal, for every k, and what it costs."""
    result, means = {}, {}
    for k in tqdm(s.compared, desc="gradients through k strides"):
        found = []
        for number, state in enumerate(states):
            if number == 1:  # the first is compiled
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
    """States `apart` strides apart of the untuned forecast at its equilibrium, and mean T."""
    state, _ = forecasts.run(params, forecasts.first(0), settings.settle)
    states, kelvins = [], []
    for _ in tqdm(range(settings.windows), desc="untuned"):
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
    """Tuned weights, and after every update the imbalance of the running averages and the loss."""
    one_step = dataclasses.replace(experiment.training, energy_balance=0.0)
    schedule = optax.cosine_decay_schedule(settings.learning_rate, settings.updates)
    # No Adam: its steps, equal for all weights, undo within a few what was learned.
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
    for update in (bar := tqdm(range(settings.updates), desc="tuning")):
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


def mode_imbalance(kelvin: Float[np.ndarray, "seed mode"], target: float) -> float:
    """Root of the mean over single modes of (T/T₀ − 1)², T the mean of seeds, less their noise."""
    noise = kelvin.var(axis=0, ddof=1) / len(kelvin)
    return float(np.sqrt(max(np.mean((kelvin.mean(axis=0) - target) ** 2 - noise), 0)) / target)


def judge(
    forecasts: Forecasts, kinds: Kinds, params, pairs: FramePairs,
    experiment: Experiment, settings: Settings,
) -> tuple[dict, Step]:  # fmt: skip
    """Forecasts of held-out seeds against the reference, and one-step errors of test pairs."""
    reference = measurement.load(checkpoint.pretrained("quartz") / "reference.npz")
    kelvins, single, reports = [], [], []
    for seed in tqdm(settings.seeds, desc="held-out seeds"):
        end, frames = forecasts.run(params, forecasts.first(seed), settings.held_out)
        require_sound(end)
        used = cut(frames, slice(settings.settle, None))
        kelvins.append(np.asarray(kinds.temperatures(used)))
        single.append(mode_temperatures(used, kinds.modes))
        reports.append(compare(used, reference, experiment, forecasts.forecaster.time_step)[0])
    model = TrainedForecast(params, forecasts.forecaster)
    predicted = one_step_predictions(model, pairs)
    errors = one_step_errors(
        predicted, Step(pairs.displacements, pairs.velocities),
        pairs.system.velocities, pairs.system.species, model.time_step,
    )  # fmt: skip
    figures = summarize(reports)["figures"]
    return {
        "kelvin": np.array(kelvins).tolist(),
        "imbalance": [kinds.imbalance(k, forecasts.kelvin) for k in kelvins],
        "mode_imbalance": mode_imbalance(np.array(single), forecasts.kelvin),
        "figures": {name: [f["mean"], f["mean_error"]] for name, f in figures.items()},
        "one_step": errors["all"],
    }, predicted


def reweighting_strides(
    before: Step, after: Step, pairs: FramePairs, kelvin: float, kept: float
) -> float:
    """Strides in which reweighting from one model to another leaves 1/e of the sample.

    If every forecast velocity had the noise of a Langevin thermostat that keeps `kept` of it,
    normal of variance σ² = (k_B T/m)(1 − kept²), the weights of n strides would leave a share
    exp(−n d²), d² = Σ (Δv'/σ)². Positions without noise, which cannot be reweighted, are ignored.
    """
    variances = BOLTZMANN / KINETIC_TO_EV * kelvin / pairs.system.masses * (1 - kept**2)
    changes = np.asarray(after.velocities) - np.asarray(before.velocities)
    return float(1 / np.mean(np.sum(changes**2 / variances[..., None], axis=(1, 2))))


def plot(result: dict) -> Figure:
    """Temperatures of kinds of vibrations before and after, and how they came to be."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes, course = figure.subplots(1, 2, width_ratios=(3, 2))
    places = np.mean(result["kinds_cm-1"], axis=1)
    axes.axhline(result["temperature_K"], color=STORED, lw=0.8)
    axes.plot(places, result["reference_K"], ".", color=STORED, label="reference")
    for name, color in (("before", LIMIT), ("after", FORECAST)):
        kelvin = np.array(result[name]["kelvin"])
        error = kelvin.std(axis=0, ddof=1) / len(kelvin) ** 0.5
        axes.errorbar(places, kelvin.mean(axis=0), error, fmt="o-", color=color, label=name,
                      capsize=2, ms=4)  # fmt: skip
    axes.set(xlabel="wavenumber (cm⁻¹)", ylabel="temperature (K)", title="Held-out forecasts")
    axes.legend()
    imbalance, loss = np.array(result["course"]).T
    width = max(1, len(loss) // 10)
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(loss, width), axis=-1)
    course.plot(100 * imbalance, color=FORECAST)
    course.set(xlabel="update", title="Tuning", ylim=(0, None))
    course.set_ylabel("imbalance (%)", color=FORECAST)
    right = course.twinx()
    right.spines["right"].set_visible(True)
    right.plot(np.arange(len(smooth)) + width / 2, smooth, color=LIMIT)
    right.set(ylim=(0, None))
    right.set_ylabel(f"one-step loss, median of {width}", color=LIMIT)
    return figure


def data(experiment: Experiment, model: TrainedForecast, settings: Settings):
    """Normal modes and the temperatures of their kinds in the reference; tuning and test pairs."""
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
    """Writes the tuned checkpoint, the results (JSON) and a plot beside them."""
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
