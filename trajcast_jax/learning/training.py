"""Training: updates in compiled chunks, and the loop `fit`, which yields metrics.

The model is a pure function and the training state a pytree of arrays. So a run that is resumed
from its last state is bit-identical to an uninterrupted one on the same machine.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from trajcast_jax.compiling import compiler_options
from trajcast_jax.config import TrainingSettings
from trajcast_jax.data.pairs import FramePairs
from trajcast_jax.learning.losses import batch_loss, error_sums
from trajcast_jax.learning.optimizer import Params, learning_rate, optimizer
from trajcast_jax.network.forecast import Forecaster

UPDATE_OPTIONS = {"xla_backend_optimization_level": "1"}
"""LLVM's optimisation level 1 on CPUs. Wide networks compile in two thirds of the time, and
updates are equally fast."""


@struct.dataclass
class TrainState:
    """Complete state of a training run.

    Attributes:
      params, ema_params: weights, and their exponential moving average.
      best_params: averaged weights at the best validation.
      opt_state: state of the optax optimiser.
      update, total: numbers of completed and of planned updates.
      rate_scale: factor on the learning rate; the plateau schedule reduces it.
      best_error: lowest validation error so far: relative MAE of displacements plus velocities.
      stale: numbers of validations since the best one, and since the last rate reduction.
    """

    params: Params
    ema_params: Params
    best_params: Params
    opt_state: Any
    update: Int[Array, ""]
    total: Int[Array, ""]
    rate_scale: Float[Array, ""]
    best_error: Float[Array, ""]
    stale: Int[Array, "2"]


def init_state(
    forecaster: Forecaster, settings: TrainingSettings, params: Params | None = None
) -> TrainState:
    """Make an initial state, with given weights or with random ones from `settings.seed`."""
    params = forecaster.init(settings.seed) if params is None else params
    return TrainState(
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        best_params=jax.tree.map(jnp.copy, params),
        opt_state=optimizer(settings).init(params),
        update=jnp.zeros((), jnp.int32),
        total=jnp.asarray(settings.updates, jnp.int32),
        rate_scale=jnp.ones(()),
        best_error=jnp.inf * jnp.ones(()),  # a weak type would compile all updates twice
        stale=jnp.zeros(2, jnp.int32),
    )


def follow(
    rule: optax.GradientTransformation,
    settings: TrainingSettings,
    state: TrainState,
    gradients: Params,
) -> tuple[TrainState, Bool[Array, ""]]:
    """Apply one update; also return whether the gradient was finite.

    If it was not, only the number of updates changes. `rule` is `optimizer(settings)`.
    """
    steps, opt_state = rule.update(gradients, state.opt_state, state.params)
    rate = learning_rate(settings, state.update, state.total) * state.rate_scale
    steps = jax.tree.map(lambda x: x * rate, steps)
    params = optax.apply_updates(state.params, steps)
    # The decay is smaller during the first updates, so that the average forgets initial weights.
    decay = jnp.minimum(settings.ema_decay, (1.0 + state.update) / (10.0 + state.update))
    ema = optax.incremental_update(params, state.ema_params, 1.0 - decay)
    new = state.replace(params=params, ema_params=ema, opt_state=opt_state)
    # Skip updates without a finite gradient, so that a single bad frame does not end the run.
    usable = jnp.isfinite(optax.tree.norm(gradients))
    state = jax.tree.map(lambda new, old: jnp.where(usable, new, old), new, state)
    return state.replace(update=state.update + 1), usable


def update_step(
    forecaster: Forecaster, settings: TrainingSettings
) -> Callable[[TrainState, FramePairs], tuple[TrainState, Float[Array, ""]]]:
    """Make a function (state, pairs) → (state, loss) for one update on one batch of the pairs.

    If `settings.strides` is above 1, pairs are stored as sequences of this many consecutive ones.

    If the gradient is not finite, the update is skipped and the loss is NaN. Every epoch uses a
    new permutation of all pairs, which depends only on the seed and the update number.

    Raises:
      ValueError: the settings combine several strides with an energy balance.
    """
    if settings.strides > 1 and settings.energy_balance:
        raise ValueError(
            f"training.energy_balance is that of single strides, but training.strides is "
            f"{settings.strides}; set one of them to its default."
        )
    rule = optimizer(settings)

    def loss_of(params, batch):
        return batch_loss(forecaster, settings, params, batch)

    def update(state: TrainState, pairs: FramePairs):
        n = pairs.displacements.shape[0] // settings.strides
        size = min(settings.batch_size, n)
        per_epoch = n // size
        key = jax.random.fold_in(jax.random.key(settings.seed), state.update // per_epoch)
        order = jax.random.permutation(key, n)
        start = (state.update % per_epoch) * size
        chosen = jax.lax.dynamic_slice(order, (start,), (size,))
        if settings.strides > 1:
            chosen = chosen[:, None] * settings.strides + jnp.arange(settings.strides)
        batch = jax.tree.map(lambda x: x[chosen], pairs)
        loss, gradients = jax.value_and_grad(loss_of)(state.params, batch)
        state, usable = follow(rule, settings, state, gradients)
        return state, jnp.where(usable, loss, jnp.nan)

    return update


def train_updates(
    forecaster: Forecaster, settings: TrainingSettings, n_updates: int
) -> Callable[[TrainState, FramePairs], tuple[TrainState, Float[Array, "update"]]]:
    """Make a function (state, pairs) → (state, losses): `n_updates` updates in a compiled scan."""
    update = update_step(forecaster, settings)

    def chunk(state: TrainState, pairs: FramePairs):
        return jax.lax.scan(lambda s, _: update(s, pairs), state, None, n_updates)

    return jax.jit(chunk, donate_argnums=0, compiler_options=compiler_options(**UPDATE_OPTIONS))


def validated(state: TrainState, settings: TrainingSettings, error: Float[Array, ""]) -> TrainState:
    """Update the state after a validation: store the best weights, apply the plateau schedule."""
    better = error < state.best_error
    stale = jnp.where(better, 0, state.stale + 1)
    reduce = (settings.schedule == "plateau") & (stale[1] > settings.plateau_patience)
    keep = lambda new, old: jnp.where(better, new, old)  # noqa: E731
    return state.replace(
        best_params=jax.tree.map(keep, state.ema_params, state.best_params),
        best_error=jnp.minimum(error, state.best_error),
        rate_scale=jnp.where(reduce, state.rate_scale * settings.plateau_factor, state.rate_scale),
        stale=jnp.where(reduce, stale.at[1].set(0), stale),
    )


class Metrics(NamedTuple):
    """Metrics that `fit` yields after a chunk; errors are None except after a validation."""

    update: int
    loss: float
    displacement_error: float | None
    """Relative MAE (%) of the averaged weights on the validation set."""
    velocity_error: float | None
    seconds: float
    """Time (s) from the start of `fit` to the end of the chunk's updates, with compilation."""


