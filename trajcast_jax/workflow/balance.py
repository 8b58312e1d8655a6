"""Balances the energies of kinds of motion: `python -m experiments.balance`.

Small one-step errors alone do not make good forecasts. A stride may add 0.5 % to the energy of a
mode. This is small compared with the errors of single frames, but over hundreds of strides it heats
the mode to many times its temperature. This command trains a model further, so that the mean energy
that a stride adds to each kind of vibration goes to 0. The means are running averages over some
hundred updates.

The model is measured on held-out pairs every few hundred updates. If training swings, it restarts
from the best weights so far with smaller forces. Only a model that is better than the initial one
is written.
"""

import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
import tyro

from trajcast_jax import io
from trajcast_jax.analysis.bands import modes_of
from trajcast_jax.analysis.modes import NormalModes
from trajcast_jax.config import Experiment
from trajcast_jax.config.settings import ABOVE_0
from trajcast_jax.data.pairs import FramePairs
from trajcast_jax.learning.balancing import CHUNK, BalanceSettings, Progress, balance
from trajcast_jax.learning.energy_gains import (
    InternalVibrations,
    Kinds,
    Motions,
    OfMesh,
    Together,
    Vibrations,
)
from trajcast_jax.learning.held_out import TOLERANCE, HeldOut, Measured, measurement, rms
from trajcast_jax.network import checkpoint
from trajcast_jax.network.forecast import Forecaster
from trajcast_jax.workflow import folders
from trajcast_jax.workflow.balance_pairs import balance_pairs
from trajcast_jax.workflow.cards import training_card
from trajcast_jax.workflow.command_line import load, require_within
from trajcast_jax.workflow.progress import progress_bar
from trajcast_jax.workflow.reference_runs import ensure_reference
from trajcast_jax.workflow.training_pairs import going_on, with_cells

SHARE_OF_TIME = 0.1
"""Time of the measurements on held-out pairs, relative to the time of the updates."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train a model further, and keep the mean energy of every kind of motion."""

    experiment: tyro.conf.Positional[str]
    """Name of a TOML file in experiments/, or the path of one."""
    resume: Path
    """Folder of the model to balance."""
    out: Path
    """Folder of the balanced model."""
    modes: bool = False
    """Balance normal modes: those of a crystal, or the bends and stretches of a molecule. The
    default is to balance the motions of species and of shells of neighbours. For a molecule these
    are balanced beside its modes."""
    reference: Path | None = None
    """Folder of the reference runs; by default runs/reference/<name>."""
    visited: tuple[Path, ...] = ()
    """Files of `python -m experiments.visit`. Their pairs are added to those of the reference."""
    longer: tuple[Path, ...] = ()
    """Folders of reference runs of the crystal in other cells with the same number of atoms, for
    instance longer along one axis. The modes of these cells are balanced too, on the pairs of
    --visited that are in these cells."""
    updates: int = 8_000
    weight: float = 2.0
    """Weight of the balance; that of the one-step loss is 1. With --modes, 2 is good for quartz and
    1 for a molecule; without, 10 is good for water. A larger weight increases one-step errors, and
    more so if the initial model is far from balance."""
    memory: float = 150.0
    """Time constant of the running averages, in updates. Long averages lag behind, and training
    that follows them swings."""
    patience: float = 600.0
    """Number of updates after which a constant average has doubled the force on it."""
    set: tuple[str, ...] = ("training.learning_rate=0.006", "training.batch_size=2")
    """Settings to replace."""


