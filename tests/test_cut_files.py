"""Text files that are compressed, or cut inside of their last number."""

import bz2
import gzip
import lzma
import re

import numpy as np
import pytest
from dumps import write_dump
from test_foreign import TIMES, R, V, write_pair, write_xyz
from test_formats import SIDES, write_gro

from trajcast_jax import io
from trajcast_jax.io import FileNote, ReadOptions
from trajcast_jax.io.files import is_whole

METAL = ReadOptions(units="metal", md_step=1.0)
PACK = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}


@pytest.mark.parametrize("ending", PACK)
def test_compressed_text_is_read_by_its_content(tmp_path, ending):
    dump, _, v = write_dump(tmp_path / "run.dump")
    xyz = write_xyz(tmp_path / "run.extxyz")
    for path, options, expected in ((dump, METAL, v), (xyz, ReadOptions(), V)):
        whole = path.read_bytes()
        for name in (f"{path.name}{ending}", f"other{path.suffix}"):  # whatever its name
            packed = tmp_path / name
            packed.write_bytes(PACK[ending](whole))
            run, _ = io.read_trajectory(packed, options=options)
            np.testing.assert_allclose(run.velocities, expected, atol=1e-7)
        packed.write_bytes(PACK[ending](whole)[:-2000])
        if ending == ".bz2":  # whose blocks are larger than this file
            with pytest.raises(ValueError, match=rf"other\{path.suffix}"):
                io.read_trajectory(packed, options=options)
            continue
        with pytest.warns(FileNote, match="damaged or cut short"):
            run, _ = io.read_trajectory(packed, options=options)
        assert 2 <= len(run.velocities) < len(expected)
        np.testing.assert_allclose(run.velocities, expected[: len(run.velocities)], atol=1e-7)


def test_what_must_be_unpacked_first_is_named(tmp_path):
    path = tmp_path / "run.dump.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    with pytest.raises(ValueError, match=r"run\.dump\.zst is compressed; unpack it first .zstd -d"):
        io.read(path)
    path = tmp_path / "run.h5.gz"
    path.write_bytes(gzip.compress(b"\x89HDF"))
    with pytest.raises(ValueError, match=r"run\.h5\.gz is compressed; unpack it first"):
        io.read(path)


def cut(path, n):
    """Take the last n characters and the end of the last line away."""
    text = path.read_text().rstrip("\n")
    path.write_text(text[: len(text) - n])
    return path


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_last_number_that_lost_digits_is_never_read(tmp_path, n):
    path = cut(write_xyz(tmp_path / "run.extxyz"), n)
    with pytest.warns(FileNote, match="frame 19, the last, is cut short"):
        run, times = io.read_trajectory(path)
    np.testing.assert_array_equal(times, TIMES[:19])
    with pytest.warns(FileNote, match="cut short"):
        np.testing.assert_allclose(io.read(path).velocities, V[18], atol=1e-7)
    r, v = write_pair(tmp_path, "", lambda i: f"time={10 * i}")
    options = ReadOptions(velocities=cut(v, n), velocity_unit="angstrom/fs", last=18)
    with pytest.warns(FileNote, match=r"vel\.xyz: frame 19, the last"):
        run, _ = io.read_trajectory(r, options=options)
    assert len(run.velocities) == 19
    whole = ReadOptions(velocities=v, velocity_unit="angstrom/fs")
    with pytest.warns(
        FileNote, match="19 have positions and velocities"
    ):  # by the times that both state
        run, times = io.read_trajectory(r, options=whole)
    np.testing.assert_array_equal(times, TIMES[:19])
    r.write_text(re.sub("time=[0-9]+", "", r.read_text()))
    with pytest.warns(FileNote), pytest.raises(ValueError, match=r"has 19 frames .* has 20"):
        io.read_trajectory(r, options=whole)


def test_the_only_frame_must_be_whole(tmp_path):
    dump, _, _ = write_dump(tmp_path / "run.dump", n_frames=1)
    with pytest.raises(ValueError, match=r"last line does not end may lack digits"):
        io.read(cut(dump, 2), options=METAL)
    xyz = write_xyz(tmp_path / "run.extxyz")
    text = xyz.read_text()
    xyz.write_text(text[: len(text) // 20 + 200])
    one = cut(xyz, 0)
    one.write_text("\n".join(text.splitlines()[:56]))
    with pytest.raises(ValueError, match=r"ends in the middle of a line.*echo >> run\.extxyz"):
        io.read(one)
    gro = write_gro(tmp_path / "a.gro", ["NA"], ["NA"], R[:1, :1], V[:1, :1], (*SIDES, 0, 0, 1))
    text = gro.read_text().rstrip("\n")
    gro.write_text(" ".join(text.split(" ")[:-3]))  # a right-angled cell, by what is left of it
    with pytest.raises(ValueError, match="ends in the middle of a line"):
        io.read(gro)


def test_fixed_decimals_tell_that_a_number_is_whole(tmp_path):
    assert is_whole(["H 1.250 0.125\n", "O 0.250 1.125"])
    assert not is_whole(["H 1.250 0.125\n", "O 0.250 1.12"])
    assert not is_whole(["H 1.25 0.125\n", "O 0.250 1.125"])  # of decimals that vary
    assert not is_whole(["H 1.250 0.125"])
    assert not is_whole(["1.250 12\n", "0.250 1"])
    r, v = write_pair(tmp_path, "", lambda i: f"time={10 * i}")
    for path, values in ((r, R), (v, V)):
        rows = iter(values.reshape(-1, 3))
        lines = [" ".join([x.split()[0], *(f"{y:.9f}" for y in next(rows))])
                 if x[0] in "SO" else x for x in path.read_text().splitlines()]  # fmt: skip
        path.write_text("\n".join(lines))  # as many scripts write it
    run, _ = io.read_trajectory(r, options=ReadOptions(velocities=v, velocity_unit="angstrom/fs"))
    assert len(run.velocities) == 20
