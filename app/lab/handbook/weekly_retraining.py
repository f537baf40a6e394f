"""The champion, retrained each week through the registry during the pass by `fraudstream retrain`."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import NamedTuple

from app.cassandra.fetched_models import entry_of
from app.cassandra.session import connected
from app.kafka.topic_admin import log_ends
from app.lab.bench.backlog import await_committed
from app.lab.supervisor import Workers
from app.ops.retrain import retrain
from app.settings import Settings
from app.topics import Topics

#: As `app.ops.producing.following` gives them: whether it is a label, key, value, event time as far as it has come.
Item = tuple[bool, bytes | None, bytes, int]


class Segments:
    """The same items, cut at moments of event time."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)
        self._held: list[Item] = []

    def until(self, end_ms: int | None) -> Iterator[Item]:
        """The next items, up to the first one at or behind a moment, epoch milliseconds; None: all."""
        while (item := self._held.pop() if self._held else next(self._items, None)) is not None:
            if end_ms is not None and item[3] >= end_ms:
                self._held.append(item)
                return
            yield item


class Call(NamedTuple):
    """A call of `fraudstream retrain --promote`.

    Attributes:
        at_ms: the time that it was given, epoch milliseconds.
        did: what it did; see `app.ops.retrain.Step`.
        model: name and version of the challenger; empty: there is none.
        hash: its hash, as rows have it.
        learned_to: newest event time that the challenger has learned from, ISO.
        lines: what the command printed.
    """

    at_ms: int
    did: str
    model: str
    hash: str
    learned_to: str
    lines: list[str]

    def as_dict(self) -> dict[str, object]:
        """A JSON-able object."""
        return {**self._asdict(), "at": day_of(self.at_ms)}


class WeeklyRetraining:
    """Calls the command whenever the pass stops.

    Args:
        settings: the deployment.
        workers: they must have applied what it has changed before the pass goes on.
        say: told what each call did.

    Attributes:
        calls: what was done.
    """

    def __init__(self, settings: Settings, workers: Workers, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._workers = workers
        self._say = say
        self.calls: list[Call] = []

    def __call__(self, at_ms: int) -> None:
        """One call, at a moment of event time."""
        settings = self._settings
        with connected(settings) as session:
            did, model, lines = asyncio.run(
                retrain(
                    settings, session, name=None, min_new=1, promote=True, key=None, now_ms=at_ms,
                    stage=lambda _text, _length: nullcontext(lambda _done: None),
                )
            )  # fmt: skip
            known = entry_of(settings, session, model).manifest if model else None
        learned_to = "" if known is None else str(known.trained["learned_to"])
        model_hash = "" if known is None else known.model_hash
        self.calls.append(Call(at_ms, did, model, model_hash, learned_to, lines))
        self._say(f"{day_of(at_ms)}: {'; '.join(lines)}")
        asyncio.run(self._applied())

    async def _applied(self) -> None:
        """Wait until each change is on every partition of `enriched`: what is sent later comes behind it."""
        topic = Topics(self._settings).control.name
        ends = await log_ends(self._settings, topic)
        await await_committed(self._settings, topic, sum(ends.values()), self._workers)


def day_of(epoch_ms: int) -> str:
    """The UTC day of a moment."""
    return f"{datetime.fromtimestamp(epoch_ms / 1000, UTC):%Y-%m-%d}"
