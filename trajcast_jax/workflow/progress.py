"""Progress bars that fit where they are written: a terminal, or the log file of a job."""

import sys

from tqdm import tqdm

LOG_INTERVAL = 5.0
"""Seconds between two states of a bar in a file. Bars for terminals would fill it."""


def progress_bar(*args, **options) -> tqdm:
    """A `tqdm` bar; where stderr is no terminal it is written every `LOG_INTERVAL` seconds."""
    if not sys.stderr.isatty():
        options = {"mininterval": LOG_INTERVAL, "maxinterval": 4 * LOG_INTERVAL} | options
    return tqdm(*args, **options)
