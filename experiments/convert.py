"""The command `python -m experiments.convert`; its code is `trajcast_jax.workflow.convert`."""

import tyro

import experiments
from trajcast_jax.workflow.convert import main

if __name__ == "__main__":
    experiments.run(lambda: tyro.cli(main))
