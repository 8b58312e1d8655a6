"""Check GROMACS's .trr and .xtc files before a C library reads them, which trusts their headers.

Both are XDR, big-endian: .trr frames are a header with the sizes of what follows (GROMACS's
trrio.cpp), .xtc frames a header and compressed positions (xdrfile).
"""

import struct
from pathlib import Path
from typing import IO

TRR_MAGIC, TRR_VERSION = 1993, b"GMX_trn_file"
TRR_SIZES = struct.Struct(">13i")
"""Bytes of ir, e, box, vir, pres, top, sym, x, v, f; atoms, step, nre."""
MATRIX = 9
"""Numbers of a box, a virial or a pressure."""
XTC_MAGICS = (1995, 2023)
FEW_ATOMS = 9
"""Atoms of an .xtc file up to which positions are not compressed."""


def require_sound(path: Path) -> None:
    """Walk through the frames of a .trr or .xtc file; one that is cut at the end is none to mend.

    Raises:
      ValueError: a header is no header, or does not fit the file.
    """
    walk = {".trr": _trr_frame, ".xtc": _xtc_frame}.get(path.suffix.lower())
    if walk is None:
        return
    size, number, atoms = path.stat().st_size, 0, None
    with open(path, "rb") as file:
        while (start := file.tell()) < size:
            try:
                n_atoms, end = walk(file)
            except struct.error:  # the last header is cut short
                n_atoms, end = atoms, size + 1
            except ValueError as error:
                raise ValueError(_sentence(path, number, start, str(error))) from error
            if n_atoms != (atoms or n_atoms):
                raise ValueError(
                    _sentence(path, number, start, f"has {n_atoms} atoms, but the first {atoms}")
                )
            if end > size and not number:
                what = f"needs {end:,} bytes, but the file has {size:,}"
                raise ValueError(_sentence(path, number, start, what))
            atoms, number = n_atoms, number + 1
            file.seek(end)


def _sentence(path: Path, number: int, start: int, what: str) -> str:
    return (
        f"Frame {number} of {path} (at byte {start:,}) {what}: the file is damaged; restore it, or "
        "let GROMACS mend it (gmx check, gmx trjconv -e)."
    )


def _ints(file: IO[bytes], count: int) -> tuple[int, ...]:
    return struct.unpack(f">{count}i", file.read(4 * count))


def _trr_frame(file: IO[bytes]) -> tuple[int, int]:
    """Number of atoms, and the byte at which the frame ends."""
    magic, _, length = _ints(file, 3)
    if magic != TRR_MAGIC or length != len(TRR_VERSION) or file.read(length) != TRR_VERSION:
        raise ValueError("does not begin as those of a .trr file do")
    *sizes, atoms, _, _ = TRR_SIZES.unpack(file.read(TRR_SIZES.size))
    ir, e, box, vir, pres, top, sym, *vectors = sizes
    if atoms <= 0 or min(sizes) < 0 or any((ir, e, top, sym)):
        raise ValueError(f"states {atoms} atoms and parts of {sizes} bytes")
    number = box // MATRIX if box else max(vectors) // (3 * atoms)
    allowed = [(0, MATRIX * number)] * 3 + [(0, 3 * atoms * number)] * 3
    fit = all(s in fine for s, fine in zip((box, vir, pres, *vectors), allowed, strict=True))
    if number not in (4, 8) or not fit:
        raise ValueError(f"states {atoms} atoms, and parts of {sizes} bytes, which do not fit them")
    return atoms, file.tell() + 2 * number + sum(sizes)


def _xtc_frame(file: IO[bytes]) -> tuple[int, int]:
    """Number of atoms, and the byte at which the frame ends."""
    magic, atoms, _ = _ints(file, 3)
    file.seek(4 + 4 * MATRIX, 1)  # time and box
    (again,) = _ints(file, 1)
    if magic not in XTC_MAGICS or atoms <= 0 or again != atoms:
        raise ValueError(f"does not begin as those of an .xtc file do ({atoms} and {again} atoms)")
    if atoms <= FEW_ATOMS:
        return atoms, file.tell() + 12 * atoms
    file.seek(4 + 24 + 4, 1)  # precision, smallest and largest integers, index
    count = _ints(file, 2)[1] if magic == XTC_MAGICS[1] else _ints(file, 1)[0]
    if not 0 < count <= 16 * atoms + 64:
        raise ValueError(f"states {count:,} bytes of positions of {atoms} atoms")
    return atoms, file.tell() + (count + 3) // 4 * 4
