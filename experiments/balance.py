"""Balances the energies of kinds of motion: `python -m experiments.balance`.

Better one-step errors do not make better forecasts by themselves. A stride that adds 0.5 % to the
energy of a mode, which is nothing beside the errors of single frames, heats it over hundreds of
strides to many times its temperature. Here a trained model goes on learning, and what it adds on
average to each kind of vibration, in running averages over some hundred updates, is led to 0.
"""

import dataclasses
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

import experiments
from experiments import folders
from experiments.evaluate import modes_of
from experiments.generate import ensure_reference
from experiments.train import going_on, load_pairs, load_visited, with_cells
from trajcast_jax import checkpoint, io
from trajcast_jax.config import Experiment
from trajcast_jax.dataset import FramePairs, join
from trajcast_jax.forecast import Forecaster
from trajcast_jax.gains import InternalVibrations, Kinds, Motions, OfMesh, Together, Vibrations
from trajcast_jax.modes import NormalModes
from trajcast_jax.optimizer import optimizer
from trajcast_jax.training import (
    batch_errors,
    compiler_options,
    error_sums,
    follow,
    init_state,
    pair_loss,
)

CHUNK = 10
"""Updates that are compiled into one scan, on pairs of one kind of cell."""
HOPELESS = 100.0
"""% of what kinds have, that a stride adds: no trained model does, only one that swings."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Trains on, holding the mean energy of every kind of motion."""

    experiment: tyro.conf.Positional[str]
    """Name of a TOML file in experiments/, or the path of one."""
    resume: Path
    """Folder of the model to balance."""
    out: Path
    """Folder of the balanced model."""
    modes: bool = False
    """Of normal modes: of a crystal, or of the bends and stretches of a molecule. By default of
    species and of neighbours, shell by shell, which a molecule keeps beside its modes."""
    reference: Path | None = None
    """Folder of the reference runs; by default runs/reference/<name>."""
    visited: tuple[Path, ...] = ()
    """Files of `python -m experiments.visit`, whose pairs are added to those of the reference."""
    longer: tuple[Path, ...] = ()
    """Folders of reference runs of the crystal in other cells of as many atoms, longer ones in some
    direction, whose modes are balanced too: on the pairs of --visited that are in these cells."""
    updates: int = 8_000
    weight: float = 2.0
    """Of the balance, beside the one-step loss: by modes 2 for quartz and 1 for a molecule, 10 for
    water. A larger one costs one-step errors, the more the farther from balance a model begins."""
    memory: float = 150.0
    """Updates, of the running averages: longer ones lag behind, and what follows them swings."""
    patience: float = 600.0
    """Updates, until a mean that stays off zero has doubled the force that leads it there."""
    set: tuple[str, ...] = ("training.learning_rate=0.006", "training.batch_size=2")
    """Settings that differ from the experiment's file."""


