"""Read H5MD files of other programs, in the layouts that the specification allows.

Particles may stand in one group or in one for each species, their order may change (`id`), and
masses, species and the box may be fixed or given for every frame.
"""

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from trajcast_jax.io.h5md import open_h5md, patient, require_stored
from trajcast_jax.io.h5md_units import LENGTHS, require_one_unit, scales, unit_factor
from trajcast_jax.io.options import ReadOptions, note
from trajcast_jax.io.recording import Recording, decide_cell, select, without_massless
from trajcast_jax.io.species import (
    Elements,
    check_masses,
    from_labels,
    from_numbers,
    from_text,
)
from trajcast_jax.io.times import apart, rounding

PLURALS = {"velocity": "velocities", "image": "images", "id": "ids", "species": "species",
           "mass": "masses"}  # fmt: skip


class _Group(NamedTuple):
    """One group of particles; the frames' clock beside it."""

    positions: np.ndarray  # (time, atom, 3) in the file's unit
    velocities: np.ndarray
    labels: np.ndarray | None  # (atom,) species as they stand in the file
    masses: np.ndarray | None
    images: np.ndarray | None
    steps: np.ndarray | None
    times: np.ndarray | None  # in the file's unit


@patient
def read_layout(
    path: Path, selection: slice | int, options: ReadOptions, still: bool = False
) -> Recording:
    """Read the selected frames of all groups of particles.

    Raises:
      IndexError: there is no such frame.
      ValueError: the file lacks data, leaves units or elements open, or has what is not understood.
    """
    with open_h5md(path) as file:
        file.visititems(_require_stored)  # before memory is asked for
        names = _groups(file, path, still)
        length = _length(file["particles"], names, path, still)
        index = np.array(select(range(length), selection, path))
        groups = [_group(file["particles"][name], index, path, still) for name in names]
        names, groups = _without_repeats(names, groups, path)
        first = file["particles"][names[0]]
        require_one_unit(file["particles"], names, path)
        scale, unit = scales(first, groups, options, path, still)
        cell, stated = _box(file, names, scale["length"], index, options, path)
        elements = _elements(first, names, groups, options, path)
    _require_one_clock(groups, names, path)
    positions = scale["length"] * np.concatenate([g.positions for g in groups], axis=1)
    images = [g.images for g in groups]
    flagged = cell is not None and all(i is not None for i in images)
    if flagged:
        positions = positions + np.concatenate(images, axis=1) @ cell
    recording = Recording(
        positions=positions,
        velocities=scale["velocity"] * np.concatenate([g.velocities for g in groups], axis=1),
        species=elements.species,
        masses=elements.masses,
        cell=decide_cell(cell, stated, options, path, "has no boundary attribute"),
        index=index,
        velocity_unit="" if still else unit,
        steps=groups[0].steps,
        times=None if groups[0].times is None else scale["time"] * groups[0].times,
        rounding=0.0 if groups[0].times is None else scale["time"] * rounding(groups[0].times),
        unwrapped=flagged,
        factor=scale["velocity"],
        unit_hint="mend the unit attribute of velocity/value.",
    )
    return without_massless(recording, path)


def _require_stored(_, item) -> None:
    if isinstance(item, h5py.Dataset):
        require_stored(item)


def _groups(file, path: Path, still: bool) -> list[str]:
    """Names of the groups of particles, all with what a system needs."""
    particles = file.get("particles", {})
    particles = particles if isinstance(particles, h5py.Group) else {}
    names = [n for n in particles if isinstance(particles[n], h5py.Group)]
    needed = ["position/value"] if still else ["position/value", "velocity/value"]
    missing = [n for n in needed if not names or any(n not in particles[g] for g in names)]
    if missing:
        what = "no velocities" if missing == ["velocity/value"] else f"no {missing[0]}"
        where = next((f" of '{g}'" for g in names if missing[0] not in particles[g]), "")
        raise ValueError(
            f"{path} is an HDF5 file with {what}{where} under 'particles'; give an H5MD trajectory "
            "with positions, velocities and species."
        )
    return names


