"""What the rounds of a campaign work with."""

from typing import NamedTuple

from trajcast_jax.config import Experiment
from trajcast_jax.units import FS_PER_DAY_TO_NS


class Plan(NamedTuple):
    """What the rounds work with.

    Attributes:
      experiment: all settings.
      kind: "solid", "fluid" or "molecule".
      elements: number of elements.
      engine: whether reference MD can be run from any state; False for imported trajectories.
      ns_per_day: speed of the engine; None if unknown.
      model: checkpoint that training starts from, with new statistics; "" for random weights.
      candidates: settings that trials decide among, as changes of the experiment.
    """

    experiment: Experiment
    kind: str
    elements: int
    engine: bool
    ns_per_day: float | None
    model: str = ""
    candidates: tuple[tuple[str, ...], ...] = ()

    def engine_seconds(self, time: float) -> float | None:
        """Seconds that the engine takes for `time` (fs); None if its speed is unknown."""
        return time * FS_PER_DAY_TO_NS / self.ns_per_day if self.ns_per_day else None
