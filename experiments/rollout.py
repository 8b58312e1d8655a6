"""The command `python -m experiments.rollout`; its code is `trajcast_jax.workflow.rollout`."""

import tyro

import experiments
from trajcast_jax.workflow.rollout import Arguments, main

if __name__ == "__main__":
    experiments.run(lambda: main(tyro.cli(Arguments)))
