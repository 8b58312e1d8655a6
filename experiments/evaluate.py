"""The command `python -m experiments.evaluate`; its code is `trajcast_jax.workflow.evaluate`."""

import tyro

import experiments
from trajcast_jax.workflow.evaluate import main

if __name__ == "__main__":
    experiments.run(lambda: tyro.cli(main))
