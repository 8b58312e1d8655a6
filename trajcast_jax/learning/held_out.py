"""Measure weights on pairs that are not used for training, and select the best weights.

Two quantities are measured: one-step errors, and energy gains, the mean energies that a stride
adds to kinds of motion. Averages over some hundred pairs are noisy. So all weights are measured
on the same pairs, and a difference is significant only if it exceeds its own standard error.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from trajcast_jax.data.pairs import FramePairs
from trajcast_jax.learning.energy_gains import Kinds
from trajcast_jax.learning.losses import batch_errors
from trajcast_jax.learning.optimizer import Params
from trajcast_jax.network.forecast import Forecaster

TOLERANCE = 0.1
"""Largest relative increase of one-step errors over those of the initial weights, for weights that
are kept. Balancing the energies increases one-step errors."""
PASSING = 2.0
"""Further increase of one-step errors allowed at the full learning rate, in units of `TOLERANCE`,
before training counts as unstable. Errors due to a high rate vanish as the rate decreases: in
trainings of the shipped models, errors at a fifth of the initial rate were 7 to 11 % higher than
at the end."""
CLEARLY = 2.0
"""Number of standard errors of a significant difference."""
WELL_ABOVE = 2.0
"""Gains above this multiple of the initial gains mean that training is unstable."""


class HeldOut(NamedTuple):
    """A group of held-out pairs with the same far-field mesh.

    Attributes:
      pairs: the pairs.
      shares: weight of each pair in averages of gains; the sum over all groups is 1.
      counts: 1 for pairs that enter one-step errors, else 0.
    """

    pairs: FramePairs
    shares: Float[np.ndarray, "pair"]
    counts: Float[np.ndarray, "pair"]


class Measured(NamedTuple):
    """Measurement of some weights.

    Attributes:
      errors: relative MAE of displacements and of velocities, %.
      gains: energy gains of every pair and kind of motion, times the square root of the kind's
        weight, %. The sum of the squared means is a weighted mean square over kinds.
      shares: weight of each pair in these means.
    """

    errors: Float[np.ndarray, "2"]
    gains: Float[np.ndarray, "pair kind"]
    shares: Float[np.ndarray, "pair"]


def measurement(
    forecaster: Forecaster, gains: Kinds, groups: list[HeldOut]
) -> Callable[[Params], Measured]:
    """Make a function weights → `Measured`, which is compiled once for every group."""

    def one(params, pair):
        batch = jax.tree.map(lambda x: x[None], pair)
        edges, errors = jax.tree.map(lambda x: x[0], batch_errors(forecaster, params, batch))
        mask = pair.system.mask[:, None]
        sums = [
            [jnp.sum(mask * abs(e)), jnp.sum(mask * abs(x))]
            for e, x in zip(errors, (pair.displacements, pair.velocities), strict=True)
        ]
        return jnp.array(sums), gains(pair, edges, errors) * jnp.sqrt(gains.weights)

    each = jax.jit(lambda params, pairs: jax.lax.map(lambda pair: one(params, pair), pairs))
    held = [jax.device_put(group.pairs) for group in groups]
    shares, counts = (np.concatenate([group[k] for group in groups]) for k in (1, 2))

    def measure(params: Params) -> Measured:
        found = jax.device_get([each(params, pairs) for pairs in held])
        sums, gained = (np.concatenate(x).astype(float) for x in zip(*found, strict=True))
        sums = np.einsum("p,pxy->xy", counts, sums)
        return Measured(100 * sums[:, 0] / sums[:, 1], 100 * gained, shares)

    return measure


def _mean(some: Measured) -> Float[np.ndarray, "kind"]:
    return some.shares @ some.gains


def _covariance(one: Measured, other: Measured) -> Float[np.ndarray, "kind kind"]:
    """Covariance of the mean gains of both, which are over the same pairs."""
    off = [x.shares[:, None] * (x.gains - _mean(x)) for x in (one, other)]
    return off[0].T @ off[1] / (1 - np.sum(one.shares**2))


def mean_square(some: Measured) -> float:
    """Unbiased weighted mean square of the mean gains over kinds, %².

    The contribution of noise is subtracted. If the true gains are 0, negative values are about as
    frequent as positive ones.
    """
    return float(np.sum(_mean(some) ** 2) - np.trace(_covariance(some, some)))


def rms(some: Measured) -> float:
    """Square root of `mean_square`, %; 0 if that is negative."""
    return float(np.sqrt(np.maximum(mean_square(some), 0.0)))


def resolution(some: Measured) -> float:
    """RMS over kinds (%) of the mean gains that noise alone would give."""
    return float(np.sqrt(np.trace(_covariance(some, some))))


def scatter(some: Measured) -> float:
    """Variance (%²) of the gains of single pairs: the weighted mean square over kinds."""
    off = some.gains - _mean(some)
    return float(np.sum(some.shares[:, None] * off**2))


def clearly_less(one: Measured, other: Measured) -> bool:
    """Whether the mean square gain of `one` is significantly below that of `other`.

    The variance is that of the quadratic form |x|² − |y|² of the mean gains x and y over the same
    pairs, which are normally distributed: 4 zᵀA C A z + 2 tr(A C A C), with the true z = (x, y),
    the covariance C of its estimate, and A = diag(1, −1). Noise common to both
    enters only times the difference of x and y.
    """
    x, y = _mean(one), _mean(other)
    xx, yy, xy = _covariance(one, one), _covariance(other, other), _covariance(one, other)
    trace = 2 * (np.sum(xx**2) + np.sum(yy**2) - 2 * np.sum(xy**2))
    variance = 4 * (x @ xx @ x + y @ yy @ y - 2 * x @ xy @ y)
    # The estimate of z has noise, which increases the first term by twice the second on average.
    variance = max(variance - trace, trace, 0.0)
    return bool(mean_square(one) - mean_square(other) < -CLEARLY * np.sqrt(variance))


def is_finite(some: Measured) -> bool:
    """Whether all errors and gains are finite."""
    return bool(np.isfinite(some.errors).all() and np.isfinite(some.gains).all())


class Kept(NamedTuple):
    """The best weights so far.

    Attributes:
      params: the weights.
      measured: their measurement.
      lowest: measurement with the lowest gains so far, among all acceptable weights.
      update: number of the update; 0 for the initial weights.
      weight: weight of the balance at this update.
    """

    params: Params
    measured: Measured
    lowest: Measured
    update: int
    weight: float


def kept(params: Params, measured: Measured, update: int, weight: float) -> Kept:
    """Make a `Kept` with copies of the weights, because updates reuse their buffers."""
    return Kept(jax.tree.map(np.array, params), measured, measured, update, weight)


def better(old: Kept, new: Kept, first: Measured) -> Kept:
    """Return the new weights if they are better than the old ones, else the old ones.

    New weights are acceptable if their gains are significantly lower than those of the `first`
    weights and not significantly higher than the lowest so far, and if their one-step errors are
    at most `TOLERANCE` above those of the first weights. Acceptable weights replace older ones,
    because they were trained longer and at a lower rate, unless their gains and errors are both
    higher.
    """
    found, before = new.measured, old.measured
    fine = is_finite(found) and np.all(found.errors <= (1 + TOLERANCE) * first.errors)
    # Compare with the lowest gains so far, because in comparisons with `old` only, gains could
    # increase by insignificant steps.
    if not (fine and clearly_less(found, first)) or clearly_less(old.lowest, found):
        return old
    lower = mean_square(found) < mean_square(before)
    if not lower and found.errors.sum() > before.errors.sum():
        return old
    return new._replace(lowest=min(found, old.lowest, key=mean_square))


def swing(now: Measured, first: Measured, rate: float = 0.0) -> str | None:
    """Describe why training is unstable ("swings"); None if it is not.

    `rate` is the learning rate relative to the full one.
    """
    if not is_finite(now):
        return "forecasts are not finite numbers"
    limit = TOLERANCE * (1 + PASSING * rate)
    if np.any(now.errors > (1 + limit) * first.errors):
        was, found = ("{:.2f} / {:.2f} %".format(*x.errors) for x in (first, now))
        return f"one-step errors rose from {was} to {found}, by more than {100 * limit:.0f} %"
    # The gains of weights that are balanced already are noise only, so include its size.
    usual = np.hypot(rms(first), resolution(first))
    if rms(now) > WELL_ABOVE * usual and clearly_less(first, now):
        return (
            f"a stride adds {rms(now):.3f} % to the energies of kinds of motion, more than "
            f"{WELL_ABOVE:g} times the {usual:.3f} % of the first weights"
        )
    return None