class _Clock:
    """Estimates the number of updates that fit into a time limit, in whole chunks."""

    def __init__(self, seconds: float | None, chunk: int):
        self.begin = self.now = time.monotonic()
        self.end = None if seconds is None else self.begin + seconds
        self.chunk = chunk
        self.first: tuple[float, int] | None = None

    def total(self, done: int, total: int) -> int:
        """New total number of updates, estimated after `done` updates."""
        self.now = time.monotonic()
        if self.end is None:
            return total
        if self.now >= self.end:
            return done
        if self.first is None:  # the first chunk includes compilation
            self.first = self.now, done
            return total
        start, before = self.first
        speed = (done - before) / (self.now - start)
        return done + int((self.end - self.now) * speed / self.chunk) * self.chunk


def fit(
    forecaster: Forecaster,
    settings: TrainingSettings,
    state: TrainState,
    train: FramePairs,
    validation: FramePairs,
    chunk: int = 50,
    seconds: float | None = None,
) -> Iterator[tuple[TrainState, Metrics]]:
    """Train up to `state.total` updates; yield the state and its metrics after every chunk.

    Validation is every `validate_every` updates and at the end. With `seconds`, the total and the
    schedule are fitted to this time, including compilation; such a run is not reproducible
    bit by bit. A yielded state can be saved, but must not be used after the next iteration,
    because its buffers are reused.

    Raises:
      FloatingPointError: most updates of a chunk had no finite gradient.
    """
    chunk = min(chunk, settings.validate_every)
    compiled: dict[int, Callable] = {}
    errors_of = jax.jit(lambda params, pairs: error_sums(forecaster, params, pairs))
    settle = jax.jit(lambda state, error: validated(state, settings, error), donate_argnums=0)
    train, validation = jax.device_put((train, validation))
    clock = _Clock(seconds, chunk)
    while int(state.update) < (total := int(state.total)):
        done = int(state.update)
        next_stop = min(total, (done // settings.validate_every + 1) * settings.validate_every)
        n = min(chunk, next_stop - done)
        if n not in compiled:
            compiled[n] = train_updates(forecaster, settings, n)
        state, losses = compiled[n](state, train)
        done, loss = done + n, float(jnp.nanmean(losses))
        bad = int(jnp.isnan(losses).sum())
        total = clock.total(done, total)
        if bad > n // 2:
            raise FloatingPointError(
                f"{bad} of the updates {done - n} to {done} had no finite gradient; lower "
                "training.learning_rate or training.clip_norm and resume from the last state."
            )
        displacement = velocity = None
        if done in (next_stop, total):
            sums = errors_of(state.ema_params, validation)
            relative = sums[:, 0] / sums[:, 1]
            state = settle(state, relative.sum())
            displacement, velocity = (100 * relative).tolist()
        state = state.replace(total=jnp.asarray(total, jnp.int32))
        yield state, Metrics(done, loss, displacement, velocity, clock.now - clock.begin)
        if settings.early_stop and int(state.stale[0]) >= settings.early_stop:
            return
