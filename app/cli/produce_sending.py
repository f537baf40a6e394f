"""How `fraudstream produce` sends what it reads: unthrottled, at a rate, on a schedule, with or without labels."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from app.cli.progress import counter
from app.durations import parse_duration_ms
from app.errors import UsageError
from app.settings import Settings

if TYPE_CHECKING:
    from app.ops.files.label_file import LabelPass
    from app.ops.files.transaction_file import TransactionPass
    from app.ops.produce import ProduceReport


def send(
    reading: "TransactionPass | LabelPass",
    settings: Settings,
    options: dict[str, Any],
) -> "tuple[ProduceReport, ProduceReport | None]":
    """What was sent, and which labels beside transactions."""
    from app.ops import produce as tool

    sent = 0
    with tool.quiet_client(), counter("sending", options["limit"] or reading.size) as show:

        def progress(count: int) -> None:
            nonlocal sent
            sent = count
            show(count, count if options["limit"] else reading.position())

        try:
            return asyncio.run(_sent(reading, settings, options, progress))
        except UsageError as error:
            if not sent:
                raise
            msg = f"{error} ({sent:,} records before it were sent)"
            raise UsageError(msg) from error


async def _sent(
    reading: "TransactionPass | LabelPass",
    settings: Settings,
    options: dict[str, Any],
    progress: Callable[[int], None],
) -> "tuple[ProduceReport, ProduceReport | None]":
    from app.ops import produce as tool
    from app.ops.files.label_file import LabelPass
    from app.ops.producing.schedule import spread
    from app.topics import Topics

    rate, speed, stamp = options["rate"], options["speed"], options["stamp"]
    if isinstance(reading, LabelPass) or (options["with_labels"] is None and not speed):
        topics = Topics(settings)
        to = topics.labels if isinstance(reading, LabelPass) else topics.transactions
        report = await tool.produce(
            reading.pairs(),
            settings=settings,
            topic=to.name,
            rate=rate,
            stamp=stamp,
            on_progress=progress,
        )
        return report, None
    if options["with_labels"] is None:
        report = await tool.produce_on_schedule(
            spread(reading.timed(), speed),
            settings=settings,
            stamp=stamp is not False,
            on_progress=progress,
        )
        return report, None

    from app.ops.producing.following import following
    from app.ops.producing.wait_for_workers import WaitForWorkers
    from app.ops.verification.topic_log import open_log

    async with AsyncExitStack() as opened:
        wait = None
        if options["ahead"]:
            wait = WaitForWorkers(
                await opened.enter_async_context(open_log(settings)), options["ahead"]
            )
        return await tool.produce_with_labels(
            following(reading.labelled(), after_ms=label_after(options), now_ms=now_ms()),
            settings=settings,
            rate=rate,
            speed=speed,
            stamp=stamp,
            wait_for_workers=wait,
            on_progress=progress,
        )


def label_after(options: dict[str, Any]) -> int:
    """How long after its transaction a label becomes known, milliseconds.

    Raises:
        UsageError: it is not a duration.
    """
    try:
        return parse_duration_ms(options["label_after"] or "1d")
    except ValueError as error:
        msg = f"--label-after: {error}"
        raise UsageError(msg) from None


def now_ms() -> int:
    """The present, epoch milliseconds."""
    return time.time_ns() // 1_000_000
