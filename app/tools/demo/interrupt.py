"""SIGTERM, and a terminal that is closed, end the demo as Ctrl-C does."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_NUMBERS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into `KeyboardInterrupt` while the context lasts.

    Raises:
        SystemExit: in place of a `KeyboardInterrupt` that one of them caused, with the exit code
            that shells give such an end: 128 and the signal's number.
    """
    received: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        received.append(number)
        signal.raise_signal(signal.SIGINT)

    # a shell starts background jobs with SIGINT ignored: then nothing would be raised
    before = {signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler)}
    before |= {number: signal.signal(number, interrupt) for number in _NUMBERS}
    try:
        yield
    except KeyboardInterrupt:
        if received:
            sys.exit(128 + received[0])
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
