"""What goes in is checked: systems, thermostats, neighbour lists; and padding makes no NaN."""

from pathlib import Path

import ase.build
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.cell import Cell
from conftest import as_system, forecaster, quartz_atoms

import trajcast_jax as tj
from trajcast_jax.dynamics.ensemble import csvr, langevin, linear_ramp
from trajcast_jax.dynamics.rollout import simulator
from trajcast_jax.neighbors.graph import graph, neighbor_list
from trajcast_jax.network.forecast import TrainedForecast
from trajcast_jax.system import make_system, pad
from trajcast_jax.workflow import balance, evaluate, fit, generate, rollout, visit
from trajcast_jax.workflow.campaign import command

AT = [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
NAN, INF = float("nan"), float("inf")


def test_systems_are_made_of_what_people_have():
    cell = np.diag([3.0, 4.0, 5.0])
    expected = make_system(np.array(AT), 0 * np.array(AT), np.array([8, 1]), cell=cell)
    for species in ([8, 1], (8, 1), ["O", "H"], np.array(["O", "H"]), np.array([8.0, 1.0])):
        for same in (cell.tolist(), Cell(cell), [3, 4, 5], [3, 4, 5, 90, 90, 90], jnp.array(cell)):
            found = make_system(AT, 0 * np.array(AT), species, cell=same)
            for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(x, y, atol=1e-6)
    assert make_system(AT, AT, ["O", "D"]).masses[1] == pytest.approx(2.014)
    assert make_system(AT, AT, [8, 1], cell=np.zeros((3, 3))).cell is None  # as ASE has it
    hexagonal = make_system(AT, AT, [8, 1], cell=[3, 3, 5, 90, 90, 120]).cell
    assert hexagonal[1, 0] == pytest.approx(-1.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"species": ["O", "Xq"]}, "'Xq' is no chemical symbol"),
        ({"species": [8, 119]}, "Atom 1 has the atomic number 119"),
        ({"species": [8, -1]}, "atomic number -1"),
        ({"species": [8, 1.5]}, "list of atomic numbers"),
        ({"species": [8, 1, 1]}, "there are 3 atoms"),
        ({"velocities": [[0.0, 0.0, 0.0]]}, "velocities have the shape"),
        ({"positions": [0.0, 0.0, 0.0]}, "positions have the shape"),
        ({"masses": [16.0, 0.0]}, r"mass of atom 1 \(H\) is 0 Da"),
        ({"masses": [16.0, NAN]}, "mass of atom 1"),
        ({"masses": [16.0]}, "masses have the shape"),
        ({"cell": [[3, 0, 0], [0, 3, 0], [3, 3, 0]]}, "no volume"),
        ({"cell": [[3, 0, 0], [0, 3, 0], [0, 0, NAN]]}, r"finite \(3, 3\)"),
        ({"cell": [3, 3]}, r"finite \(3, 3\)"),
        ({"cell": [3, 3, -3]}, "lengths above 0"),
        ({"cell": [3, 3, 3, 90, 90, 200]}, "angles between 0 and 180"),
        ({"cell": [3, 3, 3, 90, 90, 0]}, "angles between 0 and 180"),
        ({"cell": "abc"}, "must be numbers"),
    ],
)
def test_systems_that_cannot_be_are_refused(change, message):
    given = {"positions": AT, "velocities": AT, "species": [8, 1]} | change
    with pytest.raises(ValueError, match=message):
        make_system(**given)


def test_numbers_of_command_lines():
    for wrong in (NAN, INF, -1.0, 0.0):
        with pytest.raises(ValueError, match="--minutes must be above 0"):
            fit.main(fit.Arguments("quartz", minutes=wrong))
        with pytest.raises(ValueError, match="--hours must be above 0"):
            command.main(command.Arguments("quartz", hours=wrong))
        with pytest.raises(ValueError, match="--temperatures must be above 0"):
            rollout.new_run(rollout.Arguments("quartz", temperatures=(300.0, wrong)))
        for name in ("weight", "memory", "patience"):
            with pytest.raises(ValueError, match=f"--{name} must be above 0"):
                balance.main(balance.Arguments("quartz", Path("a"), Path("b"), **{name: wrong}))
    with pytest.raises(ValueError, match="--runs must be above 0"):
        generate.main("quartz", runs=0)
    with pytest.raises(ValueError, match="--seed must be 0"):
        generate.main("quartz", seed=-1)
    for name in ("starts", "strides", "every"):
        with pytest.raises(ValueError, match=f"--{name} must be above 0"):
            visit.main("quartz", Path("a"), Path("b"), **{name: 0})
    with pytest.raises(ValueError, match="--energies must be 0"):
        evaluate.main("quartz", energies=-1)
    with pytest.raises(ValueError, match=r"model\.net_momentum has 1 numbers; give 3"):
        forecaster(net_momentum=(1.0,))


