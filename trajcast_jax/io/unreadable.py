"""What a file may be that no reader understands, and what to do about it."""

import re
from pathlib import Path

from trajcast_jax.io.files import DAMAGED, open_text

LAMMPS_DATA = re.compile(r"^\s*\d+\s+atoms\b", re.MULTILINE)
DL_POLY = re.compile(r"^timestep\s+\d+\s+\d+", re.MULTILINE)
BEGINNING = 2_000
"""Characters that are looked at."""


def looks_like(path: Path) -> str:
    """What a file may be and what to do, to be added to "... cannot be read"; "" if unknown."""
    if not path.exists():
        return ""
    if not path.stat().st_size:
        return ": it is empty"
    try:
        with open_text(path) as file:
            text = file.read(BEGINNING)
    except DAMAGED:
        return ""
    if DL_POLY.search(text):
        return (
            ": it looks like DL_POLY's HISTORY; convert it to extended XYZ with positions, "
            "velocities and times, for example by MDAnalysis (format HISTORY)"
        )
    if LAMMPS_DATA.search(text):
        return (
            ": it looks like a LAMMPS data file, which is one frame without a clock; give a dump "
            "(dump custom ... id element x y z vx vy vz), or as a start frame the last of one"
        )
    first = text.splitlines()[0].strip() if text.strip() else ""
    return " by its name, but looks like XYZ: let its name end in .xyz" if first.isdigit() else ""
