"""Balance the energies of kinds of motion: train their mean gains per stride to 0.

The gains of a single batch are mostly noise. So running averages over some hundred updates are
trained to 0. The averages lag behind, and a force that is too strong makes training oscillate
("swing"). Then `balance` returns to the best weights so far and continues with a smaller force.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from trajcast_jax.compiling import compiler_options
from trajcast_jax.config import TrainingSettings
from trajcast_jax.data.pairs import FramePairs
from trajcast_jax.learning.energy_gains import Kinds
from trajcast_jax.learning.held_out import (
    Kept,
    Measured,
    better,
    kept,
    mean_square,
    scatter,
    swing,
)
from trajcast_jax.learning.losses import batch_errors, pair_loss
from trajcast_jax.learning.optimizer import Params, learning_rate, optimizer
from trajcast_jax.learning.training import UPDATE_OPTIONS, TrainState, follow, init_state
from trajcast_jax.network.forecast import Forecaster

CHUNK = 10
"""Number of updates per compiled scan, on pairs of one group."""
REDUCTIONS = 4
"""Largest number of consecutive reductions of the weight without better weights; then it stops."""
SWINGING = 20.0
"""Running averages above this multiple of their expected initial size mean that training swings."""
HOPELESS = 100.0
"""Running averages above this (% of the energy, per stride) always mean that training swings."""


@dataclasses.dataclass(frozen=True)
class BalanceSettings:
    """Strength and time scales of a balance.

    Attributes:
      weight: weight of the balance; that of the one-step loss is 1.
      memory: time constant of the running averages, in updates.
      patience: number of updates after which a constant average has doubled the force.
      every: number of updates between two measurements; a multiple of `CHUNK`.
    """

    weight: float
    memory: float
    patience: float
    every: int = 500


@struct.dataclass
class Balance:
    """State of a balance.

    Attributes:
      state: training state.
      average: running averages of the gains of all kinds; initially 0.
      multiplier: forces that grow as long as an average is not 0 (method of multipliers: Hestenes,
        J. Optim. Theory Appl. 4, 303 (1969), doi:10.1007/BF00927673). The one-step loss acts
        against the balance, so a force proportional to the average would not reach 0.
      weight: weight of the balance; that of the one-step loss is 1.
      age: number of updates since the averages were 0.
    """

    state: TrainState
    average: Float[Array, "kind"]
    multiplier: Float[Array, "kind"]
    weight: Float[Array, ""]
    age: Int[Array, ""]


def begin(
    forecaster: Forecaster, settings: TrainingSettings, gains: Kinds, params: Params, weight: float
) -> Balance:
    """Start a balance from a copy of the given weights."""
    nothing = jnp.zeros_like(gains.weights)
    return Balance(
        state=init_state(forecaster, settings, jax.tree.map(jnp.array, params)),
        average=nothing,
        multiplier=nothing.copy(),  # a separate buffer, because updates reuse buffers
        weight=jnp.asarray(weight, jnp.float32),
        age=jnp.zeros((), jnp.int32),
    )


def gone_back(
    run: Balance, forecaster: Forecaster, settings: TrainingSettings, gains: Kinds, params: Params
) -> Balance:
    """Restart a balance from given weights with half the weight and half the learning rate.

    Averages, multipliers and the optimiser are reset; the schedule continues.

    Both are halved because neither alone ends an oscillation. The optimisers take steps of a fixed
    size, however small the gradient is. A model of silicon gained 0.36 % a stride at first. After
    200 updates with a weight of 300 and a learning rate of 0.006 it gained 6.0 %; with an eighth of
    the weight 1.4 %, with an eighth of the rate 2.7 %, with an eighth of both 0.26 %.
    """
    new, old = begin(forecaster, settings, gains, params, float(run.weight) / 2), run.state
    state = new.state.replace(update=old.update, total=old.total, rate_scale=old.rate_scale / 2)
    return new.replace(state=state)


def balance_updates(
    forecaster: Forecaster, settings: TrainingSettings, how: BalanceSettings, gains: Kinds
) -> Callable[[Balance, FramePairs], Balance]:
    """Compile a function (balance, pairs) → balance that makes `CHUNK` updates.

    The function uses the weight of its first argument, not that of the settings.
    """
    rule, keep = optimizer(settings), float(np.exp(-1 / how.memory))

    def loss(params, batch, force):
        edges, errors = batch_errors(forecaster, params, batch)
        one_step = jax.vmap(lambda pair, e: pair_loss(forecaster, settings, pair, e))(batch, errors)
        found = jax.vmap(gains)(batch, edges, errors).mean(0)
        # The gradient is that of the squared running average; squares of a batch's own gains would
        # be dominated by noise.
        return one_step.mean() + 2 * jnp.sum(gains.weights * force * found), found

    def update(run: Balance, pairs: FramePairs) -> Balance:
        key = jax.random.fold_in(jax.random.key(settings.seed), run.state.update)
        n_pairs = pairs.displacements.shape[0]
        chosen = jax.random.randint(key, (settings.batch_size,), 0, n_pairs)
        batch = jax.tree.map(lambda x: x[chosen], pairs)
        force = run.multiplier + run.weight * run.average
        gradient, found = jax.grad(loss, has_aux=True)(run.state.params, batch, force)
        # Reduce the first steps: averages are still inaccurate, and the optimiser's steps largest.
        rate = run.state.rate_scale
        slow = run.state.replace(rate_scale=rate * jnp.minimum(1.0, (run.age + 1) / how.memory))
        state, usable = follow(rule, settings, slow, gradient)
        average = jnp.where(usable, keep * run.average + (1 - keep) * found, run.average)
        return run.replace(
            state=state.replace(rate_scale=rate),
            average=average,
            multiplier=run.multiplier + run.weight / how.patience * average,
            age=run.age + 1,
        )

    def chunk(run: Balance, pairs: FramePairs) -> Balance:
        return jax.lax.scan(lambda run, _: (update(run, pairs), None), run, None, CHUNK)[0]

    return jax.jit(chunk, donate_argnums=0, compiler_options=compiler_options(**UPDATE_OPTIONS))


def average_gain(run: Balance, gains: Kinds, memory: float) -> float:
    """RMS over kinds (%) of the running averages, corrected for their start at 0."""
    filled = -np.expm1(-int(run.age) / memory)
    return 100 * float(jnp.sqrt(jnp.sum(gains.weights * run.average**2))) / filled


def usual_gain(first: Measured, age: int, memory: float, batch_size: int) -> float:
    """Expected `average_gain` (%) of the initial weights after `age` updates.

    This gain is mostly noise. If σ² is the variance of a single pair, running averages with
    k = exp(−1/memory) have the variance σ² (1 − k)/(1 + k) (1 + kⁿ)/(1 − kⁿ) / batch size after n
    updates.
    """
    k = np.exp(-1 / memory)
    left = k**age
    part = (1 - k) / (1 + k) * (1 + left) / (1 - left) / batch_size
    return float(np.sqrt(max(mean_square(first), 0.0) + part * scatter(first)))


def average_swings(gain: float, usual: float) -> str | None:
    """Describe why running averages (%) show that training swings; None if they do not."""
    if gain < min(SWINGING * usual, HOPELESS):
        return None
    return (
        f"running averages of the energies that a stride adds to kinds of motion have grown to "
        f"{gain:.3f} %, but those of the first weights would be {usual:.3f} %"
    )


class Progress(NamedTuple):
    """Report of `balance` after a chunk of updates.

    Attributes:
      update: number of completed updates.
      average: RMS over kinds of the running averages of gains, %.
      weight: weight of the balance in these updates.
      best: best weights so far; the initial ones if its `update` is 0.
      measured: measurement of the averaged weights; None between measurements.
      message: the consequences if training swings; else None.
    """

    update: int
    average: float
    weight: float
    best: Kept
    measured: Measured | None
    message: str | None


def in_turn(groups: list[FramePairs]) -> Iterator[FramePairs]:
    """Yield the groups forever, evenly interleaved, in proportion to their numbers of pairs."""
    sizes = np.array([len(pairs) for pairs in groups])
    owed = np.zeros(len(groups))
    while True:
        owed += sizes / sizes.sum()
        group = int(owed.argmax())
        owed[group] -= 1
        yield groups[group]


def balance(
    forecaster: Forecaster,
    settings: TrainingSettings,
    how: BalanceSettings,
    gains: Kinds,
    groups: list[FramePairs],
    measure: Callable[[Params], Measured],
    params: Params,
) -> Iterator[Progress]:
    """Balance a model for `settings.updates` updates; yield `Progress` after every chunk.

    The weights are measured at the start, every `how.every` updates and at the end. If training
    swings, it restarts from the best weights so far with reduced forces. It stops if more than
    `REDUCTIONS` consecutive reductions gave no better weights. The last `Progress` has the best
    weights, which are the initial ones if none were better.

    Args:
      forecaster: the forecast whose weights are trained.
      settings: optimiser, learning rate, batch size and number of updates.
      how: strength and time scales of the balance.
      gains: function that computes the energy gains of kinds of motion.
      groups: training pairs, one group for every mesh.
      measure: function that measures weights on held-out pairs (`held_out.measurement`).
      params: initial weights.
    """

    def rate(state: TrainState) -> float:
        now = learning_rate(settings, state.update, state.total) * state.rate_scale
        return float(now) / settings.learning_rate

    first = measure(params)
    best = kept(params, first, 0, how.weight)
    done, reductions, last = 0, 0, CHUNK * -(-settings.updates // CHUNK)
    run = begin(forecaster, settings, gains, params, how.weight)
    yield Progress(0, 0.0, how.weight, best, first, None)
    chunk = balance_updates(forecaster, settings, how, gains)
    for pairs in in_turn(groups):
        run, done = chunk(run, pairs), done + CHUNK
        average, weight = average_gain(run, gains, how.memory), float(run.weight)
        usual = usual_gain(first, int(run.age), how.memory, settings.batch_size)
        trouble, measured, message = average_swings(average, usual), None, None
        if done >= last or (not trouble and done % how.every == 0):
            measured = measure(run.state.ema_params)
            old, new = best, kept(run.state.ema_params, measured, done, weight)
            best, trouble = better(old, new, first), swing(measured, first, rate(run.state))
            reductions = reductions if best is old else 0
        if trouble and done < last:
            reductions += 1
            message = _message(trouble, done, reductions, best, run, settings)
        yield Progress(done, average, weight, best, measured, message)
        if done >= last or reductions > REDUCTIONS:
            return
        if message:
            run = gone_back(run, forecaster, settings, gains, best.params)


def _message(
    trouble: str, done: int, reductions: int, best: Kept, run: Balance, settings: TrainingSettings
) -> str:
    begun = f"After {done:,} updates the balance swings: {trouble}."
    if reductions > REDUCTIONS:
        return f"{begun} It stops, because {REDUCTIONS} reductions gave no better weights."
    place = f"the weights of update {best.update:,}" if best.update else "the first weights"
    weight, rate = float(run.weight) / 2, settings.learning_rate * float(run.state.rate_scale) / 2
    return (
        f"{begun} It restarts from {place}, the best so far, with a weight of {weight:g} and a "
        f"learning rate of {rate:g}."
    )
