"""A campaign: its folder, its journal, its budget, and how it runs commands."""

import dataclasses
import re
import sys
from collections.abc import Callable
from pathlib import Path

from trajcast_jax.workflow.campaign.journal import Journal
from trajcast_jax.workflow.campaign.stages import BEAT, Outcome, Runner, Task


class StageError(RuntimeError):
    """A command of a campaign failed, and the campaign cannot go on without it."""


@dataclasses.dataclass(frozen=True)
class Campaign:
    """What all steps of a campaign share.

    Attributes:
      home: folder of everything that is written.
      settings: path of the TOML file with all settings, which the commands read.
      reference: folder of the reference runs.
      hours: budget of all steps together, compilation included.
      workers: commands at a time, where several are independent.
      run: runs commands.
    """

    home: Path
    settings: Path
    reference: Path
    hours: float
    workers: int
    journal: Journal
    run: Runner

    def left(self) -> float:
        """Seconds of the budget that are left."""
        return 3600 * self.hours - self.journal.spent()

    def affords(self, step: str, seconds: float) -> bool:
        """Whether a step of so many seconds fits into the time that is left.

        Only that it does is recorded, so that a campaign with more hours goes on. What was too long
        in an earlier round stays left out, because later rounds have begun without it.
        """
        key = f"{step}: affordable"
        if key not in self.journal and (self.left() <= seconds or self._is_past(step)):
            return False
        self.journal.once(key, lambda: {"left": round(self.left())})
        return True

    def _is_past(self, step: str) -> bool:
        """Whether a later round than that of the step has begun."""
        found = re.match(r"round (\d+)", step)
        if not found:
            return False
        later = f"round {int(found[1]) + 1} "
        return any(record.get("step", "").startswith(later) for record in self.journal.records)

    def task(self, step: str, verb: str, *arguments: str | Path, part: int = 0) -> Task:
        """Make the command `verb` for this campaign's settings; it logs to `logs/STEP.log`."""
        name = re.sub(r"[^a-z0-9]+", "_", step.lower()).strip("_")
        log = self.home / "logs" / (f"{name}_{part}.log" if part else f"{name}.log")
        return Task(verb, (str(self.settings), *map(str, arguments)), log)

    def place(self, step: str, suffix: str = "") -> Path:
        """Where a step writes: its name in the folder of the campaign."""
        return self.home / f"{step.replace(' ', '_')}{suffix}"

    def stage(self, step: str, *tasks: Task) -> list[Outcome]:
        """Run commands side by side, once; later calls return the recorded outcomes."""
        result = self.journal.once(step, lambda: self._made(step, tasks, lambda outcomes: ""))
        return [Outcome(**outcome) for outcome in result["outcomes"]]

    def need(
        self, step: str, task: Task, problem: Callable[[list[Outcome]], str] | None = None
    ) -> None:
        """Run a command that must succeed.

        A failure is not recorded, so that the campaign tries again when it is run again.
        `problem` says what is wrong after it, "" for nothing; by default that its exit status is
        not 0.

        Raises:
          StageError: it failed.
        """

        def failure(outcomes: list[Outcome]) -> str:
            status, message = outcomes[0]
            return (message or f"exit status {status}.") if status else ""

        self.journal.once(step, lambda: self._made(step, (task,), problem or failure))

    def _made(self, step: str, tasks: tuple[Task, ...], problem) -> dict:
        """Run commands; what the journal keeps of them."""
        print(f"[{_clock(self.left())} left] {step}: {tasks[0].command}", flush=True)
        outcomes = self.run(list(tasks), self.workers, self._teller(step))
        wrong = problem(outcomes)
        if wrong:
            raise StageError(
                f"{step} failed: {wrong} (The whole output is in {tasks[0].log}.) Remove the "
                "cause and run the command again: it goes on from here."
            )
        return {
            "commands": [task.command for task in tasks],
            "outcomes": [outcome._asdict() for outcome in outcomes],
        }

    def _teller(self, step: str):
        """A callback that shows what a command does, and keeps the time that it has taken."""
        last = 0.0
        shown = sys.stderr.isatty()

        def tell(seconds: float, line: str) -> None:
            nonlocal last
            if seconds - last >= BEAT:
                last = seconds
                self.journal.beat(step, seconds)
                if shown:
                    text = f"[{_clock(self.left() - seconds)} left] {step}: {line}"
                    print(f"\r\x1b[K{text[:150]}", end="", file=sys.stderr, flush=True)

        return tell


def _clock(seconds: float) -> str:
    hours, rest = divmod(max(0, int(seconds)), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
