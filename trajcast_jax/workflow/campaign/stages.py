"""Run the commands of a campaign as processes of their own, with a log file each.

A process of its own gives its memory back, and what crashes it does not crash the campaign.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from trajcast_jax.workflow.stopping import PARENT

PATIENCE = 120.0
"""Seconds that a process has to save its state after SIGTERM, before it is killed."""
BEAT = 5.0
"""Seconds between two notes of the time that a step has taken."""


class Task(NamedTuple):
    """One command: `python -m experiments.VERB ARGUMENTS`, and the file of its output."""

    verb: str
    arguments: tuple[str, ...]
    log: Path

    @property
    def command(self) -> str:
        """The command line."""
        return " ".join(["python -m", f"experiments.{self.verb}", *self.arguments])


class Outcome(NamedTuple):
    """Exit status of a command, and its last sentence if it failed."""

    status: int
    message: str


Runner = Callable[[list[Task], int, Callable[[float, str], None]], list[Outcome]]
"""Runs tasks, at most so many at a time; calls back with the seconds and the last output."""


def in_processes(
    tasks: list[Task], workers: int, tell: Callable[[float, str], None]
) -> list[Outcome]:
    """Run tasks as processes. An interruption ends them after they have saved their state."""
    begin, waiting, running = time.monotonic(), list(tasks), {}
    outcomes: dict[Task, Outcome] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                task = waiting.pop(0)
                running[task] = _start(task)
            time.sleep(0.1)
            for task in [t for t, process in running.items() if process.poll() is not None]:
                process = running.pop(task)
                outcomes[task] = Outcome(process.returncode, last_words(task.log))
            tell(time.monotonic() - begin, _last_line(next(iter(running), tasks[-1]).log))
    except BaseException:
        _stop(list(running.values()))
        raise
    return [outcomes[task] for task in tasks]


def last_words(log: Path) -> str:
    """The last error in a log, or its last line."""
    lines = [line for line in _lines(log) if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    checks = [" ".join(line.split()) for line in lines if line.split()[0] == "FAILED"]
    last = (errors or lines or [""])[-1].removeprefix("error: ").strip()
    return "; ".join([last, *dict.fromkeys(checks)][:4])


def _start(task: Task) -> subprocess.Popen:
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with open(task.log, "ab") as log:
        log.write(f"$ {task.command}\n".encode())
        log.flush()
        return subprocess.Popen(
            [sys.executable, "-m", f"experiments.{task.verb}", *task.arguments],
            stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True, env=os.environ | {PARENT: str(os.getpid())},
        )  # fmt: skip


def _stop(processes: list[subprocess.Popen]) -> None:
    """Let processes save their state, and wait for their ends."""
    for process in processes:
        process.terminate()
    end = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_line(log: Path) -> str:
    return next((line.strip() for line in reversed(_lines(log)) if line.strip()), "")


def _lines(log: Path) -> list[str]:
    """Lines at the end of a log; the states of a progress bar count as lines."""
    if not log.exists():
        return []
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        return re.split(r"[\r\n]+", file.read().decode(errors="replace"))
