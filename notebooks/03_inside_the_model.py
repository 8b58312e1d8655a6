# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Inside the model: what is built in, what is learned, what is missed
#
# A forecast is a map from positions and velocities to positions and velocities one stride later.
# Some laws hold because of how the network is built (symmetry), some because its output is
# projected onto them (momentum), some only as far as they were learned (energy, equipartition).
# This notebook sees each in numbers, on the shipped model of α-quartz.

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

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from trajcast_jax import averages
from trajcast_jax.analysis import block_observables, observables
from trajcast_jax.mechanics import center_of_mass, degrees_of_freedom, momentum
from trajcast_jax.neighbors.graph import graph
from trajcast_jax.network.model import block_irreps, feature_irreps
from trajcast_jax.system import minimum_image
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV

# Only matters on a GPU or TPU, whose matrix products are not full float32 by themselves.
jax.config.update("jax_default_matmul_precision", "highest")
plt.rcParams.update({"figure.dpi": 90, "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## Settings

# %%
FAST = "TRAJCAST_NOTEBOOK_FAST" in os.environ  # set by the tests: the same cells, less to do
strides = 20 if FAST else 600  # of 30 fs
temperature = 300.0  # K
seed = 0

# %% [markdown]
# ## One stride, part by part
#
# `model.forecast(system, neighbors)` does all of this at once. The **graph** holds the vectors to
# all neighbours within the cutoff; they and the velocities are all that the **network** sees, so
# that it cannot know where the origin is. Its output is two vectors per atom, `fields` gives them
# units (by `statistics`, measured on the training set) and projects them onto the conserved
# momentum.

# %%
model = tj.restore(tj.pretrained("quartz"))
start = tj.read(tj.pretrained("quartz") / "start.extxyz")
forecaster, dt = model.forecaster, model.time_step
neighbors = tj.neighbor_list(start.cell, cutoff=model.cutoff, skin=0.5)
listed = neighbors.allocate(start)


@jax.jit
def stride(system):
    """The system a stride later, and the network's own output (atom, 2, 3), without units."""
    edges = graph(system, neighbors.update(listed, system), model.cutoff)
    raw = forecaster.model.apply(model.params, *forecaster.inputs(system, edges))
    displacements, velocities = forecaster.fields(system, raw)
    return system.replace(positions=system.positions + displacements, velocities=velocities), raw


after, raw = stride(start)
moved = float(jnp.sqrt(jnp.mean((after.positions - start.positions) ** 2)))
speed = float(jnp.sqrt(jnp.mean(start.velocities**2)))
print(f"RMS per component: displacement {moved:.3f} Å, velocity {speed:.5f} Å/fs; {raw.dtype}")

# %% [markdown]
# ## Features and their sizes
#
# Features are not plain numbers but know how they turn: `48x0e` are 48 scalars, `48x1o` 48 vectors
# (three components, odd under inversion); a network of `lmax` 2 would have `2e` too, symmetric
# traceless tensors (five components). Every layer only makes combinations that turn in the same
# way. In a block messages from the neighbours are summed (`convolved`), multiplied with the atom's
# own velocity and passed through a gate (`gated`: the additional scalars open and close the
# vectors). The last block makes vectors only, for nothing else is read out. `substeps` are the
# weights of how neighbours pull at each other in the ten substeps of a stride.

# %%
settings = model.settings
h = feature_irreps(settings.channels, settings.lmax, "natural")
rows = [("embedding", "", "", h)]
for number in range(settings.blocks):
    parts = block_irreps(settings, number, h)
    h = parts.out
    rows.append((f"block {number}", parts.convolved, parts.gated, h))
print(f"{'':12}{'convolved':22}{'gated':22}{'out':22}{'numbers per atom':>17}")
for name, convolved, gated, out in rows:
    print(f"{name:12}{convolved!s:22}{gated!s:22}{out!s:22}{out.dim:17}")

print()
for name, part in sorted(model.params["params"].items()):
    print(f"{name:14}{sum(x.size for x in jax.tree.leaves(part)):8,} weights")

# %% [markdown]
# ## Symmetry
#
# If g turns, reflects, shifts or renumbers a crystal and f is the forecast, then f(g(x)) =
# g(f(x)): it does not matter whether one turns before or after. It holds for any weights, to the
# rounding of float32: a coordinate of 15 Å is only stored to 10⁻⁶ Å. Quartz is chiral: its mirror
# image is another crystal (left instead of right quartz), which the network has never seen and
# forecasts all the same.
#
# The last row shows a symmetry of Newton's equations that is **not** built in: in a moving frame
# all velocities have one constant more, and absolute velocities are what the network sees. So
# forecast with the centre of mass at rest.

# %%
rng = np.random.default_rng(seed)
rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
rotation *= np.sign(np.linalg.det(rotation))
order = rng.permutation(len(start.masses))
wind = jnp.asarray([1e-3, 0.0, 0.0])  # Å/fs


def turned(system, matrix):
    """Positions, velocities and cell, all turned or reflected by an orthogonal matrix."""
    matrix = jnp.asarray(matrix, system.positions.dtype).T
    names = ("positions", "velocities", "cell")
    return system.replace(**{name: getattr(system, name) @ matrix for name in names})


def renumbered(system):
    """The same atoms in another order."""
    names = ("positions", "velocities", "masses", "species", "mask")
    return system.replace(**{name: getattr(system, name)[order] for name in names})


symmetries = {
    "rotation": lambda s: turned(s, rotation),
    "reflection": lambda s: turned(s, np.diag([-1.0, 1.0, 1.0])),
    "translation": lambda s: s.replace(positions=s.positions + jnp.asarray([1.0, 2.0, 3.0])),
    "other image of an atom": lambda s: s.replace(positions=s.positions.at[0].add(s.cell[1])),
    "permutation": renumbered,
    "moving frame (not built in)": lambda s: s.replace(velocities=s.velocities + wind),
}
print(f"{'':30}{'largest deviation of velocities / RMS velocity':>46}")
for name, g in symmetries.items():
    deviation = jnp.abs(stride(g(start))[0].velocities - g(after).velocities).max()
    print(f"{name:30}{float(deviation) / speed:46.1e}")

# %% [markdown]
# ## Momentum
#
# The network knows nothing of Newton's third law: the momenta of its output do not quite cancel. A
# projection removes what is left (one velocity, the same for all atoms) and moves the centre of
# mass by exactly $\mathbf P\,\Delta t/M$. It is part of the training too, so that the network need
# not learn it.

# %%
scales = forecaster.scales(start.species, raw.dtype)
baselines = forecaster.baselines(start.species, raw.dtype)
unprojected = baselines[..., None] * start.velocities[:, None] + scales[..., None] * raw
total = float(jnp.sum(start.masses * jnp.linalg.norm(start.velocities, axis=-1)))  # Σ m |v|
for name, system in {
    "before the stride": start,
    "after, unprojected": start.replace(velocities=unprojected[:, 1]),
    "after": after,
}.items():
    size = float(jnp.linalg.norm(momentum(system)))
    print(f"{name:20} |P| = {size:.1e} Da·Å/fs, {size / total:.0e} of Σ m|v|")
shift = float(jnp.linalg.norm(center_of_mass(after) - center_of_mass(start)))
print(f"the centre of mass moved by {shift:.0e} Å, the atoms by {moved:.2f} Å")

# %% [markdown]
# ## How far a stride looks
#
# Shift one atom by 0.05 Å: whose displacement changes? Each of the five blocks passes messages one
# cutoff (4.4 Å) further, so that all of the cell could hear of that. In 30 fs sound travels 2 Å (6
# km/s), and the network has learned that a stride is nearly local: the response falls a hundredfold
# within two cutoffs. What is left farther away is what messages carry of the long range of the
# Coulomb forces. A model of ions in a liquid needs more of it (`model.far_field`).

# %%
shifted = start.replace(positions=start.positions.at[0, 0].add(0.05))
response = jnp.linalg.norm((stride(shifted)[1] - raw)[:, 0], axis=-1) * scales[:, 0]
distance = jnp.linalg.norm(minimum_image(start.positions - start.positions[0], start.cell), axis=-1)

figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
for symbol, z in {"Si": 14, "O": 8}.items():
    atoms = observables.select(start, z)
    axes.semilogy(distance[atoms], response[atoms] / 0.05, "o", ms=4, alpha=0.7, label=symbol)
for reach in (1, 2):
    axes.axvline(reach * model.cutoff, color="0.6", lw=0.8, ls=":")
axes.set(xlabel="distance from the shifted Si atom (Å)", ylabel="Δ displacement / shift (Å/Å)")
axes.set_title("dotted: one and two cutoffs", fontsize=10)
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## What the thermostat does
#
# CSVR (Bussi, Donadio and Parrinello, [doi:10.1063/1.2408420](https://doi.org/10.1063/1.2408420))
# multiplies all velocities by one random factor α, drawn such that the kinetic energy gets its
# canonical distribution after a few time constants τ. Directions, ratios between atoms and the
# total momentum stay.

# %%
thermostat = tj.csvr(temperature=temperature, time_constant=75.0)
sim = tj.simulator(model.forecast, neighbors, thermostat, time_step=dt)
state = sim.init(jax.random.key(seed), start)
_, rescaled = jax.jit(thermostat.apply)(state.coupling, after, jax.random.key(1), dt)
alpha = np.asarray(rescaled.velocities / after.velocities)
print(f"α of all {alpha.size} components: {np.median(alpha):.5f}, spread {np.ptp(alpha):.0e}")

# %% [markdown]
# Temperature and time constant are data in the state of the simulation, not constants of the
# compiled program: the same compiled rollout runs with another thermostat, or with τ so long that
# there is none. Then the temperature should fluctuate less (a harmonic crystal at constant energy:
# $\sigma_T/\sqrt2$ = 14 K, and so does the MD) about a mean that stays. It wanders: nothing in the
# model conserves energy, and errors that favour one direction add up.

# %%
run = jax.jit(tj.rollout(sim.step, strides))
couplings = {"τ = 75 fs": thermostat, "no thermostat": tj.csvr(temperature, time_constant=1e12)}
runs = {}
for name, coupling in couplings.items():
    begin = state.replace(coupling=coupling.init(jax.random.key(seed), start))
    end, runs[name] = run(begin)
    assert not end.neighbors.overflow, "too few slots for neighbours: use tj.simulate instead"
times = np.arange(1, strides + 1) * dt * 1e-3  # ps

sigma = observables.canonical_temperature_deviation(temperature, int(degrees_of_freedom(start)))
figure, (axes, side) = plt.subplots(
    1, 2, figsize=(9, 3.2), sharey=True, width_ratios=(4, 1), layout="constrained"
)
axes.axhspan(temperature - sigma, temperature + sigma, color="0.88", lw=0)
kelvin = np.linspace(temperature - 4 * sigma, temperature + 4 * sigma, 100)
side.fill_betweenx(
    kelvin,
    np.exp(-(((kelvin - temperature) / sigma) ** 2) / 2) / (sigma * (2 * np.pi) ** 0.5),
    color="0.88", label="canonical",
)  # fmt: skip
for name, trajectory in runs.items():
    series = block_observables.temperatures(trajectory)
    axes.plot(times, series, lw=0.8, label=name)
    side.hist(series, bins=25, density=True, orientation="horizontal", histtype="step")
    print(f"{name:15} mean {series.mean():.0f} K, standard deviation {series.std():.0f} K")
axes.set(xlabel="time (ps)", ylabel="temperature (K)", xlim=(0, times[-1]))
axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
side.set(xlabel="density", xticks=[])
side.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1))
plt.show()

