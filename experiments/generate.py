"""The command `python -m experiments.generate`; its code is `trajcast_jax.workflow.generate`."""

import tyro

import experiments
from trajcast_jax.workflow.generate import main

if __name__ == "__main__":
    experiments.run(lambda: tyro.cli(main))
