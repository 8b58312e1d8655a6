"""Read .npz archives of which nothing is believed before it is checked."""

import math
import zipfile
from pathlib import Path

import numpy as np

from trajcast_jax.reading import reads

LARGEST_RATIO = 200
"""Bytes of an array for each byte of the file, in archives that are compressed well."""
ALWAYS = 2**26
"""Bytes that any file may unpack to."""


@reads
def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file, by name; objects (pickles) are refused.

    The sizes in its headers are compared with that of the file before memory is asked for.

    Raises:
      ValueError: the file is damaged, incomplete or no archive, or it unpacks to far more than
        arrays do.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        total, size = sum(m.file_size for m in members), Path(path).stat().st_size
        if total > max(ALWAYS, LARGEST_RATIO * size):
            raise ValueError(
                f"its {size:,} bytes unpack to {total:,}, as those of arrays do not; make it anew"
            )
        return {m.filename.removesuffix(".npy"): _array(archive, m) for m in members}


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        headers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in headers:
            raise ValueError(f"{member.filename} has the unknown version {version}")
        shape, _, dtype = headers[version](file)
        wanted, there = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
        if dtype.hasobject or wanted != there or min(shape, default=0) < 0:
            raise ValueError(f"{member.filename} is to have {wanted:,} bytes, and has {there:,}")
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
