"""Training: loss, one compiled chunk of updates, and `fit` that yields metrics.

The model is a pure function here and the state a pytree of arrays, so that a run resumed
from its last state repeats the uninterrupted one bit for bit on the same machine.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from trajcast_jax.balance import imbalance, motion_sums
from trajcast_jax.config import TrainingSettings
from trajcast_jax.dataset import FramePairs
from trajcast_jax.forecast import Forecaster
from trajcast_jax.graph import Graph
from trajcast_jax.optimizer import Params, learning_rate, optimizer


@struct.dataclass
class TrainState:
    """All that a run needs to go on.

    Attributes:
      params, ema_params: weights, and their exponential moving average.
      best_params: the averaged weights at the best validation.
      opt_state: optax's.
      update, total: number of updates done, and of all that are planned.
      rate_scale: factor on the learning rate (the plateau rule lowers it).
      best_error: lowest validation error so far, relative MAE of d plus that of v.
      stale: validations since the best, and since the last reduction of the rate.
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


def pair_errors(
    forecaster: Forecaster, params: Params, pair: FramePairs
) -> tuple[Float[Array, "atom 3"], Float[Array, "atom 3"]]:
    """Errors of the forecast of one pair: displacement (Å) and new velocity (Å/fs)."""
    edges = pair.edges(forecaster.settings.cutoff)
    displacements, velocities = forecaster.changes(params, pair.system, edges)
    return displacements - pair.displacements, velocities - pair.velocities


def pair_loss(
    forecaster: Forecaster,
    settings: TrainingSettings,
    pair: FramePairs,
    errors: tuple[Float[Array, "atom 3"], Float[Array, "atom 3"]],
) -> Float[Array, ""]:
    """w_d·MSE(d/s_d) + w_v·MSE(v/s_v) over real atoms and components, from `pair_errors`."""
    scales = forecaster.scales(pair.system.species, pair.velocities.dtype)
    weights = (settings.displacement_weight, settings.velocity_weight)
    mask = pair.system.mask[:, None]
    n = 3 * pair.system.mask.sum()
    return sum(
        weight * jnp.sum(jnp.where(mask, error / scales[:, k, None], 0.0) ** 2) / n
        for k, (weight, error) in enumerate(zip(weights, errors, strict=True))
    )


def batch_errors(
    forecaster: Forecaster, params: Params, batch: FramePairs
) -> tuple[Graph, tuple[Float[Array, "pair atom 3"], Float[Array, "pair atom 3"]]]:
    """Graphs of a batch, and the errors of its displacements and velocities, in one pass."""
    edges = jax.vmap(lambda pair: pair.edges(forecaster.settings.cutoff))(batch)
    displacements, velocities = forecaster.batch_changes(params, batch.system, edges)
    return edges, (displacements - batch.displacements, velocities - batch.velocities)


def unrolled_loss(
    forecaster: Forecaster, settings: TrainingSettings, params: Params, batch: FramePairs
) -> Float[Array, ""]:
    """Mean of `pair_loss` over the states that consecutive strides lead to, each from the last.

    Arrays of the batch are (sequence, stride, …). A state is the true frame and what the forecast
    is off by, so that it has that frame's neighbours: the others are beyond the cutoff, or so near
    it that they hardly count. The reverse pass keeps the states and does their strides again.
    """

    @jax.checkpoint
    def stride(off, pairs):
        true = pairs.system
        here = true.replace(positions=true.positions + off[0], velocities=true.velocities + off[1])
        _, errors = batch_errors(forecaster, params, pairs.replace(system=here))
        off = off[0] + errors[0], errors[1]
        return off, jax.vmap(partial(pair_loss, forecaster, settings))(pairs, off).mean()

    pairs = jax.tree.map(lambda x: x.swapaxes(0, 1), batch)
    start = (jnp.zeros_like(pairs.displacements[0]),) * 2
    return jax.lax.scan(stride, start, pairs)[1].mean()


def batch_loss(
    forecaster: Forecaster, settings: TrainingSettings, params: Params, batch: FramePairs
) -> Float[Array, ""]:
    """Mean of `pair_loss`; plus `energy_balance` times the batch's `imbalance`."""
    if settings.strides > 1:
        return unrolled_loss(forecaster, settings, params, batch)
    edges, errors = batch_errors(forecaster, params, batch)
    losses = jax.vmap(partial(pair_loss, forecaster, settings))(batch, errors)
    if not settings.energy_balance:
        return losses.mean()
    sums = jax.vmap(partial(motion_energies, forecaster))(batch, edges, errors)
    forecast, truth = (x.sum(0) for x in sums)
    n_species = len(forecaster.statistics.species)
    return losses.mean() + settings.energy_balance * imbalance(forecast, truth, n_species)


def motion_energies(
    forecaster: Forecaster,
    pair: FramePairs,
    edges: Graph,
    errors: tuple[Float[Array, "atom 3"], Float[Array, "atom 3"]],
) -> tuple[Float[Array, "product group"], Float[Array, "product group"]]:
    """`motion_sums` of forecast and of truth: of v'·v', d·d and d·v, in this order."""
    system, cutoff = pair.system, forecaster.settings.cutoff
    index = forecaster.species_index(system.species)
    n_species = len(forecaster.statistics.species)

    def sums(d, v):
        products = [(v, v), (d, d), (d, system.velocities)]
        return motion_sums(edges, index, system.masses, products, n_species, cutoff)

    d, v = pair.displacements, pair.velocities
    return sums(d + errors[0], v + errors[1]), sums(d, v)


