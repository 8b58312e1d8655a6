"""The command `python -m experiments.balance`; its code is `trajcast_jax.workflow.balance`."""

import tyro

import experiments
from trajcast_jax.workflow.balance import Arguments, main

if __name__ == "__main__":
    experiments.run(lambda: main(tyro.cli(Arguments)))
