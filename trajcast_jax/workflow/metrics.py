"""Write and read the metrics of a training (metrics.csv and, optionally, TensorBoard events)."""

import csv
from pathlib import Path

import numpy as np

from trajcast_jax import io
from trajcast_jax.learning.training import Metrics


class MetricsLog:
    """Append metrics to metrics.csv, one row per chunk of updates, and to TensorBoard events.

    Rows after `update`, from which training is resumed, are removed.
    """

    def __init__(self, out: Path, update: int, tensorboard: bool):
        self.path = out / "metrics.csv"
        rows = []
        if self.path.exists():  # rows after the state that is resumed would come twice
            rows = _rows(self.path)
        # Rows of versions that did not write the time yet get none.
        rows = [[*row, "0"][: len(Metrics._fields)] for row in rows if int(row[0]) <= update]
        self.before = float(rows[-1][-1]) if rows else 0.0  # seconds spent by earlier processes
        self.seconds = self.before
        text = "\n".join(",".join(row) for row in [Metrics._fields, *rows]) + "\n"
        io.atomic_write(self.path, text.encode())
        self.writer = _tensorboard(out) if tensorboard else None

    def write(self, metrics: Metrics) -> None:
        """Append one row; cells of missing validations are empty."""
        self.seconds = round(self.before + metrics.seconds, 1)
        metrics = metrics._replace(seconds=self.seconds)
        with open(self.path, "a", newline="") as file:
            csv.writer(file).writerow("" if x is None else x for x in metrics)
        if self.writer is not None:
            for name, value in metrics._asdict().items():
                if name != "update" and value is not None:
                    self.writer.scalar(name, value, metrics.update)
            self.writer.flush()


def read_curve(path: Path) -> dict[str, np.ndarray]:
    """The rows of a metrics.csv that have a validation, by column."""
    rows = [dict(zip(Metrics._fields, row, strict=False)) for row in _rows(path)]
    rows = [row for row in rows if row["velocity_error"]]
    return {name: np.array([float(row.get(name) or 0) for row in rows]) for name in Metrics._fields}


def _rows(path: Path) -> list[list[str]]:
    """The rows that are whole: a kill may have come in the middle of one."""
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        lines = [line for line in file if "\0" not in line]
    least = len(Metrics._fields) - 1  # versions that did not write the time yet
    return [row for row in csv.reader(lines) if len(row) >= least and _is_row(row)]


def _is_row(row: list[str]) -> bool:
    try:
        return row[0].isdigit() and all(float(x) is not None for x in row[1:] if x)
    except ValueError:
        return False


def _tensorboard(out: Path):
    try:
        from flax.metrics.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "--tensorboard needs the package tensorboard: pip install tensorboard tensorflow."
        ) from error
    return SummaryWriter(str(out))
