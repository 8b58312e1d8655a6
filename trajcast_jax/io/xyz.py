"""XYZ files whose comment lines ASE does not understand: CP2K, DFTB+, i-PI, pairs of files."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase.cell import Cell

from trajcast_jax.io.checks import other_units
from trajcast_jax.io.files import DAMAGED, open_text, suffix
from trajcast_jax.io.options import ReadOptions, note
from trajcast_jax.io.recording import Recording, decide_cell, select, without_massless
from trajcast_jax.io.species import Elements, from_labels, from_numbers, from_text
from trajcast_jax.io.times import apart, rounding
from trajcast_jax.io.xyz_text import SUFFIXES, Frame, selected
from trajcast_jax.units import BOHR, VELOCITY_UNITS

LATTICE = re.compile(r'Lattice="((?:\s*[-+.\dEe]+){9})\s*"')
DFTB = re.compile(r"MD iter:\s*(\d+)")
CP2K = re.compile(r"\bi\s*=\s*(\d+),\s*time\s*=\s*([-+.\dEe]+)")
PBC = re.compile(r"""\bpbc\s*=\s*(?:"([^"]*)"|'([^']*)'|(\[[^\]]*\])|(\S+))""", re.IGNORECASE)
PBC_WORDS = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}
IPI_CELL = re.compile(r"CELL\(abcABC\):((?:\s+[-+.\dEe]+){6})")
IPI_STEP = re.compile(r"\bStep:\s*(\d+)")
TIME = re.compile(r"(?<![\w.])[Tt]ime\s*=\s*\"?([-+\d][-+.\deE]*)")
STEP = re.compile(r"(?<![\w.])[Tt]imestep\s*[=:]\s*(\d+)\b")
"""Steps and times (fs) of LAMMPS's dumps in XYZ, and of extended XYZ."""
IPI_UNIT = re.compile(r"(\w+)\{(\w[\w/^*-]*)\}")
LENGTHS = {"angstrom": 1.0, "atomic_unit": BOHR, "automatic": BOHR, "nanometer": 10.0}
IPI_VELOCITIES = {"atomic_unit": "bohr/atu", "automatic": "bohr/atu", "m/s": "m/s",
                  "angstrom/ps": "angstrom/ps"}  # fmt: skip
"""Our name of i-PI's units of velocity."""


def tells_more(path: Path) -> bool:
    """Whether an XYZ file has comment lines of DFTB+ or i-PI, which ASE does not understand."""
    if suffix(path) not in SUFFIXES:
        return False
    try:
        with open_text(path) as file:
            file.readline()
            comment = file.readline()
    except DAMAGED:
        return False
    return bool(DFTB.search(comment) or IPI_CELL.search(comment))


def says_periodicity(path: Path) -> bool:
    """Whether the first comment line of an XYZ file tells if its atoms are periodic (pbc)."""
    try:
        with open_text(path) as file:
            file.readline()
            return bool(PBC.search(file.readline()))
    except DAMAGED:
        return False


def read_xyz(
    path: Path, selection: slice | int, options: ReadOptions, still: bool = False
) -> Recording:
    """Read positions, and velocities of the same file (DFTB+) or of `options.velocities`.

    Raises:
      IndexError: there is no such frame.
      ValueError: the files differ, there are no velocities, or a unit or the cell is left open.
    """
    if options.units:
        raise ValueError(
            f"{path} is no file of LAMMPS, whose units '{options.units}' are; leave --units out "
            "(--velocity-unit tells the unit of velocities)."
        )
    frames, moving = selected(path, slice(None)), None
    if options.velocities is not None and not still:
        other = Path(options.velocities)
        frames, moving = paired(frames, selected(other, slice(None)), path, other)
    chosen = select(range(len(frames)), selection, path)
    frames = [frames[i] for i in chosen]
    moving = moving and [moving[i] for i in chosen]
    first = frames[0]
    length = LENGTHS[_ipi_unit(first, path, "positions", LENGTHS) or "angstrom"]
    positions = length * np.stack([f.values[:, :3] for f in frames])
    unit, velocities, factor = "", np.zeros_like(positions), 1.0
    elements = _elements(first, options, path)
    if not still:
        raw, unit = _raw_velocities(frames, moving, options, path)
        unit = unit or options.velocity_unit
        if not unit:
            raise ValueError(
                f"{options.velocities or path} does not state the unit of its velocities; say it "
                f"by velocity_unit (--velocity-unit).{other_units(raw[:1], elements.masses)}"
            )
        factor = VELOCITY_UNITS[unit]
        velocities = factor * raw
    steps, times = _clock(frames, path)
    recording = Recording(
        positions=positions,
        velocities=velocities,
        species=elements.species,
        masses=elements.masses,
        cell=_cell(frames, options, path),
        index=np.array([f.number for f in frames]),
        velocity_unit=unit,
        steps=steps,
        times=times,
        rounding=0.0 if times is None else rounding(times),
        factor=factor,
    )
    return without_massless(recording, path)


