"""Sends dead letters back to where they came from: after an upgrade, or a mended setting."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass, field

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from app.domain.refusal_reasons import LOST, UNREADABLE_REASONS
from app.errors import NotAnsweringError, UnavailableError
from app.kafka.clients import answered, client_kwargs, started
from app.kafka.dead_letter_list import DeadLetter, Progress, find_dead_letter, read_dead_letters
from app.kafka.topic_admin import check_topics
from app.settings import Settings
from app.topics import MESSAGE_OVERHEAD_BYTES, Topics
from app.wire.dead_letters import KEPT_HEADERS, LETTER_KEY_BYTES, MASKED, PRIVATE, REDRIVEN

#: Records on their way at once.
_IN_FLIGHT = 500
#: Letters that hold no record, by reason.
_NO_RECORD = {
    **dict.fromkeys(UNREADABLE_REASONS, "it contains the bytes of a batch, not a record"),
    LOST: "it accounts for records that were deleted before they were read",
}


@dataclass
class Redriven:
    """What a re-drive did, or would do.

    Attributes:
        sent: records sent back, by the reason they had died of.
        refused: letters that cannot be sent back: source position and why.
        again: letters left alone because their record had been sent back before: its first letter counts.
    """

    sent: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[str, str]] = field(default_factory=list)
    again: int = 0


async def redrive(
    settings: Settings,
    *,
    sources: Collection[str] = (),
    reason: str | None = None,
    dry_run: bool = False,
    progress: Progress,
) -> Redriven:
    """Send the original bytes of dead letters, with their key, back to their topic.

    Each record carries the header `redriven`, which names its first letter. If it dies again, its new
    letter keeps that header and is left alone from then on (unless it is named): however often all
    letters are sent back, each record is sent once each time. Only letters that are there when it
    begins are sent.

    Args:
        settings: the deployment.
        sources: source positions, `topic/partition/offset`; empty takes all letters.
        reason: only those with this code; None takes any.
        dry_run: send nothing, and say what would be sent.
        progress: told how far the reading has come.

    Raises:
        UsageError: a source is no position.
        NotFoundError: a source is not among the dead letters; nothing was sent.
        SchemaError: a topic is missing.
        UnavailableError: no broker answers, or it stops answering; the text says how many were sent.
    """
    target = Topics(settings).transactions
    await check_topics(settings, [target])
    # all named ones are found before the first is sent: a misspelt one sends nothing
    named = [await find_dead_letter(settings, each, progress) for each in dict.fromkeys(sources)]
    letters = _each(named) if sources else read_dead_letters(settings, None, progress)
    kwargs = client_kwargs(settings)
    producer = AIOKafkaProducer(
        **kwargs,
        acks="all",
        enable_idempotence=True,
        compression_type="gzip",  # what came compressed may fit in no other way
        max_request_size=settings.max_message_bytes + MESSAGE_OVERHEAD_BYTES,
    )
    done = Redriven()
    async with started(producer, settings), aclosing(letters):
        sender = _Sender(producer, done)
        try:
            async for letter in _chosen(letters, reason, done, named=bool(sources)):
                if why := _unfit(letter, target.name):
                    done.refused.append((letter.source, why))
                elif dry_run:
                    done.sent[letter.reason] += 1
                else:
                    await sender.send(target.name, letter)
            await sender.settle(0)
        except (KafkaError, NotAnsweringError) as error:
            broker = kwargs["bootstrap_servers"]
            msg = (
                f"Kafka at {broker} refuses: {error!r}; at least {done.sent.total():,} records "
                "were sent: run it again; records sent twice are recognised as duplicates"
            )
            raise UnavailableError(msg) from error
    return done


async def _each(letters: list[DeadLetter]) -> AsyncGenerator[DeadLetter, None]:
    for letter in letters:
        yield letter


async def _chosen(
    letters: AsyncGenerator[DeadLetter, None], reason: str | None, done: Redriven, *, named: bool
) -> AsyncGenerator[DeadLetter, None]:
    seen: set[str] = set()
    async for letter in letters:
        if reason not in (None, letter.reason) or letter.source in seen:
            continue
        if letter.is_known:
            seen.add(letter.source)  # refused again by a replay: one record, one dead letter
        if not named and letter.redriven is not None:
            done.again += 1
            continue
        yield letter


def _unfit(letter: DeadLetter, topic: str) -> str | None:
    """Why a letter cannot be sent back; None when it can."""
    headers = dict(letter.headers)
    if not letter.is_known:
        return "it is not a dead-letter record of this deployment: its source is unknown"
    origin = letter.source.rsplit("/", 2)[0]
    if origin != topic:
        return f"it is from {origin}, but records were sent back to {topic} only; send a label "
        "again with `fraudstream label`"
    lacks = _lacks(letter, headers)
    return None if lacks is None else f"{lacks}: send it again from its producer"


def _lacks(letter: DeadLetter, headers: dict[str, bytes]) -> str | None:
    """What a letter lacks of its record; None: nothing, but for fields that would be dropped again."""
    if letter.reason in _NO_RECORD:
        return _NO_RECORD[letter.reason]
    if MASKED in headers:
        return (
            "card numbers in it were masked, or fields hashed "
            "(FRAUDSTREAM_MASK_CARD_NUMBERS, FRAUDSTREAM_PRIVATE_FIELDS)"
        )
    if letter.value is None and PRIVATE in headers:
        return "its value was dropped (FRAUDSTREAM_DEAD_LETTER_VALUES)"
    if "size" in headers:
        return f"only the beginning of its {int(headers['size']):,} bytes was kept"
    cut = letter.key is not None and len(letter.key) >= LETTER_KEY_BYTES
    return f"only the first {LETTER_KEY_BYTES:,} bytes of its key were kept" if cut else None


class _Sender:
    """Sends in order, a few hundred records on their way; counts what is acknowledged."""

    def __init__(self, producer: AIOKafkaProducer, done: Redriven) -> None:
        self._producer = producer
        self._done = done
        self._waiting: deque[tuple[DeadLetter, asyncio.Future[object]]] = deque()

    async def send(self, topic: str, letter: DeadLetter) -> None:
        origin = letter.redriven or letter.source
        sent = await self._producer.send(
            topic,
            letter.value,
            key=letter.key,
            # by its key, as producers do; without one, where it was
            partition=letter.position[0] if letter.key is None else None,
            headers=[
                (REDRIVEN, origin.encode()),
                *((name, raw) for name, raw in letter.headers if name in KEPT_HEADERS[1:]),
            ],
        )
        self._waiting.append((letter, sent))
        await self.settle(_IN_FLIGHT)

    async def settle(self, most: int) -> None:
        """Wait until no more than `most` records are on their way."""
        while len(self._waiting) > most:
            letter, sent = self._waiting.popleft()
            try:
                await answered(sent, "Kafka did not accept the records")
            except MessageSizeTooLargeError:
                self._done.refused.append(
                    (letter.source, "the topic does not accept a record of this size")
                )
            else:
                self._done.sent[letter.reason] += 1
