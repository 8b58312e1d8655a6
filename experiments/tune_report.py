"""Effects of tuning on forecasts with other seeds and on one-step errors: numbers and a plot."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from tqdm import tqdm

from trajcast_jax.analysis import block_observables
from trajcast_jax.analysis.evaluation import Step, compare, one_step_errors, one_step_predictions
from trajcast_jax.analysis.modes import mode_temperatures
from trajcast_jax.analysis.observables import cut
from trajcast_jax.analysis.plots import FORECAST, LIMIT, STORED
from trajcast_jax.analysis.report import summarize
from trajcast_jax.config import Experiment
from trajcast_jax.data.pairs import FramePairs
from trajcast_jax.dynamics.rollout import require_sound
from trajcast_jax.network import checkpoint
from trajcast_jax.network.forecast import TrainedForecast
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV

if TYPE_CHECKING:  # `tune` imports this module
    from experiments.tune import Forecasts, Kinds, Settings


def mode_imbalance(kelvin: Float[np.ndarray, "seed mode"], target: float) -> float:
    """Root mean square of T/T₀ − 1 over modes, for T averaged over seeds, corrected for noise."""
    noise = kelvin.var(axis=0, ddof=1) / len(kelvin)
    return float(np.sqrt(max(np.mean((kelvin.mean(axis=0) - target) ** 2 - noise), 0)) / target)


def judge(
    forecasts: "Forecasts", kinds: "Kinds", params, pairs: FramePairs,
    experiment: Experiment, settings: "Settings",
) -> tuple[dict, Step]:  # fmt: skip
    """Compare forecasts with held-out seeds with the reference; also one-step errors.

    Returns the results and the one-step predictions for the test pairs.
    """
    reference = block_observables.load(checkpoint.pretrained("quartz") / "reference.npz")
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
    """Number of strides after which reweighting between two models leaves 1/e of the sample.

    Assume that every forecast velocity has the noise of a Langevin thermostat that keeps the
    fraction `kept` of it: normal with variance σ² = (k_B T/m)(1 − kept²). Then the effective
    fraction of the sample after n strides is exp(−n d²) with d² = Σ (Δv'/σ)². Positions, which
    have no noise and cannot be reweighted, are ignored.
    """
    variances = BOLTZMANN / KINETIC_TO_EV * kelvin / pairs.system.masses * (1 - kept**2)
    changes = np.asarray(after.velocities) - np.asarray(before.velocities)
    return float(1 / np.mean(np.sum(changes**2 / variances[..., None], axis=(1, 2))))


def plot(result: dict) -> Figure:
    """Plot temperatures of kinds of vibrations before and after, and the course of the tuning."""
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
