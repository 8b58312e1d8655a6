"""Read text dumps of LAMMPS (`dump custom`), plain or gzipped: docs.lammps.org/dump.html."""

from pathlib import Path

import numpy as np

from trajcast_jax.io.lammps_text import Frame, select
from trajcast_jax.io.lammps_units import in_dalton, stated_units, units_of_lengths, which_units
from trajcast_jax.io.options import ReadOptions
from trajcast_jax.io.recording import Recording, decide_cell, without_massless
from trajcast_jax.io.species import (
    TINY,
    Elements,
    check_masses,
    from_labels,
    from_masses,
    from_symbols,
    from_text,
)
from trajcast_jax.io.times import rounding
from trajcast_jax.units import LAMMPS_UNITS

POSITIONS = ("xu", "xsu", "x", "xs")
"""Columns of positions, the first that is there is read: unwrapped ones rather than wrapped."""
COLUMNS = "dump 1 all custom 10 run.lammpstrj id type element xu yu zu vx vy vz"
CELL_TOLERANCE = 1e-4


def read_dump(
    path: Path, selection: slice | int, options: ReadOptions, still: bool = False
) -> Recording:
    """Read the selected frames of a dump, atoms sorted by their id.

    Raises:
      IndexError: there is no such frame.
      ValueError: the file lacks columns, its atoms or cell change, or it leaves its units, the
        elements or the boundaries open and the options do too.
    """
    frames = select(path, selection)
    first = frames[0]
    order = _order(first, path, len(frames))
    tables = [_table(frame, first, path) for frame in frames]
    _check_texts(frames, tables, path)
    tables = [t if order is None else t[np.argsort(_ids(t, first, path))] for t in tables]
    columns = {name: i for i, name in enumerate(_numeric(first))}
    _check_same(frames, tables, columns, _is_isolated(first, options, path), path)
    table = np.stack(tables)
    raw = _raw_velocities(table, columns, path, still)
    units = stated_units(first, options, path)
    masses = None
    if "mass" in columns:
        masses = in_dalton(table[0][:, columns["mass"]], units, path)
    elements = _elements(first, table[0], columns, masses, order, options, path)
    boxes = [_box(frame, path) for frame in frames]
    vectors, origins = (np.stack(x) for x in zip(*boxes, strict=True))
    positions, unwrapped = _positions(table, columns, vectors, origins, path)
    if not units and still:
        box = None if _periodic(first, path) is False else vectors[0]
        units = units_of_lengths(positions[0], elements, box, path)
    elif not units:
        raise ValueError(which_units(raw, elements, options, path))
    length, time, speed, _ = LAMMPS_UNITS[units]
    cell = decide_cell(
        length * vectors[0], _periodic(first, path), options, path,
        "its ITEM: BOX BOUNDS has no boundary flags (pp pp pp)",
    )  # fmt: skip
    told = [frame.time for frame in frames]
    recording = Recording(
        positions=length * positions,
        velocities=speed * raw,
        species=elements.species,
        masses=elements.masses,
        cell=cell,
        index=np.array([frame.number for frame in frames]),
        velocity_unit="" if still else f"units {units}",
        steps=np.array([frame.step for frame in frames]),
        times=None if None in told else time * np.array(told, float),
        rounding=0.0 if None in told else time * rounding(np.array(told, float)),
        unwrapped=unwrapped,
        factor=speed,
        unit_hint="say LAMMPS's unit style of this dump by units (--units metal, real, ...).",
    )
    return without_massless(recording, path)


def _numeric(frame: Frame) -> list[str]:
    """Names of the columns that are read as numbers."""
    return [c for c in frame.columns if c not in ("element", "typelabel", "mol_label")]


def _table(frame: Frame, first: Frame, path: Path) -> np.ndarray:
    """The numeric columns (atom, column) of a frame."""
    if frame.columns != first.columns:
        raise ValueError(
            f"Frame {frame.number} of {path} has the columns {' '.join(frame.columns)}, but the "
            f"first {' '.join(first.columns)}; read the parts one by one (--first, --last)."
        )
    if len(frame.rows) != len(first.rows):
        raise ValueError(
            f"Frame {frame.number} of {path} has {len(frame.rows)} atoms, but the first has "
            f"{len(first.rows)}; a trajectory must keep its atoms: split the file."
        )
    use = [frame.columns.index(name) for name in _numeric(frame)]
    try:
        return np.loadtxt(frame.rows, usecols=use, ndmin=2, comments=None)
    except ValueError as error:
        raise ValueError(f"Frame {frame.number} of {path} cannot be read: {error}.") from error


