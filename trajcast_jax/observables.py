"""What is measured on a trajectory: structure, dynamics, temperatures, and their errors.

A trajectory is a `System` whose positions (unwrapped) and velocities carry a leading
time axis, its frames evenly spaced. Its cell, species and mask must be concrete arrays,
for they decide shapes. Work is done in blocks of atoms, frames or channels, so that
memory does not grow with the trajectory. Results have the width of its floats.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from trajcast_jax.images import images_within
from trajcast_jax.mechanics import angular_velocity, arms, center_of_mass, kinetic_energy
from trajcast_jax.pairs import count_distances
from trajcast_jax.system import System
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV, WAVENUMBER_PER_INVERSE_FEMTOSECOND

CHANNELS_AT_ONCE = 96
"""Components of positions or velocities Fourier-transformed at once."""


@functools.partial(jax.jit, static_argnums=0)
def over_time(function: Callable[[System], Array], trajectory: System) -> Float[Array, "time ..."]:
    """`function` of every frame of a trajectory."""

    def frame(positions, velocities):
        return function(trajectory.replace(positions=positions, velocities=velocities))

    return jax.vmap(frame)(trajectory.positions, trajectory.velocities)


def cut(trajectory: System, frames: slice | int) -> System:
    """The frames of a trajectory that a slice selects; by a number, one frame without the axis."""
    return trajectory.replace(
        positions=trajectory.positions[frames], velocities=trajectory.velocities[frames]
    )


def select(system: System, species: int | None = None) -> Int[np.ndarray, "selected"]:
    """Indices of the atoms of one species (an atomic number), or of all real atoms."""
    chosen, there = np.asarray(system.mask), np.asarray(system.species)
    if species is None:
        return np.flatnonzero(chosen)
    if species not in there[chosen]:
        known = ", ".join(f"{z} ({chemical_symbols[z]})" for z in np.unique(there[chosen]))
        raise ValueError(
            f"There is no atom of species {species}: give the atomic number of one that the system "
            f"holds, {known}."
        )
    return np.flatnonzero(chosen & (there == species))


# Structure


def per_shell(counts: Float[Array, "bin"], cell, a, b, edges) -> Float[Array, "bin"]:
    """g(r) of the mean numbers of pairs a–b in shells, as `radial_distribution_function` has it."""
    if cell is None:
        expected = (len(a) * len(b) - np.isin(a, b).sum()) * jnp.diff(edges)
    else:
        density = len(b) / jnp.abs(jnp.linalg.det(cell))
        expected = len(a) * density * 4 * jnp.pi / 3 * jnp.diff(edges**3)
    return counts / jnp.maximum(expected, 1e-12)


def radial_distribution_function(
    trajectory: System, species_a: int, species_b: int, r_max: float, bins: int
) -> tuple[Float[Array, "bin"], Float[Array, "bin"]]:
    """g(r), averaged over frames: bin centres (Å) and values (no unit).

    g(r) = n_b(r) / (4π/3 (r₊³ − r₋³) N_b/V), with n_b(r) the mean number of b atoms in
    the shell r₋…r₊ about an a atom. All periodic images count, those of the atom itself
    too, so that `r_max` may exceed the cell, and a crystal has one g(r) whatever cell
    describes it. An ideal gas of N like atoms has 1 − 1/N at short distances. Without
    a cell there is no density: then it is the density of pair distances (1/Å), whose
    integral over all distances is 1.
    """
    a, b = select(trajectory, species_a), select(trajectory, species_b)
    positions, cell = trajectory.positions, trajectory.cell
    images = jnp.asarray(images_within(cell, r_max))
    counts = count_distances(positions, cell, a, b, images, r_max, bins=bins)
    counts = counts.astype(positions.dtype).mean(axis=0)
    edges = jnp.linspace(0.0, r_max, bins + 1, dtype=counts.dtype)
    return (edges[1:] + edges[:-1]) / 2, per_shell(counts, cell, a, b, edges)


# Dynamics


def _power(series: Float[Array, "time channel"], weights: Float[Array, "channel"], length: int):
    """Σ_c w_c |FFT(x_c)|² of the series padded with zeros to `length`, some channels at once."""
    time, channels = series.shape
    blocks = -(-channels // CHANNELS_AT_ONCE)
    extra = blocks * CHANNELS_AT_ONCE - channels
    series = jnp.pad(series, ((0, 0), (0, extra))).reshape(time, blocks, CHANNELS_AT_ONCE)
    weights = jnp.pad(weights, (0, extra)).reshape(blocks, CHANNELS_AT_ONCE)

    def add(total, block):
        values, weight = block
        spectrum = jnp.fft.rfft(values.T, length)
        return total + weight @ (spectrum.real**2 + spectrum.imag**2), None

    start = jnp.zeros(length // 2 + 1, series.dtype)
    return jax.lax.scan(add, start, (series.swapaxes(0, 1), weights))[0]


def _autocorrelation(series: Float[Array, "time channel"], weights: Float[Array, "channel"]):
    """Σ_c w_c ⟨x_c(t₀) x_c(t₀+t)⟩ over all origins t₀ (Wiener–Khinchin)."""
    time = series.shape[0]
    length = 1 << (2 * time - 1).bit_length()
    sums = jnp.fft.irfft(_power(series, weights, length), length)[:time]
    return sums / jnp.arange(time, 0, -1)


def _weights(weights, atoms: int, dtype) -> Float[Array, "channel"]:
    """Weights per component that sum to 3: they make sums over components means over atoms."""
    weights = jnp.ones(atoms, dtype) if weights is None else jnp.asarray(weights, dtype)
    return jnp.repeat(weights / weights.sum(), 3)


def mean_squared_displacement(
    trajectory: System, species: int | None = None
) -> Float[Array, "time"]:
    """⟨|r(t₀+t) − r(t₀)|²⟩ (Å²) at every lag, over all origins and the atoms of `species`.

    Positions are taken about the centre of mass of the whole system. By FFT (Kneller et
    al., Comput. Phys. Commun. 91, 191 (1995), doi:10.1016/0010-4655(95)00048-K), so that
    the rounding error goes with the largest squared displacement: use float64 for slow
    motion within a fast one. Fewer origins, more noise: trust lags up to a quarter.
    """
    return _squared_displacement(trajectory, jnp.asarray(select(trajectory, species)))


@jax.jit
def _squared_displacement(trajectory: System, atoms: Int[Array, "selected"]):
    centers = over_time(center_of_mass, trajectory)
    positions = trajectory.positions[:, atoms] - centers[:, None]
    time = positions.shape[0]
    series = (positions - positions.mean(axis=0)).reshape(time, -1)
    weights = _weights(None, len(atoms), series.dtype)
    squares = series**2 @ weights
    # The sums over origins t₀ of r²(t₀) + r²(t₀+t), as those over all frames less the ends.
    ends = jnp.cumsum(squares + squares[::-1]) - squares - squares[::-1]
    sums = 2 * squares.sum() - ends
    lagged = sums / jnp.arange(time, 0, -1) - 2 * _autocorrelation(series, weights)
    return jnp.maximum(lagged, 0.0).at[0].set(0.0)


@jax.jit
def velocity_autocorrelation(
    velocities: Float[Array, "time atom 3"], weights: Float[Array, "atom"] | None = None
) -> Float[Array, "time"]:
    """⟨v(t₀)·v(t₀+t)⟩ ((Å/fs)²) at every lag, over all origins and atoms.

    With `weights` (masses, say) the mean over atoms is weighted. Divide by its first
    value for the normalised function.
    """
    time, atoms, _ = velocities.shape
    series = velocities.reshape(time, -1)
    return _autocorrelation(series, _weights(weights, atoms, series.dtype))


def nyquist_wavenumber(time_step: float) -> float:
    """Highest resolved wavenumber 33356/(2Δt) (cm⁻¹); what is above folds back below it."""
    return WAVENUMBER_PER_INVERSE_FEMTOSECOND / (2 * time_step)


def vibrational_density_of_states(
    velocities: Float[Array, "time atom 3"],
    time_step: float,
    weights: Float[Array, "atom"] | None = None,
    segment: int | None = None,
) -> tuple[Float[Array, "frequency"], Float[Array, "frequency"]]:
    """Power spectrum of the velocities: wavenumbers (cm⁻¹), density (cm), integral 1.

    Wavenumbers run from 0 to the Nyquist limit 33356/(2Δt) cm⁻¹; vibrations above it
    appear folded below. `time_step` (fs) is that between frames. Welch's method: Hann
    windows of `segment` frames (even; all frames by default) that overlap by half, spectra
    averaged over windows, components and atoms (by `weights`: masses for a whole system).
    """
    time = velocities.shape[0]
    segment = 2 * (min(segment or time, time) // 2)
    if segment < 4:
        raise ValueError(f"A spectrum needs at least 4 frames, but there are {time}.")
    density = _welch(velocities, weights, segment)
    wavenumbers = jnp.linspace(0.0, nyquist_wavenumber(time_step), segment // 2 + 1)
    return wavenumbers, density / jnp.trapezoid(density, wavenumbers)


@functools.partial(jax.jit, static_argnames="segment")
def _welch(velocities, weights, segment: int) -> Float[Array, "frequency"]:
    time, atoms, _ = velocities.shape
    series = velocities.reshape(time, -1)
    weights = _weights(weights, atoms, series.dtype)
    window = jnp.asarray(np.hanning(segment + 1)[:-1], series.dtype)[:, None]

    def spectrum(start):
        part = jax.lax.dynamic_slice_in_dim(series, start, segment)
        return _power(part * window, weights, segment)

    starts = jnp.arange(0, time - segment + 1, segment // 2)
    return jax.lax.map(spectrum, starts).mean(axis=0)


def vdos_overlap(
    a: Float[ArrayLike, "frequency"], b: Float[ArrayLike, "frequency"]
) -> Float[ArrayLike, ""]:
    """1 − Σ|a − b| / Σ(a + b) of two densities on one grid: 1 if equal, 0 if disjoint.

    For normalised densities this is their common area ∫ min(a, b) (the score of Schran
    et al., PNAS 118, e2110077118 (2021), doi:10.1073/pnas.2110077118).
    """
    return 1 - abs(a - b).sum() / (a + b).sum()


# Temperature


def degrees_of_freedom_of_atoms(system: System, angular: bool = False) -> Float[Array, "atom"]:
    """Each atom's share of the degrees of freedom; they add up to 3N−3 (3N−6 if `angular`).

    At equilibrium ⟨½ m v²⟩ is half k_B T times this. Fixing the total momentum takes
    3m/M from an atom; fixing the angular momentum takes m (c² tr I⁺ − cᵀ I⁺ c) more,
    with c its arm about the centre of mass and I⁺ the inverse inertia tensor.
    """
    mass = system.masses
    share = 3.0 * system.mask - 3.0 * mass / jnp.sum(mass)
    if angular:
        arm = arms(system)
        inverse = jax.vmap(angular_velocity, (None, 0))(system, jnp.eye(3, dtype=arm.dtype))
        square = jnp.sum(arm**2, axis=-1) * jnp.trace(inverse)
        share = share - mass * (square - jnp.einsum("ia,ab,ib->i", arm, inverse, arm))
    return share


def temperature_by_species(
    trajectory: System, angular: bool = False
) -> dict[int, Float[Array, "time"]]:
    """Kinetic temperature (K) of each species over time, by its own degrees of freedom.

    In equilibrium all agree in the mean; `angular` for isolated molecules of fixed
    angular momentum.
    """
    species = np.asarray(trajectory.species)
    kinds = np.unique(species[species > 0])
    series = _temperatures(trajectory, jnp.asarray(species == kinds[:, None]), angular)
    return {int(z): row for z, row in zip(kinds, series.T, strict=True)}


@functools.partial(jax.jit, static_argnames="angular")
def _temperatures(trajectory: System, chosen: Bool[Array, "species atom"], angular: bool):
    def frame(system):
        masses = jnp.where(chosen, system.masses, 0.0)
        energies = jax.vmap(lambda m: kinetic_energy(system.replace(masses=m)))(masses)
        return 2 * energies / (BOLTZMANN * chosen @ degrees_of_freedom_of_atoms(system, angular))

    return over_time(frame, trajectory)


def canonical_temperature_deviation(temperature: float, dof: int) -> float:
    """σ_T = T √(2/N_f) (K): how far one frame's temperature strays in the canonical ensemble."""
    return temperature * (2 / dof) ** 0.5


