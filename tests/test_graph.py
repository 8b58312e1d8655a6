"""Neighbour lists against ASE's, on every kind of cell; reuse, overflow, padding."""

import ase.build
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.neighborlist import neighbor_list as ase_neighbor_list
from conftest import as_system, quartz_atoms

from trajcast_jax.neighbors.graph import graph, neighbor_list
from trajcast_jax.system import heights, inverse, make_system, pad


def triclinic():
    rng = np.random.default_rng(3)
    atoms = ase.Atoms(
        numbers=[18] * 60, cell=[[11, 0, 0], [4, 12, 0], [-3, 5, 13]], pbc=True,
        scaled_positions=rng.random((60, 3)),
    )  # fmt: skip
    atoms.rotate(40, (1, 2, 3), rotate_cell=True)  # no triangular form
    return atoms


CASES = {
    "hexagonal, minimum image": lambda: quartz_atoms((3, 3, 2)),
    "hexagonal, multi-image": lambda: quartz_atoms((1, 1, 1)),
    "thin, multi-image": lambda: quartz_atoms((1, 1, 4)),
    "two atoms": lambda: ase.build.bulk("Si"),
    "one atom": lambda: ase.build.bulk("Cu"),
    "triclinic": triclinic,
    "large, cell list": lambda: quartz_atoms((6, 6, 5)),
    "molecule": lambda: ase.build.molecule("C6H6"),
}


def edges_of(system, neighbors, cutoff):
    """Sorted (receiver, sender, vector) of all edges."""
    edges = graph(system, neighbors, cutoff)
    i, slot = np.nonzero(np.asarray(edges.mask))
    rows = np.column_stack([i, np.asarray(edges.senders)[i, slot], edges.vectors[i, slot]])
    return rows[np.lexsort(np.round(rows.T[::-1], 2))]


def ase_edges(atoms, cutoff):
    i, j, vectors = ase_neighbor_list("ijD", atoms, cutoff)
    rows = np.column_stack([i, j, vectors])
    return rows[np.lexsort(np.round(rows.T[::-1], 2))]


@pytest.mark.parametrize("case", CASES)
def test_neighbours_are_ases(case, x64):
    atoms = CASES[case]()
    expected = ase_edges(atoms, 4.0)
    if atoms.pbc.all():  # unwrapped positions: every atom some cells away
        atoms.positions += np.random.default_rng(0).integers(-3, 4, (len(atoms), 3)) @ atoms.cell
    system = as_system(atoms)
    fns = neighbor_list(system.cell, 4.0, skin=0.4)
    found = edges_of(system, fns.allocate(system), 4.0)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[:, 2:], expected[:, 2:], atol=1e-9)
    np.testing.assert_array_equal(found[:, :2], expected[:, :2])


def test_heights():
    atoms = triclinic()
    volume = abs(np.linalg.det(atoms.cell))
    areas = [np.linalg.norm(np.cross(atoms.cell[k - 2], atoms.cell[k - 1])) for k in range(3)]
    np.testing.assert_allclose(heights(jnp.asarray(atoms.cell.array)), volume / areas, rtol=1e-5)


@pytest.mark.parametrize("axes", [[0, 1, 2], [1, 0, 2]], ids=["right-handed", "left-handed"])
def test_inverse_is_numpys(axes):
    cell = triclinic().cell.array[axes]
    found = inverse(jnp.asarray(cell))
    np.testing.assert_allclose(found, np.linalg.inv(cell), rtol=1e-5, atol=1e-7)


def test_list_is_reused_within_half_the_skin(quartz):
    fns = neighbor_list(quartz.cell, 3.0, skin=0.4)
    neighbors = fns.allocate(quartz)
    update = jax.jit(fns.update)
    move = jnp.zeros_like(quartz.positions).at[3, 0].set(0.19)
    nearer = update(neighbors, quartz.replace(positions=quartz.positions + move))
    farther = update(nearer, quartz.replace(positions=quartz.positions + 1.2 * move))
    assert (int(neighbors.rebuilds), int(nearer.rebuilds), int(farther.rebuilds)) == (1, 1, 2)


def test_reused_list_holds_every_neighbour():
    """The law of the skin: at any motion below skin/2 no edge within the cutoff is missing."""
    atoms = quartz_atoms((3, 1, 1))
    system = as_system(atoms)
    fns = neighbor_list(system.cell, 3.0, skin=0.6)
    neighbors = fns.allocate(system)
    rng = np.random.default_rng(5)
    for _ in range(5):
        move = rng.normal(size=(len(atoms), 3))
        move *= 0.29 / np.linalg.norm(move, axis=1).max()
        moved = atoms.copy()
        moved.positions += move
        system_moved = as_system(moved)
        kept = fns.update(neighbors, system_moved)
        assert int(kept.rebuilds) == 1
        assert edges_of(system_moved, kept, 3.0).shape == ase_edges(moved, 3.0).shape


def test_too_small_a_buffer_is_flagged_and_stays_flagged(quartz):
    fns = neighbor_list(quartz.cell, 3.0, skin=0.4)
    tiny = fns.allocate(quartz, capacity=2)
    assert tiny.capacity == 2
    assert bool(tiny.overflow)
    assert bool(fns.update(tiny, quartz).overflow)
    assert not bool(fns.allocate(quartz).overflow)


def test_padding_has_no_neighbours(quartz):
    padded = pad(quartz, 32)
    fns = neighbor_list(quartz.cell, 3.0, skin=0.4)
    edges = graph(padded, fns.allocate(padded), 3.0)
    assert not edges.mask[27:].any()
    assert (edges.senders[edges.mask] < 27).all()
    plain = graph(quartz, fns.allocate(quartz), 3.0)
    assert int(edges.mask.sum()) == int(plain.mask.sum())


def test_bad_cutoff_is_refused():
    with pytest.raises(ValueError, match="cutoff must be positive"):
        neighbor_list(None, 0.0)


def test_isolated_atom_has_no_edges():
    atom = make_system(np.zeros((1, 3)), np.zeros((1, 3)), [18])
    assert int(graph(atom, neighbor_list(None, 4.0).allocate(atom), 4.0).mask.sum()) == 0


def test_slots_within_the_cutoff_follow_what_the_skin_holds(quartz):
    """Packed for every frame: same edges, fewer slots; too few are an overflow."""
    fns = neighbor_list(quartz.cell, 3.5, skin=0.8)
    listed = fns.allocate(quartz)
    moved = quartz.replace(positions=quartz.positions + 0.2 * np.sin(7.0 * quartz.positions))
    assert listed.near < listed.capacity
    packed, whole = (
        edges_of(moved, listed.replace(near=n), 3.5) for n in (listed.near, listed.capacity)
    )
    np.testing.assert_array_equal(packed, whole)
    assert graph(moved, listed, 3.5).mask.shape[-1] == listed.near
    assert not fns.update(listed, moved).overflow
    assert fns.update(listed.replace(near=4), moved).overflow
    assert fns.allocate(quartz, 2 * listed.capacity).near >= 1.5 * listed.near


@pytest.mark.parametrize("case", CASES)
def test_the_types_of_lists_can_be_compared_while_tracing(case):
    """JAX's caches do so, now and then: an array among a type's constants fails there."""
    system = as_system(CASES[case]())
    one, other = (neighbor_list(system.cell, 3.5, 0.2).allocate(system) for _ in range(2))

    def compared(x):
        return x * (jax.tree.structure(one) == jax.tree.structure(other))

    jax.jit(compared)(1.0)
