"""The journal of a campaign: what was done and decided, one JSON object per line.

A campaign is written as straight code. Each of its steps is run through `Journal.once`, under a
key. A step whose key is in the journal is not run again; its recorded result is returned. So an
interrupted campaign goes on by running the same code again.
"""

import datetime
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from trajcast_jax.io import atomic_write
from trajcast_jax.reading import load_json

FILE = "journal.jsonl"
RUNNING = "running.json"
"""File beside the journal: the step in progress, and the seconds it has taken so far."""


class Journal:
    """Append-only records in a file; a last line that a kill has cut is removed.

    Attributes:
      records: all records, the oldest first.
    """

    def __init__(self, path: Path):
        self.path = path
        _drop_cut_line(path)
        self.records = read(path)
        self._results = {r["step"]: r["result"] for r in self.records if "step" in r}
        self._spent = self._interrupted()

    def __contains__(self, step: str) -> bool:
        return step in self._results

    def once(self, step: str, make: Callable[[], dict]) -> dict:
        """Return the recorded result of a step, or make, record and return it."""
        if step not in self._results:
            begin = time.monotonic()
            result = make()
            seconds = time.monotonic() - begin + self._spent.pop(step, 0.0)
            self.write(step=step, result=result, seconds=round(seconds, 3))
        return self._results[step]

    def write(self, **fields) -> None:
        """Append a record and wait until it is on the disk.

        Raises:
          OSError: it cannot be written.
        """
        now = datetime.datetime.now().isoformat(timespec="seconds")
        record = json.loads(json.dumps({"time": now} | fields))
        line = json.dumps(record, ensure_ascii=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.records.append(record)
        if "step" in record:
            self._results[record["step"]] = record["result"]
            (self.path.parent / RUNNING).unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove all records."""
        self.path.unlink(missing_ok=True)
        self.records, self._results, self._spent = [], {}, {}
        (self.path.parent / RUNNING).unlink(missing_ok=True)

    def beat(self, step: str, seconds: float) -> None:
        """Note that a step has taken so many seconds, so that a kill does not lose the count."""
        seconds += self._spent.get(step, 0.0)
        note = {"step": step, "seconds": round(seconds, 1)}
        atomic_write(self.path.parent / RUNNING, json.dumps(note).encode())

    def spent(self, step: str = "") -> float:
        """Seconds of all steps together, or those that an interrupted step had taken."""
        if step:
            return self._spent.get(step, 0.0)
        return sum(r.get("seconds", 0.0) for r in self.records) + sum(self._spent.values())

    def _interrupted(self) -> dict[str, float]:
        path = self.path.parent / RUNNING
        if not path.exists():
            return {}
        note = load_json(path)
        return {} if note["step"] in self._results else {note["step"]: note["seconds"]}


def _drop_cut_line(path: Path) -> None:
    """Cut a file after its last whole line, so that the next record begins a line."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.truncate(path, whole)


def read(path: Path) -> list[dict]:
    """The records of a file; a line that is not whole, or is being written, is left out.

    Raises:
      ValueError: a line is not a record.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    records = []
    for number, line in enumerate(whole.decode(errors="replace").splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or ("step" in record and "result" not in record):
            raise ValueError(
                f"Line {number} of {path} is no record of a journal: it is damaged. Give another "
                "--out, or remove the lines from this one on to go on from before it."
            )
        records.append(record)
    return records