def gains_of(
    arguments: Arguments,
    experiment: Experiment,
    forecaster: Forecaster,
    paths: list[Path],
    reference: FramePairs,
    groups: list[FramePairs],
) -> Kinds:
    """The kinds of motion that are balanced: the groups hold pairs of `reference` and more."""
    few = jax.tree.map(lambda x: x[:: len(x) // 500 + 1], reference)
    if not arguments.modes:
        motions, shares = Motions(forecaster, few), shares_of(groups)
        parts = zip(groups, shares, strict=True)
        return Together(*(OfMesh(motions, pairs.mesh, share) for pairs, share in parts))
    use = "--longer balances the modes of other cells"
    longer = [folders.runs(experiment, folder, use) for folder in arguments.longer]
    chosen = [[paths[k] for k in experiment.data.train_runs], *longer]
    kelvin = experiment.reference.temperature
    # Balance by torsions too made forecasts of molecules worse, wherever it was tried.
    modes = [modes_of([io.read_trajectory(p)[0] for p in runs], torsions=False) for runs in chosen]
    if isinstance(modes[0], NormalModes):
        return Together(*(Vibrations(some, groups, kelvin) for some in modes))
    return Together(InternalVibrations(modes[0], kelvin), Motions(forecaster, few))


def by_mesh(parts: list[FramePairs]) -> list[FramePairs]:
    """The pairs, joined where their far field has the same mesh.

    One mesh for all would be the product of the largest in each direction.
    """
    groups: dict = {}
    for part in parts:
        groups.setdefault(part.mesh, []).append(part)
    return [join(group) for group in groups.values()]


def shares_of(groups: list[FramePairs]) -> np.ndarray:
    """How many of all pairs are in each group."""
    sizes = np.array([len(pairs) for pairs in groups])
    return sizes / sizes.sum()


def chunk_of_updates(forecaster: Forecaster, settings, gains: Kinds, arguments: Arguments):
    """A compiled function (carry, pairs) → carry, after `CHUNK` updates.

    It carries the state of training, the running averages of what kinds gain, and for each kind
    a multiplier (Hestenes, J. Optim. Theory Appl. 4, 303 (1969), doi:10.1007/BF00927673): the
    one-step loss pulls back from balance, and a force that vanishes there would never arrive.
    """
    rule, keep = optimizer(settings), float(np.exp(-1 / arguments.memory))

    def loss(params, batch, force):
        edges, errors = batch_errors(forecaster, params, batch)
        one_step = jax.vmap(lambda pair, e: pair_loss(forecaster, settings, pair, e))(batch, errors)
        found = jax.vmap(gains)(batch, edges, errors).mean(0)
        # Its slope is that of the square of the mean; that of a batch's own would be its scatter.
        return one_step.mean() + 2 * jnp.sum(gains.weights * force * found), found

    def update(carry, _, pairs):
        state, average, multiplier = carry
        key = jax.random.fold_in(jax.random.key(settings.seed), state.update)
        n_pairs = pairs.displacements.shape[0]
        chosen = jax.random.randint(key, (settings.batch_size,), 0, n_pairs)
        batch = jax.tree.map(lambda x: x[chosen], pairs)
        force = multiplier + arguments.weight * average
        gradient, found = jax.grad(loss, has_aux=True)(state.params, batch, force)
        state, usable = follow(rule, settings, state, gradient)
        average = jnp.where(usable, keep * average + (1 - keep) * found, average)
        multiplier += arguments.weight / arguments.patience * average
        return (state, average, multiplier), None

    def chunk(carry, pairs):
        return jax.lax.scan(lambda c, x: update(c, x, pairs), carry, None, CHUNK)[0]

    return jax.jit(chunk, donate_argnums=0, compiler_options=compiler_options())


def check_that_it_settles(rms: float, first: float) -> None:
    """Raises FloatingPointError where kinds gain (%) far more than at first, or nonsense."""
    if not rms < min(20 * first, HOPELESS):
        raise FloatingPointError(
            f"What a stride adds to the energies of kinds has grown to {rms:.3f} % (in the first "
            f"averages at most {first:.3f} %): the balance swings. Give a smaller --weight or a "
            "larger --patience."
        )


def main(arguments: Arguments) -> None:
    """Command line."""
    changes = (*arguments.set, f"training.updates={arguments.updates}")
    experiment = experiments.load(arguments.experiment, changes)
    experiment = going_on(experiment, arguments.resume)
    settings = experiment.training
    paths = ensure_reference(experiment, arguments.reference)
    model = checkpoint.restore(arguments.resume)
    train, validation = (load_pairs(experiment, paths, part) for part in ("train", "validation"))
    groups = by_mesh([train, *load_visited(experiment, arguments.visited)])
    forecaster = model.forecaster
    for pairs in groups:
        forecaster = with_cells(forecaster, pairs)
    gains = gains_of(arguments, experiment, forecaster, paths, train, groups)
    groups, validation = jax.device_put((groups, validation))
    state = init_state(forecaster, settings, model.params)

    @jax.jit
    def percent(params):
        sums = error_sums(forecaster, params, validation)
        return 100 * sums[:, 0] / sums[:, 1]

    before = percent(state.params).tolist()
    carry = state, jnp.zeros_like(gains.weights), jnp.zeros_like(gains.weights)
    chunk = chunk_of_updates(forecaster, settings, gains, arguments)
    begin, first = time.monotonic(), 0.0
    shares = shares_of(groups)
    owed = np.zeros(len(groups))  # so that each has its share of the updates, evenly spread
    chunks = -(-arguments.updates // CHUNK)
    for done in (bar := tqdm(range(chunks), unit="update", unit_scale=CHUNK)):
        owed += shares
        group = int(owed.argmax())
        owed[group] -= 1
        carry = chunk(carry, groups[group])
        state, average, _ = carry
        rms = 100 * float(jnp.sqrt(jnp.sum(gains.weights * average**2)))
        if done * CHUNK < arguments.memory:
            first = max(first, rms)  # the averages begin at 0
        check_that_it_settles(rms, first)
        bar.set_postfix_str(f"a stride adds {rms:.3f} % to the energies of kinds (RMS)")
    was, now = ("{:.2f} / {:.2f}".format(*x) for x in (before, percent(state.ema_params).tolist()))
    checkpoint.save(
        arguments.out, forecaster, state.ema_params, {"balanced_updates": arguments.updates}
    )
    print(
        f"{now} % on validation, {was} % before, after {time.monotonic() - begin:.0f} s: "
        f"{arguments.out}"
    )


if __name__ == "__main__":
    experiments.run(lambda: main(tyro.cli(Arguments)))
