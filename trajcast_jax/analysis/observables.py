"""Observables of a trajectory: structure, dynamics and temperatures.

A trajectory is a `System` whose positions (unwrapped) and velocities have a leading time axis of
evenly spaced frames. Its cell, species and mask must be concrete arrays, because they determine
shapes. Atoms, frames or channels are processed in blocks, so that memory does not grow with the
trajectory. Results have the float width of the trajectory.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from trajcast_jax.mechanics import angular_velocity, arms, center_of_mass, kinetic_energy
from trajcast_jax.neighbors.distances import count_distances
from trajcast_jax.neighbors.multi_image import images_within
from trajcast_jax.system import System
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV, WAVENUMBER_PER_INVERSE_FEMTOSECOND

CHANNELS_AT_ONCE = 96
"""Number of position or velocity components that are Fourier-transformed together."""


@functools.partial(jax.jit, static_argnums=0)
def over_time(function: Callable[[System], Array], trajectory: System) -> Float[Array, "time ..."]:
    """Apply `function` to every frame of a trajectory."""

    def frame(positions, velocities):
        return function(trajectory.replace(positions=positions, velocities=velocities))

    return jax.vmap(frame)(trajectory.positions, trajectory.velocities)


def cut(trajectory: System, frames: slice | int) -> System:
    """Select frames of a trajectory by a slice; an integer selects one frame without time axis."""
    return trajectory.replace(
        positions=trajectory.positions[frames], velocities=trajectory.velocities[frames]
    )


def select(system: System, species: int | None = None) -> Int[np.ndarray, "selected"]:
    """Indices of the atoms of one species (an atomic number), or of all real atoms.

    Raises:
      ValueError: the system has no atom of this species.
    """
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
    """Normalise mean numbers of pairs a–b in shells to g(r) of `radial_distribution_function`."""
    if cell is None:
        expected = (len(a) * len(b) - np.isin(a, b).sum()) * jnp.diff(edges)
    else:
        density = len(b) / jnp.abs(jnp.linalg.det(cell))
        expected = len(a) * density * 4 * jnp.pi / 3 * jnp.diff(edges**3)
    return counts / jnp.maximum(expected, 1e-12)


def radial_distribution_function(
    trajectory: System, species_a: int, species_b: int, r_max: float, bins: int
) -> tuple[Float[Array, "bin"], Float[Array, "bin"]]:
    """Radial distribution function averaged over frames: bin centres (Å) and g(r) (no unit).

    g(r) = n_b(r) / (4π/3 (r₊³ − r₋³) N_b/V), with n_b(r) the mean number of b atoms in the shell
    r₋…r₊ about an a atom. All periodic images count, including those of the central atom. So
    `r_max` (Å) may exceed the cell, and g(r) of a crystal does not depend on the choice of cell.
    An ideal gas of N like atoms has g = 1 − 1/N at short distances. Without a cell, the result is
    the density of pair distances (1/Å), whose integral over all distances is 1.
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
    """Σ_c w_c |FFT(x_c)|² of series zero-padded to `length`; channels are processed in blocks."""
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
    """Weights per component, with sum 3, that turn sums over components into means over atoms."""
    weights = jnp.ones(atoms, dtype) if weights is None else jnp.asarray(weights, dtype)
    return jnp.repeat(weights / weights.sum(), 3)


