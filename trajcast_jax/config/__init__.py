"""Settings as dataclasses (`settings`), read from TOML files and command lines (`parsing`)."""

from trajcast_jax.config.parsing import changed, from_dict, load, stated, to_json
from trajcast_jax.config.settings import (
    DataSettings,
    EvaluationSettings,
    Experiment,
    ModelSettings,
    ReferenceSettings,
    RolloutSettings,
    Statistics,
    TrainingSettings,
)

__all__ = [
    "DataSettings",
    "EvaluationSettings",
    "Experiment",
    "ModelSettings",
    "ReferenceSettings",
    "RolloutSettings",
    "Statistics",
    "TrainingSettings",
    "changed",
    "from_dict",
    "load",
    "stated",
    "to_json",
]
