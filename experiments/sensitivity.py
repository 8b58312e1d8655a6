"""Sensitivities of structure and spectrum, by gradients: `python -m experiments.sensitivity`.

Derivatives of g(r) and of a peak of the vibrational spectrum of a forecast, with respect to the
temperature of the thermostat and the mass of oxygen. They are computed by forward mode through
windows from several equilibrium starts, and by central differences with the same random numbers.
The network has learned one set of masses and does not depend on them. So the derivative for the
mass is the response of the thermostat and of momentum conservation, not the isotope effect; the
latter is given for comparison.
"""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure

import experiments
from trajcast_jax import io
from trajcast_jax.analysis import block_observables
from trajcast_jax.analysis.observables import (
    cut,
    nyquist_wavenumber,
    select,
    vibrational_density_of_states,
)
from trajcast_jax.analysis.plots import FORECAST, LIMIT, STORED, save
from trajcast_jax.analysis.soft_observables import (
    TAIL,
    peak_position,
    soft_radial_distribution_function,
)
from trajcast_jax.dynamics.ensemble import csvr
from trajcast_jax.dynamics.gradients import describe_growth, lyapunov_exponent
from trajcast_jax.dynamics.rollout import require_sound, rollout, simulator
from trajcast_jax.neighbors.graph import neighbor_list
from trajcast_jax.neighbors.multi_image import images_within
from trajcast_jax.network import checkpoint
from trajcast_jax.workflow.progress import progress_bar

SILICON, OXYGEN = 14, 8
BAND = (315.0, 390.0)
"""cm⁻¹, a group of modes of oxygen between two gaps. The shipped model has their energy within 2 %.
In the reference, a quarter of the density is folded from 722 to 797 cm⁻¹."""
RADIUS, BINS, WIDTH = 2.2, 110, 0.03
"""Largest distance (Å), number of bins and Gaussian width (Å) of g(r) Si–O."""
EVERY = 4
"""Number of strides between the frames for g(r)."""
SETTLE = 8
"""Number of strides before a spectrum begins: 240 fs, three time constants of the thermostat."""
DIFFERENCES = {"temperature": 10.0, "oxygen mass": 0.5}
"""Steps (K, Da) of the central differences."""


class Forecasts:
    """Windows of a forecast as a function of the temperature and the mass of oxygen."""

    def __init__(self, strides: int, block: int, temperature: float, time_constant: float):
        self.model = checkpoint.restore(checkpoint.pretrained("quartz"))
        self.system = io.read(checkpoint.pretrained("quartz") / "start.extxyz")
        self.neighbors = neighbor_list(self.system.cell, self.model.cutoff, skin=0.5)
        self.images = images_within(self.system.cell, RADIUS + TAIL * WIDTH)
        self.strides, self.block, self.time_constant = strides, block, time_constant
        self.oxygen = select(self.system, OXYGEN)
        mass = float(self.system.masses[self.oxygen[0]])
        self.inputs = {"temperature": jnp.float32(temperature), "oxygen mass": jnp.float32(mass)}
        self.values = jax.jit(self.observe)
        self.slopes = jax.jit(
            lambda inputs, state: with_slopes(lambda x: self.observe(x, state), inputs)
        )

    def simulator(self, kelvin):
        """Thermostat and simulator of the shipped model at `kelvin` (K), which may be traced."""
        thermostat = csvr(kelvin, self.time_constant)
        return thermostat, simulator(
            self.model.forecast, self.neighbors, thermostat, time_step=self.model.time_step
        )

    def starts(self, windows: int, apart: int):
        """Yield equilibrium states, `apart` strides apart, each with its own random key."""
        _, sim = self.simulator(self.inputs["temperature"])
        state = sim.init(jax.random.key(0), self.system)
        state = sim.grow(state, state.neighbors.idx.shape[-1] + 8)
        run = jax.jit(rollout(sim.step, apart, every=apart))
        for window in range(windows):
            state, _ = run(state)
            yield state.replace(key=jax.random.fold_in(jax.random.key(1), window))

    def observe(self, inputs, state):
        """g(r) of every block, spectra of oxygen up to the end of every block, and last state."""
        thermostat, sim = self.simulator(inputs["temperature"])
        masses = state.system.masses.at[self.oxygen].set(inputs["oxygen mass"])
        system = state.system.replace(masses=masses)
        state = state.replace(system=system, coupling=thermostat.init(state.key, system))
        end, frames = rollout(sim.step, self.strides)(state)
        # Take species and cell from `self.system`, because they must be concrete, not traced.
        frames = self.system.replace(positions=frames.positions, velocities=frames.velocities)
        pair = partial(
            soft_radial_distribution_function, species_a=SILICON, species_b=OXYGEN,
            r_max=RADIUS, bins=BINS, width=WIDTH, images=self.images,
        )  # fmt: skip
        ends = range(self.block, self.strides + 1, self.block)
        parts = [cut(frames, slice(n - self.block, n, EVERY)) for n in ends]
        found = {"g": jnp.stack([pair(part)[1] for part in parts])}
        for n in ends[1:]:
            moving = frames.velocities[SETTLE:n, self.oxygen]
            found[f"{n}"] = vibrational_density_of_states(moving, self.model.time_step)[1]
        return found, end

    def run(self, state):
        """Values, derivatives and shifted values of the window from a state, for `compare`."""
        values, slopes, end = self.slopes(self.inputs, state)
        ends, shifted = [end], {}
        for name, step in DIFFERENCES.items():
            for side in (1, -1):
                inputs = self.inputs | {name: self.inputs[name] + side * step}
                shifted[name, side], end = self.values(inputs, state)
                ends.append(end)
        for end in ends:
            require_sound(end)
        return jax.device_get((values, slopes, shifted))


