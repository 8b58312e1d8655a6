"""The table [reference.structure]: what it takes, and what is said of what it does not."""

import dataclasses

import pytest

from trajcast_jax.config import ReferenceSettings
from trajcast_jax.reference import build_structure


def built(**table):
    return build_structure(dataclasses.replace(ReferenceSettings(), structure=table))


def test_a_molecule_by_name_is_isolated_with_or_without_saying_so():
    assert len(built(name="H2O")) == len(built(name="H2O", periodic=False)) == 3
    assert not built(name="H2O", periodic=False).pbc.any()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"name": "H2O", "periodic": True}, "cannot be built"),
        ({"name": "no such"}, "cannot be built"),
        ({"lammps_data": "", "repeat": [2, 2, 2]}, "has 'repeat', which from_data does not know"),
        ({"spacegroup": 999, "symbols": ["Si"], "basis": [[0, 0, 0]]}, "cannot be built"),
        ({}, "needs one of spacegroup, lammps_data, name, filename"),
    ],
)
def test_a_table_that_builds_nothing_is_named(table, words):
    with pytest.raises(ValueError, match=words):
        built(**table)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match=r"names the file no\.cif, which is not"):
        built(filename="no.cif")
