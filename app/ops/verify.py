"""`fraudstream verify`: recompute everything in one thread, and compare it with what the stream stored.

```text
labels ───────► forwarded, dead, stored ──────┐
transactions ─► oracle: fates, card features ─┐
enriched ─────► oracle: terminal features ────┤                     ┌─ predictions, late-transactions
                                           ledger ◄── compared with ┼─ dead-letters, duplicates, alerts
                                                                    └─ Cassandra
```

Topics are read partition by partition, so that the oracle holds the cards of one partition at a time;
the ledger has a few hundred bytes for each source record.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

from app.cassandra.alert_rows import AlertRow
from app.cassandra.label_queries import scan_labels
from app.cassandra.prediction_queries import scan_scored
from app.cassandra.raw_rows import read_raw, scan_rows
from app.cassandra.refund_rows import RefundRow
from app.cassandra.session import connect, disconnect
from app.domain.changes_in_force import InForce
from app.ops.reference import TerminalReference
from app.ops.verification.alerts import AlertReader
from app.ops.verification.enriched import EnrichedReader
from app.ops.verification.feature_schemas import schemas_on, union_of
from app.ops.verification.findings import Findings
from app.ops.verification.labels_and_changes import ChangeReader, LabelReader, ParkedReader
from app.ops.verification.ledger import Ledger, SourcePage
from app.ops.verification.output_fields import NameReader, names_nobody
from app.ops.verification.partition_count_phases import Phase, phases_of
from app.ops.verification.predictions import LateReader, PredictionReader
from app.ops.verification.refunds import EarlierRefunds, RefundReader, RefundRows
from app.ops.verification.refused import DeadLetterReader, DuplicateReader, EarlierRefusals
from app.ops.verification.scores import rescore
from app.ops.verification.source_records import Cards, SourceReader
from app.ops.verification.stored_alerts import read_rows as read_alert_rows
from app.ops.verification.stored_predictions import COLUMNS, RowReader
from app.ops.verification.topic_log import (
    Log,
    Offsets,
    Progress,
    Reached,
    open_log,
    wait_for_workers,
)
from app.ops.verification.totals import Report, clock_ms, conclude
from app.ops.verification.verify_run import VerifyRun
from app.settings import Settings
from app.stages.deployed_features import catalogue_of
from app.topics import TopicSpec
from app.wire.erase_records import NOBODY
from app.wire.own_features_file import own_of


class Reader(Protocol):
    """Takes the records of one partition, in order."""

    def take(self, records: list[Any]) -> None:
        """Look at some more of them."""


async def verify(
    settings: Settings,
    *,
    timeout_seconds: float,
    examples: int,
    progress: Progress,
    alerts_from_ms: int = 0,
) -> Report:
    """Wait for the workers, recompute, compare.

    Args:
        settings: the deployment's, as the workers have them.
        timeout_seconds: how long to wait for workers that are behind; afterwards the rest is pending.
        examples: differences to describe.
        progress: told what is done, how far it has come, and where it ends.
        alerts_from_ms: predictions that were appended earlier need no alerts, epoch milliseconds.

    Raises:
        UnavailableError: Kafka or Cassandra does not answer.
        SchemaError: topics or tables are missing, or differ from the settings.
    """
    session = await asyncio.to_thread(connect, settings)
    read_raw(session)
    columns = (*COLUMNS, *(field.name for field in own_of(settings).fields))
    gc.disable()  # millions of small objects live to the end, and none of ours form cycles
    try:
        async with open_log(settings) as log:
            return await compare(
                settings,
                log,
                lambda: scan_scored(session, settings, columns),
                lambda: scan_labels(session, settings),
                lambda: scan_rows(session, settings, "refunds", RefundRow),
                lambda: scan_rows(session, settings, "alerts", AlertRow),
                timeout_seconds=timeout_seconds,
                examples=examples,
                progress=progress,
                alerts_from_ms=alerts_from_ms,
            )
    finally:
        gc.enable()
        await asyncio.to_thread(disconnect, session)


async def compare(
    settings: Settings,
    log: Log,
    scan: Callable[[], Iterable[tuple[Any, ...]]],
    scan_labels: Callable[[], Iterable[tuple[str, int, int]]],
    scan_refunds: Callable[[], Iterable[RefundRow]],
    scan_alerts: Callable[[], Iterable[AlertRow]],
    *,
    timeout_seconds: float,
    examples: int,
    progress: Progress,
    alerts_from_ms: int = 0,
) -> Report:
    """As `verify`, of topics and rows that are given.

    Args:
        settings: see `verify`.
        log: the topics.
        scan: gives all rows, once the workers have stored them; each as `Row.of` takes it.
        timeout_seconds: see `verify`.
        examples: see `verify`.
        progress: see `verify`.
        alerts_from_ms: see `verify`.
        scan_labels: gives the source of every stored label: topic, partition, offset.
        scan_refunds: gives every stored refund.
        scan_alerts: gives every stored alert.

    Raises:
        UnavailableError, SchemaError: see `verify`.
    """
    began = time.monotonic()
    reached = await wait_for_workers(log, timeout_seconds, progress)
    waited = time.monotonic() - began
    run = await _Run.begin(settings, log, reached, examples, progress)
    case = run.case
    case.alerts.from_ms = alerts_from_ms
    await run.read_topics()
    rows = RowReader(case)
    for count in rows.read(scan()):
        progress("rows in Cassandra", count, sum(map(len, case.ledger.pages)))
    for source in scan_labels():
        case.labels.row(*source)
    refunds = RefundRows(case)
    refunds.read(scan_refunds())
    read_alert_rows(case, scan_alerts(), run.kept["alerts"])
    progress("scores", 0, 1)
    rescored = rescore(case)
    report = conclude(case, rows, refunds, reached, run.kept, clock_ms())
    labels = case.labels.conclude(reached.done["labels"])
    for name in ("pending", "missing", "differing"):
        report.counts[name] += labels[name]
    report.details |= {
        "labels": labels,
        "lost_ranges": case.lost.ranges(),
        "rows": rows.rows,
        "refund_rows": refunds.rows,
        "dead_by_earlier_rules": case.by_earlier_rules,
        "of_other_deployments": case.of_others,
        "rows_lost": case.findings.lost_rows,
        "rows_lost_from_ms": case.findings.lost_from_ms,
        "repeated_outputs": case.findings.repeated,
        "erased_cards": len({each.card_id for each in case.erasures.values()} - {NOBODY}),
        "erased_transactions": sum(int(page.erased.sum()) for page in case.ledger.pages),
        "strays": case.findings.strays,
        "feature_schemas": case.ledger.found_schemas(),
        "scores_recomputed": rescored.scores,
        "reasons_recomputed": rescored.reasons,
        "models_missing": rescored.models_missing,
        "seconds_waited": round(waited, 3),
        "seconds": round(time.monotonic() - began, 3),
    }
    return report


class _Run:
    """Reads every topic into one case.

    Attributes:
        case: the run.
        kept: see `conclude`.
    """

    def __init__(
        self,
        case: VerifyRun,
        log: Log,
        phases: list[Phase],
        reached: Reached,
        kept: dict[str, Offsets],
        progress: Progress,
    ) -> None:
        self.case = case
        self.kept = {role: max(times) for role, times in kept.items()}
        self._phases = phases
        self._log = log
        self._reached = reached
        self._kept = kept
        self._progress = progress

    @classmethod
    async def begin(
        cls, settings: Settings, log: Log, reached: Reached, examples: int, progress: Progress
    ) -> "_Run":
        """Make room for the source records that retention has left."""
        topics = log.topics
        phases = await phases_of(settings, log, reached.done["enriched"])
        there = [phase.enriched for phase in phases if phase.there]
        schemas = await schemas_on(log, there, catalogue_of(settings), progress)
        catalogue = union_of(settings, schemas)
        begins, ends = await log.begins(topics.transactions), reached.ends["transactions"]
        pages = [
            SourcePage(number, min(begin, end), end, len(catalogue.names))
            for number, (begin, end) in enumerate(zip(begins, ends, strict=True))
        ]
        ledger = Ledger(topics.transactions.name, catalogue, pages, schemas)
        roles = {
            "transactions": topics.transactions,
            "predictions": topics.predictions,
            "late-transactions": topics.late_transactions,
            "dead-letters": topics.dead_letters,
            "duplicates": topics.duplicates,
            "refunds": topics.refunds,
            "alerts": topics.alerts,
        }
        kept = {role: await log.first_kept(topic) for role, topic in roles.items()}
        kept["enriched"] = [time_ms for phase in phases for time_ms in phase.kept]
        case = VerifyRun(settings, ledger, Findings(ledger, examples))
        return cls(case, log, phases, reached, kept, progress)

    async def read_topics(self) -> None:
        """In this order: what is expected is known before what was found is compared with it."""
        case, topics = self.case, self._log.topics
        done = self._reached.done
        for role, topic in (
            ("transactions", topics.transactions),
            ("enriched", topics.enriched),
            ("predictions", topics.predictions),
            ("labels", topics.labels),
        ):
            case.lost.unread(topic.name, await self._log.begins(topic), done[role])
        begins, ends = await self._log.begins(topics.labels), await self._log.ends(topics.labels)
        for phase in self._phases:
            if not phase.there:  # what became of its labels cannot be told any more
                its_end = [*phase.labels_end, *[0] * (len(begins) - len(phase.labels_end))]
                begins = list(map(max, begins, its_end))
        await self._read(
            "labels",
            topics.labels,
            lambda number: LabelReader(case, number, begins[number]),
            (begins, ends),
        )
        # before `enriched`: a label that has been forwarded since is found there
        await self._read(
            "parked labels", topics.labels_changelog, lambda number: ParkedReader(case, number)
        )
        # beyond the ends that are looked at, there may be copies of records that were moved
        await self._read("earlier refusals", topics.dead_letters, lambda _: EarlierRefusals(case))
        await self._read("earlier refunds", topics.refunds, lambda _: EarlierRefunds(case))
        forwarded = await self._log.done(topics.control)
        await self._read(
            "changes", topics.control, lambda number: ChangeReader(case, number, forwarded[number])
        )
        await self._recompute()
        if await self._some_name_nobody():
            names = NameReader(case.settings.deployment, case.ledger.mark_named)
            await self._read("who scored", topics.predictions, lambda _: names)
        await self._read(
            "predictions",
            topics.predictions,
            lambda number: PredictionReader(case, done["predictions"][number]),
        )
        await self._read("late", topics.late_transactions, lambda _: LateReader(case))
        await self._read("dead letters", topics.dead_letters, lambda _: DeadLetterReader(case))
        await self._read("duplicates", topics.duplicates, lambda _: DuplicateReader(case))
        await self._read(
            "refunds", topics.refunds, lambda number: RefundReader(case, done["refunds"][number])
        )
        await self._read(
            "alerts", topics.alerts, lambda number: AlertReader(case, done["alerts"][number])
        )

    async def _recompute(self) -> None:
        """Cards, then terminals. Where the number of partitions has changed, they are looked for in all of them."""
        case, phases, topic = self.case, self._phases, self._log.topics.transactions
        several = len(phases) > 1
        cards = Cards(case) if several else None
        kept = self._kept["transactions"]
        log_begins, log_ends = await self._log.begins(topic), await self._log.ends(topic)
        for phase in phases:
            case.enter(phase.partitions)

            def source(number: int, phase: Phase = phase) -> Reader:
                page = case.ledger.pages[number]
                end = page.end if phase.ends is None else min(page.end, phase.ends[number])
                if cards is None:
                    return SourceReader(case, page, kept[number], end)
                return SourceReader(case, page, max(kept), end, cards, phase.begins)

            within = replace(topic, partitions=phase.partitions)
            begins = list(map(max, phase.begins, log_begins))
            await self._read("recomputing cards", within, source, (begins, phase.ends or log_ends))
        oracle = TerminalReference(case.rules) if several else None
        begins_with, shortest = InForce(), -1
        for phase in phases:
            case.enter(phase.partitions)
            shortest = max(shortest, *phase.kept)
            first_kept = [shortest] * phase.partitions if several else phase.kept

            def enriched(
                number: int,
                phase: Phase = phase,
                first_kept: Offsets = first_kept,
                begins_with: InForce = begins_with,
            ) -> Reader:
                return EnrichedReader(case, phase, number, first_kept[number], begins_with, oracle)

            if phase.there:
                await self._read("recomputing terminals", phase.enriched, enriched)
            if phase.control_end is not None:
                begins_with = case.in_force_before((0, phase.control_end))

    async def _some_name_nobody(self) -> bool:
        """Whether predictions are left of release 0.1.0: in each partition they come first."""
        topic = self._log.topics.predictions
        begins, ends = await self._log.begins(topic), await self._log.ends(topic)
        for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            async for records in self._log.read(topic, number, begin, end):
                if names_nobody(records[0]):
                    return True
                break
        return False

    async def _read(
        self,
        text: str,
        topic: TopicSpec,
        reader_of: Callable[[int], Reader],
        within: tuple[Offsets, Offsets] | None = None,
    ) -> None:
        """Read the partitions of a topic in turn, to its end or within some offsets, by a reader each."""
        log = self._log
        begins, ends = within or (await log.begins(topic), await log.ends(topic))
        total, before = sum(ends) - sum(begins), 0
        for number, begin, end in zip(range(topic.partitions), begins, ends):  # noqa: B905 -- see `_recompute`
            reader = reader_of(number)
            async for records in log.read(topic, number, begin, end):
                reader.take(records)
                self._progress(text, before + records[-1].offset + 1 - begin, total)
            before += end - begin
