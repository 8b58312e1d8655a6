"""A converted model against the PyTorch TrajCast's own numbers, stage by stage."""

import functools
from pathlib import Path

import pytest

from trajcast_jax.network.layers import tensor_product
from trajcast_jax.pytorch import importer, parity
from trajcast_jax.pytorch.weights import expected_shapes

DATA = Path(__file__).parent / "data"


@functools.cache
def figures(name):
    """All errors of an oracle, in both precisions; computed once."""
    return dict(parity.errors(parity.load(DATA / f"parity_{name}.npz")))


STAGES = (
    "EdgeLengthEncoding", "VelocityNormEncoding", "SHEdgeVectors", "SHVelVectors", "LinearInit",
    "mp_layer_0", "mp_layer_1", "LinearReadOut",
)  # fmt: skip
STEPS = [f"step{n}/{what}" for n in (1, 3, 10) for what in ("positions", "velocities")]
MOLECULE = [
    *(f"float64/frame0/stage/{stage}" for stage in STAGES),
    *(f"float64/frame0/neighbors/stage/{stage}" for stage in STAGES[4:]),
    *(f"float64/frame{k}/{where}raw_target" for k in range(3) for where in ("", "neighbors/")),
    *(f"float64/frame0/{step}" for step in STEPS),
    *(f"float32/frame{k}/{where}raw_target" for k in range(3) for where in ("", "neighbors/")),
    *(f"float32/frame0/{step}" for step in STEPS),
    *(f"{dtype}/batch/{what}" for dtype in parity.BOUNDS for what in ("raw_target", "mse")),
]
PERIODIC = [
    "float64/frame0/stage/mp_layer_0", "float64/frame0/stage/LinearReadOut",
    "float64/frame0/raw_target", "float64/frame0/neighbors/raw_target",
    "float64/frame0/neighbors/edges",
    *(f"float64/frame0/{step}" for step in STEPS if "step3" not in step),
]  # fmt: skip


@pytest.mark.parametrize("what", MOLECULE)
def test_molecule_is_pytorchs(what):
    assert figures("molecule")[what] <= parity.BOUNDS[what.split("/")[0]]


@pytest.mark.parametrize("what", PERIODIC)
def test_periodic_system_is_pytorchs(what):
    assert figures("periodic")[what] <= parity.BOUNDS[what.split("/")[0]]


def test_gradient_of_the_loss_by_every_weight_is_pytorchs():
    found = {k: v for k, v in figures("molecule").items() if k.startswith("float64/batch/grad/")}
    oracle = parity.load(DATA / "parity_molecule.npz")
    learned = expected_shapes(importer.model_settings(oracle.config), 4)
    assert {k.removeprefix("float64/batch/grad/") for k in found} == set(learned)
    for name, error in found.items():
        assert error <= parity.BOUNDS["float64"], name


def test_messages_edge_by_edge_are_pytorchs_too(monkeypatch):
    """What few neighbours or many radial functions take: targets, loss and gradient.

    With its 12.5 neighbours and 16 functions the oracle contracts neighbours first elsewhere.
    """
    monkeypatch.setattr(tensor_product, "DENSITY_LIMIT", 0)
    monkeypatch.setattr(tensor_product, "_density_forward", None)  # an error where it is taken
    oracle = parity.load(DATA / "parity_molecule.npz")
    whole = {k: v for k, v in oracle.arrays["float64"].items() if "step" not in k}
    found = dict(parity.errors(oracle._replace(arrays={"float64": whole})))
    assert "float64/batch/mse" in found
    assert max(found.values()) <= parity.BOUNDS["float64"]
