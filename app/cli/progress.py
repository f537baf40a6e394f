"""Progress of commands on standard error: bars at a terminal; elsewhere a line now and then for counted work."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class ShowCount(Protocol):
    """Called now and then with the work done."""

    def __call__(self, count: int, position: int | None = None) -> None:
        """`count` records are done; the bar stands at `position`, or at `count` without one."""


#: Seconds between two lines where there is no terminal: a log shows that work goes on.
_LINE_SECONDS = 30.0


def _lines(text: str, total: int | None) -> ShowCount:
    told = began = time.monotonic()

    def show(count: int, position: int | None = None) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told < _LINE_SECONDS:
            return
        told = now
        done = count if position is None else position
        rate = f"{count:,} ({count / (now - began):,.0f}/s)"
        share = f"{done / total:.0%}" if total else rate  # of a file, the count is bytes
        print(f"{text}: {share}", file=sys.stderr, flush=True)

    return show


@contextmanager
def counter(text: str, total: int | None = None) -> Iterator[ShowCount]:
    """Show progress while the context lasts.

    Args:
        text: what is being done, such as `sending`.
        total: where the bar ends; None: unknown.

    Yields:
        What to call.
    """
    if not sys.stderr.isatty():
        yield _lines(text, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn(text),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
    )
    began = time.monotonic()
    with Progress(*columns, Remaining(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=total, note="")

        def show(count: int, position: int | None = None) -> None:
            rate = count / max(time.monotonic() - began, 1e-3)
            done = count if position is None else position
            bar.update(task, completed=done, note=f"{count:,} ({rate:,.0f}/s)")

        yield show


@contextmanager
def stage(text: str, length: int) -> Iterator[Callable[[int], None]]:
    """As `counter`, for tools that tell the work done and nothing else; a length of 0 is unknown."""
    with counter(text, length or None) as show:
        yield lambda done: show(done, None)


class ShowStage(Protocol):
    """Called now and then."""

    def __call__(self, text: str, done: int, total: int) -> None:
        """`text` is being done, `done` of `total`."""


def _nothing(text: str, done: int, total: int) -> None:
    """Show nothing."""


@contextmanager
def stages() -> Iterator[ShowStage]:
    """Show a bar that starts again with each stage.

    Yields:
        What to call.
    """
    if not sys.stderr.isatty():
        yield _nothing
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("connecting", total=None)
        shown = ""

        def show(text: str, done: int, total: int) -> None:
            nonlocal shown
            if text != shown:
                shown = text
                bar.reset(task, description=text, total=total)
            bar.update(task, completed=done, total=total)

        yield show
