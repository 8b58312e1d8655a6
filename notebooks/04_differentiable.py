# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Gradients through a trajectory, and how far they reach
#
# A rollout is a pure function: start, temperature, masses and weights in, trajectory out. So what
# is measured on the trajectory can be differentiated with respect to any of them, by `jax.grad` or
# `jax.jvp`, without code of its own. This notebook asks how the g(r) of α-quartz answers to the
# temperature of the thermostat and to the mass of oxygen, holds the answers against whole runs at
# other temperatures and masses, and looks at the limit of it all: chaos.

# %%
# Not installed, as on Colab? Then say here where from: "git+" and the address of the repository.
SOURCE = "trajcast_jax"
try:
    import trajcast_jax as tj
except ImportError:
    get_ipython().run_line_magic("pip", f"install -q {SOURCE}")
    import trajcast_jax as tj

# %%
import dataclasses
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from trajcast_jax.analysis.soft_observables import TAIL, soft_radial_distribution_function
from trajcast_jax.dynamics.gradients import describe_growth, gradient_horizon, lyapunov_exponent
from trajcast_jax.neighbors.multi_image import images_within
from trajcast_jax.network.forecast import TrainedForecast

# Only matters on a GPU or TPU, whose matrix products are not full float32 by themselves.
jax.config.update("jax_default_matmul_precision", "highest")
plt.rcParams.update({"figure.dpi": 90, "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## Settings

# %%
FAST = "TRAJCAST_NOTEBOOK_FAST" in os.environ  # set by the tests: the same cells, less to do
strides, remat = (8, 4) if FAST else (36, 6)  # of 30 fs; 36 are 1.1 ps, remat is near their root
growth_strides = 20 if FAST else 300
temperature = 300.0  # K
time_constant = 75.0  # fs, of the thermostat
seed = 0
jax.config.update("jax_disable_most_optimizations", FAST)  # so little runs that compiling is most

# %%
model = tj.restore(tj.pretrained("quartz"))
if FAST:  # one block of weights drawn at random: a tenth of the work for the compiler
    small = dataclasses.replace(model.settings, blocks=1, channels=4, substeps=0)
    forecaster = dataclasses.replace(model.forecaster, settings=small)
    model = TrainedForecast(jax.tree.map(lambda w: 0.1 * w, forecaster.init(0)), forecaster)
start = tj.read(tj.pretrained("quartz") / "start.extxyz")
neighbors = tj.neighbor_list(start.cell, cutoff=model.cutoff, skin=0.5)
listed = neighbors.allocate(start)
oxygen = np.asarray(start.species) == 8

# %% [markdown]
# ## An observable as a function of what one wants to know about
#
# The simulator is built *inside* the function, from the temperature that is asked for; the masses
# are put into the start frame. A histogram has no gradient, so distances are smeared by a Gaussian
# (0.03 Å): `soft_radial_distribution_function` is g(r) as the width goes to 0. The thermostat's
# random numbers come from the key and stay the same: two temperatures are two runs with the same
# luck (common random numbers), whose difference is smooth. Neighbour lists are constants to a
# derivative: an atom that enters them does so where the cutoff function is 0.

# %%
r_max, bins, width = 2.2, 110, 0.03  # Å: the first peak of Si–O
images = images_within(start.cell, r_max + TAIL * width)  # must be known before the compiler runs


def structure(inputs):
    """g(r) Si–O (no unit), mean over the second half of a rollout."""
    thermostat = tj.csvr(inputs["temperature"], time_constant)
    sim = tj.simulator(model.forecast, neighbors, thermostat, time_step=model.time_step)
    masses = jnp.where(oxygen, inputs["oxygen mass"], start.masses)
    system = start.replace(masses=masses, positions=inputs["positions"])
    state = sim.init(jax.random.key(seed), system, listed)
    end, frames = tj.rollout(sim.step, strides, every=2, remat=remat)(state)
    later = start.replace(positions=frames.positions[strides // 4 :])
    return soft_radial_distribution_function(later, 14, 8, r_max, bins, width, images)[1], end


inputs = {
    "temperature": jnp.float32(temperature),  # K
    "oxygen mass": start.masses[np.argmax(oxygen)],  # Da
    "positions": start.positions,  # Å, of the first frame
}
still = jax.tree.map(jnp.zeros_like, inputs)


@jax.jit
def answer(inputs, direction):
    """g(r), its change along a direction in the space of inputs, and the last state."""
    return jax.jvp(structure, (inputs,), (direction,), has_aux=True)


g, _, end = answer(inputs, still)
assert int(end.failure.kind) == 0
assert not end.neighbors.overflow, "too few slots for neighbours: give `allocate` a capacity"
r = (np.arange(bins) + 0.5) * r_max / bins
peak = int(np.argmax(g))
print(f"peak {g[peak]:.1f} at {r[peak]:.2f} Å, from {strides // 2} strides on")

# %% [markdown]
# ## Forward mode: few inputs, many outputs
#
# `jax.jvp` carries a perturbation along with the run, at two to three times the cost of the run and
# with no more memory however long it is. One input, the whole curve. Dashed are central differences
# of whole runs, which should lie on the lines. (In float32 they agree to two or three digits; the
# tests hold them together to 10⁻⁶ in float64.)

# %%
steps = {"temperature": (5.0, "K"), "oxygen mass": (1.0, "Da")}
slopes, differences = {}, {}
for name, (step, _) in steps.items():
    slopes[name] = answer(inputs, still | {name: jnp.ones_like(inputs[name])})[1]
    moved = [inputs | {name: inputs[name] + side * step} for side in (1, -1)]
    up, down = (answer(x, still)[0] for x in moved)
    differences[name] = (up - down) / (2 * step)

figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for axes, (name, (step, unit)) in zip(panels, steps.items(), strict=True):
    axes.plot(r, slopes[name], lw=3, alpha=0.5, label="gradient")
    axes.plot(r, differences[name], "--", lw=1, color="black", label=f"runs at ±{step:g} {unit}")
    axes.set(xlabel="r (Å)", ylabel=f"change of g(r) per {unit}", xlim=(1.4, 1.9), title=name)
    axes.legend(frameon=False)
    deviation = jnp.linalg.norm(slopes[name] - differences[name])
    print(f"{name}: apart by {float(deviation / jnp.linalg.norm(slopes[name])):.1e} of the size")
plt.show()

# %% [markdown]
# ## What the mass does, and what it does not
#
# Both curves have one shape, and that is no accident. The network has seen one mass per element
# and takes no mass as input; masses enter a forecast only where total momentum and kinetic energy
# are computed. With heavier oxygen the thermostat finds too much kinetic energy and slows all atoms
# down: to the forecast ¹⁸O is a colder bath, by $T\cdot\tfrac23/m_{\rm O}$ = 12.5 K per Da (oxygen
# has two thirds of the kinetic energy). Of the isotope effect of nature, $\omega\propto m^{-1/2}$
# at an unchanged $\langle r^2\rangle$, nothing is in it. **A gradient is that of the program, and
# says about nature what the program knows.** `python -m experiments.sensitivity` has the same for
# a peak of the vibrational spectrum.

# %%
colder = -temperature * (2 / 3) / float(inputs["oxygen mass"])
rows = {"gradient": slopes["oxygen mass"][peak], "bath": colder * slopes["temperature"][peak]}
print(f"height of the peak per Da: {rows['gradient']:.4f}; as a bath {colder:.1f} K colder per Da: "
      f"{rows['bath']:.4f}")  # fmt: skip

# %% [markdown]
# ## Reverse mode: many inputs, one output
#
# `jax.grad` gives the derivatives of *one* number with respect to everything at once: temperature,
# mass and all 486 coordinates of the first frame, for about five forward runs. It goes back through
# the trajectory and needs what was computed there; with `remat` only the states that many strides
# apart are kept and the rest is computed again, so that memory grows as the root of the strides.
# Both modes are one derivative:

# %%
gradient = jax.jit(jax.grad(lambda x: structure(x)[0][peak]))(inputs)
for name in steps:
    print(f"{name}: reverse {gradient[name]:.6f}, forward {slopes[name][peak]:.6f}")
strongest = jnp.linalg.norm(gradient["positions"], axis=-1)
print(f"of one atom's first position: at most {float(strongest.max()):.2f} per Å")

# %% [markdown]
# ## The horizon
#
# Neighbouring trajectories part as $e^{\lambda t}$, and so do derivatives: what one asks for (the
# change of a mean) stays, what one adds up (the changes of single trajectories) grows, and cancels
# less and less well. `lyapunov_exponent` measures λ of the map, `gradient_horizon` when the last
# digit of a float has grown to the size of the frame. Averages are lost long before that: count on
# a few $1/\lambda$, and average over many short windows with starts of their own.

# %%
sim = tj.simulator(
    model.forecast, neighbors, tj.csvr(temperature, time_constant), time_step=model.time_step
)
state = sim.init(jax.random.key(seed), start)
blocks = 4 if FAST else 5
growth = lyapunov_exponent(
    sim.step, state, growth_strides, model.time_step, jax.random.key(1), blocks
)
print(describe_growth(growth))

times = np.arange(1, growth_strides + 1) * model.time_step * 1e-3  # ps
figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
axes.semilogy(times, np.exp(np.cumsum(growth.logarithms)), label="a small perturbation")
axes.semilogy(
    times, np.exp(float(growth.exponent) * 1e3 * times), ":", color="0.5", label=r"$e^{\lambda t}$"
)
axes.axvline(strides * model.time_step * 1e-3, color="0.8", lw=1)
axes.set(xlabel="time (ps)", ylabel="size / size at the start")
axes.set_title("grey: the length of the rollout above", fontsize=10)
axes.legend(frameon=False)
plt.show()
horizon = 1e-3 * gradient_horizon(growth)
print(f"the rollout above has {1e-3 * strides * model.time_step:.2g} ps of {horizon:.3g} ps")

# %% [markdown]
# ## When not to differentiate
#
# - **Averages of long runs.** Beyond a few 1/λ the error bar of a gradient outgrows the gradient
#   while the average itself is perfectly well known. Take finite differences of long runs, or
#   derivatives that are averages themselves: at equilibrium $d\langle A\rangle/dT = \langle \delta
#   A\,\delta E\rangle/k_BT^2$.
# - **Slow answers.** A window must be longer than the answer takes. Temperature arrives within a
#   few time constants of the thermostat; the rearrangement of a liquid may take longer than the
#   horizon reaches.
# - **What the model does not know.** Masses, isotopes, charges: see above. The gradient exists, is
#   exact, and means nothing.
# - **Steps and counts.** Histograms, coordination numbers, the index of the nearest atom: their
#   gradient is 0 or missing. Smear them first.
#
# Weights are inputs too: `python -m experiments.tune` follows the gradient through a few strides
# of a trajectory that goes on, to bring every kind of vibration of quartz nearer to its $k_BT$
# ([what came of it](../experiments/results/gradients.md#tuning-a-model-on-its-own-forecasts)).
#
# ## What changes on a GPU or TPU
#
# - **Precision.** Nothing here needs float64. With less than full float32 in matrix products the
#   horizon shrinks by the logarithm of what is lost.
# - **Memory.** A reverse pass holds `remat` strides of intermediates at a time: take `remat` near
#   the root of the number of strides, and `jax.checkpoint(sim.step)` where that is still too much.
# - **Compile once.** `answer` was compiled once for all inputs and directions.
#   Windows with starts of their own are a `jax.vmap` over `positions` and keys.
