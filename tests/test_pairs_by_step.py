"""Pairs of files of positions and velocities with other numbers of frames: by their steps."""

import numpy as np
import pytest
from dumps import SYMBOLS
from test_formats import CELL, SIDES, N, R, V, cp2k

from trajcast_jax import io
from trajcast_jax.io import FileNote, ReadOptions
from trajcast_jax.units import VELOCITY_UNITS


def write(path, values, rows, comment=cp2k):
    """CP2K's XYZ of some frames."""
    with open(path, "w") as file:
        for i in rows:
            file.write(f"{len(SYMBOLS)}\n{comment(i)}\n")
            for symbol, row in zip(SYMBOLS, values[i], strict=True):
                file.write(f"{symbol} " + " ".join(f"{x:.10f}" for x in row) + "\n")
    return path


def read(tmp_path, positions, velocities, comment=cp2k, **more):
    path = write(tmp_path / "x-pos-1.xyz", R, positions, comment)
    other = write(tmp_path / "x-vel-1.xyz", V / VELOCITY_UNITS["bohr/atu"], velocities, comment)
    options = ReadOptions(velocities=other, cell=SIDES, **more)
    return io.read_trajectory(path, options=options)


EVERY = list(range(N))


@pytest.mark.parametrize(
    ("positions", "velocities", "both"),
    [
        (EVERY[:-1], EVERY, EVERY[:-1]),  # a killed run that had written the velocities first
        (EVERY, EVERY[:-1], EVERY[:-1]),
        (EVERY, EVERY[2:], EVERY[2:]),
        (EVERY, EVERY[::2], EVERY[::2]),  # each second step
        ([*EVERY[:5], 4, *EVERY[5:]], EVERY, EVERY),  # a restart doubled the positions only
    ],
)
def test_frames_of_one_step_are_paired_and_the_others_left_out(
    tmp_path, positions, velocities, both
):
    with pytest.warns(FileNote, match=r"by their steps, \d+ have positions and velocities"):
        run, times = read(tmp_path, positions, velocities)
    np.testing.assert_allclose(times, 10.0 * np.array(both))
    np.testing.assert_allclose(run.velocities, V[both], atol=1e-7)
    apart = (np.asarray(run.positions) - R[both]) @ np.linalg.inv(CELL)
    np.testing.assert_allclose(apart, np.round(apart), atol=1e-5)
    with pytest.warns(FileNote, match="by their steps"):
        last = io.read(
            tmp_path / "x-pos-1.xyz",
            options=ReadOptions(velocities=tmp_path / "x-vel-1.xyz", cell=SIDES),
        )
    np.testing.assert_allclose(last.velocities, V[both[-1]], atol=1e-7)


def test_without_steps_or_with_none_in_common_there_is_no_guess(tmp_path):
    for comment in (lambda i: "frame", cp2k):
        rows = EVERY if comment is not cp2k else EVERY[::2]
        with pytest.raises(ValueError, match=r"has \d+ frames of 54 atoms, but .* of the same run"):
            read(tmp_path, rows, EVERY[1:6:2], comment, time_step=10.0)


@pytest.mark.parametrize("order", ["species pos", "pos species"])
def test_isotopes_and_names_in_any_column_of_species(tmp_path, order):
    path = tmp_path / "run.extxyz"
    lattice = " ".join(f"{x:g}" for x in CELL.ravel())
    kinds = {"species": "species:S:1", "pos": "pos:R:3"}
    columns = ":".join(kinds[name] for name in order.split())
    with open(path, "w") as file:
        for i in EVERY:
            file.write(f'54\nLattice="{lattice}" Time={10 * i} Properties={columns}:vel:R:3\n')
            for symbol, r, v in zip(SYMBOLS, R[i], V[i], strict=True):
                words = {"species": "D" if symbol == "O" else symbol}
                words["pos"] = " ".join(f"{x:.9g}" for x in r)
                text = " ".join(words[name] for name in order.split())
                file.write(f"{text} " + " ".join(f"{x:.9g}" for x in v) + "\n")
    with pytest.warns(FileNote, match=r"H 2\.014"):
        run, _ = io.read_trajectory(path)
    np.testing.assert_allclose(run.masses, np.where(SYMBOLS == "O", 2.014, 28.085), rtol=1e-5)
    np.testing.assert_allclose(run.velocities, V, atol=1e-7)
