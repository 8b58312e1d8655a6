"""Rollouts: make a trajectory from a forecast, a coupling and a neighbour list.

A step is any function `SimulatorState -> SimulatorState`; the network is not needed. Failures
inside a compiled scan (a full neighbour buffer, NaN, a temperature above the limit) are recorded
in the state and handled between scans.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int, Key, PyTree

from trajcast_jax.compiling import compiler_options
from trajcast_jax.dynamics.ensemble import Coupling, require_number
from trajcast_jax.dynamics.failure import (
    FINE,
    Failure,
    RolloutError,
    describe_failure,
    first_failed,
    watch,
)
from trajcast_jax.system import System

GROWTH = 1.25
"""Smallest factor by which a full neighbour buffer grows; sizes are multiples of 8."""


@struct.dataclass
class SimulatorState:
    """State from which a rollout continues bit-identically.

    After a failure, the state remains at the last good step.

    Attributes:
      system: one frame, positions unwrapped.
      neighbors: neighbour list of this frame.
      key: random key for all further steps.
      coupling: state of the coupling.
      step: number of completed steps.
      failure: record of the first failure.
    """

    system: System
    neighbors: PyTree
    key: Key[Array, "*replica"]
    coupling: PyTree
    step: Int[Array, "*replica"]
    failure: Failure

    def __getstate__(self):  # JAX pickles the numbers of a key, but not a key
        kind = str(jax.random.key_impl(self.key))
        return self.__dict__ | {"key": (np.asarray(jax.random.key_data(self.key)), kind)}

    def __setstate__(self, values):
        raw, kind = values["key"]
        key = jax.random.wrap_key_data(jnp.asarray(raw), impl=kind)
        self.__dict__.update(values | {"key": key})


class Simulator(NamedTuple):
    """Functions that make and advance a SimulatorState.

    Attributes:
      init: `init(key, system, listed=None)` makes a state. It allocates a neighbour list, which
        cannot be traced. Inside `vmap`, pass `listed`, a list that was allocated for a system of
        the same atoms.
      step: `step(state)` returns the next state.
      grow: `grow(state, capacity=None)` returns the state with a larger neighbour buffer.
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
    """Make a simulator whose step is: forecast, coupling, neighbour list update.

    Args:
      forecast: `(system, neighbors) -> system`, `time_step` later; positions unwrapped.
      neighbors: functions `allocate(system, capacity=None)` and `update(neighbors, system)`, as
        returned by `neighbor_list`.
      coupling: changes velocities after every forecast; `nve()` does nothing.
      time_step: the stride Δt of the forecast, fs.
      max_temperature: K; higher temperatures are a failure. They are checked before and after
        the coupling, because a thermostat could hide them.
    """

    require_number("max_temperature", max_temperature, "K", infinite=True)
    require_number("time_step", time_step, "fs")

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
        # A failed simulation stays at its last good frame, so NaN never enters the neighbour list.
        fine = failure.kind == FINE
        system, key, coupled, number = jax.tree.map(lambda n, o: jnp.where(fine, n, o), new, old)
        listed = neighbors.update(state.neighbors, system)
        return SimulatorState(system, listed, key, coupled, number, failure)

    return Simulator(init, step, functools.partial(_grow, neighbors))


def replicate(sim: Simulator) -> Simulator:
    """Make a simulator of many replicas, whose state has a leading replica axis.

    `init(keys, systems, listed)` is mapped over keys and systems; all replicas start from one
    neighbour list `listed`. For a temperature per replica, map the `init` of a simulator that
    is built from the temperature:

        jax.vmap(lambda k, t: simulator(f, n, csvr(t, 75.0), dt).init(k, system, listed))

    To use several devices, split the step along the replica axis. A CPU provides several devices
    after `jax.config.update("jax_num_cpu_devices", cores)`, called before the first array:

        mesh = jax.sharding.Mesh(jax.devices(), ("replica",))
        along = jax.P("replica")
        many = replicate(sim)
        step = jax.shard_map(many.step, mesh=mesh, in_specs=along, out_specs=along, check_vma=False)
        simulate(many._replace(step=step), states, chunks, chunk_length)
    """
    return Simulator(jax.vmap(sim.init, in_axes=(0, 0, None)), jax.vmap(sim.step), sim.grow)


def one_replica(system: System, index: int) -> System:
    """Select one replica of systems (replica, atom, 3) or trajectories (time, replica, atom, 3)."""
    axis = system.positions.ndim - 3
    vectors = {k: getattr(system, k) for k in ("positions", "velocities")}
    rest = system.replace(positions=None, velocities=None)
    rest = jax.tree.map(lambda x: x[index], rest)
    return rest.replace(**{k: x.take(index, axis) for k, x in vectors.items()})


def _sealed(step, state):
    """Apply one step between optimisation barriers.

    The compiler cannot fuse the step with operations around it, so rounding is the same in scans
    of any length.
    """
    return jax.lax.optimization_barrier(step(jax.lax.optimization_barrier(state)))


