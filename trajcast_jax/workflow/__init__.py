"""The commands (verbs): generate, train, visit, balance, rollout, evaluate, convert, benchmark.

Each verb is a module with a `main`, which `python -m experiments.VERB` calls. Code that several
verbs share is in the other modules: `command_line`, `folders`, `reference_runs`,
`training_pairs`, `couplings`, `judgement`, `metrics`, `timing` and `roofline`.
"""
