"""Archives of arrays: nothing is believed before it is checked."""

import io
import zipfile

import numpy as np
import pytest

from trajcast_jax.io import read_npz
from trajcast_jax.pytorch.importer import read_config


def test_arrays_come_back(tmp_path):
    arrays = {"a/b": np.arange(6).reshape(2, 3), "text": np.array("x"), "none": np.zeros((0, 3))}
    arrays["fortran"] = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)
        found = read_npz(tmp_path / "x.npz")
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)


def header(shape, descr="<f8"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"shape": shape, "fortran_order": False, "descr": descr}
    )
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header((10**12,)) + bytes(8), "is to have 8,000,000,000,000 bytes, and has 8"),
        (header((1,), "|O") + bytes(8), "x.npz"),
        (bytes(2**27), "its .* bytes unpack to 134,217,728"),
        (b"hello", "x.npz cannot|x.npz: "),
    ],
)
def test_lies_in_headers_and_bombs_are_refused(tmp_path, content, message):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(ValueError, match=message):
        read_npz(tmp_path / "x.npz")
    (tmp_path / "x.npz").write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match=r"x\.npz cannot be read"):
        read_npz(tmp_path / "x.npz")


def test_aliases_in_yaml_are_refused(tmp_path):
    path = tmp_path / "config.yaml"
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{k + 1}: &a{k + 1} [{', '.join([f'*a{k}'] * 9)}]" for k in range(9)]
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"config\.yaml: it has YAML aliases"):
        read_config(path)
    path.write_text("model: 3")
    with pytest.raises(ValueError, match=r"config\.yaml: its section 'model' holds int"):
        read_config(path)
