"""Rollouts: a forecast, a coupling and a neighbour list become a trajectory.

A step is any `SimulatorState -> SimulatorState`; nothing here knows the network. What
can go wrong inside a compiled scan (a full neighbour buffer, NaN, an explosion) is
recorded as data and dealt with between scans.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int, Key, PyTree

from trajcast_jax.ensemble import Coupling
from trajcast_jax.failure import FINE, Failure, RolloutError, describe_failure, first_failed, watch
from trajcast_jax.system import System

GROWTH = 1.25
"""Factor by which neighbour buffers grow when one was too small, at least; to a multiple of 8."""


@struct.dataclass
class SimulatorState:
    """All that a rollout continues from, bit by bit.

    After a failure it stays at the last good step.

    Attributes:
      system: one frame, positions unwrapped.
      neighbors: the neighbour list of that frame.
      key: of all random numbers to come.
      coupling: state of the coupling.
      step: number of steps done.
      failure: the first thing that went wrong.
    """

    system: System
    neighbors: PyTree
    key: Key[Array, "*replica"]
    coupling: PyTree
    step: Int[Array, "*replica"]
    failure: Failure


class Simulator(NamedTuple):
    """`init(key, system, listed=None)` gives a SimulatorState, `step(state)` the next,
    `grow(state, capacity=None)` the same with a larger neighbour buffer.

    `init` allocates the neighbour list, which cannot be traced; inside `vmap`, give
    it one that is `listed` already for a system of the same atoms.
    """

    init: Callable[..., SimulatorState]
    step: Callable[[SimulatorState], SimulatorState]
    grow: Callable[..., SimulatorState]


def simulator(
    forecast: Callable[[System, Any], System],
    neighbors: Any,
    coupling: Coupling,
    time_step: float,
    max_temperature: float = 10_000.0,
) -> Simulator:
    """A simulator of strides: forecast, coupling, neighbour update.

    Args:
      forecast: `(system, neighbors) -> system`, `time_step` later; positions unwrapped.
      neighbors: `allocate(system, capacity=None)` and `update(neighbors, system)`, as
        from `neighbor_list`.
      coupling: acts on velocities after every forecast; `nve()` does nothing.
      time_step: the stride Δt of the forecast, fs.
      max_temperature: K; a forecast above it is a failure, before the coupling can hide it.
    """

    def init(key, system, listed=None):
        key, key_coupling = jax.random.split(key)
        fresh = neighbors.allocate(system) if listed is None else neighbors.update(listed, system)
        zero = jnp.zeros((), jnp.int32)
        none = Failure(zero, zero, zero, jnp.zeros((), system.velocities.dtype))
        state = coupling.init(key_coupling, system)
        return SimulatorState(system, fresh, key, state, zero, none)

    def step(state):
        key, key_coupling = jax.random.split(state.key)
        moved = forecast(state.system, state.neighbors)
        number = state.step + 1
        failure = watch(state.failure, moved, number, max_temperature)
        coupled, moved = coupling.apply(state.coupling, moved, key_coupling, time_step)
        failure = watch(failure, moved, number, max_temperature)
        new = (moved, key, coupled, number)
        old = (state.system, state.key, state.coupling, state.step)
        # A failed simulation waits at its last good frame: NaN never meets the neighbour list.
        fine = failure.kind == FINE
        system, key, coupled, number = jax.tree.map(lambda n, o: jnp.where(fine, n, o), new, old)
        listed = neighbors.update(state.neighbors, system)
        return SimulatorState(system, listed, key, coupled, number, failure)

    return Simulator(init, step, functools.partial(_grow, neighbors))


def replicate(sim: Simulator) -> Simulator:
    """The simulator of many replicas: one state whose leaves have a leading replica axis.

    `init(keys, systems, listed)` is mapped over keys and systems; `listed` is one neighbour
    list, for all. To give replicas temperatures of their own, map the
    `init` of a simulator that is built from the temperature:

        jax.vmap(lambda k, t: simulator(f, n, csvr(t, 75.0), dt).init(k, system, listed))

    Several devices share them once the step is split along that axis; a CPU has as many as
    `jax.config.update("jax_num_cpu_devices", cores)` says before the first array:

        mesh = jax.sharding.Mesh(jax.devices(), ("replica",))
        along = jax.P("replica")
        many = replicate(sim)
        step = jax.shard_map(many.step, mesh=mesh, in_specs=along, out_specs=along, check_vma=False)
        simulate(many._replace(step=step), states, chunks, chunk_length)
    """
    return Simulator(jax.vmap(sim.init, in_axes=(0, 0, None)), jax.vmap(sim.step), sim.grow)


def one_replica(system: System, index: int) -> System:
    """One of replicated systems, or of their trajectories (time, replica, atom, 3)."""
    axis = system.positions.ndim - 3
    vectors = {k: getattr(system, k) for k in ("positions", "velocities")}
    rest = system.replace(positions=None, velocities=None)
    rest = jax.tree.map(lambda x: x[index], rest)
    return rest.replace(**{k: x.take(index, axis) for k, x in vectors.items()})


def _sealed(step, state):
    """One step that the compiler does not fuse with what lies outside of it.

    So it rounds alike in scans of any length.
    """
    return jax.lax.optimization_barrier(step(jax.lax.optimization_barrier(state)))


def repeat(
    step: Callable[[PyTree], PyTree], n: int, remat: int | None = None
) -> Callable[[PyTree], PyTree]:
    """`n` steps as one function of the state, one scan; `remat` as in `rollout`."""
    return lambda state: _loop(lambda _, s: _sealed(step, s), state, n, remat)


def _loop(body, carry, n: int, remat: int | None):
    """`carry` after `body(i, carry)` for i = 0 … n − 1, differentiable in both directions."""
    if n == 1:
        # The compiler inlines a scan of length 1, which then rounds in another way. So this one
        # is a branch, of which it cannot see that it is always taken.
        always = jax.lax.optimization_barrier(jnp.asarray(True))
        return jax.lax.cond(always, lambda c: body(0, c), lambda c: c, carry)

    def several(carry, numbers):
        return jax.lax.scan(lambda c, i: (body(i, c), None), carry, numbers)

    if remat is None:
        return several(carry, jnp.arange(n))[0]
    if remat < 1 or n % remat:
        raise ValueError(
            f"{n} steps cannot be cut into segments of remat={remat} for the reverse pass; "
            "give a divisor of the number of steps, near its square root."
        )
    segments = jnp.arange(n).reshape(-1, remat)
    # Inside of a scan nothing is shared with the first pass, so nothing need prevent it.
    return jax.lax.scan(jax.checkpoint(several, prevent_cse=False), carry, segments)[0]


def rollout(
    step: Callable[[SimulatorState], SimulatorState],
    n: int,
    every: int = 1,
    remat: int | None = None,
) -> Callable[[SimulatorState], tuple[SimulatorState, System]]:
    """`n` steps as one scan that stacks each `every`-th frame: state -> (state, trajectory).

    The trajectory is a System with a leading time axis of n/every frames; the start
    frame is not among them.

    It can be differentiated. A reverse pass keeps the intermediates of all steps, or, with
    `remat`, the states `remat` steps apart and the intermediates of as many steps, which it
    computes again: about √n of them at remat ≈ √n (Chen et al., arXiv:1604.06174). Where a
    step holds much more than a state, give `jax.checkpoint(step)` too. Values stay as they are.
    """
    if n < 1 or every < 1 or n % every:
        raise ValueError(
            f"A rollout of {n} steps cannot store each {every}-th frame; "
            "give a positive number of steps that is a multiple of `every`."
        )

    def body(i, carry):
        state, frames = carry
        state = _sealed(step, state)
        # Each step writes its frame over that of the step before, until the slot is due: the
        # loop is the same for any `every`, and so rounds alike.
        new = (state.system.positions, state.system.velocities)
        return (state, jax.tree.map(lambda f, x: f.at[i // every].set(x), frames, new))

    def run(state):
        system = state.system
        empty = jax.tree.map(
            lambda x: jnp.zeros((n // every, *x.shape), x.dtype),
            (system.positions, system.velocities),
        )
        state, frames = _loop(body, (state, empty), n, remat)
        return state, system.replace(positions=frames[0], velocities=frames[1])

    return run


@functools.lru_cache(maxsize=16)
def _compiled(step, n: int, every: int):
    # The state is not donated: it is the last good one, from which an overflow replays.
    return jax.jit(rollout(step, n, every))


def simulate(
    sim: Simulator, state: SimulatorState, chunks: int, chunk_length: int, every: int = 1
) -> Iterator[tuple[SimulatorState, System]]:
    """Yields `(state, frames)` for each of `chunks` compiled scans of `chunk_length` steps.

    A chunk whose neighbour buffer was too small is discarded and done again from the
    last good state and key with a larger buffer, so that the start capacity only sets
    the speed: a forecast whose sums over neighbours do not round with the number of
    empty slots, as the network's on CPU, gives the same trajectory to the last bit.

    After a failure the frames before it are yielded, then RolloutError says at which
    step and atom. Compiled once for each `chunk_length`, `every` and capacity.
    """
    run = _compiled(sim.step, chunk_length, every)
    for _ in range(chunks):
        start = state
        state, frames = run(start)
        while overflowed(state):
            start = _larger(sim, start)
            state, frames = run(start)
        if jnp.any(state.failure.kind != FINE):
            good = int(jnp.min(state.step - start.step)) // every
            yield (
                state,
                frames.replace(
                    positions=frames.positions[:good], velocities=frames.velocities[:good]
                ),
            )
            raise RolloutError(describe_failure(state), first_failed(state))
        yield state, frames


def _larger(sim: Simulator, state: SimulatorState) -> SimulatorState:
    listed, state = state.neighbors, sim.grow(state)
    old = listed.idx.shape[-1]
    if state.neighbors.idx.shape[-1] <= old and state.neighbors.near <= listed.near:
        raise RolloutError(
            f"The neighbour list overflows with {old} slots per atom and cannot grow any further, "
            "so atoms crowd in one place; check the start frame, or lower the temperature limit."
        )
    return state


def overflowed(state: SimulatorState) -> Bool[Array, ""]:
    """Whether a neighbour buffer was too small, in any replica."""
    return jnp.any(state.neighbors.overflow)


def require_sound(state: SimulatorState) -> None:
    """Raise if a rollout of one system failed on its way to `state`, or its list overflowed."""
    if state.failure.kind != FINE:
        raise RolloutError(describe_failure(state))
    if overflowed(state):
        raise RolloutError(
            f"The neighbour list overflows with {state.neighbors.idx.shape[-1]} slots per atom "
            "within these strides; start from the simulator's `grow(state)`."
        )


def _grow(neighbors, state: SimulatorState, capacity: int | None = None) -> SimulatorState:
    """The state with `capacity` slots for neighbours, by default GROWTH times as many.

    The list itself stays as it is, in order and in where it was made: both, and the step
    of its next update, reach the last bits of a trajectory. One that had overflowed is
    made anew, at the positions where it was made before.
    """
    listed, old = state.neighbors, state.neighbors.idx.shape[-1]
    if capacity is None:
        capacity = 8 * math.ceil(max(GROWTH * old, old + 1) / 8)
    origin = state.system.replace(positions=listed.reference_positions)
    if origin.masses.ndim == 1:
        new = neighbors.allocate(origin, capacity)
    else:
        new = neighbors.allocate(jax.tree.map(lambda x: x[0], origin), capacity)
        # Far away from everything, so that every replica's update is a rebuild.
        new = new.replace(reference_positions=jnp.full_like(new.reference_positions, jnp.inf))
        new = jax.vmap(neighbors.update, in_axes=(None, 0))(new, origin)
    extra = new.idx.shape[-1] - old
    if extra >= 0 and not overflowed(state):
        free = [(0, 0)] * (listed.idx.ndim - 1) + [(0, extra)]
        empty = origin.masses.shape[-1]
        new = new.replace(
            idx=jnp.pad(listed.idx, free, constant_values=empty),
            shifts=jnp.pad(listed.shifts, [*free, (0, 0)]),
        )
    new = new.replace(near=max(new.near, min(listed.near, new.idx.shape[-1])))
    # Whether there is room for the neighbours of the state itself.
    update = neighbors.update if origin.masses.ndim == 1 else jax.vmap(neighbors.update)
    crowded = update(new.replace(reference_positions=state.system.positions), state.system).overflow
    return state.replace(neighbors=new.replace(rebuilds=listed.rebuilds, overflow=crowded))
