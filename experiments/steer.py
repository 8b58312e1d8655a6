"""Steer a dihedral angle by the initial velocities alone: `python -m experiments.steer`.

Gradients through the forecast change the initial velocities, at constant kinetic energy and
momenta, so that an angle φ has a given value n strides later. Reference MD from the same start
and velocities tests whether the result holds for the molecule, or only for the network.
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

import experiments
from experiments.gradients import near_root
from trajcast_jax import io
from trajcast_jax.analysis import observables
from trajcast_jax.analysis.bonds import bonded_chain
from trajcast_jax.analysis.plots import save
from trajcast_jax.analysis.soft_observables import dihedrals
from trajcast_jax.config import Experiment
from trajcast_jax.dynamics.ensemble import nve
from trajcast_jax.dynamics.gradients import describe_growth, lyapunov_exponent
from trajcast_jax.dynamics.rollout import require_sound, rollout, simulator
from trajcast_jax.mechanics import kinetic_energy, on_energy_shell
from trajcast_jax.neighbors.graph import neighbor_list
from trajcast_jax.network import checkpoint as checkpoints
from trajcast_jax.network.forecast import TrainedForecast
from trajcast_jax.reference import make_engine
from trajcast_jax.system import System
from trajcast_jax.units import BOLTZMANN, KINETIC_TO_EV
from trajcast_jax.workflow import folders
from trajcast_jax.workflow.progress import progress_bar

LONGEST_TURN = 0.1
"""Largest rotation of the velocities in one iteration, radians."""
CLOSE = 1e-4
"""Loss at which the optimisation stops: φ is within 0.8° of its target."""
DIFFERENCE = 1e-3
"""Step of the central difference for the gradient check, radians."""
COLORS = ["black", "#1f5fbf", "#c8501e", "#2b8a57", "#8757b8"]
GROWTH_STRIDES = 300
"""Number of strides for the Lyapunov exponent."""


def objective(course: Callable, start: System):
    """Make the objective and its coordinates.

    Returns a jitted function (x, target) -> ((loss, (velocities, angles, rest)), gradient), and a
    function velocities -> x. `course` maps velocities to (angles over time, rest). x (atom, 3) is
    the unit vector of velocities times √m. In these coordinates, the shell of constant energy is
    a sphere, the length of a step is the angle (radians) by which the velocities rotate, and the
    gradient is the largest change per kinetic energy. The loss is 1 − cos(φ − target) for the
    last angle φ, which is smooth for all angles.
    """
    roots = jnp.sqrt(jnp.where(start.mask, start.masses, 1.0))[:, None]
    length = jnp.linalg.norm(roots * start.velocities)

    def loss(x, target):
        velocities = on_energy_shell(start, x * length / roots)
        angles, rest = course(velocities)
        return 1 - jnp.cos(angles[-1] - target), (velocities, angles, rest)

    return jax.jit(jax.value_and_grad(loss, has_aux=True)), lambda v: roots * v / length


def descend(value_and_gradient: Callable, to_sphere: Callable, velocities, target, iterations: int):
    """Minimise the loss from `velocities`; return all losses, and the auxiliary output of the best.

    Polyak's step length is loss/|gradient|², at most LONGEST_TURN. It halves the deviation of an
    angle that is linear in the velocities.
    """
    longest = optax.clip_by_global_norm(LONGEST_TURN)
    optimizer = optax.chain(optax.polyak_sgd(max_learning_rate=math.inf), longest)
    x, losses, best = to_sphere(velocities), [], None
    state = optimizer.init(x)
    for _ in progress_bar(
        range(iterations + 1), desc=f"to {math.degrees(target):.0f}°", leave=False
    ):
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
    """Make the forecast of φ at constant energy; also return its simulator and initial state.

    The forecast is a function velocities -> (φ (radians) at the start and after each of `n`
    strides, (frames, last state)).
    """
    neighbors = neighbor_list(start.cell, model.cutoff, skin)
    sim = simulator(model.forecast, neighbors, nve(), model.time_step)
    state = sim.init(jax.random.key(0), start)
    # Spare slots, because the shape of the molecule changes.
    state = sim.grow(state, int(1.3 * state.neighbors.capacity))

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
    """Derivative along a random direction, by reverse mode and by a central difference."""
    draw = np.random.default_rng(0).normal(size=x.shape)
    direction = jnp.asarray(draw / np.linalg.norm(draw), x.dtype)
    up, down = (value_and_gradient(x + s * DIFFERENCE * direction, target)[0][0] for s in (1, -1))
    return {
        "reverse_mode": float(jnp.vdot(value_and_gradient(x, target)[1], direction)),
        "central_difference": float((up - down) / (2 * DIFFERENCE)),
    }


def degrees(trajectory: System, atoms) -> list[float]:
    """φ (degrees) of every frame, without jumps."""
    return np.unwrap(np.degrees(dihedrals(trajectory, [atoms])[:, 0]), period=360.0).tolist()


def engine_at_constant_energy(settings):
    """Make an engine of reference MD; if it is not installed, print the reason and return None."""
    try:
        engine = make_engine(settings)
    except ImportError as error:
        print(f"Not held against reference MD: {error}")
        return None
    engine.create(seed=1)
    engine.constant_energy()
    return engine


def described(trajectory: System, atoms, engine, steps: int) -> dict:
    """Angles (degrees) and energies (eV) along a forecast.

    With an engine, also φ in reference MD from the first frame, and the change of the forecast's
    total energy by the force field.
    """
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
    """Plot angles over time with their targets, and losses over iterations."""
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


def study(
    loaded: Experiment, model: TrainedForecast, system: System, atoms,
    strides: int, shifts: tuple[float, ...], iterations: int,
) -> dict:  # fmt: skip
    """Steer a start to every target and return the report; arguments are as in `main`."""
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
    return report


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
    """Steer an angle to targets, compare with reference MD, and write steer.json and steer.png.

    Args:
      experiment: name of a TOML file in experiments/, or the path of one.
      checkpoint: folder of the model; by default that of `rollout`.
      start: file whose last frame is the start; by default that of `rollout`.
      atoms: atoms of the dihedral angle; by default the first bonded chain C–C–O–H.
      strides: number of strides after which the angle is to reach its target.
      shifts: targets, in degrees relative to the final angle without steering.
      iterations: largest number of optimiser iterations for each target.
      out: output folder.
    """
    loaded = experiments.load(experiment)
    model = checkpoints.restore(checkpoint or folders.model(loaded))
    system = io.read(start or folders.start(loaded))
    model.check(system)
    atoms = atoms or bonded_chain(system, ("C", "C", "O", "H"))
    report = study(loaded, model, system, atoms, strides, shifts, iterations)
    io.atomic_write(out / "steer.json", (json.dumps(report, indent=1) + "\n").encode())
    save(out / "steer.png", lambda: plot(report))


if __name__ == "__main__":
    experiments.run(lambda: tyro.cli(main))
