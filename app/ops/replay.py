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
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from cassandra.cluster import Session

from app.cassandra import replay_targets
from app.cassandra.label_queries import scan_verdicts
from app.cassandra.prediction_queries import scan_scored
from app.cassandra.session import connect, disconnect
from app.ops.earlier_generations import earlier_of
from app.ops.replaying.comparison import COLUMNS, Comparison
from app.ops.replaying.deciders import Deciders
from app.ops.replaying.enriched_survey import EnrichedSurvey, SourceRecords
from app.ops.replaying.look_back_bounds import LookBack, RetainedRange
from app.ops.replaying.passes import CardFeatures, CardPass, ReplayStages, TerminalPass
from app.ops.replaying.plan import OWN_SETTINGS, Plan, check_name, shadow_of
from app.ops.replaying.results import sending
from app.ops.temporary_stores import scratch_rows
from app.ops.verification.topic_log import Log, Progress, open_log
from app.quality.verdicts import Verdicts
from app.settings import Settings
from app.topics import Topics, TopicSpec

#: A message on `enriched` has its worker's time, whose clock may be this far off.
_CLOCK_MS = 86_400_000


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
    stages = ReplayStages.of(plan.shadow.settings)
    deciders = await Deciders.of(plan, stages.catalogue)
    session = await asyncio.to_thread(connect, plan.live)
    folder = plan.own.home / "replays" / plan.name
    try:
        async with open_log(plan.live) as log:
            await check_name(plan, log, session)
            run = _Run(plan, log, session, stages, deciders, folder, progress)
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
        return await replay_targets.remove(session, shadow)
    finally:
        await asyncio.to_thread(disconnect, session)


