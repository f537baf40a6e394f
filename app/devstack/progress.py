"""What long work tells the person who waits: calm lines, and a bar when the screen is a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

#: Called with the number of bytes that just arrived; safe to call from several threads.
Advance = Callable[[int], None]


class Progress(Protocol):
    """Where steps are told."""

    def step(self, text: str) -> None:
        """Tell one finished or beginning step, in one line."""

    def transfer(self, text: str, total_bytes: int) -> AbstractContextManager[Advance]:
        """Show a transfer of so many bytes while the context lasts."""


class NoProgress:
    """Tells nothing: for tests and for callers that speak themselves."""

    def step(self, text: str) -> None:
        """Nothing."""

    @contextmanager
    def transfer(self, text: str, total_bytes: int) -> Iterator[Advance]:
        """Count nothing."""
        yield lambda _count: None


class ConsoleProgress:
    """Steps as lines, transfers as a bar on standard error.

    Args:
        say: takes each line, such as `click.echo`.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def step(self, text: str) -> None:
        """Say one line."""
        self._say(text)

    @contextmanager
    def transfer(self, text: str, total_bytes: int) -> Iterator[Advance]:
        """Say what is transferred; a bar follows when standard error is a terminal."""
        self._say(text)
        if not sys.stderr.isatty():
            yield lambda _count: None
            return
        from rich.console import Console as Screen
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as Bar

        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Bar(*columns, console=Screen(stderr=True), transient=True) as bar:
            task = bar.add_task(text, total=total_bytes)
            yield lambda count: bar.update(task, advance=count)
