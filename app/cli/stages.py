"""One line of progress for work of several stages, on standard error; nothing when that is no terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


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
