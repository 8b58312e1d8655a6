"""Steers a dihedral by the initial velocities alone: `python -m experiments.steer`.

The forecast is differentiated through: what must change in the velocities of the start, at its
own kinetic energy and momenta, for an angle φ to have a given value n strides later? Reference
MD from the same start with the same velocities says whether the answer is true of the molecule,
or of the network only.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from ase.data import chemical_symbols
from matplotlib.figure import Figure
from tqdm import tqdm

import experiments
from experiments import folders
from experiments.gradients import near_root
from trajcast_jax import checkpoint as checkpoints
from trajcast_jax import io, observables
from trajcast_jax.ensemble import nve
from trajcast_jax.forecast import TrainedForecast
from trajcast_jax.gradients import describe_growth, lyapunov_exponent
from trajcast_jax.graph import neighbor_list
from trajcast_jax.mechanics import kinetic_energy, on_energy_shell
from trajcast_jax.plots import save
from trajcast_jax.reference import make_engine
from trajcast_jax.reference.bonds import bonded_chain
from trajcast_jax.rollout import require_sound, rollout, simulator
from trajcast_jax.soft_observables import dihedrals
from trajcast_jax.system import System
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV

LONGEST_TURN = 0.1
"""Radians that one iteration turns the velocities by, at most."""
CLOSE = 1e-4
"""A loss that is small enough: φ within 0.8° of its target."""
DIFFERENCE = 1e-3
"""Radians, of the central difference that a gradient is held against."""
COLORS = ["black", "#1f5fbf", "#c8501e", "#2b8a57", "#8757b8"]
GROWTH_STRIDES = 300
"""Strides in which the growth of perturbations is measured."""


def objective(course: Callable, start: System):
    """Jitted (x, target) -> ((loss, (velocities, angles, rest)), gradient); velocities -> x.

    `course` takes velocities to (angles over time, anything). x (atom, 3) are velocities times √m
    and of length 1: there the shell of constant energy is a sphere, the length of a step is the
    angle in radians by which the velocities turn, and the direction of descent is the one that
    changes most with the least kinetic energy. The loss 1 − cos(φ − target), of the last
    angle φ, is smooth all around.
    """
    roots = jnp.sqrt(jnp.where(start.mask, start.masses, 1.0))[:, None]
    length = jnp.linalg.norm(roots * start.velocities)

    def loss(x, target):
        velocities = on_energy_shell(start, x * length / roots)
        angles, rest = course(velocities)
        return 1 - jnp.cos(angles[-1] - target), (velocities, angles, rest)

    return jax.jit(jax.value_and_grad(loss, has_aux=True)), lambda v: roots * v / length


def descend(value_and_gradient: Callable, to_sphere: Callable, velocities, target, iterations: int):
    """Losses from `velocities` on, and what the objective says of the best.

    Polyak's step is loss/|gradient|² long, which halves what an angle that is linear in the
    velocities is off its target; at most LONGEST_TURN.
    """
    longest = optax.clip_by_global_norm(LONGEST_TURN)
    optimizer = optax.chain(optax.polyak_sgd(max_learning_rate=math.inf), longest)
    x, losses, best = to_sphere(velocities), [], None
    state = optimizer.init(x)
    for _ in tqdm(range(iterations + 1), desc=f"to {math.degrees(target):.0f}°", leave=False):
        (loss, found), gradient = value_and_gradient(x, target)
        losses.append(float(loss))
        if losses[-1] == min(losses):
            best = found
        if losses[-1] < CLOSE:
            break
        updates, state = optimizer.update(gradient, state, x, value=loss)
        x = optax.apply_updates(to_sphere(found[0]), updates)
    return losses, best


def forecast_course(model: TrainedForecast, start: System, n: int, atoms, skin: float):
    """Velocities -> (φ in radians now and after each of `n` strides, (those frames, the last
    state)), at constant energy; and the simulator and its state that this is made of."""
    neighbors = neighbor_list(start.cell, model.cutoff, skin)
    sim = simulator(model.forecast, neighbors, nve(), model.time_step)
    state = sim.init(jax.random.key(0), start)
    state = sim.grow(state, int(1.3 * state.neighbors.capacity))  # the molecule changes its shape

    def course(velocities):
        first = start.replace(velocities=velocities)
        end, frames = rollout(sim.step, n, remat=near_root(n))(state.replace(system=first))
        whole = frames.replace(
            positions=jnp.concatenate([first.positions[None], frames.positions]),
            velocities=jnp.concatenate([first.velocities[None], frames.velocities]),
        )
        return dihedrals(whole, [atoms])[:, 0], (whole, end)

    return course, sim, state


def gradient_check(value_and_gradient: Callable, x, target) -> dict[str, float]:
    """The derivative along a random direction, by reverse mode and by a central difference."""
    draw = np.random.default_rng(0).normal(size=x.shape)
    direction = jnp.asarray(draw / np.linalg.norm(draw), x.dtype)
    up, down = (value_and_gradient(x + s * DIFFERENCE * direction, target)[0][0] for s in (1, -1))
    return {
        "reverse_mode": float(jnp.vdot(value_and_gradient(x, target)[1], direction)),
        "central_difference": float((up - down) / (2 * DIFFERENCE)),
    }


def degrees(trajectory: System, atoms) -> list[float]:
    """φ of every frame, without jumps."""
    return np.unwrap(np.degrees(dihedrals(trajectory, [atoms])[:, 0]), period=360.0).tolist()


def engine_at_constant_energy(settings):
    """Reference MD, or None and a line that says why."""
    try:
        engine = make_engine(settings)
    except ImportError as error:
        print(f"Not held against reference MD: {error}")
        return None
    engine.create(seed=1)
    engine.constant_energy()
    return engine


def described(trajectory: System, atoms, engine, steps: int) -> dict:
    """Angles and energies along a forecast; with an engine also φ in MD from its first frame, and
    the forecast's own total energy by the force field."""
    start, angular = observables.cut(trajectory, 0), trajectory.cell is None
    kelvin = observables.temperature_by_species(trajectory, angular)
    heat = start.masses * jnp.sum(start.velocities**2, axis=-1) * (KINETIC_TO_EV / BOLTZMANN)
    heat = heat / observables.degrees_of_freedom_of_atoms(start, angular)
    report = {
        "degrees": degrees(trajectory, atoms),
        "kinetic_energy_eV": observables.over_time(kinetic_energy, trajectory).tolist(),
        "start_temperatures_K": {chemical_symbols[z]: float(t[0]) for z, t in kelvin.items()},
        "start_temperatures_of_atoms_K": heat.tolist(),
    }
    if engine is None:
        return report
    vectors = (trajectory.positions, trajectory.velocities)
    frames = list(zip(*(np.asarray(x, np.float64) for x in vectors), strict=True))
    energies, followed = [], []
    for frame in frames:
        engine.set_frame(*frame)
        energies.append(sum(engine.energies()))
    engine.set_frame(*frames[0])
    for k in range(len(frames)):
        engine.advance(steps if k else 0)
        followed.append(engine.frame()[0])
    true = trajectory.replace(positions=jnp.asarray(np.array(followed), jnp.float32))
    return report | {
        "reference_degrees": degrees(true, atoms),
        "energy_change_eV": [energy - energies[0] for energy in energies],
    }


