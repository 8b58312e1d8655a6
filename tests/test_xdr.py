"""GROMACS's binary files that are damaged: a sentence, where a C library would crash."""

import contextlib
import gc
import struct

import numpy as np
import pytest
from dumps import SYMBOLS, motion

from trajcast_jax import io
from trajcast_jax.io import ReadOptions
from trajcast_jax.io.xdr import require_sound

mda = pytest.importorskip("MDAnalysis")
N = 6
R, V = motion(N, np.diag([9.0, 9.5, 10.0]))
OPTIONS = ReadOptions(species=tuple(SYMBOLS))


def trr_bytes(**change):
    """A .trr file of the known motion; `change` sets parts of the header of its third frame."""
    text, n = b"", len(SYMBOLS)
    for i in range(N):
        sizes = dict.fromkeys(
            ["ir", "e", "box", "vir", "pres", "top", "sym", "x", "v", "f", "atoms", "step", "nre"],
            0,
        )
        sizes |= {"box": 36, "x": 12 * n, "v": 12 * n, "atoms": n, "step": 10 * i}
        sizes |= change if i == 2 else {}
        text += struct.pack(">3i", 1993, 13, 12) + b"GMX_trn_file"
        text += struct.pack(">13i", *sizes.values()) + struct.pack(">2f", 0.01 * i, 0.0)
        text += np.diag([0.9, 0.95, 1.0]).astype(">f4").tobytes()
        text += (0.1 * R[i]).astype(">f4").tobytes() + (100 * V[i]).astype(">f4").tobytes()
    return text


def test_a_sound_file_is_read_with_the_steps_that_it_tells(tmp_path):
    (tmp_path / "run.trr").write_bytes(trr_bytes())
    run, times = io.read_trajectory(tmp_path / "run.trr", options=OPTIONS)
    np.testing.assert_allclose(run.velocities, V, atol=1e-7)
    np.testing.assert_allclose(times, 10.0 * np.arange(N), atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [{"ir": -(2**31)}, {"box": 37}, {"x": 2**30}, {"x": -4}, {"v": 12}, {"atoms": 10**9},
     {"atoms": 0}, {"atoms": 53}, {"sym": 8}, {"f": 2**31 - 1}],
)  # fmt: skip
def test_headers_that_do_not_fit_are_refused_before_a_library_trusts_them(tmp_path, change):
    path = tmp_path / "run.trr"
    path.write_bytes(trr_bytes(**change))
    with pytest.raises(ValueError, match=r"Frame 2 of .*run.trr \(at byte [\d,]+\) .*damaged"):
        io.read_trajectory(path, options=OPTIONS)


def test_no_flipped_byte_of_a_header_ends_the_interpreter(tmp_path):
    sound = trr_bytes()
    start = len(sound) // N
    for byte in range(start, start + 76):
        for flip in (0x80, 0x01):
            text = bytearray(sound)
            text[byte] ^= flip
            path = tmp_path / f"run_{byte}_{flip}.trr"
            path.write_bytes(bytes(text))
            with contextlib.suppress(ValueError):
                io.read_trajectory(path, options=OPTIONS)


def test_an_xtc_file_is_checked_too(tmp_path):
    head = struct.pack(">3i10f", 1995, 20, 0, *np.zeros(10)) + struct.pack(">i", 20)
    body = struct.pack(">f7i", 1000.0, *np.zeros(7, int)) + struct.pack(">i", 30) + bytes(32)
    path = tmp_path / "run.xtc"
    path.write_bytes(2 * (head + body))
    require_sound(path)
    path.write_bytes(
        head + body + head.replace(struct.pack(">i", 20), struct.pack(">i", 21)) + body
    )
    with pytest.raises(ValueError, match="has 21 atoms, but the first 20"):
        require_sound(path)
    path.write_bytes(head + body.replace(struct.pack(">i", 30), struct.pack(">i", 2**30)))
    with pytest.raises(ValueError, match="states 1,073,741,824 bytes of positions of 20 atoms"):
        require_sound(path)
    path.write_bytes(b"no file of GROMACS" * 9)
    with pytest.raises(ValueError, match=r"Frame 0 of .* does not begin as those of an .xtc"):
        require_sound(path)


def test_what_goes_wrong_in_a_half_built_reader_stays_unsaid(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("sys.unraisablehook", said.append)
    path = tmp_path / "run.nc"
    path.write_bytes(b"CDF\x01" + bytes(40))
    with pytest.raises(ValueError, match=r"MDAnalysis cannot read .*run.nc"):
        io.read_trajectory(path, options=OPTIONS)
    gc.collect()
    assert not said
