"""The command `python -m experiments.train`; its code is `trajcast_jax.workflow.campaign`."""

import tyro

import experiments
from trajcast_jax.workflow.campaign.command import Arguments, main

if __name__ == "__main__":
    experiments.run(lambda: main(tyro.cli(Arguments)))