def _text_column(frame: Frame, name: str) -> np.ndarray:
    k = frame.columns.index(name)
    return np.array([row.split()[k] for row in frame.rows])


def _order(first: Frame, path: Path, n_frames: int) -> np.ndarray | None:
    """Order of the first frame's rows by id; None if there are no ids."""
    if "id" in first.columns:
        return np.argsort(_ids(_table(first, first, path), first, path))
    if n_frames > 1:
        raise ValueError(
            f"{path} has no column 'id', and LAMMPS changes the order of atoms between frames; "
            f"write it: {COLUMNS}."
        )
    return None


def _ids(table: np.ndarray, first: Frame, path: Path) -> np.ndarray:
    ids = table[:, _numeric(first).index("id")].astype(int)
    if len(np.unique(ids)) != len(ids):
        raise ValueError(f"{path} has two atoms of one id in a frame; number them apart.")
    return ids


def _is_isolated(first: Frame, options: ReadOptions, path: Path) -> bool:
    """Whether the box is none of periodic atoms: it may follow them (boundary s or m)."""
    stated = _periodic(first, path)
    return (options.periodic is False and not options.cell) if stated is None else not stated


def _check_same(frames, tables, columns, isolated: bool, path: Path) -> None:
    """Ids and types are the same in all frames, and the cell unless atoms are isolated."""
    first = frames[0]
    for frame, table in zip(frames[1:], tables[1:], strict=True):
        for name in ("id", "type"):
            same = name not in columns or np.array_equal(
                table[:, columns[name]], tables[0][:, columns[name]]
            )
            if not same:
                raise ValueError(
                    f"The {name}s of atoms in frame {frame.number} of {path} are not those of the "
                    "first; a trajectory must keep its atoms: split the file."
                )
        scale = CELL_TOLERANCE * np.abs(first.box).max()
        other = frame.box.shape != first.box.shape
        if not isolated and (other or np.abs(frame.box - first.box).max() > scale):
            open_ = "" if first.flags else " Say if its atoms are isolated (--no-periodic)."
            raise ValueError(
                f"The cell of frame {frame.number} of {path} is not that of the first (constant "
                f"pressure?); only trajectories at constant volume can be used.{open_}"
            )
        if frame.flags != first.flags:
            raise ValueError(f"The boundaries change in frame {frame.number} of {path}; split it.")


def _check_texts(frames, tables, path: Path) -> None:
    """Names of elements are the same in all frames; tables are in the order of rows."""
    first = frames[0]
    for name in ("element", "typelabel"):
        if name not in first.columns or "id" not in first.columns:
            continue
        known = None
        for frame, table in zip(frames, tables, strict=True):
            found = _text_column(frame, name)[np.argsort(_ids(table, first, path))]
            known = found if known is None else known
            if not np.array_equal(found, known):
                i = int(np.argmax(found != known))
                raise ValueError(
                    f"Atom {i} (by id) in frame {frame.number} of {path} is {found[i]}, but "
                    f"{known[i]} in the first; a trajectory must keep its atoms: split the file."
                )


def _raw_velocities(table, columns, path: Path, still: bool) -> np.ndarray:
    """Velocities (time, atom, 3) in the file's unit; zeros with `still`."""
    if still:
        return np.zeros((*table.shape[:2], 3))
    if not {"vx", "vy", "vz"} <= set(columns):
        raise ValueError(
            f"{path} has no velocities (vx vy vz; its columns are {' '.join(columns)}); a forecast "
            f"starts from positions and velocities: {COLUMNS}."
        )
    return table[..., [columns[c] for c in ("vx", "vy", "vz")]]