def _elements(first: Frame, options: ReadOptions, path: Path) -> Elements:
    if all(s.isdigit() for s in first.symbols):
        return from_numbers([int(s) for s in first.symbols], options, path)
    if options.species:
        return from_labels(first.symbols, options, path, kind="name")
    return from_text(first.symbols, path)


def _raw_velocities(frames, moving, options: ReadOptions, path: Path):
    """Velocities (time, atom, 3) as they stand in the file, and their unit if it is known."""
    if options.velocities is not None:
        return _of_second_file(frames, moving, options, path)
    widths = {f.values.shape[1] for f in frames}
    if DFTB.search(frames[0].comment) and widths <= {6, 7}:
        unit = options.velocity_unit or "angstrom/ps"
        return np.stack([f.values[:, -3:] for f in frames]), unit
    raise ValueError(
        f"{path} has no velocities; give the file that has them (--velocities FILE), for a "
        "forecast starts from positions and velocities."
    )


def paired(frames: list[Frame], moving: list[Frame], path: Path, other: Path):
    """Positions and velocities of the same frames; by their steps, or else their times, if a file
    has more than another.

    A word tells how many were left out.

    Raises:
      ValueError: the atoms differ, or the numbers of frames, and there are no clocks of both.
    """
    clocks = [_clock(f, p) for f, p in ((frames, path), (moving, other))]
    by_steps = all(steps is not None for steps, _ in clocks)
    steps, its = (
        steps if by_steps else None if times is None else np.round(times, 6).tolist()
        for steps, times in clocks
    )
    same_atoms = moving[0].symbols == frames[0].symbols
    known = steps is not None and its is not None
    if not same_atoms or (len(frames) != len(moving) and not (known and set(steps) & set(its))):
        raise ValueError(
            f"{other} has {len(moving)} frames of {len(moving[0].symbols)} atoms, but {path} has "
            f"{len(frames)} of {len(frames[0].symbols)}, or their atoms differ in order; give the "
            "velocities of the same run."
        )
    if len(frames) == len(moving):
        return frames, moving
    found, seen, pairs = {}, {}, []
    for step, frame in zip(its, moving, strict=True):
        found.setdefault(step, []).append(frame)
    for step, frame in zip(steps, frames, strict=True):
        if step in found:
            again = seen[step] = seen.get(step, -1) + 1  # a restart writes frames twice
            pairs.append((frame, found[step][min(again, len(found[step]) - 1)]))
    note(
        f"{path} has {len(frames)} frames, and {other} {len(moving)}: by their "
        f"{'steps' if by_steps else 'times'}, {len(pairs)} have positions and velocities, "
        "and the others were left out."
    )
    return [a for a, _ in pairs], [b for _, b in pairs]


def _of_second_file(frames, moving, options: ReadOptions, path: Path):
    other = Path(options.velocities)
    for mine, its in zip(_clock(frames, path), _clock(moving, other), strict=True):
        if mine is not None and its is not None and apart(mine, its).any():
            i = int(np.argmax(apart(mine, its)))
            raise ValueError(
                f"Frame {frames[i].number} is at {mine[i]:g} in {path}, but at {its[i]:g} in "
                f"{other}; write positions and velocities at the same steps."
            )
    raw = np.stack([f.values[:, :3] for f in moving])
    known = _ipi_unit(moving[0], other, "velocities", IPI_VELOCITIES)
    unit = IPI_VELOCITIES[known] if known else ""
    if not unit and CP2K.search(moving[0].comment) and not options.velocity_unit:
        unit = "bohr/atu"
        note(f"{other}: velocities are read in bohr/atu, as CP2K writes them.")
    if unit and options.velocity_unit not in ("", unit):
        raise ValueError(
            f"{other} is in {unit}, but velocity_unit says {options.velocity_unit}; leave it out."
        )
    return raw, unit


