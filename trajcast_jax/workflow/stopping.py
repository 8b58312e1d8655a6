"""Stop a command by Ctrl-C or SIGTERM: save its results, and say how to continue."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class TerminatedError(KeyboardInterrupt):
    """SIGTERM, which queues and operating systems send before they kill a process."""


PARENT = "TRAJCAST_JAX_PARENT"
"""Environment variable with the number of the process that this one shall not outlive."""
_PR_SET_PDEATHSIG = 1
_RAISED = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: TerminatedError}


def heed_termination() -> None:
    """Make SIGTERM stop this process as Ctrl-C does. By default it would end it at once."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _raise)


def end_with_parent() -> None:
    """On Linux, get SIGTERM when the process that `PARENT` names dies, so that folders get free."""
    parent = os.environ.pop(PARENT, None)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it had died before
        sys.exit(exit_status(TerminatedError()))


def _raise(number: int, frame: FrameType | None = None) -> None:
    raise _RAISED[number]


def exit_status(stopped: KeyboardInterrupt) -> int:
    """Return the usual exit status of shells: 130 after Ctrl-C, 143 after SIGTERM."""
    number = signal.SIGTERM if isinstance(stopped, TerminatedError) else signal.SIGINT
    return 128 + number


def stopped(error: KeyboardInterrupt, how_to_go_on: str) -> int:
    """Print how to continue, and return the exit status."""
    print(f"\nStopped. {how_to_go_on}", file=sys.stderr)
    return exit_status(error)


@contextmanager
def telling(how_to_go_on: str) -> Iterator[None]:
    """Print how to continue if the `with` block is stopped."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\n{how_to_go_on}", file=sys.stderr)
        raise


@contextmanager
def between_chunks() -> Iterator[Callable[[], None]]:
    """Delay Ctrl-C and SIGTERM until the yielded function is called, which then raises them.

    A second signal is raised at once.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            _raise(number)
        received.append(number)
        print("\nStopping after this chunk; again to stop at once.", file=sys.stderr)

    def heed() -> None:
        if received:
            _raise(received[0])

    if threading.current_thread() is not threading.main_thread():
        yield heed
        return
    before = {number: signal.signal(number, note) for number in _RAISED}
    try:
        yield heed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
