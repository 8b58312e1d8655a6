"""Observables of trajectories, and reports that compare a forecast with a reference.

`observables` are functions of trajectories; `soft_observables` are differentiable ones. `modes`
analyses vibrations, `bands` their temperatures, and `bonds` molecular geometry. `block_observables`
measures everything in blocks, for error bars, and `comparison` compares two such measurements by
`scores`. `evaluation` computes one-step errors and writes the reports. `verdict` judges them by the
rules of `criteria`, `joint_verdict` several together. `report`, `verdict_tables` and `plots` show.
"""

from trajcast_jax.analysis.observables import (
    mean_squared_displacement,
    radial_distribution_function,
    vibrational_density_of_states,
)
from trajcast_jax.analysis.soft_observables import (
    diffusion_coefficient,
    dihedrals,
    peak_position,
    soft_radial_distribution_function,
    soft_speed_distribution,
)

__all__ = [
    "diffusion_coefficient",
    "dihedrals",
    "mean_squared_displacement",
    "peak_position",
    "radial_distribution_function",
    "soft_radial_distribution_function",
    "soft_speed_distribution",
    "vibrational_density_of_states",
]