def repeat(
    step: Callable[[PyTree], PyTree], n: int, remat: int | None = None
) -> Callable[[PyTree], PyTree]:
    """Combine `n` steps into one function of the state, by one scan; `remat` as in `rollout`."""
    return lambda state: _loop(lambda _, s: _sealed(step, s), state, n, remat)


def _loop(body, carry, n: int, remat: int | None):
    """Apply `carry = body(i, carry)` for i = 0 … n − 1, with forward and reverse derivatives."""
    if n == 1:
        # The compiler would inline a scan of length 1, which changes the rounding. Instead, use a
        # branch that is always taken, which the barrier hides from the compiler.
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
    # Inside a scan, XLA cannot merge the two passes (CSE), so it need not be prevented.
    return jax.lax.scan(jax.checkpoint(several, prevent_cse=False), carry, segments)[0]


def rollout(
    step: Callable[[SimulatorState], SimulatorState],
    n: int,
    every: int = 1,
    remat: int | None = None,
) -> Callable[[SimulatorState], tuple[SimulatorState, System]]:
    """Combine `n` steps into one scan that stores every `every`-th frame.

    Returns a function state -> (state, trajectory). The trajectory is a System with a leading
    time axis of n/every frames, without the start frame.

    The function is differentiable. By default, the reverse pass stores the intermediates of all
    steps. With `remat`, it stores the states `remat` steps apart and recomputes the intermediates
    of `remat` steps at a time. Memory is smallest, ∝ √n, at remat ≈ √n (Chen et al.,
    arXiv:1604.06174). If a step's intermediates are much larger than a state, also pass
    `jax.checkpoint(step)` as the step. Neither changes values.

    Raises:
      ValueError: `n` is not a multiple of `every`, or (on call) of `remat`.
    """
    if n < 1 or every < 1 or n % every:
        raise ValueError(
            f"A rollout of {n} steps cannot store each {every}-th frame; "
            "give a positive number of steps that is a multiple of `every`."
        )

    def body(i, carry):
        state, frames = carry
        state = _sealed(step, state)
        # Every step writes its frame; the last one in a slot remains. So the loop, and its
        # rounding, is the same for any `every`.
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
    # The state is not donated, because a chunk is replayed from it after an overflow.
    return jax.jit(rollout(step, n, every), compiler_options=compiler_options())


def simulate(
    sim: Simulator, state: SimulatorState, chunks: int, chunk_length: int, every: int = 1
) -> Iterator[tuple[SimulatorState, System]]:
    """Yield `(state, frames)` for each of `chunks` compiled scans of `chunk_length` steps.

    If a neighbour buffer overflows, the chunk is discarded and replayed with a larger buffer from
    the last good state and key. So the initial capacity affects the speed only. The trajectory
    is bit-identical if the rounding of the forecast's sums over neighbours does not depend on the
    number of empty slots, as for the network on CPUs.

    The scan is compiled once for each `chunk_length`, `every` and capacity.

    Raises:
      RolloutError: the rollout failed; the frames before the failure are yielded first. The
        message states step and atom.
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
    """Whether a neighbour buffer overflowed, in any replica."""
    return jnp.any(state.neighbors.overflow)


def require_sound(state: SimulatorState) -> None:
    """Raise RolloutError if the rollout to `state` failed or its neighbour list overflowed.

    For a single system (no replicas).
    """
    if state.failure.kind != FINE:
        raise RolloutError(describe_failure(state))
    if overflowed(state):
        raise RolloutError(
            f"The neighbour list overflows with {state.neighbors.idx.shape[-1]} slots per atom "
            "within these strides; start from the simulator's `grow(state)`."
        )


def _grow(neighbors, state: SimulatorState, capacity: int | None = None) -> SimulatorState:
    """Give the state a neighbour list of `capacity` slots, by default GROWTH times as many.

    The entries, their order and the reference positions of the list are kept, because they and
    the step of the next rebuild affect the last bits of a trajectory. A list that overflowed is
    rebuilt at its reference positions.
    """
    listed, old = state.neighbors, state.neighbors.idx.shape[-1]
    if capacity is None:
        capacity = 8 * math.ceil(max(GROWTH * old, old + 1) / 8)
    origin = state.system.replace(positions=listed.reference_positions)
    if origin.masses.ndim == 1:
        new = neighbors.allocate(origin, capacity)
    else:
        new = neighbors.allocate(jax.tree.map(lambda x: x[0], origin), capacity)
        # Infinite reference positions force a rebuild of every replica.
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
    # Test whether the neighbours at the state's own positions fit.
    update = neighbors.update if origin.masses.ndim == 1 else jax.vmap(neighbors.update)
    crowded = update(new.replace(reference_positions=state.system.positions), state.system).overflow
    return state.replace(neighbors=new.replace(rebuilds=listed.rebuilds, overflow=crowded))