def plot(report: dict) -> Figure:
    """Angles over time with their targets, and losses over iterations."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes, side = figure.subplots(1, 2, width_ratios=(2, 1))
    times = np.arange(report["strides"] + 1) * report["time_step_fs"]
    runs = [report["unsteered"], *report["steered"]]
    for color, run in zip(COLORS, runs, strict=False):
        label = f"{run['shift_degrees']:+g}°" if "losses" in run else "not steered"
        axes.plot(times, run["degrees"], color=color, label=label)
        if "reference_degrees" in run:
            axes.plot(times, run["reference_degrees"], color=color, linestyle=(0, (2, 1.5)))
        if "losses" in run:
            axes.plot(times[-1], run["degrees"][-1] - run["miss_degrees"], "o", color=color)
            side.semilogy(run["losses"], ".-", color=color)
    axes.set(xlabel="time (fs)", ylabel="φ (°)")
    axes.set_title("forecast; dashed: reference MD from the same start; dots: targets")
    figure.legend(loc="outside lower center", ncols=len(runs))
    side.set(xlabel="iteration", title="loss 1 − cos(φ − target)")
    return figure


def main(
    experiment: tyro.conf.Positional[str] = "paracetamol",
    checkpoint: Path | None = None,
    start: Path | None = None,
    atoms: tuple[int, int, int, int] | None = None,
    strides: int = 24,
    shifts: tuple[float, ...] = (45.0, 90.0, 180.0),
    iterations: int = 60,
    out: Path = Path(__file__).parent / "results",
) -> None:
    """Steers an angle to targets, holds it against reference MD, writes steer.json and .png.

    Args:
      experiment: name of a TOML file in experiments/, or the path of one.
      checkpoint: folder of the model; it and the start are by default those of `rollout`.
      start: file whose last frame is the start.
      atoms: of the dihedral; by default the first chain C–C–O–H of bonds.
      strides: after which the angle shall be on target.
      shifts: targets, degrees from where the start leads when it is not steered.
      iterations: of the optimiser for each target, at most.
      out: folder to write.
    """
    loaded = experiments.load(experiment)
    model = checkpoints.restore(checkpoint or folders.model(loaded))
    system = io.read(start or folders.start(loaded))
    model.check(system)
    atoms = atoms or bonded_chain(system, ("C", "C", "O", "H"))
    course, sim, state = forecast_course(model, system, strides, atoms, loaded.rollout.skin)
    growth = lyapunov_exponent(sim.step, state, GROWTH_STRIDES, model.time_step, jax.random.key(0))
    print(describe_growth(growth))

    value_and_gradient, to_sphere = objective(course, system)
    x = to_sphere(system.velocities)
    found = value_and_gradient(x, jnp.zeros(()))[0][1]
    engine = engine_at_constant_energy(loaded.reference)
    steps = round(model.time_step / loaded.reference.time_step)

    def result(found) -> dict:
        velocities, _, (frames, last) = found
        require_sound(last)
        turn = jnp.arccos(jnp.clip(jnp.vdot(to_sphere(velocities), x), -1.0, 1.0))
        return {"turn_degrees": math.degrees(turn)} | described(frames, atoms, engine, steps)

    base = found[1][-1]
    report = {
        "system": loaded.name,
        "atoms": [int(i) for i in atoms],
        "strides": strides,
        "time_step_fs": model.time_step,
        "growth": describe_growth(growth),
        "gradient": gradient_check(value_and_gradient, x, base + math.pi / 2),
        "unsteered": result(found),
        "steered": [],
    }
    print(f"φ of atoms {report['atoms']} goes to {math.degrees(base):.1f}°; {report['gradient']}")
    for shift in shifts:
        target = base + math.radians(shift)
        losses, found = descend(
            value_and_gradient, to_sphere, system.velocities, target, iterations
        )
        run = {"shift_degrees": shift, "losses": losses} | result(found)
        for name in ("degrees", "reference_degrees"):
            off = run.get(name, [math.nan])[-1] - math.degrees(target)
            run[name.replace("degrees", "miss_degrees")] = (off + 180) % 360 - 180
        report["steered"].append(run)
        print(
            f"{shift:+g}°: missed by {run['miss_degrees']:.1f}° in the forecast and by "
            f"{run['reference_miss_degrees']:.1f}° in reference MD; "
            f"{len(losses) - 1} iterations, velocities turned by {run['turn_degrees']:.1f}°"
        )
    io.atomic_write(out / "steer.json", (json.dumps(report, indent=1) + "\n").encode())
    save(out / "steer.png", lambda: plot(report))


if __name__ == "__main__":
    experiments.run(lambda: tyro.cli(main))