def with_slopes(function, inputs):
    """Values, derivatives and auxiliary output of `function(inputs)`.

    Derivatives have a leading axis over inputs, in the order of their sorted names.
    """
    directions = dict(zip(sorted(inputs), jnp.eye(len(inputs)), strict=True))

    def push(direction):
        return jax.jvp(function, (inputs,), (direction,), has_aux=True)

    return jax.vmap(push, out_axes=(None, 0, None))(directions)


def jackknife(estimate, samples):
    """`estimate(means)` of samples along leading axes, and its jackknife error."""
    n = len(jax.tree.leaves(samples)[0])

    def without(k):
        return estimate(jax.tree.map(lambda x: np.delete(x, k, axis=0).mean(axis=0), samples))

    left = np.stack([without(k) for k in range(n)])
    error = np.sqrt((n - 1) * left.var(axis=0))
    return np.asarray(estimate(jax.tree.map(lambda x: x.mean(axis=0), samples))), error


def compare(statistic, samples) -> dict:
    """Derivatives of a statistic of mean observables, by gradient and by difference, with errors.

    The difference between the two is included, with its own error.
    """
    result = {"value": jackknife(lambda means: statistic(means[0]), samples)}
    for k, name in enumerate(sorted(DIFFERENCES)):
        step = DIFFERENCES[name]

        def gradient(means, k=k):
            tangent = jax.tree.map(lambda x: x[k], means[1])
            return jax.jvp(statistic, (means[0],), (tangent,))[1]

        def difference(means, name=name, step=step):
            up, down = (statistic(means[2][name, side]) for side in (1, -1))
            return (up - down) / (2 * step)

        result[name] = {
            "gradient": jackknife(gradient, samples),
            "difference": jackknife(difference, samples),
            "gradient - difference": jackknife(lambda m: gradient(m) - difference(m), samples),
        }
    return jax.tree.map(lambda x: np.asarray(x, float).tolist(), result)


def physics(mass: float, position: float) -> float:
    """Isotope effect d(peak)/d(mass of oxygen) (cm⁻¹/Da) of real vibrations: −½ ω p/m.

    p is the share of oxygen in the kinetic energy of the band, from the reference's spectra.
    """
    reference = block_observables.load(checkpoint.pretrained("quartz") / "reference.npz")
    grid = reference["vdos_stored/wavenumbers"]
    inside = (grid >= BAND[0]) & (grid <= BAND[1])
    oxygen, silicon = (reference[f"vdos_stored/{s}"][inside].sum() for s in ("O", "Si"))
    return float(-position / (2 * mass) * 2 * oxygen / (2 * oxygen + silicon))


