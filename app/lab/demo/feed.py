"""What the demo sends: simulated transactions, or those of a file."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from app.errors import UnavailableError
from app.kafka.clients import client_kwargs, started
from app.lab.demo.fraud_kinds import kinds_of
from app.lab.demo.live_payments import LivePayments
from app.lab.simulation.arrivals import BROKEN
from app.lab.simulation.frauds import DAY_MS
from app.lab.simulation.simulate import Deliveries, Disorder, SimulationConfig, deliver, simulate
from app.ops.files.transaction_file import TransactionPass
from app.ops.producing.following import following
from app.settings import Settings
from app.topics import Topics

Pair = tuple[bytes | None, bytes]
#: Whether it is a label, key, value, and event time as far as it has come: `app.ops.producing.following`.
Outgoing = tuple[bool, bytes | None, bytes, int]

#: So many of a card's transactions span about a month: labels count from an age of a week on, and what they
#: say of a terminal helps for the rest of the four weeks for which it is compromised.
_EVENTS_A_CARD = 60
#: What was fraud is known a day later: within the label delay, as labels of a working deployment are.
_LABEL_AFTER_MS = DAY_MS
_FEWEST_CARDS = 10
#: Shares of what goes wrong on the way: a sprinkling, so that every kind of outcome occurs.
_OUT_OF_ORDER, _LATE, _DUPLICATES, _BROKEN = 0.01, 0.004, 0.004, 0.002
#: ... and at least about so many of each.
_FEWEST = 5
#: One record in so many goes to another partition than its card's, as from another partitioner.
_ASTRAY_EVERY = 5_000
#: Of a long history, the live payments follow the newest part.
_REMEMBERED = 200_000
#: Records of a file that are held back from the first wave, to measure latency with.
HELD_BACK = 800


class Feed(Protocol):
    """Where records come from.

    Attributes:
        text: what it is, for people.
        rows: about how many rows the history will make; None: unknown.
        rounded: records so far with an amount that was rounded.
    """

    @property
    def text(self) -> str: ...  # noqa: D102
    @property
    def rows(self) -> int | None: ...  # noqa: D102
    @property
    def rounded(self) -> int: ...  # noqa: D102

    def history(self) -> Iterator[Outgoing]:
        """The first wave, sent as fast as it goes: transactions, and labels where their time comes."""

    def kind_of(self, transaction_id: str) -> str | None:
        """The kind of fraud of a transaction (`kinds.FRAUDS`), `none` for none; None: unknown."""

    def payments(self) -> Iterator[Pair]:
        """What follows, sent at a gentle rate."""

    def astray(self) -> list[Pair]:
        """Records that are sent to a wrong partition on purpose."""

    def progress(self, sent: int) -> tuple[int, int | None]:
        """How far the history is, and where it ends, in a unit of its own."""


class SimulatedFeed:
    """Cards and terminals that no run before has used; the last transaction was just now.

    Its amounts are whole minor units.

    Args:
        settings: the deployment.
        run: prefix of transaction ids.
        events: how many transactions the history has.
        first: number of the first card and terminal.
        now_ms: gives the present, epoch milliseconds.
    """

    rounded = 0

    def __init__(
        self, settings: Settings, run: str, events: int, first: int, now_ms: Callable[[], int]
    ) -> None:
        self._now_ms = now_ms
        self._deliveries = simulated(settings, run, events, first, now_ms())
        transactions = self._deliveries.transactions
        recent = transactions.take(slice(-_REMEMBERED, None))
        unused = int(max(transactions.card.max(), transactions.terminal.max())) + 1
        self._kinds = kinds_of(transactions, settings.label_delay)
        self._live = LivePayments(recent, unused, now_ms, settings.label_delay)
        self._payments = self._live.pairs()
        self._astray = max(1, events // _ASTRAY_EVERY)
        self.rows = len(transactions)
        cards = len(set(transactions.card.tolist()))
        begin, end = (_day(transactions.event_time_ms[at]) for at in (0, -1))
        self.text = f"{events:,} simulated transactions of {cards:,} cards, {begin} to {end}"

    def history(self) -> Iterator[Outgoing]:
        """In the order of their arrival; some late, repeated or broken.

        Labels follow a day of event time later, each once; those of the last day are not known yet.
        """
        return following(
            self._labelled(), after_ms=_LABEL_AFTER_MS, now_ms=self._now_ms(), rest=False
        )

    def _labelled(self) -> Iterator[tuple[bytes | None, bytes, int, bool | None]]:
        deliveries = self._deliveries
        times, seen = deliveries.transactions.event_time_ms, set[int]()
        repeated = set(deliveries.duplicates.tolist())
        newest = 0
        for row, (key, value, kind) in zip(
            deliveries.order.tolist(), deliveries.lines(), strict=True
        ):
            newest = newest if kind == BROKEN else int(times[row])
            known = kind == BROKEN or row in seen
            if row in repeated:
                seen.add(row)
            yield key, value, newest, None if known else kind > 0

    def kind_of(self, transaction_id: str) -> str | None:
        """By the number in its id, which is its row; of payments, as far as they were taken."""
        run, _, number = transaction_id.rpartition("-")
        if run != self._deliveries.transactions.names.run or not number.isdecimal():
            return self._live.kind_of(transaction_id)
        return self._kinds[int(number)]

    def payments(self) -> Iterator[Pair]:
        """Payments of the same cards, each of the moment it is taken."""
        return self._payments

    def astray(self) -> list[Pair]:
        """A few payments."""
        return list(islice(self._payments, self._astray))

    def progress(self, sent: int) -> tuple[int, int | None]:
        """In records."""
        return sent, len(self._deliveries)


class FileFeed:
    """The records of a file; the last ones are held back as payments.

    Args:
        reading: the file, without a limit.
        name: what to call it.
        limit: how many records the history and what is held back have; None: the whole file.
    """

    rows = None

    def __init__(self, reading: TransactionPass, name: str, limit: int | None) -> None:
        self._reading = reading
        self._limit = limit
        self._pairs = reading.pairs()
        self._held: deque[Pair] = deque()
        self._held_back = HELD_BACK if limit is None else min(HELD_BACK, limit // 10)
        size = "all" if limit is None else f"the first {limit:,}"
        self.text = f"{size} transactions of {name}"
        if reading.answers:
            self.text += f", without what says what is fraud: {', '.join(reading.answers)}"

    @property
    def rounded(self) -> int:
        """Of what the file was read so far, what is held back included."""
        return self._reading.rounded

    def kind_of(self, transaction_id: str) -> None:  # noqa: ARG002
        """Unknown."""

    def history(self) -> Iterator[Outgoing]:
        """The file up to the limit or its end, without what is held back."""
        for pair in islice(self._pairs, self._limit):
            self._held.append(pair)
            if len(self._held) > self._held_back:
                yield False, *self._held.popleft(), 0

    def payments(self) -> Iterator[Pair]:
        """What was held back; then, behind a limit, the rest of the file."""
        while self._held:
            yield self._held.popleft()
        if self._limit is not None:
            yield from self._pairs

    def astray(self) -> list[Pair]:
        """None: a file is sent as it is."""
        return []

    def progress(self, sent: int) -> tuple[int, int | None]:
        """In records, or in the file's own unit without a limit."""
        if self._limit is None:
            return self._reading.position(), self._reading.size
        return sent, self._limit - self._held_back


