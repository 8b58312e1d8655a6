"""Training of networks: losses, updates, optimisers, and the balance of energies.

`losses` has the loss functions and `training` the training loop; `optimizer` and `soap` have the
update rules. `motions` computes energies of kinds of motion in any system, and `energy_gains` what
a forecast's errors add to them. `balancing` trains these gains to 0, and `held_out` measures
weights on pairs that are not used for training.
"""

from trajcast_jax.learning.optimizer import learning_rate, optimizer
from trajcast_jax.learning.training import Metrics, TrainState, fit, init_state

__all__ = ["Metrics", "TrainState", "fit", "init_state", "learning_rate", "optimizer"]