def _elements(first: Frame, table, columns, masses, order, options, path: Path) -> Elements:
    """Elements and masses of the atoms, from the columns element, mass, type and the options."""
    types = table[:, columns["type"]].astype(int) if "type" in columns else None
    text = next((c for c in ("element", "typelabel") if c in first.columns), None)
    if text:
        symbols = _text_column(first, text)
        symbols = symbols if order is None else symbols[order]
        if set(symbols) != {"C"} or (masses is not None and np.allclose(masses, 12.011, atol=0.1)):
            return _from_column(symbols, types, masses, options, path)
        if not options.species and masses is None:  # what LAMMPS writes where it was not told
            raise ValueError(
                f"{path} calls all atoms C, which LAMMPS writes without `dump_modify 1 element "
                "...`; name the elements of the types in order: --species Si O, or --species C."
            )
    if types is None:
        raise ValueError(f"{path} tells neither elements nor types of its atoms: {COLUMNS}.")
    if masses is not None and not options.species:
        return from_masses(types, masses, options, path)
    return from_labels(types, options, path, masses)


def _from_column(symbols, types, masses, options: ReadOptions, path: Path) -> Elements:
    if options.species and (types is None or any("=" in s for s in options.species)):
        return from_labels(symbols, options, path, masses, kind="name")
    if options.species:
        elements = from_symbols(symbols, path)
        said = from_labels(types, options, path, masses)
        if not np.array_equal(said.species, elements.species):
            i = int(np.argmax(said.species != elements.species))
            raise ValueError(
                f"{path} has the element {symbols[i]} for atoms of type {types[i]}, but species "
                f"({' '.join(options.species)}) says another; leave --species out."
            )
        return said
    elements = from_text(symbols, path, masses)
    if masses is None:
        return elements
    if np.any((elements.species == 0) & (masses > TINY)):
        raise ValueError(
            f"{path} gives atoms without an element (X) a mass; name the elements of the types "
            "in order (--species)."
        )
    return check_masses(elements, symbols, masses, path)


def _periodic(first: Frame, path: Path) -> bool | None:
    """Whether the boundary flags say that the atoms are periodic; None without flags."""
    flags = [f for f in first.flags if len(f) == 2 and set(f) <= set("pfsm")]
    if not flags:
        return None
    periodic = [f == "pp" for f in flags]
    if any(periodic) and not all(periodic):
        raise ValueError(
            f"{path} is periodic in some directions only ({' '.join(flags)}); give atoms that are "
            "periodic in all three or in none."
        )
    return all(periodic)


def _box(frame: Frame, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Cell vectors (3, 3) and origin (3,), in the file's unit of length."""
    box = frame.box
    if box.shape[1] == 4:  # general triclinic: a vector and a component of the origin per row
        return box[:, :3], box[:, 3]
    low, high = box[:, 0].copy(), box[:, 1].copy()
    xy, xz, yz = box[:, 2] if box.shape[1] == 3 else (0.0, 0.0, 0.0)
    low[0] -= min(0.0, xy, xz, xy + xz)
    high[0] -= max(0.0, xy, xz, xy + xz)
    low[1] -= min(0.0, yz)
    high[1] -= max(0.0, yz)
    lx, ly, lz = high - low
    if min(lx, ly, lz) <= 0:
        raise ValueError(f"{path} has a cell without volume: BOX BOUNDS are {box.tolist()}.")
    return np.array([[lx, 0, 0], [xy, ly, 0], [xz, yz, lz]]), low


def _positions(table, columns, vectors, origins, path: Path) -> tuple[np.ndarray, bool]:
    """Positions (time, atom, 3) in the file's unit, and whether they are unwrapped."""
    name = next((p for p in POSITIONS if p in columns), None)
    names = [name.replace("x", axis, 1) for axis in "xyz"] if name else []
    if not name or not set(names) <= set(columns):
        raise ValueError(
            f"{path} has no positions (x y z, xs, xu or xsu; its columns are {' '.join(columns)}): "
            f"{COLUMNS}."
        )
    positions = table[..., [columns[n] for n in names]]
    if "s" in name:
        positions = origins[:, None] + positions @ vectors
    if name.endswith("u"):
        return positions, True
    if {"ix", "iy", "iz"} <= set(columns):
        images = table[..., [columns[i] for i in ("ix", "iy", "iz")]]
        return positions + images @ vectors, True
    return positions, False