def _ipi_unit(frame: Frame, path: Path, quantity: str, known) -> str:
    """The unit that i-PI's comment line gives a quantity; "" of other programs' files."""
    if not IPI_CELL.search(frame.comment):
        return ""
    found = {k: u for k, u in IPI_UNIT.findall(frame.comment) if k != "cell"}
    if not found:
        return "atomic_unit"
    name, unit = next(iter(found.items()))
    if name[0] != quantity[0] and not (quantity == "positions" and name.startswith("x_")):
        raise ValueError(f"{path} holds {name}, not {quantity}; give the file with {quantity}.")
    if unit not in known:
        raise ValueError(f"{path} gives {name} in '{unit}'; known are {', '.join(known)}.")
    return unit


def one_clock(told: Sequence, numbers: Sequence[int], path: Path, name: str) -> bool:
    """Whether frames tell a quantity: all of them do, or none.

    Raises:
      ValueError: some do.
    """
    missing = [number for number, value in zip(numbers, told, strict=True) if value is None]
    if missing and len(missing) < len(numbers):
        raise ValueError(
            f"{len(missing)} of {len(numbers)} frames of {path} do not tell their {name} "
            f"(frame {missing[0]} is the first), but the others do; write it into the comment "
            "line of every frame, or of none."
        )
    return not missing


def _clock(frames: list[Frame], path: Path):
    """Steps and times (fs) of the frames, as far as the comment lines tell."""
    found = [CP2K.search(f.comment) for f in frames]
    if all(found):
        steps, times = zip(*(m.groups() for m in found), strict=True)
        return np.array(steps, int), np.array(times, float)
    found = [TIME.search(f.comment) for f in frames]
    told = one_clock(found, [f.number for f in frames], path, "time")
    times = np.array([float(m.group(1)) for m in found]) if told else None
    for pattern in (DFTB, IPI_STEP, STEP):
        found = [pattern.search(f.comment) for f in frames]
        if all(found):
            return np.array([int(m.group(1)) for m in found]), times
    return None, times


def _periodic(comment: str, path: Path) -> bool | None:
    """Whether pbc is on, as it is if nothing is said of it; None if it is off.

    Raises:
      ValueError: it is on along some directions only, or unreadable.
    """
    found = PBC.search(comment)
    if not found:
        return True
    text = next(x for x in found.groups() if x is not None)
    words = re.findall(r"[^\s,\[\]]+", text)
    flags = [PBC_WORDS.get(word.lower()) for word in words]
    if len(flags) not in (1, 3) or None in flags:
        raise ValueError(f'{path} has pbc="{text}"; give pbc="T T T" or pbc="F F F".')
    if len(set(flags)) > 1:
        raise ValueError(
            f"{path} is periodic in some directions only (pbc = {flags}); give atoms that are "
            "periodic in all three or in none."
        )
    return True if flags[0] else None


def _cell(frames: list[Frame], options: ReadOptions, path: Path) -> np.ndarray | None:
    found = [LATTICE.search(f.comment) for f in frames]
    if all(found):
        cells = np.array([m.group(1).split() for m in found], float).reshape(-1, 3, 3)
        if np.abs(cells - cells[0]).max() > 1e-4:
            raise ValueError(f"The cell changes along {path}; only constant volume can be used.")
        periodic = _periodic(frames[0].comment, path)
        return decide_cell(cells[0], periodic, options, path, "its pbc is off")
    found = [IPI_CELL.search(f.comment) for f in frames]
    if not all(found):
        if options.periodic is None and not options.cell:
            raise ValueError(
                f"{path} does not tell the cell, nor whether there is one; give it (--cell a b c, "
                "in Å) or say that the atoms are isolated (--no-periodic)."
            )
        return decide_cell(None, None, options, path)
    cells = np.array([m.group(1).split() for m in found], float)
    if np.abs(cells - cells[0]).max() > 1e-4 * cells[0].max():
        raise ValueError(f"The cell changes along {path}; only constant volume can be used.")
    unit = dict(IPI_UNIT.findall(frames[0].comment)).get("cell", "atomic_unit")
    if unit not in LENGTHS:
        raise ValueError(f"{path} gives its cell in '{unit}'; known are {', '.join(LENGTHS)}.")
    scale = np.array([LENGTHS[unit]] * 3 + [1.0] * 3)
    return decide_cell(Cell.fromcellpar(cells[0] * scale).array, True, options, path)
