"""`fraudstream replay`: history scored once more, by another model or other settings, beside the live results.

```text
enriched ─────► survey: which transactions, in which order, from which offset on
transactions ─► cards once more ──────────┐
enriched ─────► terminals and labels once more, model ─► NAME.predictions, keyspace_NAME.predictions
                                                         └─ compared with the live rows
```

Nothing of the live deployment is written: no group is joined, and topics and keyspace are the replay's own.
"""

import asyncio
import shutil
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer
from cassandra.cluster import Session

from app.adapters import shadows
from app.adapters.cassandra import connect, disconnect
from app.adapters.kafka import client_kwargs, started
from app.adapters.labels import scan_verdicts
from app.adapters.prediction_reads import scan_predictions
from app.adapters.prediction_rows import RowPacker
from app.adapters.predictions import PredictionWriter
from app.adapters.shadows import Shadow
from app.blocks.batches import Outputs, OutputSender
from app.errors import UsageError
from app.quality.verdicts import Verdicts
from app.settings import Settings
from app.tools.replaying.bounds import Asked, Reach, check_reach
from app.tools.replaying.comparison import COLUMNS, Comparison
from app.tools.replaying.passes import CardFeatures, CardPass, Stages, TerminalPass
from app.tools.replaying.survey import Sources, Survey
from app.tools.stores import scratch_rows
from app.tools.verification.log import Log, Progress, open_log
from app.topics import Topics, TopicSpec, batch_bytes
from models.holder import Model, ModelHolder, registry_of

