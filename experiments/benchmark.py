"""The command `python -m experiments.benchmark`; its code is `trajcast_jax.workflow.benchmark`."""

import tyro

import experiments
from trajcast_jax.workflow.benchmark import Arguments, main

if __name__ == "__main__":
    experiments.run(lambda: main(tyro.cli(Arguments)))