def error_sums(forecaster: Forecaster, params: Params, pairs: FramePairs) -> Float[Array, "2 2"]:
    """Σ|error| and Σ|target| over all pairs, for displacement and velocity."""

    def one(pair):
        errors = pair_errors(forecaster, params, pair)
        mask = pair.system.mask[:, None]
        return jnp.stack(
            [
                jnp.stack([jnp.sum(mask * abs(e)), jnp.sum(mask * abs(x))])
                for e, x in zip(errors, (pair.displacements, pair.velocities), strict=True)
            ]
        )

    return jax.lax.map(one, pairs).sum(0)


def init_state(
    forecaster: Forecaster, settings: TrainingSettings, params: Params | None = None
) -> TrainState:
    """A fresh state, from given weights or from new ones drawn with `settings.seed`."""
    params = forecaster.init(settings.seed) if params is None else params
    return TrainState(
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        best_params=jax.tree.map(jnp.copy, params),
        opt_state=optimizer(settings).init(params),
        update=jnp.zeros((), jnp.int32),
        total=jnp.asarray(settings.updates, jnp.int32),
        rate_scale=jnp.ones(()),
        best_error=jnp.asarray(jnp.inf),
        stale=jnp.zeros(2, jnp.int32),
    )


def follow(
    rule: optax.GradientTransformation,
    settings: TrainingSettings,
    state: TrainState,
    gradients: Params,
) -> tuple[TrainState, Bool[Array, ""]]:
    """The state one update downhill, and whether the gradient was finite: else only it is counted.

    `rule` is `optimizer(settings)`.
    """
    steps, opt_state = rule.update(gradients, state.opt_state, state.params)
    rate = learning_rate(settings, state.update, state.total) * state.rate_scale
    steps = jax.tree.map(lambda x: x * rate, steps)
    params = optax.apply_updates(state.params, steps)
    # The average forgets its start: with few updates behind it, it is a plain mean.
    decay = jnp.minimum(settings.ema_decay, (1.0 + state.update) / (10.0 + state.update))
    ema = optax.incremental_update(params, state.ema_params, 1.0 - decay)
    new = state.replace(params=params, ema_params=ema, opt_state=opt_state)
    # One frame that overflows must not cost the run: such an update changes nothing.
    usable = jnp.isfinite(optax.tree.norm(gradients))
    state = jax.tree.map(lambda new, old: jnp.where(usable, new, old), new, state)
    return state.replace(update=state.update + 1), usable


def update_step(
    forecaster: Forecaster, settings: TrainingSettings
) -> Callable[[TrainState, FramePairs], tuple[TrainState, Float[Array, ""]]]:
    """A function (state, pairs) → (state, loss): one update on one batch of the pairs.

    With `settings.strides` pairs are sequences of so many, one after the other.

    The loss is NaN, and the update left out, where the gradient is not finite. Every epoch is a
    fresh permutation of all pairs, a function of the seed and the number of the update alone.
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
    """A function (state, pairs) → (state, losses): `n_updates` updates in one compiled scan."""
    update = update_step(forecaster, settings)

    def chunk(state: TrainState, pairs: FramePairs):
        return jax.lax.scan(lambda s, _: update(s, pairs), state, None, n_updates)

    return jax.jit(chunk, donate_argnums=0, compiler_options=compiler_options())


def compiler_options() -> dict[str, str] | None:
    """What an update is compiled with: on CPU LLVM's first level of optimisation.

    It takes two thirds of the time to compile a wide network, and the update runs as fast.
    """
    return {"xla_backend_optimization_level": "1"} if jax.default_backend() == "cpu" else None


def validated(state: TrainState, settings: TrainingSettings, error: Float[Array, ""]) -> TrainState:
    """The state after a validation: best weights kept, plateau rule applied."""
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
    """What `fit` reports after a chunk; errors are None except after a validation."""

    update: int
    loss: float
    displacement_error: float | None
    """Relative MAE on the validation set, per cent (of the averaged weights)."""
    velocity_error: float | None
    seconds: float
    """From the begin of `fit` to the end of the chunk's updates, compilation included."""


class _Clock:
    """How many updates fit into the time that is left, in whole chunks."""

    def __init__(self, seconds: float | None, chunk: int):
        self.begin = self.now = time.monotonic()
        self.end = None if seconds is None else self.begin + seconds
        self.chunk = chunk
        self.first: tuple[float, int] | None = None

    def total(self, done: int, total: int) -> int:
        """The new total after `done` updates; looks at the clock."""
        self.now = time.monotonic()
        if self.end is None:
            return total
        if self.now >= self.end:
            return done
        if self.first is None:  # the first chunk is mostly compilation
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
    """Train to `state.total` updates; yields the state and its metrics after every chunk.

    Validates every `validate_every` updates and at the end. With `seconds`, the total is what
    fits into that time, compilation included, and the schedule with it; such a run cannot be
    repeated bit by bit. A yielded state may be saved, but not used again once the iterator has
    gone on: its buffers are reused.
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