def _without_repeats(names: list[str], groups: list[_Group], path: Path):
    """The groups of particles without those whose atoms are all in another group, with a word."""
    if any(len(g.positions) == 0 for g in groups):
        return names, groups
    first = [set(map(tuple, g.positions[0])) for g in groups]
    kept = []
    for i, atoms in enumerate(first):
        others = [
            k for k, other in enumerate(first)
            if k != i and atoms <= other and (len(atoms) < len(other) or k < i)
        ]  # fmt: skip
        if others:
            note(
                f"{path}: the atoms of group '{names[i]}' are also in '{names[others[0]]}'; the "
                "first was left out."
            )
        else:
            kept.append(i)
    return [names[i] for i in kept], [groups[i] for i in kept]


def _length(particles: h5py.Group, names: list[str], path: Path, still: bool) -> int:
    """Number of frames that all groups have; a word on those that some lack.

    Raises:
      ValueError: some have fewer, and steps or times do not tell that the last ones are missing.
    """
    parts = ("position",) if still else ("position", "velocity")
    elements = [particles[name][part] for name in names for part in parts]
    lengths = [len(element["value"]) for element in elements]
    length = min(lengths)
    if length == max(lengths):
        return length
    few, many = elements[int(np.argmin(lengths))], elements[int(np.argmax(lengths))]
    if not any(name in few and name in many for name in ("step", "time")):
        raise ValueError(
            f"{path} has {length} frames in {few.name}, but {max(lengths)} in {many.name}, and "
            "does not tell the steps of both; write them together."
        )
    note(
        f"{path} has {length} frames in {few.name}, but {max(lengths)} in {many.name}; what has no "
        "counterpart was left out."
    )
    return length


def _group(group: h5py.Group, index: np.ndarray, path: Path, still: bool) -> _Group:
    """Read one group, rows in the order of their ids."""
    n_atoms = group["position/value"].shape[1]
    order = None
    if "id" in group:
        ids = _over_time(group["id"], index)
        if ids.shape[-1] != n_atoms or any(len(np.unique(row)) != n_atoms for row in ids):
            raise ValueError(
                f"{path} has ids of particles in {group.name}/id that are not unique; a trajectory "
                "must keep its atoms."
            )
        order = np.argsort(ids, axis=1)
        if np.any(np.sort(ids, axis=1) != np.sort(ids[0])):
            raise ValueError(f"The ids of particles in {group.name} of {path} change; split it.")
        order = np.broadcast_to(order, (len(index), n_atoms))

    def rows(name: str):
        values = _over_time(group[name], index)
        if order is None:
            return values
        values = np.broadcast_to(values, (len(index), *values.shape[1:]))
        picked = order.reshape(order.shape + (1,) * (values.ndim - 2))
        return np.take_along_axis(values, picked, axis=1)

    def constant(name: str):
        if name not in group:
            return None
        values = rows(name)
        if np.any(values != values[:1]):
            raise ValueError(
                f"The {name} of particles in {group.name} of {path} changes along the trajectory; "
                "it must keep its atoms and, without an id, their order."
            )
        return values[0]

    element = group["position"]
    steps, times = (_clock(element, name, index) for name in ("step", "time"))
    for name in ("velocity", "image", "id", "species", "mass"):
        if isinstance(group.get(name), h5py.Group) and not (still and name == "velocity"):
            _require_at_once(element, group[name], index, path)
    positions = rows("position")
    return _Group(
        positions=np.asarray(positions, np.float64),
        velocities=np.zeros(positions.shape) if still else np.asarray(rows("velocity"), np.float64),
        labels=constant("species"),
        masses=constant("mass"),
        images=rows("image") + np.zeros_like(positions, float) if "image" in group else None,
        steps=steps,
        times=times,
    )


def _over_time(element, index: np.ndarray) -> np.ndarray:
    """Values (time or 1, ...) of an element that is fixed or given for every frame."""
    if isinstance(element, h5py.Dataset):
        return element[()][None]
    data = element["value"]
    if len(index) == 0:
        return np.empty((0, *data.shape[1:]), data.dtype)
    low, high = index.min(), index.max() + 1
    if high > len(data):
        raise ValueError(f"{element.name} has {len(data)} frames, but {high} are needed.")
    return data[low:high][index - low]


