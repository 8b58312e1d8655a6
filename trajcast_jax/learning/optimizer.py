"""Optimisers and learning rate schedules, selected by the settings."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from trajcast_jax.config import TrainingSettings
from trajcast_jax.learning.soap import scale_by_soap

Params = Any


class AmsgradState(NamedTuple):
    """State of `scale_by_amsgrad`: number of updates and moments of the gradient."""

    count: Int[Array, ""]
    mu: Params
    nu: Params
    nu_max: Params


def scale_by_amsgrad(b1: float, b2: float, eps: float = 1e-8) -> optax.GradientTransformation:
    """AMSGrad as in PyTorch, with the maximum of the uncorrected second moment.

    `optax.amsgrad` uses the maximum of the bias-corrected moment; large early gradients then keep
    steps small forever. Reddi, Kale, Kumar, ICLR 2018 (arXiv:1904.09237).
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AmsgradState(jnp.zeros((), jnp.int32), zeros, zeros, zeros)

    def update(gradients, state, params=None):
        del params
        mu = optax.tree.update_moment(gradients, state.mu, b1, 1)
        nu = optax.tree.update_moment(gradients, state.nu, b2, 2)
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu)
        count = state.count + 1
        mean_correction, square_correction = 1 - b1**count, 1 - b2**count
        steps = jax.tree.map(
            lambda m, n: (m / mean_correction) / (jnp.sqrt(n / square_correction) + eps), mu, nu_max
        )
        return steps, AmsgradState(count, mu, nu, nu_max)

    return optax.GradientTransformation(init, update)


def _clipped_soap(b1: float, b2: float) -> optax.GradientTransformation:
    # SOAP is fast with large learning rates. Without clipping, a single outlier frame can undo a
    # thousand updates. Typical steps have an RMS of 0.2 to 0.6.
    return optax.chain(scale_by_soap(b1, b2), optax.clip_by_block_rms(1.0))


def optimizer(settings: TrainingSettings) -> optax.GradientTransformation:
    """Gradient clipping and the update rule (Adam, AMSGrad or SOAP), at a learning rate of 1."""
    rules = {"adam": optax.scale_by_adam, "amsgrad": scale_by_amsgrad, "soap": _clipped_soap}
    rule = _chosen("optimizer", settings.optimizer, rules)
    clip = settings.clip_norm
    clip = optax.clip_by_global_norm(clip) if clip > 0 else optax.identity()
    # Weights are not flattened: loops over weights of equal shape are shared when compiled.
    return optax.chain(clip, rule(settings.b1, settings.b2), optax.scale(-1.0))


def _chosen(name: str, value: str, known: dict):
    if value not in known:
        raise ValueError(f"training.{name} must be one of {', '.join(known)}, but is '{value}'.")
    return known[value]


def learning_rate(
    settings: TrainingSettings, update: Int[Array, ""], total: Int[Array, ""]
) -> Float[Array, ""]:
    """Learning rate of update number `update` (from 0) of `total`, without plateau reductions.

    The cosine schedule rises linearly from 0 over the fraction `warmup` of all updates, and then
    decays to 0 as half a cosine.
    """
    done = update / jnp.maximum(total, 1)
    warmup = jnp.maximum(settings.warmup, 1 / jnp.maximum(total, 1))
    fall = jnp.clip((done - warmup) / jnp.maximum(1 - warmup, 1e-9), 0.0, 1.0)
    cosine = jnp.where(done < warmup, done / warmup, 0.5 * (1 + jnp.cos(jnp.pi * fall)))
    shapes = {"cosine": cosine, "plateau": 1.0, "constant": 1.0}
    return settings.learning_rate * _chosen("schedule", settings.schedule, shapes)
