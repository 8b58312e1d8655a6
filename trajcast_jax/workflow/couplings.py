"""Make the thermostat of an experiment from its settings."""

from trajcast_jax.config import RolloutSettings
from trajcast_jax.dynamics.ensemble import (
    Coupling,
    chain,
    csvr,
    langevin,
    linear_ramp,
    nve,
    zero_momentum,
)


def make_coupling(settings: RolloutSettings, kelvin, angular: bool) -> Coupling:
    """Make the coupling that the settings select, at the temperature `kelvin` (K).

    `angular` tells whether angular momentum is conserved.

    Raises:
      ValueError: `rollout.ensemble` is unknown, or `rollout.zero_momentum_every` is set beside a
        friction, after which the momentum is removed at every stride.
    """
    if settings.final_temperature is not None:
        kelvin = linear_ramp(kelvin, settings.final_temperature, settings.duration)
    ensembles = {
        "nve": nve,
        "csvr": lambda: csvr(kelvin, settings.time_constant, angular),
        "langevin": lambda: langevin(kelvin, settings.time_constant),
    }
    if settings.ensemble not in ensembles:
        raise ValueError(
            f"rollout.ensemble is '{settings.ensemble}', but must be one of {', '.join(ensembles)}."
        )
    coupling = ensembles[settings.ensemble]()
    if settings.friction_time and settings.ensemble != "nve":
        if settings.zero_momentum_every not in (0, 1):
            raise ValueError(
                f"rollout.zero_momentum_every is {settings.zero_momentum_every}, but beside a "
                f"friction (rollout.friction_time = {settings.friction_time:g} fs) the momentum is "
                "removed at every stride; leave one of the two out."
            )
        friction = langevin(kelvin, settings.friction_time)
        return chain(coupling, friction, zero_momentum(1, angular))
    if settings.zero_momentum_every:
        return chain(coupling, zero_momentum(settings.zero_momentum_every, angular))
    return coupling