# %% [markdown]
# ## Why one temperature is not enough
#
# At equilibrium every degree of freedom has the same temperature, however one cuts the crystal. A
# forecast that damps some vibrations and drives others breaks this, and a factor common to all
# velocities cannot mend it: the thermostat makes the *mean* right and hides the rest. Two cuts
# that show it:
#
# - **by element**: $T_s = 2K_s/(N_s k_B)$, by `temperature_by_species`, which gives each element
#   its share $N_s$ of the degrees of freedom;
# - **along the bonds**: for a Si–O bond along $\mathbf n$, $\mu\langle(\mathbf n\cdot(\mathbf
#   v_{\rm O}-\mathbf v_{\rm Si}))^2\rangle = k_BT$ with the reduced mass μ. It weighs the stiff
#   stretching vibrations most.

# %%
held = observables.cut(runs["τ = 75 fs"], slice(strides // 10, None))
silicon, oxygen = (observables.select(start, z) for z in (14, 8))
separation = minimum_image(start.positions[oxygen] - start.positions[silicon][:, None], start.cell)
bonds = np.argwhere(np.linalg.norm(separation, axis=-1) < 2.0)
si, o = silicon[bonds[:, 0]], oxygen[bonds[:, 1]]

direction = minimum_image(held.positions[:, o] - held.positions[:, si], start.cell)
direction = direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)
stretch = jnp.sum(direction * (held.velocities[:, o] - held.velocities[:, si]), axis=-1)  # Å/fs
reduced = 1 / (1 / start.masses[si] + 1 / start.masses[o])  # Da

by_species = observables.temperature_by_species(held)
series = {
    "all": jnp.asarray(block_observables.temperatures(held)),
    "Si": by_species[14],
    "O": by_species[8],
    "Si–O bonds": (reduced * stretch**2).mean(axis=1) * KINETIC_TO_EV / BOLTZMANN,
}
reference = block_observables.load(tj.pretrained("quartz") / "reference.npz")

figure, axes = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
axes.axhline(temperature, color="0.6", lw=0.8)
for place, (name, values) in enumerate(series.items()):
    mean, error = averages.block_average(values, 5)
    label = "forecast" if place == 0 else None
    axes.errorbar(place, mean, error, fmt="o", ms=5, capsize=3, color="C0", label=label)
    print(f"{name:12} {mean:.0f} ± {error:.0f} K")
    if f"temperature/{name}" in reference:
        axes.plot(
            place + 0.12, reference[f"temperature/{name}"].mean(), "s", ms=5, color="0.5",
            label="MD" if place == 0 else None,
        )  # fmt: skip
axes.set(ylabel="temperature (K)", xlim=(-0.5, 3.5))
axes.set_xticks(range(4), series)
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# The elements are 9 K apart, and the bonds are at 275 ± 7 K, where the reference MD has 296 ± 3 K
# by the same measure. `trajcast_jax.analysis.modes` cuts finest, mode by mode: `normal_modes` of a
# reference trajectory, `mode_temperatures` of any other (`python -m experiments.evaluate quartz
# --rollout DIR --modes`, in a clone of the repository with reference runs). What holds every
# vibration is a friction too weak to broaden the spectrum, beside the thermostat:
# `tj.chain(thermostat, tj.langevin(temperature, 5_000.0), tj.zero_momentum(1))`. So the command
# `rollout` runs quartz, and all bands of modes are then at 294 to 317 K. A model of the same
# one-step errors had some at 180 and others at 440 K before `python -m experiments.balance` led
# what a stride adds to each to 0. Look at such a cut before you trust a dynamical property.
#
# ## What changes on a GPU or TPU
#
# - **Precision.** The deviations above are those of float32 on a CPU. With
#   `jax_default_matmul_precision` left alone, a recent GPU rounds what enters a matrix product to
#   TF32, a TPU to bfloat16. Momenta are matrix products, and so are the lattice vectors in the
#   distances between images: symmetry and conservation would hold to three or two digits only.
#   Nothing needs float64, which a TPU does not have.
# - **Compile once.** `stride` and `run` were compiled once each and called with turned crystals
#   and other thermostats: new values, same shapes. Another number of atoms, of neighbour slots or
#   of strides compiles anew; `trajcast_jax.system.pad` brings systems to one size.
# - **On the device.** Neighbour lists, thermostat and its random numbers are part of the scan; the
#   host is not asked anything until it ends.
