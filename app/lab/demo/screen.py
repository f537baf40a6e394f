"""What a person sees while the demo works: calm lines, bars and a status line on a terminal."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Off a terminal the status line is told this often.
_STATUS_SECONDS = 30.0

#: Called with records sent, the position of the bar and its end, and rows in Cassandra.
ShowWave = Callable[[int, int | None, int], None]


class Screen:
    """Tells steps and times them.

    Args:
        say: takes each line, such as `click.echo`.

    Attributes:
        seconds: how long each phase took, by name.
        is_terminal: whether lines can be renewed.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.seconds: dict[str, float] = {}
        self._say = say
        self._began = time.monotonic()
        self.is_terminal = self._terminal = sys.stderr.isatty()
        self._status = ""
        self._status_at = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._began

    def step(self, text: str) -> None:
        """Tell one step, with the time."""
        self.line(f"{self.elapsed:6.1f} s  {text}")

    def line(self, text: str) -> None:
        """Tell something above the status line."""
        self._clear()
        self._say(text)
        self._draw()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what happens while the context lasts; a phase may have several parts."""
        began = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - began
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 2)

    @contextmanager
    def wave(self, rows: int | None) -> Iterator[ShowWave]:
        """Bars of what is sent and what is in Cassandra.

        Args:
            rows: where the second bar ends; None: unknown.
        """
        if not self._terminal:
            yield lambda _position, _end, _rows: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            sent = bars.add_task("sent", total=None)
            stored = bars.add_task("in Cassandra", total=rows)

            def show(position: int, end: int | None, count: int) -> None:
                bars.update(sent, completed=position, total=end)
                bars.update(stored, completed=count)

            yield show

    def status(self, text: str) -> None:
        """Renew the status line; off a terminal it is a line now and then."""
        self._status = text
        if self._terminal:
            self._draw()
        elif time.monotonic() - self._status_at > _STATUS_SECONDS:
            self._status_at = time.monotonic()
            self.step(text)

    def end_status(self) -> None:
        """Leave the last status as a line."""
        text, self._status = self._status, ""
        if text:
            self.line(text)

    def _draw(self) -> None:
        if self._terminal and self._status:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\x1b[K{self._status[:width]}")
            sys.stderr.flush()

    def _clear(self) -> None:
        if self._terminal and self._status:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