def _clock(element, name: str, index: np.ndarray) -> np.ndarray | None:
    """Steps or times (time,) in the file's unit; H5MD also allows to store the spacing only."""
    if name not in element:
        return None
    data = element[name]
    if data.ndim == 0:
        return float(data.attrs.get("offset", 0.0)) + float(data[()]) * index
    values = np.asarray(data[()])
    if len(index) and index.max() >= len(values):
        raise ValueError(
            f"{data.name} has {len(values)} entries, but frame {index.max()} is asked for"
        )
    return values[index]


def _require_at_once(positions, other, index, path: Path) -> None:
    """Positions and another element are those of the same steps and times, as far as both tell."""
    what = f"positions and {PLURALS[other.name.rsplit('/', 1)[-1]]}"
    for name in ("step", "time"):
        mine, its = (_clock(element, name, index) for element in (positions, other))
        if mine is None or its is None:
            continue
        off = apart(mine, its)
        if off.any():
            i = int(np.argmax(off))
            raise ValueError(
                f"{path} stores {what} at different steps (frame {index[i]}: {name} {mine[i]:g} "
                f"and {its[i]:g}); give a file that has both of every frame."
            )


def _require_one_clock(groups: list[_Group], names: list[str], path: Path) -> None:
    for group, name in zip(groups[1:], names[1:], strict=True):
        for mine, its in ((groups[0].steps, group.steps), (groups[0].times, group.times)):
            if (mine is None) != (its is None) or (mine is not None and apart(mine, its).any()):
                raise ValueError(
                    f"The groups '{names[0]}' and '{name}' of {path} are stored at different "
                    "steps; write all particles at the same ones."
                )


def _box(file, names, length: float, index, options: ReadOptions, path: Path):
    """The cell (3, 3) in Å and whether the file says that it is periodic."""
    boxes = [file["particles"][n]["box"] for n in names if "box" in file["particles"][n]]
    if not boxes:
        if options.periodic is None and not options.cell:
            note(
                f"{path} has no box, and its atoms are read as isolated; say their cell (--cell a "
                "b c, in Å) or that there is none (--no-periodic)."
            )
        return None, None
    box = boxes[0]
    stated = None
    if "boundary" in box.attrs:
        boundary = np.atleast_1d(box.attrs["boundary"])
        boundary = [b.decode() if isinstance(b, bytes) else str(b) for b in boundary]
        if set(boundary) not in ({"none"}, {"periodic"}):
            raise ValueError(
                f"{path} is periodic in some directions only ({', '.join(boundary)}); give atoms "
                "that are periodic in all three or in none."
            )
        stated = set(boundary) == {"periodic"}
    if "edges" not in box or stated is False:
        return None, stated
    edges = box["edges"]
    cells = _over_time(edges, index)
    if len(cells) and not np.allclose(cells, cells[0], rtol=1e-5):
        raise ValueError(f"The cell changes along {path}; only constant volume can be used.")
    if not len(cells):
        return None, stated
    data = edges if isinstance(edges, h5py.Dataset) else edges["value"]
    cell = cells[0]
    cell = np.diag(np.broadcast_to(cell, 3)) if cell.ndim < 2 else cell
    return cell * (unit_factor(data, LENGTHS, path) or length), stated


def _elements(first, names, groups, options: ReadOptions, path: Path) -> Elements:
    """Elements of the atoms of all groups."""
    masses = None
    if all(g.masses is not None for g in groups):
        masses = np.concatenate([g.masses for g in groups]).astype(float)
    if any(g.labels is None for g in groups):
        labels = np.repeat(names, [g.positions.shape[1] for g in groups])
        return from_labels(labels, options, path, masses, kind="group")
    labels = np.concatenate([np.asarray(g.labels) for g in groups])
    data = (
        first["species"] if isinstance(first["species"], h5py.Dataset) else first["species/value"]
    )
    enum = h5py.check_enum_dtype(data.dtype)
    if enum:
        name_of = {value: name for name, value in enum.items()}
        labels = np.array([name_of.get(int(x), str(x)) for x in labels])
    if labels.dtype.kind in "SUO":
        labels = [x.decode() if isinstance(x, bytes) else str(x) for x in labels]
        if options.species:
            return from_labels(labels, options, path, masses, kind="name")
        return check_masses(from_text(labels, path, masses), labels, masses, path)
    return from_numbers(labels, options, path, masses)