def mean_squared_displacement(
    trajectory: System, species: int | None = None
) -> Float[Array, "time"]:
    """Mean squared displacement ⟨|r(t₀+t) − r(t₀)|²⟩ (Å²) at every lag t.

    It is averaged over all time origins t₀ and the atoms of `species` (an atomic number; all atoms
    by default). Positions are relative to the centre of mass of the whole system. It is computed
    by FFT (Kneller et al., Comput. Phys. Commun. 91, 191 (1995),
    doi:10.1016/0010-4655(95)00048-K), so its rounding error is relative to the largest squared
    displacement. Use float64 if slow and fast motions are combined. Long lags have few origins
    and are noisy; use lags up to a quarter of the trajectory.
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
    # Sums over origins t₀ of r²(t₀) + r²(t₀+t): twice the sum of all frames, minus the ends.
    ends = jnp.cumsum(squares + squares[::-1]) - squares - squares[::-1]
    sums = 2 * squares.sum() - ends
    lagged = sums / jnp.arange(time, 0, -1) - 2 * _autocorrelation(series, weights)
    return jnp.maximum(lagged, 0.0).at[0].set(0.0)


@jax.jit
def velocity_autocorrelation(
    velocities: Float[Array, "time atom 3"], weights: Float[Array, "atom"] | None = None
) -> Float[Array, "time"]:
    """Velocity autocorrelation ⟨v(t₀)·v(t₀+t)⟩ ((Å/fs)²) at every lag t.

    It is averaged over all time origins and atoms, by `weights` (for instance masses) if given.
    Divide by the first value to normalise it.
    """
    time, atoms, _ = velocities.shape
    series = velocities.reshape(time, -1)
    return _autocorrelation(series, _weights(weights, atoms, series.dtype))


def nyquist_wavenumber(time_step: float) -> float:
    """Nyquist limit 33356/(2Δt) (cm⁻¹) for Δt in fs; higher wavenumbers fold back below it."""
    return WAVENUMBER_PER_INVERSE_FEMTOSECOND / (2 * time_step)


def vibrational_density_of_states(
    velocities: Float[Array, "time atom 3"],
    time_step: float,
    weights: Float[Array, "atom"] | None = None,
    segment: int | None = None,
) -> tuple[Float[Array, "frequency"], Float[Array, "frequency"]]:
    """Vibrational density of states: wavenumbers (cm⁻¹) and density (cm) with integral 1.

    It is the power spectrum of the velocities, from 0 to the Nyquist limit 33356/(2Δt) cm⁻¹, with
    Δt = `time_step` (fs) between frames. Vibrations above the limit fold back below it. Welch's
    method is used: Hann windows of `segment` frames (an even number; all frames by default)
    overlap by half. Spectra are averaged over windows, components and atoms; `weights` weight the
    atoms (use masses for a whole system).

    Raises:
      ValueError: there are fewer than 4 frames.
    """
    time = velocities.shape[0]
    segment = 2 * (min(segment or time, time) // 2)
    if segment < 4:
        raise ValueError(f"A spectrum needs at least 4 frames, but there are {time}.")
    return _welch(velocities, weights, segment, nyquist_wavenumber(time_step))


@functools.partial(jax.jit, static_argnames="segment")
def _welch(velocities, weights, segment: int, nyquist: float):
    time, atoms, _ = velocities.shape
    series = velocities.reshape(time, -1)
    weights = _weights(weights, atoms, series.dtype)
    window = jnp.asarray(np.hanning(segment + 1)[:-1], series.dtype)[:, None]

    def spectrum(start):
        part = jax.lax.dynamic_slice_in_dim(series, start, segment)
        return _power(part * window, weights, segment)

    starts = jnp.arange(0, time - segment + 1, segment // 2)
    density = jax.lax.map(spectrum, starts).mean(axis=0)
    wavenumbers = jnp.linspace(0.0, nyquist, segment // 2 + 1)
    return wavenumbers, density / jnp.trapezoid(density, wavenumbers)


def vdos_overlap(
    a: Float[ArrayLike, "frequency"], b: Float[ArrayLike, "frequency"]
) -> Float[ArrayLike, ""]:
    """Overlap 1 − Σ|a − b| / Σ(a + b) of two densities on one grid: 1 if equal, 0 if disjoint.

    For normalised densities this is their common area ∫ min(a, b), the score of Schran et al.,
    PNAS 118, e2110077118 (2021), doi:10.1073/pnas.2110077118.
    """
    return 1 - abs(a - b).sum() / (a + b).sum()


# Temperature


def degrees_of_freedom_of_atoms(system: System, angular: bool = False) -> Float[Array, "atom"]:
    """Share of every atom in the degrees of freedom; the sum is 3N−3 (3N−6 if `angular`).

    At equilibrium, ⟨½ m v²⟩ of an atom is ½ k_B T times its share. Conservation of the total
    momentum reduces the share by 3m/M, and that of the angular momentum by
    m (c² tr I⁺ − cᵀ I⁺ c), with c the position relative to the centre of mass and I⁺ the
    pseudo-inverse of the inertia tensor.
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
    """Kinetic temperature (K) of each species over time, with its own degrees of freedom.

    At equilibrium, the mean temperatures of all species agree. Set `angular` for isolated
    molecules with conserved angular momentum.
    """
    species = np.asarray(trajectory.species)
    kinds = np.unique(species[species > 0])
    series = _temperatures(trajectory, species == kinds[:, None], angular)
    return {int(z): row for z, row in zip(kinds, series, strict=True)}


@functools.partial(jax.jit, static_argnames="angular")
def _temperatures(trajectory: System, chosen: Bool[Array, "species atom"], angular: bool):
    def frame(system):
        masses = jnp.where(chosen, system.masses, 0.0)
        energies = jax.vmap(lambda m: kinetic_energy(system.replace(masses=m)))(masses)
        return 2 * energies / (BOLTZMANN * chosen @ degrees_of_freedom_of_atoms(system, angular))

    return tuple(over_time(frame, trajectory).T)


def canonical_temperature_deviation(temperature: float, dof: int) -> float:
    """Standard deviation σ_T = T √(2/N_f) (K) of the temperature in the canonical ensemble."""
    return temperature * (2 / dof) ** 0.5


@functools.partial(jax.jit, static_argnames="bins")
def speed_distribution(
    velocities: Float[Array, "time atom 3"], max_speed: float | Float[Array, ""], bins: int
) -> tuple[Float[Array, "bin"], Float[Array, "bin"]]:
    """Speeds (Å/fs, bin centres) and their probability density (fs/Å).

    Speeds above `max_speed` are in no bin, so the integral is below 1 if there are any.
    """
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
    """Maxwell–Boltzmann density (fs/Å) of speeds: 4π v² (m/2πk_BT)^{3/2} exp(−mv²/2k_BT).

    Speeds are in Å/fs, `mass` in Da and `temperature` in K.
    """
    inverse = mass * KINETIC_TO_EV / (BOLTZMANN * temperature)
    return jnp.sqrt(2 / jnp.pi) * inverse**1.5 * speeds**2 * jnp.exp(-inverse * speeds**2 / 2)