def test_numbers_of_thermostats():
    for make in (csvr, langevin):
        for temperature, time_constant in ((-1.0, 75.0), (NAN, 75.0), (INF, 75.0), (300.0, 0.0),
                                           (300.0, -5.0), (300.0, NAN), (300.0, INF)):  # fmt: skip
            with pytest.raises(ValueError, match="of a thermostat must be"):
                make(temperature, time_constant)
        make(0.0, 75.0)
        jax.jit(
            lambda t, make=make: make(t, -t).init(jax.random.key(0), as_system(quartz_atoms()))
        )(300.0)
    with pytest.raises(ValueError, match="temperature ramp must be"):
        linear_ramp(300.0, NAN, 100.0)
    for wrong in (NAN, -1.0, 0.0):
        with pytest.raises(ValueError, match="max_temperature must be above 0"):
            simulator(lambda s, n: s, None, csvr(300.0, 75.0), 30.0, max_temperature=wrong)
        with pytest.raises(ValueError, match="time_step must be above 0"):
            simulator(lambda s, n: s, None, csvr(300.0, 75.0), wrong)


@pytest.mark.parametrize("repeat", [(1, 1, 1), (3, 3, 2)])
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_list_of_atoms_that_are_nowhere_is_refused(repeat, value):
    system = as_system(quartz_atoms(repeat))
    broken = system.replace(positions=system.positions.at[4, 1].set(value))
    with pytest.raises(ValueError, match="position of atom 4 is not finite"):
        neighbor_list(system.cell, 3.5).allocate(broken)
    for cutoff, skin in ((NAN, 0.5), (INF, 0.5), (3.5, NAN)):
        with pytest.raises(ValueError, match="must be positive"):
            neighbor_list(system.cell, cutoff, skin)
    with pytest.raises(ValueError, match="finite"):
        neighbor_list(system.cell.at[0, 0].set(value), 3.5)


def test_a_list_remembers_its_cutoff_and_cell():
    system = as_system(quartz_atoms())
    fns = neighbor_list(system.cell, 3.0)
    listed = fns.allocate(system)
    graph(system, listed, 2.5)  # all neighbours are in it
    with pytest.raises(ValueError, match=r"made for a cutoff of 3 Å, but the model's is 3\.5 Å"):
        jax.jit(lambda s, n: graph(s, n, 3.5).mask)(system, listed)
    with pytest.raises(ValueError, match="The cell of the system is"):
        fns.allocate(system.replace(cell=1.1 * system.cell))
    with pytest.raises(ValueError, match="The system has no cell, but"):
        fns.allocate(system.replace(cell=None))
    far = forecaster(channels=2, blocks=1, far_field=True, cutoff=2.5)
    with pytest.raises(ValueError, match="its mesh were made for a cutoff of 3 Å"):
        far(None, system, listed)


SYSTEMS = {
    "nearest image": lambda: quartz_atoms((3, 3, 2)),
    "all images": lambda: quartz_atoms((1, 1, 1)),
    "isolated": lambda: ase.build.molecule("CH3CH2OH"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SYSTEMS)
def test_padding_makes_no_nan(kind):
    """JAX_DEBUG_NANS stops at any, in forecasts and in their gradients."""
    system = as_system(SYSTEMS[kind]())
    padded = pad(system, len(system.masses) + 3)
    isolated = kind == "isolated"
    small = forecaster((1, 6, 8) if isolated else (8, 14), channels=2, blocks=1,
                       velocity_vector=True, substeps=2, conserve_angular=isolated)  # fmt: skip
    params = small.init(0)
    with jax.debug_nans(True):
        neighbors = neighbor_list(padded.cell, 3.5, 0.4)
        sim = simulator(lambda s, n: small(params, s, n), neighbors, csvr(300.0, 75.0), 30.0)
        state = sim.init(jax.random.key(0), padded)

        def square(velocities):
            moved = sim.step(state.replace(system=padded.replace(velocities=velocities))).system
            return jnp.sum(moved.velocities**2) + jnp.sum(moved.positions**2)

        assert np.isfinite(jax.jit(jax.grad(square))(padded.velocities)).all()


@pytest.fixture(scope="module")
def quartz_model():
    folder = tj.pretrained("quartz")
    return tj.restore(folder), tj.read(folder / "start.extxyz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.replace(velocities=2.2 * s.velocities), r"temperature of 14\d\d K.* 300 K"),
        (lambda s: s.replace(positions=1.042 * s.positions, cell=1.042 * s.cell), "neighbours"),
        (lambda s: s.replace(positions=0.955 * s.positions, cell=0.955 * s.cell), "neighbours"),
        (lambda s: s.replace(masses=s.masses.at[3].mul(1.02)), "mass of atom 3"),
    ],
)
def test_a_model_warns_of_what_it_has_not_seen(quartz_model, change, message, recwarn):
    model, start = quartz_model
    model.check(start)
    model.check(start.replace(velocities=0 * start.velocities))  # before they are drawn
    assert not recwarn.list
    with pytest.warns(UserWarning, match=message):
        model.check(change(start))


def test_a_model_warns_of_a_thermostat(quartz_model):
    model, start = quartz_model
    with pytest.warns(UserWarning, match="temperature of 1500 K"):
        model.check(start, temperature=1500.0)
    assert isinstance(model, TrainedForecast)
