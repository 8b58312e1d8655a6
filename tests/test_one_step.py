"""One-step errors: of hand-made numbers, and against forecasts pair by pair."""

import jax
import numpy as np
from conftest import forecaster
from salt import salt

from trajcast_jax.analysis.evaluation import (
    Step,
    evaluate_one_step,
    one_step_errors,
    one_step_predictions,
)
from trajcast_jax.data.pairs import frame_pairs
from trajcast_jax.neighbors.graph import neighbor_list
from trajcast_jax.network.forecast import TrainedForecast


def test_one_step_errors_of_hand_made_numbers():
    """Two pairs of Si and O; every number by hand."""
    target = Step(np.full((2, 2, 3), 2.0), np.full((2, 2, 3), -0.5))
    off = np.array([[0.1, 0.3], [0.1, 0.5]])[..., None] * np.array([1, -1, 1])
    predicted = Step(target.displacements + off, target.velocities + 0.1 * off)
    velocities = np.full((2, 2, 3), 0.5)
    species = np.array([14, 8])
    errors = one_step_errors(predicted, target, velocities, species, 3.0, n_blocks=2)
    assert list(errors) == ["all", "Si", "O", "n_pairs", "time_step"]
    for group, mae, error in [("all", 0.25, 0.05), ("Si", 0.1, 0.0), ("O", 0.4, 0.1)]:
        d, v = errors[group]["displacements"], errors[group]["velocities"]
        assert np.isclose(d["mae"], mae)
        assert np.isclose(d["relative_percent"], 100 * mae / 2)
        assert np.isclose(d["mae_error"], error, atol=1e-7)
        assert np.isclose(v["mae"], 0.1 * mae)
        assert np.isclose(v["relative_percent"], 100 * 0.1 * mae / 0.5)
        # Going on at 0.5 Å/fs for 3 fs makes 1.5 instead of 2, and 0.5 instead of −0.5.
        assert np.isclose(d["persistence_percent"], 25)
        assert np.isclose(v["persistence_percent"], 200)


def test_one_step_errors_leave_padding_out():
    """Systems of different sizes: what the padding holds does not count."""
    target = Step(np.ones((2, 2, 3)), np.ones((2, 2, 3)))
    wrong = target.displacements.copy()
    wrong[0] += 0.5
    wrong[1, 1] = 99.0
    species = np.array([[8, 1], [8, 0]])
    errors = one_step_errors(Step(wrong, wrong), target, np.ones((2, 2, 3)), species, 1.0)
    assert np.isclose(errors["all"]["displacements"]["mae"], 1 / 3)
    assert np.isclose(errors["O"]["displacements"]["mae"], 0.25)
    assert np.isclose(errors["H"]["displacements"]["mae"], 0.5)


def test_one_step_predictions_are_the_forecast_of_each_pair():
    """Against the forecast on a neighbour list of its own; and the errors are those from it."""
    untrained = forecaster(species=(11, 17), time_step=20.0, blocks=1, channels=2)
    model = TrainedForecast(untrained.init(0), untrained)
    run, times = salt(0, 20.0, 30), 20.0 * np.arange(30)
    pairs = frame_pairs([(run, times)], 20.0, model.cutoff, 3)
    step = one_step_predictions(model, pairs)
    neighbors = neighbor_list(run.cell, model.cutoff)
    forecast = jax.jit(model.forecast)
    for k in range(3):
        frame = run.replace(
            positions=pairs.system.positions[k], velocities=pairs.system.velocities[k]
        )
        after = forecast(frame, neighbors.allocate(frame, capacity=64))
        moved = after.positions - frame.positions
        np.testing.assert_allclose(step.displacements[k], moved, atol=2e-5)
        np.testing.assert_allclose(step.velocities[k], after.velocities, atol=1e-6)
    errors = evaluate_one_step(model, pairs)
    off = np.abs(np.asarray(step.displacements) - pairs.displacements)
    assert np.isclose(errors["all"]["displacements"]["mae"], off.mean(), rtol=1e-4)
    assert errors["n_pairs"] == 3
    assert errors["time_step"] == 20.0
