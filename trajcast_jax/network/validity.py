"""Where a model is valid: what is measured on the frames that it has learned from."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.formula import Formula
from ase.neighborlist import neighbor_list as ase_neighbor_list

from trajcast_jax.config.settings import Count, Fraction, NonNegative, Positive
from trajcast_jax.mechanics import degrees_of_freedom, rigid_velocities, temperature
from trajcast_jax.system import System, heights
from trajcast_jax.units import DALTON_PER_CUBIC_ANGSTROM

FRAMES = 2_000
"""Frames, evenly spaced, in which distances are measured where neighbours are known already."""
SEARCHED = 20
"""Frames in which neighbours are searched where they are not."""
FORMULAS = 12
"""Compositions that are listed; the fractions of elements are of all of them."""

Range = tuple[NonNegative, NonNegative]
"""Smallest and largest value."""


@dataclasses.dataclass(frozen=True)
class Validity:
    """What a model has learned from; None and {} where it is not recorded.

    Ranges are (smallest, largest). Elements are chemical symbols, pairs of them "O-Si", in the
    order of atomic numbers.
    """

    species: tuple[str, ...]
    formulas: tuple[str, ...] = ()
    """Compositions: of molecules as they are, of periodic systems reduced."""
    fractions: dict[str, tuple[Fraction, Fraction]] = dataclasses.field(default_factory=dict)
    """Share of an element in the atoms of a system."""
    masses: dict[str, Range] = dataclasses.field(default_factory=dict)  # Da
    temperature: Range | None = None
    """K, without what a temperature of so few atoms fluctuates by."""
    number_density: Range | None = None  # 1/Å³
    mass_density: Range | None = None  # g/cm³
    cutoff: Positive | None = None  # Å
    neighbors: Range | None = None
    """Mean number of neighbours within the cutoff of the atoms of a frame."""
    shortest_cell: Positive | None = None
    """Å, smallest perpendicular height of all cells."""
    longest_cell: Positive | None = None
    """Å, largest perpendicular height of all cells."""
    periodic: bool | None = None
    atoms: tuple[Count, Count] | None = None
    closest: dict[str, NonNegative] = dataclasses.field(default_factory=dict)
    """Å, smallest distance of a pair of elements; without those that are never in the cutoff."""
    fastest: dict[str, NonNegative] = dataclasses.field(default_factory=dict)
    """Å/fs, largest speed of an element."""
    stride: Positive | None = None  # fs

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for part in value.values() if isinstance(value, dict) else (value,):
                numbers = isinstance(part, tuple) and len(part) == 2
                if numbers and not isinstance(part[0], str) and part[0] > part[1]:
                    raise ValueError(
                        f"Setting 'validity.{field.name}' must be (smallest, largest), but is "
                        f"{part}."
                    )


def validity_of(frames, time_step: float | None = None, cutoff: float | None = None) -> Validity:
    """Measure where a model is valid that has learned from `frames`.

    Args:
      frames: `FramePairs`, or a trajectory (a System with a time axis), or several of these.
      time_step: the stride, fs.
      cutoff: of the neighbours, Å; without it, neighbours and distances are not recorded.
    """
    several = frames if isinstance(frames, list | tuple) else [frames]
    parts = [_measured(part, cutoff) for part in several]
    return dataclasses.replace(functools.reduce(joined, parts), stride=time_step)


def joined(a: Validity, b: Validity) -> Validity:
    """The validity of a model that has learned from what both describe."""
    both = {field.name: _both(field.name, a, b) for field in dataclasses.fields(Validity)}
    for element in both["species"]:
        if not (element in a.species and element in b.species) and both["fractions"]:
            both["fractions"][element] = (0.0, both["fractions"][element][1])
    return Validity(**both)


def _both(name: str, a: Validity, b: Validity):
    x, y = getattr(a, name), getattr(b, name)
    if name in ("species", "formulas"):
        together = dict.fromkeys((*x, *y))
        return tuple(together if name == "species" else list(together)[:FORMULAS])
    if isinstance(x, dict):
        least = name == "closest"
        return {key: _range(x.get(key), y.get(key), least) for key in (x | y)}
    return _range(x, y, name == "shortest_cell") if name != "periodic" or x == y else None


def _range(x, y, least: bool):
    if x is None or y is None:
        return y if x is None else x
    if isinstance(x, tuple):
        return min(x[0], y[0]), max(x[1], y[1])
    return min(x, y) if least else max(x, y)


class _Part(NamedTuple):
    """Frames of one kind: arrays with a frame axis, and neighbours where they are known."""

    system: System
    neighbors: tuple[np.ndarray, np.ndarray] | None


def _frames(part) -> _Part:
    if hasattr(part, "displacements"):
        return _Part(part.system, (np.asarray(part.idx), np.asarray(part.shifts)))
    count = 1 if part.positions.ndim == 2 else part.positions.shape[0]
    moving = {
        name: np.asarray(getattr(part, name)).reshape(count, -1, 3)
        for name in ("positions", "velocities")
    }
    fixed = part.replace(positions=None, velocities=None)
    fixed = jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (count, *x.shape)), fixed)
    return _Part(fixed.replace(**moving), None)


def _measured(part, cutoff: float | None) -> Validity:
    system, known = _frames(part)
    species, masses = np.asarray(system.species), np.asarray(system.masses, float)
    numbers = np.unique(species[species > 0]).tolist()
    symbols = [chemical_symbols[z] for z in numbers]
    counts = np.stack([(species == z).sum(1) for z in numbers], axis=1)
    total, periodic = counts.sum(1), system.cell is not None
    kinds, kind = np.unique(counts, axis=0, return_inverse=True)
    speeds = np.linalg.norm(np.asarray(system.velocities, float), axis=-1)
    if hasattr(part, "displacements"):  # of both frames of a pair
        speeds = np.maximum(speeds, np.linalg.norm(np.asarray(part.velocities, float), axis=-1))
    each = {x: species == z for x, z in zip(symbols, numbers, strict=True)}
    found = {
        "species": tuple(symbols),
        "formulas": tuple(_formula(symbols, row, periodic) for row in kinds[:FORMULAS]),
        "fractions": {x: _span(counts[:, k] / total) for k, x in enumerate(symbols)},
        "masses": {x: _span(masses[here]) for x, here in each.items()},
        "temperature": _temperatures(system, kind.reshape(-1)),
        "periodic": periodic,
        "atoms": (int(total.min()), int(total.max())),
        "fastest": {x: _short(speeds[here].max()) for x, here in each.items()},
    }
    if periodic:
        cells = np.asarray(system.cell, float)
        volumes = np.abs(np.linalg.det(cells))
        lengths = np.asarray(jax.vmap(heights)(jnp.asarray(system.cell)), float)
        found |= {
            "number_density": _span(total / volumes),
            "mass_density": _span(masses.sum(1) / volumes * DALTON_PER_CUBIC_ANGSTROM),
            "shortest_cell": _short(lengths.min()),
            "longest_cell": _short(lengths.max()),
        }
    if cutoff is not None:
        neighbors, closest = _distances(system, known, cutoff)
        found |= {"cutoff": cutoff, "neighbors": neighbors, "closest": closest}
    return Validity(**found)


def _span(values: np.ndarray) -> tuple[float, float]:
    return _short(values.min()), _short(values.max())


def _short(value: float) -> float:
    """The value to as many digits as single precision has."""
    return float(f"{value:.7g}")


def _formula(symbols: list[str], counts: np.ndarray, periodic: bool) -> str:
    formula = Formula.from_dict({x: int(n) for x, n in zip(symbols, counts, strict=True) if n})
    return (formula.reduce()[0] if periodic else formula).format("hill")


def kinetic_temperature(system: System):
    """Temperature (K) of one frame, and its degrees of freedom.

    A system that moves as a whole is no hotter for it, nor is a molecule that turns.
    """
    isolated = system.cell is None
    inner = system.velocities - rigid_velocities(system, isolated)
    freedom = degrees_of_freedom(system, angular=isolated)
    return temperature(system.replace(velocities=inner), freedom), freedom


def _temperatures(system: System, kind: np.ndarray) -> tuple[float, float] | None:
    """Range of temperatures (K) of frames, by their kind (composition).

    A temperature of N_f degrees of freedom fluctuates by √(2/N_f) T by itself. What its variance
    is above that is taken for that of a uniform range of temperatures.
    """
    found, freedom = jax.jit(jax.vmap(kinetic_temperature))(jax.tree.map(jnp.asarray, system))
    found, freedom = np.asarray(found, float), np.asarray(freedom)
    ranges = []
    for k in np.unique(kind):
        kelvins, dof = found[kind == k], freedom[kind == k].mean()
        if not dof or not kelvins.any():
            continue
        mean = kelvins.mean()
        half = (3 * max(kelvins.var() - 2 * mean**2 / dof, 0.0)) ** 0.5
        ranges.append((max(kelvins.min(), mean - half), min(kelvins.max(), mean + half)))
    if not ranges:
        return None
    return _span(np.array(ranges))


def _distances(system: System, known, cutoff: float):
    """Range of the mean numbers of neighbours of frames, and the closest pairs (Å)."""
    species, closest, means = np.asarray(system.species), {}, []
    if known is not None:
        real = (species > 0).sum(1)
        means = (known[0] < species.shape[1]).sum((1, 2)) / real
    most = SEARCHED if known is None else FRAMES
    for frame in np.unique(np.linspace(0, len(species) - 1, most).astype(int)):
        one = jax.tree.map(lambda x, k=frame: np.asarray(x[k]), system)
        if known is None:
            atoms, other, lengths = pairs_within(one, cutoff)
            means = [*means, len(atoms) / max((species[frame] > 0).sum(), 1)]
        else:
            idx, shifts = (x[frame] for x in known)
            atoms, slot = np.nonzero(idx < len(idx))
            other = idx[atoms, slot]
            vectors = one.positions[other] - one.positions[atoms]
            if one.cell is not None:
                vectors = vectors + shifts[atoms, slot] @ one.cell
            lengths = np.linalg.norm(vectors, axis=-1)
        for pair, least in closest_pairs(species[frame], atoms, other, lengths).items():
            closest[pair] = min(least, closest.get(pair, least))
    return _span(np.asarray(means)), closest


def pairs_within(system: System, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of both atoms, and distances (Å), of all pairs of a frame, each in both directions.

    Indices are those of the real atoms, which come first.
    """
    mask = np.asarray(system.mask)
    periodic = system.cell is not None
    atoms = Atoms(
        np.asarray(system.species)[mask],
        np.asarray(system.positions, float)[mask],
        cell=None if not periodic else np.asarray(system.cell, float),
        pbc=periodic,
    )
    if periodic:
        atoms.wrap()
    return ase_neighbor_list("ijd", atoms, cutoff)


def closest_pairs(
    species: np.ndarray, atoms: np.ndarray, other: np.ndarray, lengths: np.ndarray
) -> dict[str, float]:
    """Smallest distance (Å) of every pair of elements, "O-Si", among given pairs of atoms."""
    low = np.minimum(species[atoms], species[other])
    codes = low * len(chemical_symbols) + np.maximum(species[atoms], species[other])
    found = {}
    for code in np.unique(codes):
        first, second = divmod(int(code), len(chemical_symbols))
        pair = f"{chemical_symbols[first]}-{chemical_symbols[second]}"
        found[pair] = _short(lengths[codes == code].min())
    return found