@functools.partial(jax.jit, static_argnames="bins")
def speed_distribution(
    velocities: Float[Array, "time atom 3"], max_speed: float | Float[Array, ""], bins: int
) -> tuple[Float[Array, "bin"], Float[Array, "bin"]]:
    """Speeds (Å/fs, bin centres) and their density (fs/Å); what is faster than `max_speed` is
    missing from the integral."""
    speeds = jnp.linalg.norm(velocities, axis=-1).ravel()
    places = jnp.minimum(speeds * (bins / max_speed), bins).astype(jnp.int32)
    counts = jnp.zeros(bins, jnp.int32).at[places].add(1, mode="drop")
    width = max_speed / bins
    return (jnp.arange(bins) + 0.5) * width, counts / (speeds.size * width)


@jax.jit
def maxwell_boltzmann_density(
    speeds: Float[Array, "bin"],
    mass: float | Float[Array, ""],
    temperature: float | Float[Array, ""],
) -> Float[Array, "bin"]:
    """Density (fs/Å) of speeds at `temperature`: 4π v² (m/2πk_BT)^{3/2} exp(−mv²/2k_BT)."""
    inverse = mass * KINETIC_TO_EV / (BOLTZMANN * temperature)
    return jnp.sqrt(2 / jnp.pi) * inverse**1.5 * speeds**2 * jnp.exp(-inverse * speeds**2 / 2)