def gains_of(
    arguments: Arguments,
    experiment: Experiment,
    forecaster: Forecaster,
    paths: list[Path],
    reference: FramePairs,
    groups: list[FramePairs],
) -> Kinds:
    """Make the function that computes the energy gains of the kinds of motion.

    `groups` hold all training pairs, including those of `reference`.
    """
    few = jax.tree.map(lambda x: x[:: len(x) // 500 + 1], reference)
    if not arguments.modes:
        motions, sizes = Motions(forecaster, few), [len(pairs) for pairs in groups]
        parts = zip(groups, np.array(sizes) / sum(sizes), strict=True)
        return Together(*(OfMesh(motions, pairs.mesh, share) for pairs, share in parts))
    use = "--longer balances the modes of other cells"
    longer = [folders.runs(experiment, folder, use) for folder in arguments.longer]
    chosen = [[paths[k] for k in experiment.data.train_runs], *longer]
    kelvin = experiment.reference.temperature
    # Balancing torsions too made forecasts of molecules worse in all trials.
    modes = [modes_of([io.read_trajectory(p)[0] for p in runs], torsions=False) for runs in chosen]
    if isinstance(modes[0], NormalModes):
        return Together(*(Vibrations(some, groups, kelvin) for some in modes))
    return Together(InternalVibrations(modes[0], kelvin), Motions(forecaster, few))


def updates_between(held: list[HeldOut], batch_size: int) -> int:
    """Number of updates between two measurements, which then take `SHARE_OF_TIME`."""
    forecasts = sum(len(group.pairs) for group in held)
    # An update costs as much as three forecasts of every pair: one, and its gradient.
    return CHUNK * int(np.ceil(forecasts / (3 * batch_size * SHARE_OF_TIME * CHUNK)))


def show(progress: Iterable[Progress], updates: int) -> tuple[Progress, list[Progress]]:
    """Show a balance by a progress bar; return its last report, and those with measurements."""
    measured = []
    with progress_bar(total=updates, unit="update") as bar:
        for now in progress:
            bar.update(now.update - bar.n)
            if now.measured is not None:
                measured.append(now)
            if now.message:
                bar.write(now.message)
            last = measured[-1].measured
            bar.set_postfix_str(
                f"errors {last.errors[0]:.2f} / {last.errors[1]:.2f} %, a stride adds "
                f"{rms(last):.3f} % to the energies of kinds (running: {now.average:.3f} %)"
            )
    return now, measured


def table(before: Measured, after: Measured, name: str) -> str:
    """Make a table of two measurements; `name` is the head of the second one's column."""
    rows = [
        ("error of displacements (%)", *(f"{x.errors[0]:.2f}" for x in (before, after))),
        ("error of velocities (%)", *(f"{x.errors[1]:.2f}" for x in (before, after))),
        ("a stride adds to kinds of motion (%, RMS)", *(f"{rms(x):.3f}" for x in (before, after))),
    ]
    lines = [("on held-out pairs", "before", name), *rows]
    return "\n".join(f"{a:<42}{b:>10}{c:>10}" for a, b, c in lines)


def notes_of(last: Progress, measured: list[Progress]) -> dict:
    """Summarise the history of a balance for the notes of a checkpoint."""
    rows = [
        [p.update, *(float(f"{x:.4g}") for x in (*p.measured.errors, rms(p.measured), p.weight))]
        for p in measured
    ]
    columns = ["update", "displacement_error", "velocity_error", "gain", "weight"]
    return {
        "balanced_updates": last.best.update,
        "balance": {"weight": last.best.weight, "columns": columns, "history": rows},
    }


def main(arguments: Arguments) -> int:
    """Run the command; the exit status is 1 if no weights were better than the initial ones."""
    for name in ("weight", "memory", "patience"):
        require_within(f"--{name}", getattr(arguments, name), ABOVE_0)
    changes = (*arguments.set, f"training.updates={arguments.updates}")
    experiment = going_on(load(arguments.experiment, changes), arguments.resume)
    settings = experiment.training
    paths = ensure_reference(experiment, arguments.reference)
    model = checkpoint.restore(arguments.resume)
    pairs = balance_pairs(experiment, paths, arguments.visited)
    forecaster = model.forecaster
    for group in pairs.groups:
        forecaster = with_cells(forecaster, group)
    gains = gains_of(arguments, experiment, forecaster, paths, pairs.reference, pairs.groups)
    every = updates_between(pairs.held, settings.batch_size)
    how = BalanceSettings(arguments.weight, arguments.memory, arguments.patience, every)
    measure, groups = measurement(forecaster, gains, pairs.held), jax.device_put(pairs.groups)
    start = time.monotonic()
    progress = balance(forecaster, settings, how, gains, groups, measure, model.params)
    last, measured = show(progress, arguments.updates)
    best, first = last.best, measured[0].measured
    after = f"{last.update:,} updates ({time.monotonic() - start:.0f} s)"
    if not best.update:
        print(table(first, measured[-1].measured, "last"))
        print(
            f"The model did not get better: in {after} no weights were found whose strides add "
            "clearly less than those of the first ones, at one-step errors no more than "
            f"{100 * TOLERANCE:g} % higher. Nothing was written, and {arguments.resume} (--resume) "
            "is still the best model. Pairs that it has visited (--visited), a smaller --weight or "
            "learning rate, or a larger --patience may help."
        )
        return 1
    hours = (time.monotonic() - start) / 3600
    card = training_card(experiment, forecaster, pairs.groups, paths, hours)
    checkpoint.save(arguments.out, forecaster, best.params, notes_of(last, measured), card)
    print(table(first, best.measured, "after"))
    print(
        f"The model got better: of {after} those after {best.update:,} were the best, at a weight "
        f"of {best.weight:g}: {arguments.out}"
    )
    return 0
