# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: 30 ps of α-quartz without forces
#
# A trained network looks at the positions and velocities of 162 atoms and says where they all are,
# and how fast, 30 fs later. It never sees an energy or a force. One such stride replaces 30 steps
# of an integrator, and a thermostat acts between strides.
#
# This notebook forecasts a trajectory on whatever device JAX finds, looks at its temperature, its
# structure and its vibrations, and holds them against molecular dynamics (BKS potential, six runs
# of 100 ps) whose observables come with the package.

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
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation

from trajcast_jax.analysis import block_observables, observables
from trajcast_jax.mechanics import degrees_of_freedom

# Only matters on a GPU or TPU, whose matrix products are not full float32 by themselves.
jax.config.update("jax_default_matmul_precision", "highest")
plt.rcParams.update({"figure.dpi": 90, "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## Settings

# %%
FAST = "TRAJCAST_NOTEBOOK_FAST" in os.environ  # set by the tests: the same cells, less to do
chunks, chunk_length = (2, 20) if FAST else (10, 100)  # strides of 30 fs: 1.2 or 30 ps
shown = 2 if FAST else 40  # frames of the animation
temperature = 300.0  # K
time_constant = 75.0  # fs, of the thermostat
seed = 0

# %% [markdown]
# ## The model and the first frame
#
# A checkpoint knows its stride, its cutoff and the elements that it was trained on. A `System`
# holds positions (Å), velocities (Å/fs), masses (Da), atomic numbers and the cell. Velocities are
# as much an input as positions: a frame without them is no state.

# %%
model = tj.restore(tj.pretrained("quartz"))
start = tj.read(tj.pretrained("quartz") / "start.extxyz")
model.check(start)  # are all its elements known?

weights = sum(x.size for x in jax.tree.leaves(model.params))
print(f"{weights:,} weights, stride {model.time_step:g} fs, cutoff {model.cutoff:g} Å")
print(f"{len(start.masses)} atoms, {start.positions.dtype}, on {jax.devices()[0].device_kind}")

# %% [markdown]
# ## The forecast
#
# `tj.simulate` compiles one scan of `chunk_length` strides, `jax.jit(tj.rollout(sim.step, n))`,
# and calls it again and again. The first chunk waits for the compiler, the others do not. Where
# the buffer of neighbours turns out too small, the chunk is done again with a larger one.

# %%
neighbors = tj.neighbor_list(start.cell, cutoff=model.cutoff, skin=0.5)
thermostat = tj.csvr(temperature=temperature, time_constant=time_constant)
sim = tj.simulator(model.forecast, neighbors, thermostat, time_step=model.time_step)
state = sim.init(jax.random.key(seed), start)

parts, clock = [], time.perf_counter()
for state, frames in tj.simulate(sim, state, chunks, chunk_length):
    parts.append(frames)
    seconds, clock = time.perf_counter() - clock, time.perf_counter()
    simulated = 1e-3 * model.time_step * chunk_length
    print(f"{simulated:g} ps in {seconds:5.1f} s: {86.4 * simulated / seconds:.3g} ns/day")

trajectory = start.replace(
    positions=jnp.concatenate([part.positions for part in parts]),
    velocities=jnp.concatenate([part.velocities for part in parts]),
)
times = np.arange(1, len(trajectory.positions) + 1) * model.time_step  # fs
print("positions (time, atom, 3):", trajectory.positions.shape)

# %% [markdown]
# ## Temperature
#
# In the canonical ensemble the kinetic temperature of one frame is not the temperature of the
# bath: it fluctuates by $\sigma_T = T\sqrt{2/N_f}$, with $N_f = 3N - 3$ degrees of freedom. A
# thermostat that held it tighter would be wrong.

# %%
kelvin = block_observables.temperatures(trajectory)
dof = int(degrees_of_freedom(start))
sigma = observables.canonical_temperature_deviation(temperature, dof)

figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
axes.axhspan(temperature - sigma, temperature + sigma, color="0.88", label="canonical")
axes.plot(times * 1e-3, kelvin, lw=0.8, label="forecast")
axes.set(xlabel="time (ps)", ylabel="temperature (K)", xlim=(0, 1e-3 * times[-1]))
axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
plt.show()
print(f"mean {kelvin.mean():.1f} K, deviation {kelvin.std():.1f} K (canonical: {sigma:.1f} K)")

# %% [markdown]
# ## Structure
#
# The radial distribution function g(r) is the density of atoms B at a distance r from an atom A,
# over the mean density. Quartz is a crystal, so the peaks never die out; their widths are the
# thermal motion.

# %%
reference = block_observables.load(tj.pretrained("quartz") / "reference.npz")
later = observables.cut(trajectory, slice(len(times) // 10, None))  # the start is the reference's
numbers = {"Si": 14, "O": 8}

figure, panels = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
for axes, (a, b) in zip(panels, [("Si", "O"), ("O", "O"), ("Si", "Si")], strict=True):
    r, g = observables.radial_distribution_function(later, numbers[a], numbers[b], 8.0, 160)
    axes.fill_between(
        reference["rdf/r"], reference[f"rdf/{a}-{b}"].mean(axis=0), color="0.8", label="MD"
    )
    axes.plot(r, g, lw=1.2, label="forecast")
    axes.set(title=f"{a}–{b}", xlabel="r (Å)", ylabel="g(r)", xlim=(1, 8), ylim=(0, None))
panels[0].legend(frameon=False)
plt.show()

# %% [markdown]
# ## Vibrations
#
# The power spectrum of the velocities is the vibrational density of states (VDOS). Frames 30 fs
# apart only resolve frequencies below the Nyquist limit $1/(2c\,\Delta t)$ = 556 cm⁻¹. What
# vibrates faster does not vanish but appears *folded* back, ν at |1,112 cm⁻¹ − ν|: the Si–O
# stretching bands at 1,100 to 1,250 cm⁻¹ (dashed: MD with a frame every 5 fs) come out below 150.
# So compare only with a reference that was sampled every 30 fs as well (grey), and do not assign
# bands in a folded spectrum.

# %%
segment = round(5_000 / model.time_step)  # frames of a window; 5 ps resolve 7 cm⁻¹
limit = float(observables.nyquist_wavenumber(model.time_step))

figure, panels = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
for axes, (symbol, z) in zip(panels, numbers.items(), strict=True):
    velocities = later.velocities[:, observables.select(later, z)]
    wavenumbers, density = observables.vibrational_density_of_states(
        velocities, model.time_step, segment=segment
    )
    folded = reference[f"vdos/{symbol}"].mean(axis=0)
    axes.fill_between(
        reference["vdos/wavenumbers"], 1e3 * folded, color="0.8", label="MD, every 30 fs"
    )
    axes.plot(
        reference["vdos_stored/wavenumbers"], 1e3 * reference[f"vdos_stored/{symbol}"],
        color="0.4", lw=0.9, ls="--", label="MD, every 5 fs",
    )  # fmt: skip
    axes.plot(wavenumbers, 1e3 * density, lw=1.2, label="forecast")
    axes.axvline(limit, color="C3", lw=1, ls=":", label=f"Nyquist limit, {limit:.0f} cm⁻¹")
    axes.set(title=symbol, xlabel="wavenumber (cm⁻¹)", ylabel="VDOS (10⁻³ cm)")
    axes.set(xlim=(0, 1400), ylim=(0, None))
figure.legend(
    *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
)
plt.show()

# %% [markdown]
# ## The trajectory in three dimensions
#
# Every frame of the animation is one stride after the last, in real steps of 30 fs: nothing
# between them was ever computed. Sticks join silicon and oxygen atoms closer than 2 Å at the
# start.

# %%
first = np.asarray(start.positions)
silicon, oxygen = (observables.select(start, z) for z in (14, 8))
distances = np.linalg.norm(first[silicon][:, None] - first[oxygen], axis=-1)
bonds = [(silicon[i], oxygen[j]) for i, j in np.argwhere(distances < 2.0)]

figure = plt.figure(figsize=(5, 4), dpi=80)
axes = figure.add_axes((0, 0, 1, 0.95), projection="3d", proj_type="ortho")
axes.set_axis_off()
axes.view_init(elev=12, azim=-75)
balls = [
    axes.scatter(*first[atoms].T, s=size, color=color, edgecolor="k", lw=0.3, depthshade=True)
    for atoms, size, color in ((silicon, 70, "#d8b27a"), (oxygen, 35, "#d6403a"))
]
sticks = [axes.plot(*first[list(pair)].T, color="0.5", lw=1)[0] for pair in bonds]
axes.set_box_aspect(np.ptp(first, axis=0), zoom=1.5)


def draw(frame):
    """Moves balls and sticks to a frame of the trajectory."""
    positions = np.asarray(trajectory.positions[frame])
    for ball, atoms in zip(balls, (silicon, oxygen), strict=True):
        ball._offsets3d = tuple(positions[atoms].T)
    for stick, pair in zip(sticks, bonds, strict=True):
        stick.set_data_3d(*positions[list(pair)].T)
    axes.set_title(f"{times[frame]:.0f} fs", y=0.95)


plt.rcParams["animation.html"] = "jshtml"
animation = FuncAnimation(figure, draw, frames=shown, interval=80)
plt.close(figure)  # the animation is shown, not the figure that it is drawn on
animation

# %% [markdown]
# To take it elsewhere (OVITO, VMD, ASE), write it down; `tj.H5MDWriter` does so chunk by chunk for
# trajectories that do not fit into memory. For a frame that the mouse turns there is
# `ase.visualize.view(ase.io.read("quartz.extxyz"), viewer="x3d")`.

# %%
tj.write_extxyz("quartz.extxyz", observables.cut(trajectory, slice(None, None, 10)), times[::10])

# %% [markdown]
# ## What changes on a GPU or TPU
#
# - **No code.** In Colab choose *Runtime → Change runtime type* before the first cell. All arrays
#   are float32 and must not be anything else: TPUs have no float64, and nothing here asks for it.
# - **Matrix products.** Unless told otherwise, recent GPUs round what enters them to TF32 (three
#   digits) and TPUs to bfloat16 (two): a lattice vector of 14.90 Å becomes one of 14.88 Å.
#   `jax_default_matmul_precision`, set at the top, asks for all of float32; do so in your own
#   scripts too.
# - **Compile once.** Shapes are static: the number of atoms, the slots for neighbours, the length
#   of a chunk. Keep `chunk_length` the same and only change `chunks`. Temperature, time constant
#   and seed are data; changing them compiles nothing.
# - **Padding.** Systems of different size share a compiled program when they are padded to one
#   size: `trajcast_jax.system.pad(system, 192)` adds atoms of no mass that nobody sees.
# - **Nothing leaves the device within a chunk**, so longer chunks cost less overhead; memory for
#   the frames (12 bytes × 2 × atoms × frames) is the only limit. One small crystal does not fill a
#   GPU: `tj.replicate(sim)` runs many side by side, each with its own random numbers.
