"""SIGTERM, and a terminal that is closed, end a command as Ctrl-C does: what it has begun is tidied up."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

_NUMBERS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into `KeyboardInterrupt` while the context lasts.

    Raises:
        SystemExit: in place of a `KeyboardInterrupt` that one of them caused, with the exit code
            that shells give such an end: 128 and the signal's number.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only that one may
        return
    received: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        signal.raise_signal(signal.SIGINT)

    # a shell starts background jobs with SIGINT ignored: then nothing would be raised
    before: dict[int, Any] = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler)
    }
    for number in _NUMBERS:  # not what is ignored: under nohup a closed terminal ends nothing
        if signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, interrupt)
    try:
        yield
    except (KeyboardInterrupt, click.Abort):
        if received:
            sys.exit(128 + received[0])
        raise
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
