"""Neighbour lists, distances between pairs of atoms, and the electrostatic far field.

`graph` makes neighbour lists and the graphs that the network reads (no other module imports
jax-md). `multi_image` lists neighbours in small cells, where several periodic images of an atom
are within the cutoff. `distances` reduces over the distances of all pairs in a trajectory.
`far_field` sums the fields of charges, including those beyond the cutoff, on a mesh.
"""

from trajcast_jax.neighbors.graph import Graph, Neighbors, neighbor_list

__all__ = ["Graph", "Neighbors", "neighbor_list"]
