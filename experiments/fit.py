"""The command `python -m experiments.fit`; its code is `trajcast_jax.workflow.fit`."""

import tyro

import experiments
from trajcast_jax.workflow.fit import Arguments, main

if __name__ == "__main__":
    experiments.run(lambda: main(tyro.cli(Arguments)))
