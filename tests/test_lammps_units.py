"""Dumps as LAMMPS itself writes them: its unit styles, masses in them, boxes that follow atoms."""

import numpy as np
import pytest
from dumps import MASSES, SYMBOLS, write_dump
from test_reference import needs_lammps

from trajcast_jax import io
from trajcast_jax.io import ReadOptions
from trajcast_jax.io.checks import temperatures_in
from trajcast_jax.reference.lammps_engine import load_lammps
from trajcast_jax.units import LAMMPS_UNITS

SPACING, SIDE = 4.0, 3
STEPS, EVERY, STEP = 40, 2, 5.0  # fs
FREE_ATOMS = """
units {units}
atom_style atomic
neighbor {skin} bin
region b block 0 {length} 0 {length} 0 {length} units box
create_box 2 b
lattice none 1.0
mass 1 {argon}
mass 2 {neon}
{atoms}
pair_style zero {cutoff}
pair_coeff * *
velocity all create 60 1 dist gaussian mom yes
timestep {step}
fix 1 all nve
dump 1 all custom {every} {path} id type element mass xu yu zu vx vy vz
dump_modify 1 element Ar Ne units yes time yes format float %.12g sort id
run {steps}
"""
"""Atoms without forces: they move by velocity times time, in whichever units."""


def lammps_writes(path, units):
    """A dump of free atoms; the last temperature (K) by LAMMPS's own account."""
    length, time, _, mass = LAMMPS_UNITS[units]
    sites = [(i, j, k) for i in range(SIDE) for j in range(SIDE) for k in range(SIDE)]
    place = [SPACING / length * np.array(s) for s in sites]
    atoms = "\n".join(
        f"create_atoms {1 + sum(s) % 2} single {x} {y} {z} units box"
        for s, (x, y, z) in zip(sites, place, strict=True)
    )
    engine = load_lammps()(cmdargs=["-log", "none", "-screen", "none"])
    text = FREE_ATOMS.format(
        units=units, skin=0.5 / length, length=SIDE * SPACING / length, argon=39.948 / mass,
        neon=20.1797 / mass, atoms=atoms, cutoff=3 / length, step=STEP / time, every=EVERY,
        path=path, steps=STEPS,
    )  # fmt: skip
    engine.commands_string(text)
    kelvin = engine.get_thermo("temp")
    engine.close()
    return kelvin


@needs_lammps
@pytest.mark.parametrize("units", LAMMPS_UNITS)
def test_unit_styles_are_those_that_lammps_integrates_in(tmp_path, units):
    kelvin = lammps_writes(tmp_path / "run.lammpstrj", units)
    system, times = io.read_trajectory(tmp_path / "run.lammpstrj")
    np.testing.assert_allclose(np.diff(times), EVERY * STEP, rtol=1e-6)
    np.testing.assert_allclose(np.diag(system.cell), SIDE * SPACING, rtol=1e-6)
    np.testing.assert_allclose(np.unique(system.masses), [20.1797, 39.948], rtol=1e-5)
    velocities = np.asarray(system.velocities, float)
    moved = np.asarray(system.positions[-1] - system.positions[0], float)
    np.testing.assert_allclose(moved, STEPS * STEP * velocities[0], atol=1e-5)
    found = temperatures_in(velocities, np.asarray(system.masses))
    np.testing.assert_allclose(found, kelvin, rtol=1e-4)


@pytest.mark.parametrize("units", ["si", "cgs", "nano", "micro"])
def test_masses_are_in_the_units_of_the_dump(tmp_path, units, monkeypatch):
    for symbol in MASSES:
        monkeypatch.setitem(MASSES, symbol, MASSES[symbol] / LAMMPS_UNITS[units][3])
    length, _, speed, _ = LAMMPS_UNITS[units]
    columns = "id type mass xu yu zu vx vy vz"
    form = {"scale": 1 / length, "speed": 1 / speed}
    path, _, v = write_dump(tmp_path / "a.lammpstrj", columns, units=units, **form)
    options = ReadOptions(md_step=1.0)
    system, _ = io.read_trajectory(path, options=options)
    np.testing.assert_array_equal(system.species, np.where(SYMBOLS == "Si", 14, 8))
    np.testing.assert_allclose(system.velocities, v, atol=1e-7)
    path, _, _ = write_dump(tmp_path / "b.lammpstrj", columns, **form)
    with pytest.raises(ValueError, match=rf"none in Da.*units {units}.*--units {units}"):
        io.read_trajectory(path, options=options)
    told = ReadOptions(md_step=1.0, units=units, species=("Si", "O"))
    np.testing.assert_allclose(io.read_trajectory(path, options=told)[0].masses, system.masses)


def with_moving_box(path, flags, flagged=True):
    """Let the box of a dump follow its atoms, as with `boundary s` or `m`."""
    frames = path.read_text().split("ITEM: TIMESTEP")[1:]
    text = ""
    for number, frame in enumerate(frames):
        head, rows = frame.split("ITEM: ATOMS", 1)
        head = head[: head.index("ITEM: BOX")] + f"ITEM: BOX BOUNDS {flags}".rstrip() + "\n"
        low = [f"{-0.1 * number - k:.9g} {30 + 0.2 * number:.9g}\n" for k in range(3)]
        text += f"ITEM: TIMESTEP{head}{''.join(low)}ITEM: ATOMS{rows}"
    path.write_text(text)
    return path


@pytest.mark.parametrize("flags", ["ss ss ss", "mm mm mm", "fs ms ff", ""])
def test_a_box_that_follows_isolated_atoms(tmp_path, flags):
    columns = "id element xu yu zu vx vy vz"
    path, r, v = write_dump(tmp_path / "run.lammpstrj", columns, cell=15 * np.eye(3))
    with_moving_box(path, flags)
    said = {"units": "metal", "md_step": 1.0}
    if not flags:
        with pytest.raises(ValueError, match=r"cell of frame 1 of.*isolated \(--no-periodic\)"):
            io.read_trajectory(path, options=ReadOptions(**said))
        said["periodic"] = False
    system, _ = io.read_trajectory(path, options=ReadOptions(**said))
    assert system.cell is None
    np.testing.assert_allclose(system.positions, r, atol=1e-5)
    np.testing.assert_allclose(system.velocities, v, atol=1e-7)


def test_scaled_positions_are_those_in_the_box_of_their_own_frame(tmp_path):
    columns = "id element xs ys zs vx vy vz"
    path, r, _ = write_dump(tmp_path / "run.lammpstrj", columns, cell=15 * np.eye(3))
    with_moving_box(path, "ss ss ss")
    low = -0.1 * np.arange(len(r))[:, None, None] - np.arange(3)
    high = 30 + 0.2 * np.arange(len(r))[:, None, None]
    system, _ = io.read_trajectory(path, 0, 1, options=ReadOptions(units="metal", md_step=1.0))
    apart, _ = io.read_trajectory(path, 9, 10, options=ReadOptions(units="metal", md_step=1.0))
    inside = np.asarray(r) % 15 / 15
    for found, i in ((system, 0), (apart, 9)):
        expected = low[i] + inside[i] * (high[i] - low[i])
        np.testing.assert_allclose(found.positions[0], expected, atol=1e-4)


def test_a_periodic_box_that_changes_is_still_refused(tmp_path):
    path, _, _ = write_dump(tmp_path / "run.lammpstrj", "id element xu yu zu vx vy vz")
    with_moving_box(path, "pp pp pp")
    with pytest.raises(ValueError, match=r"constant volume can be used\.$"):
        io.read_trajectory(path, options=ReadOptions(units="metal", md_step=1.0, periodic=False))