#: Blocks of results on their way to Kafka and Cassandra at once.
_IN_FLIGHT = 4
#: A message on `enriched` has its worker's time, whose clock may be this far off.
_CLOCK_MS = 86_400_000
#: Settings that a replay may have of its own: what shapes features and decisions. Which records there are, and
#: which of them are valid, was decided live.
OWN_SETTINGS = frozenset({
    "model", "features", "threshold", "windows", "reasons_from", "label_delay", "label_wait",
    "allowed_lateness", "max_entries_per_key", "timezone", "max_event_skew",
})  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What is to be replayed, and how.

    Attributes:
        live: the deployment's settings.
        own: the replay's: `live` but for `OWN_SETTINGS`.
        name: of the group.
        asked: which transactions.
        short_windows: go on where retention has deleted a part of what windows look back to.
    """

    live: Settings
    own: Settings
    name: str
    asked: Asked
    short_windows: bool = False

    @property
    def shadow(self) -> Shadow:
        """Where results go."""
        return shadow_of(self.own, self.name)


def shadow_of(settings: Settings, name: str) -> Shadow:
    """The shadow of a name: topics `NAME.predictions`, keyspace `KEYSPACE_NAME`.

    Raises:
        UsageError: the name does not fit.
    """
    keyspace = f"{settings.keyspace}_{name}"
    if not name.isascii() or not name.replace("_", "a").isalnum() or not name[:1].isalpha():
        msg = f"--group {name!r}: write lower-case letters, digits and underscores, such as model_2"
        raise UsageError(msg)
    if name != name.lower():
        msg = f"--group {name!r}: write it in lower case, as Cassandra keeps keyspaces: {name.lower()}"
        raise UsageError(msg)
    if len(keyspace) > 48:  # noqa: PLR2004 -- Cassandra's limit of a keyspace's name
        msg = (
            f"--group {name!r}: keyspace {keyspace} has {len(keyspace)} characters, 48 is the limit"
        )
        raise UsageError(msg)
    prefix = f"{settings.topic_prefix}{name}."
    own = settings.model_copy(update={"topic_prefix": prefix, "keyspace": keyspace})
    return Shadow(name, own)


async def replay(plan: Plan, *, progress: Progress) -> dict[str, Any]:
    """Score a part of history once more.

    Args:
        plan: what and how.
        progress: told what is done, how far it has come, and where it ends.

    Returns:
        JSON-ready: what was read, warmed, scored; where the results are; `comparison` as
        `Comparison.result` has it; seconds and rate.

    Raises:
        UsageError: the range is empty or not kept, the model does not fit, the group's name is taken.
        NotFoundError: there is no such model.
        UnavailableError, SchemaError: a server does not answer, or the live topics are not there.
    """
    stages = Stages.of(plan.shadow.settings)
    holder = ModelHolder(registry_of(plan.own), stages.catalogue, plan.own.minor_unit_digits)
    model = await asyncio.to_thread(holder.named, plan.own.model)
    session = await asyncio.to_thread(connect, plan.live)
    folder = plan.own.home / "replays" / plan.name
    try:
        async with open_log(plan.live) as log:
            await _check_name(plan, log, session)
            run = _Run(plan, log, session, stages, model, folder, progress)
            return await run.run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        await asyncio.to_thread(disconnect, session)


async def remove(settings: Settings, name: str) -> list[str]:
    """Delete the shadow of a replay; returns what there was.

    Raises:
        NotFoundError: there is none.
        UsageError: what is there was not made by a replay.
        UnavailableError: a server does not answer.
    """
    shadow = shadow_of(settings, name)
    session = await asyncio.to_thread(connect, settings)
    try:
        return await shadows.remove(session, shadow)
    finally:
        await asyncio.to_thread(disconnect, session)


async def _check_name(plan: Plan, log: Log, session: Session) -> None:
    """Refuse a name that something else has, or that has been used.

    Raises:
        UsageError: it is taken.
    """
    live, name, shadow = plan.live, plan.name, plan.shadow
    names = {live.app_id, live.topic_prefix + live.app_id, *await log.groups()}
    if name in names or live.topic_prefix + name in names:
        msg = f"--group {name} is a live consumer group: choose another name"
        raise UsageError(msg)
    told = shadows.told_of(session, shadow)
    if told is not None:
        state = "finished" if told.get("finished") else "did not finish"
        msg = (
            f"replay {name} is there (of {told.get('from')} to {told.get('to')} by {told.get('model')}; it "
            f"{state}): `fraudstream replay --remove {name}` first, or choose another --group"
        )
        raise UsageError(msg)
    topics = await shadows.existing_topics(shadow)
    if topics:
        msg = f"topic {topics[0]} is there and was not made by a replay: choose another --group"
        raise UsageError(msg)


class _Run:
    """One replay; see `replay`."""

    def __init__(
        self,
        plan: Plan,
        log: Log,
        session: Session,
        stages: Stages,
        model: Model,
        folder: Path,
        progress: Progress,
    ) -> None:
        self._plan = plan
        self._log = log
        self._session = session
        self._stages = stages
        self._model = model
        self._folder = folder
        self._progress = progress
        self._topics = Topics(plan.live)
        self._reach = Reach.of(plan.own)
        self._ends: list[int] = []
        self.read = 0
        self._short_ms = 0

    async def run(self) -> dict[str, Any]:
        began = time.monotonic()
        plan, partitions = self._plan, range(self._plan.live.partitions)
        transactions, log = self._topics.transactions, self._log
        begins, ends = await log.begins(transactions), await log.ends(transactions)
        plan.asked.check_kept(transactions.name, begins, ends)
        behind = sum(ends) - sum(map(max, zip(await log.done(transactions), begins, strict=True)))
        self._ends = await log.ends(self._topics.enriched)
        survey = await self._survey()
        from_ms = survey.from_ms
        await self._check_reach(from_ms)
        cards_ms, terminals_ms = from_ms - self._reach.cards_ms, from_ms - self._reach.terminals_ms
        sources = [survey.sources(number, cards_ms) for number in partitions]
        messages = [survey.messages(number, terminals_ms) for number in partitions]
        await shadows.make(self._session, plan.shadow, self._told(finished=False))
        self._folder.mkdir(parents=True, exist_ok=True)
        cards = await self._work_out_cards(sources)
        verdicts = await asyncio.to_thread(
            lambda: Verdicts(scan_verdicts(self._session, plan.live))
        )
        comparison = Comparison(sources, transactions.name, verdicts)
        warmed, scored = await self._score(messages, cards, comparison, terminals_ms)
        await self._compare(comparison)
        seconds = time.monotonic() - began
        result = {
            "group": plan.name,
            "from": plan.asked.begin.text,
            "to": plan.asked.end.text if plan.asked.end else None,
            "model": self._model.version,
            "model_hash": self._model.hash,
            "feature_schema": self._stages.catalogue.schema,
            "threshold": self._model.threshold
            if plan.own.threshold is None
            else plan.own.threshold,
            "topics": [topic.name for topic in plan.shadow.topics],
            "table": f"{plan.shadow.keyspace}.predictions",
            "horizon_ms": self._reach.cards_ms,
            "short_by_ms": self._short_ms,
            "read": self.read,
            "warmed": warmed,
            "scored": scored,
            "lost": sum(each.lost for each in cards),
            "not_scored_live_yet": behind,
            "comparison": comparison.result(),
            "seconds": round(seconds, 3),
            "transactions_per_second": round((warmed + scored) / max(seconds, 1e-3)),
        }
        shadows.tell(self._session, plan.shadow, self._told(finished=True) | {"result": result})
        return result

    def _told(self, *, finished: bool) -> dict[str, Any]:
        plan = self._plan
        own = {name: getattr(plan.own, name) for name in sorted(OWN_SETTINGS)}
        return {
            "of": plan.live.topic_prefix + plan.live.app_id,
            "from": plan.asked.begin.text,
            "to": plan.asked.end.text if plan.asked.end else "the end",
            "model": self._model.version,
            "model_hash": self._model.hash,
            "settings": own,
            "finished": finished,
        }

    # ------------------------------------------------------------------ reading

    async def _survey(self) -> Survey:
        """What stands on `enriched` from where it can matter on."""
        enriched, plan = self._topics.enriched, self._plan
        begins = await self._log.begins(enriched)
        if plan.asked.from_ms is not None:
            # no event time is later than its broker's time by more than this
            known = plan.asked.from_ms - self._reach.cards_ms - plan.live.max_future_skew
            begins = await self._log.at_time(enriched, known - _CLOCK_MS)
        survey = Survey(plan.asked, plan.live.partitions)
        async for number, records in self._each(
            "looking for the range", enriched, zip(begins, self._ends, strict=True)
        ):
            survey.take(number, records)
        return survey

    async def _check_reach(self, from_ms: int) -> None:
        """Whether everything that windows look back to is still in the log.

        Raises:
            UsageError: it is not.
        """
        plan = self._plan
        skew = plan.live.max_future_skew
        for topic, reach_ms, margin in (
            (self._topics.transactions, self._reach.cards_ms, skew),
            (self._topics.enriched, self._reach.terminals_ms, skew),
        ):
            for number, kept_ms in enumerate(await self._log.first_kept(topic)):
                if kept_ms < 0:
                    continue
                missing = check_reach(
                    f"{topic.name}/{number}", kept_ms + margin, from_ms - reach_ms, reach_ms,
                    allowed=plan.short_windows,
                )  # fmt: skip
                self._short_ms = max(self._short_ms, missing)

    async def _each(
        self, text: str, topic: TopicSpec, ranges: Any
    ) -> AsyncIterator[tuple[int, list[Any]]]:
        """Records of every partition in turn: number, records."""
        wanted = [(begin, end) for begin, end in ranges]
        total, before = sum(max(0, end - begin) for begin, end in wanted), 0
        for number, (begin, end) in enumerate(wanted):
            async for records in self._log.read(topic, number, begin, end):
                yield number, records
                self._progress(text, before + records[-1].offset + 1 - begin, total)
            before += max(0, end - begin)

    # ------------------------------------------------------------------ stages

    async def _work_out_cards(self, sources: Sequence[Sources]) -> list[CardFeatures]:
        topic, found = self._topics.transactions, list[CardFeatures]()
        begins = await self._log.begins(topic)
        total, before = sum(len(each.placed) for each in sources), 0
        for number, each in enumerate(sources):
            with scratch_rows(self._folder) as rows:
                stage = CardPass(self._stages, each, rows, self._folder)
                begin = max(each.begin, begins[number])
                async for records in self._log.read(topic, number, begin, each.end):
                    stage.take(number, records)
                    self.read += len(records)
                    self._progress("cards", before + records[-1].offset + 1 - each.begin, total)
                found.append(stage.found)
            before += len(each.placed)
        return found

    async def _score(
        self,
        messages: Sequence[tuple[int, int]],
        cards: Sequence[CardFeatures],
        comparison: Comparison,
        reach_ms: int,
    ) -> tuple[int, int]:
        """Both counts: warmed and scored."""
        topic, warmed, scored = self._topics.enriched, 0, 0
        total, before = sum(end - begin for begin, end in messages), 0
        async with _sending(self._plan.shadow, self._session, comparison) as results:
            for number, (begin, end) in enumerate(messages):
                if begin == end:
                    continue
                with scratch_rows(self._folder) as rows:
                    stage = TerminalPass(
                        self._stages, self._model, cards, rows,
                        reach_ms=reach_ms, clock_ms=lambda: time.time_ns() // 1_000_000,
                    )  # fmt: skip
                    async for records in self._log.read(topic, number, begin, end):
                        await results.send(stage.take(number, records))
                        self._progress("scoring", before + records[-1].offset + 1 - begin, total)
                    warmed += stage.warmed
                    scored += stage.scored
                before += end - begin
        return warmed, scored

    async def _compare(self, comparison: Comparison) -> None:
        total = sum(self._ends)
        self._progress("comparing with live rows", 0, max(1, total))
        await asyncio.to_thread(
            lambda: comparison.live(scan_predictions(self._session, self._plan.live, COLUMNS))
        )


class _Results:
    """Results on their way: Kafka and Cassandra, a few blocks at once.

    Args:
        hand_over: sends outputs; its result resolves once Kafka has them.
        write: gives rows to Cassandra; its result resolves once it has them.
        packer: makes rows of predictions.
        predictions: the topic of which rows are made.
        comparison: is told of each prediction.
    """

    def __init__(
        self,
        hand_over: Callable[[Outputs], Awaitable[Awaitable[Any]]],
        write: Callable[[Sequence[bytes]], Awaitable[Any]],
        packer: RowPacker,
        predictions: str,
        comparison: Comparison,
    ) -> None:
        self._hand_over = hand_over
        self._write = write
        self._packer = packer
        self._predictions = predictions
        self._comparison = comparison
        self._waiting: deque[asyncio.Future[Any]] = deque()

    async def send(self, outputs: Outputs) -> None:
        """Take the results of a block; waits while there are too many on their way."""
        values = [
            value
            for (topic, _), records in outputs.items()
            if topic == self._predictions
            for _, value, _ in records
            if value is not None
        ]
        for value in values:
            self._comparison.replayed(orjson.loads(value))
        sent = await self._hand_over(outputs)
        self._waiting.append(asyncio.gather(sent, self._write(self._packer.pack_many(values).rows)))
        await self.settle(_IN_FLIGHT)

    async def settle(self, left: int) -> None:
        """Wait until no more than so many blocks are on their way."""
        while len(self._waiting) > left:
            await self._waiting.popleft()


@asynccontextmanager
async def _sending(
    shadow: Shadow, session: Session, comparison: Comparison
) -> AsyncIterator[_Results]:
    """Where results go; when the block ends, they are all there."""
    settings = shadow.settings
    largest = batch_bytes(settings)
    kwargs = client_kwargs(settings)
    producer = AIOKafkaProducer(
        **kwargs, acks="all", enable_idempotence=True, linger_ms=0,
        max_batch_size=largest, max_request_size=largest * 2,
    )  # fmt: skip
    sender, writer = OutputSender(largest), PredictionWriter(session, settings)
    async with started(producer, kwargs["bootstrap_servers"]):
        try:
            results = _Results(
                lambda outputs: sender.send(producer, outputs),
                writer.submit,
                RowPacker(settings.currency, settings.minor_unit_digits),
                Topics(settings).predictions.name,
                comparison,
            )
            yield results
            await results.settle(0)
        finally:
            await writer.close()
