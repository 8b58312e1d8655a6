"""Errors of libraries that do not say which file they are about."""

import re

import pytest
from trajectories import make_trajectory, write

from trajcast_jax import io
from trajcast_jax.reading import UnreadableFileError, reading


def test_errors_of_h5py_get_the_name_of_the_file(tmp_path):
    path = tmp_path / "run.h5"
    damaged = OSError("Can't synchronously read data (bad global heap collection signature)")
    said = r"run.h5 cannot be read \(OSError: Can't"
    with pytest.raises(UnreadableFileError, match=said), reading(path):
        raise damaged
    with pytest.raises(FileNotFoundError, match=r"^There is no topology"), reading(path):
        raise FileNotFoundError("There is no topology other.gro; check the path.")


def test_damaged_attributes_are_those_of_a_named_file(tmp_path):
    path = write(tmp_path / "run.h5", make_trajectory()[0])
    sound = path.read_bytes()
    for found in re.finditer(rb"GCOL", sound):  # where HDF5 keeps texts
        text = bytearray(sound)
        text[found.start()] ^= 0x3E
        path.write_bytes(bytes(text))
        with pytest.raises(ValueError, match=r"run\.h5"):
            io.read_trajectory(path)