def plot(result: dict) -> Figure:
    """Plot dg/dT over r, and the derivatives of both observables over the window length."""
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    first, *others = figure.subplots(1, 3)
    styles = {"gradient": ("o", FORECAST), "difference": ("s", LIMIT)}
    curve = result["g(r)"]["temperature"]
    for kind, (_, color) in styles.items():
        mean, error = np.asarray(curve[kind])
        line = {"gradient": {"lw": 2.5, "alpha": 0.6}, "difference": {"lw": 1, "ls": "--"}}[kind]
        first.plot(result["r"], mean, color=color, label=kind, **line)
        first.fill_between(result["r"], mean - error, mean + error, color=color, alpha=0.2, lw=0)
    first.set(xlabel="r (Å)", ylabel="dg/dT (1/K)", xlim=(1.4, 1.9), title="g(r) Si–O")
    first.legend()
    panels = (("height", "temperature", "d(height)/dT (1/K)"),
              ("peak", "oxygen mass", "d(peak)/dm (cm⁻¹/Da)"))  # fmt: skip
    for axes, (observable, name, label) in zip(others, panels, strict=True):
        times = np.asarray(result[observable]["times_ps"])
        for kind, (marker, color) in styles.items():
            mean, error = np.asarray(result[observable][name][kind])
            shift = 0.04 if kind == "difference" else 0.0
            axes.errorbar(times + shift, mean, error, fmt=marker, color=color, capsize=3)
        axes.axhline(0, color=STORED, lw=0.8)
        axes.set(xlabel="time since the change (ps)", ylabel=label)
    others[0].set_title("height of the Si–O peak")
    isotope = result["isotope_effect_cm-1_per_Da"]
    others[1].set_title(f"oxygen's peak (nature: {isotope:.0f})")
    return figure


def main(
    windows: int = 4,
    strides: int = 128,
    block: int = 32,
    apart: int = 30,
    growth_strides: int = 240,
    temperature: float = 300.0,
    time_constant: float = 75.0,
    out: Path = Path("experiments/results/sensitivity.json"),
) -> None:
    """Compute sensitivities; write `out` (JSON) and a plot beside it.

    Args:
      windows: number of equilibrium starts.
      strides: number of strides of every window.
      block: number of strides per block; derivatives are computed for every block.
      apart: number of strides between two starts.
      growth_strides: number of strides for the Lyapunov exponent, a multiple of 4.
      temperature: temperature of the thermostat, K.
      time_constant: time constant of the thermostat, fs.
      out: output file.
    """
    forecasts = Forecasts(strides, block, temperature, time_constant)
    dt, mass = forecasts.model.time_step, float(forecasts.inputs["oxygen mass"])
    starts = list(forecasts.starts(windows, apart))
    sim = forecasts.simulator(temperature)[1]
    growth = lyapunov_exponent(sim.step, starts[0], growth_strides, dt, jax.random.key(2), blocks=4)
    print(describe_growth(growth))
    runs = [forecasts.run(state) for state in progress_bar(starts, desc="windows")]
    samples = jax.tree.map(lambda *x: np.stack(x), *runs)
    top = int(samples[0]["g"].mean(axis=(0, 1)).argmax())
    times = (np.arange(strides // block) + 1) * block * dt * 1e-3

    def peaks(means):
        found = []
        for n in range(2 * block, strides + 1, block):
            density = means[f"{n}"]
            grid = jnp.linspace(0.0, nyquist_wavenumber(dt), len(density))
            found.append(peak_position(grid, density, *BAND))
        return jnp.stack(found)

    height = compare(lambda means: means["g"][:, top], samples)
    peak = compare(peaks, samples)
    settled = compare(lambda means: means["g"][1:].mean(axis=0), samples)
    result = {
        "windows": windows, "window_ps": strides * dt * 1e-3, "stride_fs": dt,
        "differences": DIFFERENCES, "jax": jax.__version__, "growth": describe_growth(growth),
        "height": {"times_ps": times.tolist(), "r": RADIUS / BINS * (top + 0.5)} | height,
        "peak": {"times_ps": times[1:].tolist(), "band_cm-1": BAND} | peak,
        "r": ((np.arange(BINS) + 0.5) * RADIUS / BINS).tolist(),
        "g(r)": settled,
        "isotope_effect_cm-1_per_Da": physics(mass, peak["value"][0][-1]),
        "kelvin_per_Da": -temperature * 2 / 3 / mass,
    }  # fmt: skip
    io.atomic_write(out, (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
    save(out.with_suffix(".png"), lambda: plot(result))
    print(f"{out} and {out.with_suffix('.png').name}")


if __name__ == "__main__":
    experiments.run(lambda: tyro.cli(main))
