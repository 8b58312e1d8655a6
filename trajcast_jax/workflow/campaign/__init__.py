"""From a system to a model that one can trust: settings are measured, rounds follow each other.

`findings` says what trajectories show, and `choices` which settings follow from that.
"""
