# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train your own: a trajectory in, a model out
#
# Any trajectory with velocities can be learned: positions and velocities at equal intervals, at
# constant volume. Here ASE makes one of copper (32 atoms, effective medium theory, 300 K) in a
# minute, a small network learns strides of 20 fs from it, and its forecast is held against the
# part of the trajectory that it has not seen.

# %%
# Not installed, as on Colab? Then say here where from: "git+" and the address of the repository.
SOURCE = "trajcast_jax"
try:
    import trajcast_jax as tj
except ImportError:
    get_ipython().run_line_magic("pip", f"install -q {SOURCE}")
    import trajcast_jax as tj

# %%
import os
from pathlib import Path

import ase.io
import ase.units
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.velocitydistribution import Stationary
from ase.md.verlet import VelocityVerlet

from trajcast_jax.analysis import block_observables, observables
from trajcast_jax.analysis.evaluation import evaluate_one_step, one_step_predictions
from trajcast_jax.config import changed
from trajcast_jax.data import frame_pairs, statistics
from trajcast_jax.learning.training import fit, init_state

# Only matters on a GPU or TPU, whose matrix products are not full float32 by themselves.
jax.config.update("jax_default_matmul_precision", "highest")
plt.rcParams.update({"figure.dpi": 90, "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## Settings

# %%
FAST = "TRAJCAST_NOTEBOOK_FAST" in os.environ  # set by the tests: the same cells, less to do
md_steps = 300 if FAST else 4_800  # of 5 fs: 1.5 or 24 ps
little = (
    "data.train_pairs=20", "data.validation_pairs=4", "data.test_pairs=4", "model.blocks=1",
    "model.lmax=1", "training.updates=20", "training.validate_every=10", "training.optimizer=adam",
)  # fmt: skip
changes = little if FAST else ()  # of the settings below
chunks, chunk_length = (1, 20) if FAST else (5, 100)  # strides of 20 fs: 0.4 or 10 ps
temperature = 300.0  # K, about
seed = 0

# %% [markdown]
# ## The trajectory
#
# The atoms start from their lattice sites with velocities drawn at 600 K; half of that energy goes
# into the bonds. Newton's dynamics is what is to be learned, so no thermostat acts. A frame every
# 10 fs, with velocities (ASE writes them as momenta), goes to a file in the extended XYZ format.
# **Your own file takes the place of this cell.**

# %%
time_step, save_every = 5.0, 10.0  # fs
atoms = bulk("Cu", cubic=True) * (2, 2, 2)
atoms.calc = EMT()
draw = np.random.default_rng(seed).normal(size=(len(atoms), 3))
speeds = np.sqrt(2 * temperature * ase.units.kB / atoms.get_masses())  # in ASE's units
atoms.set_velocities(speeds[:, None] * draw)
Stationary(atoms)  # no momentum of the crystal as a whole
dynamics = VelocityVerlet(atoms, time_step * ase.units.fs)
dynamics.run(md_steps // 10)

frames = []
dynamics.attach(lambda: frames.append(atoms.copy()), interval=round(save_every / time_step))
dynamics.run(md_steps)
ase.io.write("copper.extxyz", frames)
print(f"{len(frames)} frames of {len(atoms)} atoms in copper.extxyz")

# %% [markdown]
# ## The experiment
#
# One TOML file says all that a model is made of; what it does not name has a default
# (`trajcast_jax/config/settings.py`, every setting with its unit). Rules of thumb:
#
# - **stride** `data.time_step`: from a tenth of the period of the stiffest vibration to about one;
#   the longer, the more blocks and training it takes; a multiple of the interval between frames;
# - **cutoff** (4.5 Å): a few neighbour shells. Within a stride the network sees `blocks` × `cutoff`
#   far;
# - **lmax** (2): the l of the finest features. Force constants are tensors, so that with vectors
#   only (`lmax = 1`) such a model keeps three times the error;
# - **blocks**: more for stiffer systems or longer strides, here 3 (quartz at 30 fs: 5);
# - **max_speed**: about four times the RMS of a velocity component of the lightest element.
#
# Runs, not frames, are split into training, validation and test sets: neighbouring frames are
# nearly the same, so that a random split would test the network on what it has learned by heart.

# %%
Path("copper.toml").write_text("""
[data]
time_step = 20.0        # fs, the stride
train_runs = [0]
validation_runs = [1]
test_runs = [2]
train_pairs = 700       # and as many mirrored in time
validation_pairs = 50
test_pairs = 100

[model]
channels = 8
blocks = 3
n_radial = 5
max_speed = 0.008       # Å/fs
velocity_mlp = [8]

[training]
updates = 1_500
validate_every = 150
learning_rate = 0.02
""")
experiment = changed(tj.load("copper.toml"), changes)

# %% [markdown]
# ## Pairs of frames
#
# A `FramePairs` holds frames, what happened in the stride after each, and the neighbours. Newton's
# equations run backwards as well, so that every training pair also serves in reverse. All frames
# are padded to the same number of atoms and neighbours: the network is compiled once.

# %%
run, times = tj.read_trajectory("copper.extxyz", time_step=save_every)
blocks = np.array_split(np.arange(len(times)), 3)  # three runs, one after the other
runs = [(observables.cut(run, slice(b[0], b[-1] + 1)), times[b]) for b in blocks]


def pairs_of(part):
    """The "train", "validation" or "test" pairs of the experiment."""
    data = experiment.data
    return frame_pairs(
        [runs[i] for i in getattr(data, f"{part}_runs")],
        data.time_step,
        experiment.model.cutoff,
        getattr(data, f"{part}_pairs"),
        time_reversal=data.time_reversal and part == "train",
    )


train, validation, test = (pairs_of(part) for part in ("train", "validation", "test"))
print(f"{len(train)} training pairs, {train.idx.shape[-1]} slots for neighbours per atom")

# %% [markdown]
# ## Training
#
# What enters and leaves the network is normalised by `statistics` of the training set; the part of
# a stride that is linear in the atom's own velocity is taken out first. `fit` yields the state and
# its errors after every chunk of updates, which are one compiled scan. Errors are mean absolute
# errors of displacements and new velocities, in % of their mean magnitude.

# %%
forecaster = tj.Forecaster(experiment.model, statistics(train), experiment.data.time_step)
settings = experiment.training
begun = init_state(forecaster, settings)

curve = []
chunk = settings.validate_every
for state, metrics in fit(forecaster, settings, begun, train, validation, chunk):
    curve.append(metrics)
    print(
        f"{metrics.update:5d} updates, loss {metrics.loss:.4f}, validation: displacement "
        f"{metrics.displacement_error:.2f} %, velocity {metrics.velocity_error:.2f} %"
    )

tj.save("copper_model", forecaster, state.best_params, {"origin": "02_train_your_own"})
model = tj.restore("copper_model")

# %%
update, _, displacement, velocity, _ = np.array(curve).T
figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
axes.plot(update, displacement, "o-", ms=3, label="displacement")
axes.plot(update, velocity, "o-", ms=3, label="velocity")
axes.set(xlabel="updates", ylabel="relative MAE (%)", title="Validation error", ylim=(0, None))
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## One stride
#
# On the run that neither training nor validation has seen. The yardstick, "straight lines", is
# what no network at all would say: $\mathbf d = \mathbf v\,\Delta t$ and $\mathbf v' = \mathbf v$.

# %%
errors = evaluate_one_step(model, test)["all"]
predicted = one_step_predictions(model, test)
fields = {
    "displacement (Å)": (test.displacements, predicted.displacements, "displacements"),
    "new velocity (10⁻³ Å/fs)": (1e3 * test.velocities, 1e3 * predicted.velocities, "velocities"),
}
figure, panels = plt.subplots(1, 2, figsize=(7.5, 3.6), layout="constrained")
for axes, (label, (true, forecast, name)) in zip(panels, fields.items(), strict=True):
    limit = 1.05 * np.abs(true).max()
    axes.plot([-limit, limit], [-limit, limit], color="0.6", lw=0.8)
    axes.plot(np.ravel(true), np.ravel(forecast), ".", ms=1.5, rasterized=True)
    error, lines = (errors[name][k] for k in ("relative_percent", "persistence_percent"))
    axes.set(xlabel=f"MD, {label}", ylabel=f"forecast, {label}", aspect="equal")
    axes.set_title(f"{error:.1f} % (straight lines: {lines:.0f} %)", fontsize=10)
plt.show()

# %% [markdown]
# ## A trajectory
#
# Errors of single strides add up, and not all of them as heat: only a rollout shows what a model
# is good for. The CSVR thermostat holds the mean temperature of the test run.

# %%
reference = runs[experiment.data.test_runs[0]][0]
kelvin = float(block_observables.temperatures(reference).mean())
start = observables.cut(reference, 0)
tj.write_extxyz("copper_start.extxyz", start)

neighbors = tj.neighbor_list(start.cell, cutoff=model.cutoff, skin=0.5)
thermostat = tj.csvr(temperature=kelvin, time_constant=experiment.rollout.time_constant)
sim = tj.simulator(model.forecast, neighbors, thermostat, time_step=model.time_step)
state = sim.init(jax.random.key(seed), start)
parts = [frames for _, frames in tj.simulate(sim, state, chunks, chunk_length)]
forecast = start.replace(
    positions=jnp.concatenate([part.positions for part in parts]),
    velocities=jnp.concatenate([part.velocities for part in parts]),
)
print(
    f"{len(forecast.positions) * model.time_step * 1e-3:.1f} ps at "
    f"{block_observables.temperatures(forecast).mean():.0f} K; MD: {kelvin:.0f} K"
)

# %%
every = round(model.time_step / save_every)  # so that both spectra fold alike
md = observables.cut(run, slice(None, None, every))
figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for trajectory, label, style in ((md, "MD", {"color": "0.6", "lw": 3}), (forecast, "forecast", {})):
    r, g = observables.radial_distribution_function(trajectory, 29, 29, 7.0, 140)
    panels[0].plot(r, g, label=label, **style)
    wavenumbers, density = observables.vibrational_density_of_states(
        trajectory.velocities, model.time_step, segment=100
    )
    panels[1].plot(wavenumbers, 1e3 * density, **style)
limit = float(observables.nyquist_wavenumber(model.time_step))
panels[1].axvline(limit, color="C3", lw=1, ls=":", label="Nyquist limit")
panels[0].set(xlabel="r (Å)", ylabel="g(r)", title="Cu–Cu", xlim=(1.5, 7), ylim=(0, None))
panels[1].set(xlabel="wavenumber (cm⁻¹)", ylabel="VDOS (10⁻³ cm)", ylim=(0, None), xlim=(0, None))
for axes in panels:
    axes.legend(frameon=False)
plt.show()

# %% [markdown]
# The structure is right. In the spectrum look at heights, not only at places: the power at a
# frequency is the kinetic energy of the vibrations there, so a peak that is too high is a
# vibration that is too hot, and another is too cold for it, since the thermostat holds the mean.
# (The MD's own heights are those of one short run at constant energy, whose vibrations have not
# shared out all their energy.) `03_inside_the_model` says more on this; what helps is more
# training, and training pairs that start from states of the model's own forecasts (`python -m
# experiments.visit`, if the TOML file names the force field or calculator).

# %% [markdown]
# ## The same by commands
#
# In a clone of the repository the files above, `copper.extxyz` and `copper.toml`, are all that is
# needed. A training that is stopped goes on where it was; `--set training.updates=20000
# model.channels=16` changes settings; `--minutes 60` trains for a given time.
#
# ```bash
# python -m experiments.generate copper.toml --from copper.extxyz --time-step 10 --runs 3
# python -m experiments.fit copper.toml
# python -m experiments.evaluate copper.toml --checkpoint runs/copper/train/best
# python -m experiments.rollout copper.toml --checkpoint runs/copper/train/best \
#     --start copper_start.extxyz --duration 15000
# ```
#
# ## What changes on a GPU or TPU
#
# - **No code**: weights, frames and optimiser are float32 on every device, and a chunk of updates
#   is one compiled scan without a word to the host.
# - **Size**: this network is too small to fill an accelerator. There, raise `channels` (32 to 64,
#   multiples of 8) and `batch_size`; the paper's sizes are in `experiments/quartz_paper.toml`.
# - **Compile once**: `chunk` is a divisor of `validate_every`, so that all chunks are of one
#   length. Systems of different sizes are padded to the largest when the pairs are made.
# - **Save often**: a Colab runtime may end at any moment. `experiments.fit` saves the whole
#   state of the training every 500 updates; put its folder (`--out`) on a mounted drive.
