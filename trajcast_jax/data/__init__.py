"""Training data: pairs of frames one stride apart, and the statistics that normalise them."""

from trajcast_jax.data.pairs import FramePairs, frame_pairs, join
from trajcast_jax.data.statistics import longest_cell, statistics

__all__ = ["FramePairs", "frame_pairs", "join", "longest_cell", "statistics"]