# Errors


@functools.partial(jax.jit, static_argnames="n_blocks")
def block_average(
    series: Float[Array, "time ..."], n_blocks: int
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Mean of a correlated series and its standard error.

    The error is that of the mean of `n_blocks` block means (Flyvbjerg and Petersen, J.
    Chem. Phys. 91, 461 (1989), doi:10.1063/1.457480): right when a block is longer than
    the correlation. A remainder that fills no block goes into the mean only. NaN when
    there are fewer than two blocks or frames than blocks.
    """
    length = series.shape[0] // n_blocks
    mean = series.mean(axis=0)
    if n_blocks < 2 or length < 1:
        return mean, jnp.full_like(mean, jnp.nan)
    blocks = series[: length * n_blocks].reshape(n_blocks, length, *series.shape[1:]).mean(axis=1)
    return mean, blocks.std(axis=0, ddof=1) / n_blocks**0.5


@functools.partial(jax.jit, static_argnames="n_blocks")
def drift(
    series: Float[Array, "time"], times: Float[Array, "time"], n_blocks: int = 10
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Slope of the least-squares line through a series, and its standard error.

    The error comes from the scatter of block means about the line, which are less
    correlated than frames are; NaN with fewer than three blocks or frames than blocks.
    """
    times = times - times.mean()
    slope = times @ (series - series.mean()) / (times @ times)
    length = len(series) // n_blocks
    if n_blocks < 3 or length < 1:
        return slope, jnp.full_like(slope, jnp.nan)
    t, y = (x[: length * n_blocks].reshape(n_blocks, length).mean(axis=1) for x in (times, series))
    t = t - t.mean()
    residuals = y - y.mean() - slope * t
    return slope, jnp.sqrt(residuals @ residuals / (n_blocks - 2) / (t @ t))