def simulated(settings: Settings, run: str, events: int, first: int, now_ms: int) -> Deliveries:
    """A simulation that ends now, in the order in which its records arrive.

    Args:
        settings: the deployment.
        run: prefix of transaction ids.
        events: how many transactions.
        first: number of the first card and terminal; also the seed.
        now_ms: the present, epoch milliseconds.
    """
    cards = max(_FEWEST_CARDS, events // _EVENTS_A_CARD)
    config = SimulationConfig(
        cards=cards,
        terminals=2 * cards,
        count=events,
        seed=first,
        run=run,
        currency=settings.currency,
        minor_digits=settings.minor_unit_digits,
    )
    transactions = simulate(config, now_ms=now_ms)
    # a card whose newest payment was a minute ago, in the run before, would be late with all of its
    # history: so every run has cards of its own
    transactions = replace(
        transactions, card=transactions.card + first, terminal=transactions.terminal + first
    )
    least = _FEWEST / events
    disorder = Disorder(
        out_of_order=max(least, _OUT_OF_ORDER),
        late=max(least, _LATE),
        duplicates=max(least, _DUPLICATES),
        broken=max(least, _BROKEN),
        lateness_ms=settings.allowed_lateness,
    )
    return deliver(transactions, disorder, seed=first)


async def send_astray(settings: Settings, pairs: list[Pair]) -> int:
    """Send records to the partition behind their own; returns how many.

    Raises:
        UnavailableError: Kafka does not take them.
    """
    if settings.partitions == 1 or not pairs:
        return 0
    partitions, topic = list(range(settings.partitions)), Topics(settings).transactions.name
    home = DefaultPartitioner()
    kwargs = client_kwargs(settings)
    async with started(AIOKafkaProducer(**kwargs, acks="all"), settings) as out:
        for key, value in pairs:
            wrong = (home(key or b"", partitions, partitions) + 1) % settings.partitions
            try:
                await out.send_and_wait(topic, value, key=key, partition=wrong)
            except KafkaError as error:
                msg = f"Kafka does not accept records: {type(error).__name__} {error}"
                raise UnavailableError(msg) from error
    return len(pairs)


def run_name(now: datetime) -> str:
    """A prefix of transaction ids that no other run has, such as `demo-1123-190512`."""
    return f"demo-{now:%m%d-%H%M%S}"


def _day(epoch_ms: int) -> str:
    return f"{datetime.fromtimestamp(int(epoch_ms) / 1000, UTC):%d %B %Y}".lstrip("0")
