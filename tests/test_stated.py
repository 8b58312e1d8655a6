"""What files state or leave open: masses of isotopes, lengths of dumps, units of velocities."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.data import atomic_masses
from dumps import SYMBOLS, write_dump
from test_foreign import V, write_xyz
from test_h5md_layouts import write_h5md

from trajcast_jax import io
from trajcast_jax.io import FileNote, ReadOptions
from trajcast_jax.io.masses import ISOTOPES, SURE, element_of, plausible
from trajcast_jax.io.species import check_masses, from_masses, from_numbers, from_symbols
from trajcast_jax.units import LAMMPS_UNITS

Z = np.where(SYMBOLS == "Si", 14, 8)
HMR = 2.016
"""Da that each hydrogen gets."""


def ethanol():
    """Symbols and repartitioned masses: CH3, CH2, OH (whose O keeps its mass, as in water)."""
    symbols = molecule("CH3CH2OH").get_chemical_symbols()  # C C O H H H H H H
    masses = atomic_masses[molecule("CH3CH2OH").numbers].copy()
    masses[3:] += HMR
    masses[:3] -= HMR * np.array([2, 1, 3])[np.argsort([0, 2, 1])]
    return symbols, masses


def test_masses_of_a_file_win_if_they_fit_the_element(tmp_path):
    symbols, masses = ethanol()
    with pytest.warns(FileNote, match=r"masses are those of the file.*H 3.024"):
        found = check_masses(from_symbols(symbols, "a"), symbols, masses, "a")
    np.testing.assert_array_equal(found.masses, masses)
    wrong = masses.copy()
    wrong[0] -= 1.0  # no whole number of shares, and mass is lost
    with pytest.raises(ValueError, match="C a mass of"):
        check_masses(from_symbols(symbols, "a"), symbols, wrong, "a")
    for symbol, mass in (("Li", 6.015), ("He", 3.016), ("O", 17.999), ("C", 14.003), ("H", 3.024)):
        with pytest.warns(FileNote, match=rf"{symbol} {mass:g}"):
            found = check_masses(from_symbols([symbol] * 2, "a"), [symbol] * 2, [mass] * 2, "a")
        np.testing.assert_array_equal(found.masses, mass)
    with pytest.raises(ValueError, match=r"C a mass of 15\.035"):  # a united atom
        check_masses(from_symbols(["C"], "a"), ["C"], [15.035], "a")
    path = tmp_path / "li.extxyz"
    atoms = Atoms("Li2", [[0, 0, 0], [3, 0, 0]], masses=[6.015, 6.015])
    atoms.set_velocities([[0.0, 0.1, 0], [0, 0, 0.1]])
    ase.io.write(path, atoms)
    with pytest.warns(FileNote, match="Li 6.015"):
        np.testing.assert_allclose(io.read(path).masses, 6.015, rtol=1e-6)
    heavy = np.where(Z == 14, 28.085, 17.999)
    with pytest.warns(FileNote, match="O 17.999"):
        run, _ = io.read_trajectory(write_h5md(tmp_path / "o18.h5", Z, heavy))
    np.testing.assert_allclose(run.masses, heavy, rtol=1e-6)


def test_elements_by_masses_of_repartitioned_molecules_and_isotopes():
    symbols, masses = ethanol()
    with pytest.warns(FileNote, match="3.024 Da is H"):
        found = from_masses(symbols, masses, ReadOptions(), "a")
    np.testing.assert_array_equal(found.species, molecule("CH3CH2OH").numbers)
    with pytest.warns(FileNote, match="6.015 Da is Li"):
        from_masses(["a"], [6.015], ReadOptions(), "a")
    for mass in (3.016, 5.963, 15.035):  # tritium or helium-3; a C, had it heavy hydrogens; CH3
        with pytest.raises(ValueError, match="does not tell their elements"):
            from_masses(["a"], [mass], ReadOptions(), "a")
    standard = {z: float(atomic_masses[z]) for z in range(1, 93) if z != 84}
    assert {z: element_of(m, [m]) for z, m in standard.items()} == {z: z for z in standard}
    every = np.array([*standard.values(), 3.024])
    some = [1, 6, 7, 8, 9, 11, 14, 15, 16, 17]
    assert [element_of(standard[z], every) for z in some] == some
    for z, isotopes in ISOTOPES.items():
        assert plausible([z] * len(isotopes), isotopes, 0.0).all()
        assert all(abs(m - round(m)) < 0.12 for m in isotopes)
    assert SURE < 0.01


def test_a_type_with_the_mass_of_helium_is_no_hydrogen():
    for mass in (4.0026, 3.016):
        with pytest.raises(ValueError, match="numbers its atoms"):
            from_numbers([1, 1], ReadOptions(), "a", [mass, mass])
    for mass in (1.008, 2.014, 3.024):
        assert from_numbers([1, 1], ReadOptions(), "a", [mass, mass]).species.tolist() == [1, 1]


@pytest.mark.parametrize("units", ["metal", "electron", "nano", "micro", "si", "cgs"])
def test_lengths_of_a_dump_without_velocities(tmp_path, units):
    scale = 1 / LAMMPS_UNITS[units][0]
    columns = "id element x y z"
    path, r, _ = write_dump(tmp_path / "stated.dump", columns, units=units, scale=scale)
    found = io.read(path, still=True)
    apart = np.asarray(found.positions, float) - r[-1]
    away = (apart - apart[0]) @ np.linalg.inv(np.asarray(found.cell, float))
    np.testing.assert_allclose(away, np.round(away), atol=1e-4)
    path, _, _ = write_dump(tmp_path / "silent.dump", columns, scale=scale)
    if units == "electron":  # in Å, the atoms would be far from one another, but might be
        with pytest.raises(ValueError, match=r"make sense in several: \w+, \w+; say it by units"):
            io.read(path, still=True)
    else:
        with pytest.warns(FileNote, match="lengths are those of units"):
            silent = io.read(path, still=True)
        np.testing.assert_allclose(silent.cell, found.cell, rtol=1e-6)
    told = io.read(path, still=True, options=ReadOptions(units=units))
    np.testing.assert_allclose(told.cell, found.cell, rtol=1e-6)


@pytest.mark.parametrize("factor", [0.098, 0.2, 5.0])
def test_velocities_of_no_stated_unit_that_are_cold_or_hot(tmp_path, factor):
    def change(text):
        lines = text.replace(' velocity_unit="angstrom/fs"', "").replace(":momenta:R:3", "")
        rows = [line.split() for line in lines.splitlines()]
        for row in rows:
            if len(row) == 10:
                row[4:] = [f"{factor * float(x):.9g}" for x in row[4:7]]
        return "\n".join(" ".join(row) for row in rows) + "\n"

    path = write_xyz(tmp_path / "run.extxyz", change=change)
    for read in (io.read, io.read_trajectory):
        with pytest.raises(ValueError, match=r"does not state the unit of its velocities"):
            read(path)
    said = io.read(path, options=ReadOptions(velocity_unit="angstrom/fs"))
    np.testing.assert_allclose(said.velocities, factor * V[-1], rtol=1e-6)
