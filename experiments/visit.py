"""The command `python -m experiments.visit`; its code is `trajcast_jax.workflow.visit`."""

import tyro

import experiments
from trajcast_jax.workflow.visit import main

if __name__ == "__main__":
    experiments.run(lambda: tyro.cli(main))