class _Run:
    """One replay; see `replay`."""

    def __init__(
        self,
        plan: Plan,
        log: Log,
        session: Session,
        stages: ReplayStages,
        deciders: Deciders,
        folder: Path,
        progress: Progress,
    ) -> None:
        self._plan = plan
        self._log = log
        self._session = session
        self._stages = stages
        self._deciders = deciders
        self._folder = folder
        self._progress = progress
        self._topics = Topics(plan.live)
        self._reach = LookBack.of(plan.own)
        self._ends: list[int] = []
        self._kept = RetainedRange(self._reach)
        self.read = 0

    async def run(self) -> dict[str, Any]:
        began = time.monotonic()
        plan, partitions = self._plan, range(self._plan.live.partitions)
        transactions, log = self._topics.transactions, self._log
        begins, ends = await log.begins(transactions), await log.ends(transactions)
        plan.asked.check_kept(transactions.name, begins, ends)
        behind = sum(ends) - sum(map(max, zip(await log.done(transactions), begins, strict=True)))
        self._ends = await log.ends(self._topics.enriched)
        survey = await self._survey()
        await self._deciders.read(log, survey)
        from_ms = survey.from_ms
        kept = await self._find_kept()
        short_ms = kept.missing_ms(from_ms, allowed=plan.short_windows)
        if short_ms:
            self._kept = kept
        cards_ms, terminals_ms = from_ms - self._reach.cards_ms, from_ms - self._reach.terminals_ms
        sources = [survey.sources(number, cards_ms) for number in partitions]
        messages = [survey.messages(number, terminals_ms) for number in partitions]
        await self._deciders.load(messages)
        await replay_targets.make(self._session, plan.shadow, self._told(finished=False))
        self._folder.mkdir(parents=True, exist_ok=True)
        cards = await self._work_out_cards(sources)
        verdicts = await asyncio.to_thread(
            lambda: Verdicts(scan_verdicts(self._session, plan.live))
        )
        comparison = Comparison(
            sources, transactions.name, verdicts, full_from_ms=self._kept.full_from_ms
        )
        warmed, scored = await self._score(messages, cards, comparison, terminals_ms)
        await self._compare(comparison)
        seconds = time.monotonic() - began
        result = {
            "group": plan.name,
            "from": plan.asked.begin.text,
            "to": plan.asked.end.text if plan.asked.end else None,
            **self._deciders.described(),
            "feature_schema": self._stages.catalogue.schema,
            "topics": [topic.name for topic in plan.shadow.topics],
            "table": f"{plan.shadow.keyspace}.predictions",
            "horizon_ms": self._reach.cards_ms,
            "short_by_ms": short_ms,
            "full_windows_from_ms": kept.full_from_ms if short_ms else None,
            "read": self.read,
            "warmed": warmed,
            "scored": scored,
            "lost": sum(each.lost for each in cards),
            "not_scored_live_yet": behind,
            "comparison": comparison.result(),
            "seconds": round(seconds, 3),
            "transactions_per_second": round((warmed + scored) / max(seconds, 1e-3)),
        }
        replay_targets.tell(
            self._session, plan.shadow, self._told(finished=True) | {"result": result}
        )
        return result

    def _told(self, *, finished: bool) -> dict[str, Any]:
        plan = self._plan
        own = {name: getattr(plan.own, name) for name in sorted(OWN_SETTINGS)}
        return {
            "of": plan.live.topic_prefix + plan.live.app_id,
            "from": plan.asked.begin.text,
            "to": plan.asked.end.text if plan.asked.end else "the end",
            **self._deciders.described(),
            "settings": own,
            "finished": finished,
        }

    # ------------------------------------------------------------------ reading

    async def _survey(self) -> EnrichedSurvey:
        """What stands on `enriched` from where it can matter on."""
        enriched, plan = self._topics.enriched, self._plan
        begins = await self._log.begins(enriched)
        if plan.asked.from_ms is not None:
            # no event time is later than its broker's time by more than this
            known = plan.asked.from_ms - self._reach.cards_ms - plan.live.max_future_skew
            begins = await self._log.at_time(enriched, known - _CLOCK_MS)
        survey = EnrichedSurvey(plan.asked, plan.live.partitions)
        async for number, records in self._each(
            "looking for the range", enriched, zip(begins, self._ends, strict=True)
        ):
            survey.take(number, records)
        return survey

    async def _find_kept(self) -> RetainedRange:
        """What retention has left of the topics."""
        found = RetainedRange(self._reach)
        for topic in (self._topics.transactions, self._topics.enriched):
            for number, first_ms in enumerate(await self._log.first_kept(topic)):
                # no event time is later than its broker's time by more than this
                from_ms = first_ms + self._plan.live.max_future_skew
                if first_ms >= 0 and from_ms > found.from_ms:
                    found = RetainedRange(self._reach, f"{topic.name}/{number}", from_ms)
        for one in await earlier_of(self._plan.live, self._log):
            # before that, other partitions had its order, and another topic: it is not replayed
            from_ms = one.at_ms + self._plan.live.max_future_skew
            if from_ms > found.from_ms:
                where = f"{self._topics.enriched.name}, made when the number of partitions changed,"
                found = RetainedRange(self._reach, where, from_ms)
        return found

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

    async def _work_out_cards(self, sources: Sequence[SourceRecords]) -> list[CardFeatures]:
        topic, found = self._topics.transactions, list[CardFeatures]()
        begins = await self._log.begins(topic)
        total, before = sum(len(each.placed) for each in sources), 0
        for number, each in enumerate(sources):
            with scratch_rows(self._folder) as rows:
                stage = CardPass(self._stages, each, rows, self._folder, self._kept.from_ms)
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
        async with sending(self._plan.shadow, self._session, comparison) as results:
            for number, (begin, end) in enumerate(messages):
                if begin == end:
                    continue
                with scratch_rows(self._folder) as rows:
                    stage = TerminalPass(
                        self._stages, self._deciders.at(number, begin), cards, rows,
                        reach_ms=reach_ms, clock_ms=lambda: time.time_ns() // 1_000_000,
                        known_from_ms=self._kept.terminals_from_ms,
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
            lambda: comparison.live(scan_scored(self._session, self._plan.live, COLUMNS))
        )
