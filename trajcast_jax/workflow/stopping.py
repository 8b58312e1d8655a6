"""Stopping a command by Ctrl-C or SIGTERM: what is done is saved, and one is told how to go on."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class TerminatedError(KeyboardInterrupt):
    """SIGTERM, as queues and operating systems send it before they kill a process."""


_RAISED = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: TerminatedError}


def heed_termination() -> None:
    """Let SIGTERM stop this process as Ctrl-C does, instead of ending it at once."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _raise)


def _raise(number: int, frame: FrameType | None = None) -> None:
    raise _RAISED[number]


def exit_status(stopped: KeyboardInterrupt) -> int:
    """The exit status that shells know: 130 after Ctrl-C, 143 after SIGTERM."""
    number = signal.SIGTERM if isinstance(stopped, TerminatedError) else signal.SIGINT
    return 128 + number


def stopped(error: KeyboardInterrupt, how_to_go_on: str) -> int:
    """Say how to go on, and give the exit status."""
    print(f"\nStopped. {how_to_go_on}", file=sys.stderr)
    return exit_status(error)


@contextmanager
def telling(how_to_go_on: str) -> Iterator[None]:
    """Say how to go on if the `with` block is stopped."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\n{how_to_go_on}", file=sys.stderr)
        raise


@contextmanager
def between_chunks() -> Iterator[Callable[[], None]]:
    """Hold back Ctrl-C and SIGTERM; the function that is yielded raises them where it is called.

    A second one is not held back.
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
