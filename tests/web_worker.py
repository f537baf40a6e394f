"""A worker for tests of the web views: rows in a dictionary, no Faust, no servers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import strategies as st
from yarl import URL

from app.cassandra.alert_queries import AlertQuery
from app.cassandra.audit_records import AuditRecord
from app.cassandra.review_order import Ranking, ranking
from app.cassandra.review_rows import Review
from app.cassandra.stored_alert import Alert
from app.errors import UnavailableError
from app.kafka.recent_dead_letters import DeadLetterQuery, RecentDeadLetters
from app.metrics.last_hour import CounterTotals
from app.metrics.worker_reading import PartitionReading, WorkerReading
from app.quality.decision_tally import DecisionGroup
from app.settings import Settings
from app.stages.block_rows import row_rules
from app.stages.deployed_features import catalogue_of
from app.stages.parked_label_retries import ParkedSummary
from app.web.key_owner import OwnedHere, Place
from app.web.live_precision import LabelledCounts
from app.web.pages import install
from app.web.worker_requests import PeerAnswer
from app.windows.window_row import WindowRow
from app.wire.input_records import MAX_ID_BYTES
from tests.builders import T0

HOUR = 3_600_000
#: Any id that a card, terminal or transaction may have.
IDS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=MAX_ID_BYTES
).filter(lambda text: len(text.encode()) <= MAX_ID_BYTES)


class DictReviews:
    """See `app.web.review_reads.ReviewReads`."""

    def __init__(self) -> None:
        self.open: dict[str, Alert] = {}
        self.known: dict[str, Review] = {}
        self.closed: dict[str, Review] = {}

    def add(self, *alerts: Alert) -> None:
        """Open alerts."""
        self.open |= {alert.alert_id: alert for alert in alerts}

    def ranked(self, from_ms: int, to_ms: int, now_ms: int, most: int) -> Ranking:
        return ranking(iter(self.open.values()), most)

    def unsent(self, from_ms: int, to_ms: int, decided_before_ms: int) -> list[str]:
        return [
            name
            for name, known in self.known.items()
            if known.unsent and (known.decided_at or 0) < decided_before_ms
        ]

    def alert(self, alert_id: str, now_ms: int) -> Alert | None:
        return self.open.get(alert_id)

    def is_stored(self, alert_id: str) -> bool:
        return alert_id in self.open

    def of_card(self, card_id: str, from_ms: int, now_ms: int) -> list[Alert]:
        return [a for a in self.open.values() if a.card_id == card_id and a.state == "open"]

    def of_terminal(self, terminal_id: str, from_ms: int, now_ms: int) -> list[Alert]:
        return [
            a
            for a in self.open.values()
            if a.state == "open" and any(r["terminal_id"] == terminal_id for r in a.transactions)
        ]

    def claim(
        self, alert_id: str, by: str, until_ms: int, now_ms: int, decided_at: int | None = None
    ) -> Review:
        known = self.known.get(alert_id, Review())
        if known.decided_at == decided_at and known.holder(now_ms) in (None, by):
            known = self._set(alert_id, replace(known, claimed_by=by, claimed_until=until_ms))
        return known

    def release(self, alert_id: str, by: str) -> None:
        known = self.known.get(alert_id, Review())
        if known.claimed_by == by:
            self._set(alert_id, replace(known, claimed_by=None, claimed_until=None))

    def decide(self, alert_id: str, wanted: Review, decided_at: int | None = None) -> Review:
        known = self.known.get(alert_id, Review())
        if known.claimed_by != wanted.decided_by or known.decided_at != decided_at:
            return known
        return self._set(alert_id, wanted)

    def close(self, alert_id: str, review: Review, now_ms: int) -> None:
        if self.known[alert_id].decided_at == review.decided_at:
            self.closed[alert_id] = self._set(alert_id, replace(review, labelled_at=now_ms))

    def _set(self, alert_id: str, review: Review) -> Review:
        self.known[alert_id] = self.open[alert_id].review = review
        return review


class DictWorker:
    """See `app.web.worker_protocol.Worker`. Tests change its attributes.

    Attributes:
        place: answers `find` when it is set.
        answers: what `forward` gets, by URL; asked: what it was asked for.
    """

    def __init__(self, url: str = "http://127.0.0.1:6066", **settings: Any) -> None:
        self.settings = Settings(_env_file=None, **settings)  # type: ignore[call-arg]
        self.catalogue = catalogue_of(self.settings)
        self.url = url
        self.deployment = "fraudstream"
        self.store: dict[bytes, bytes] = {}
        self.place: Place | None = None
        self.not_ready: list[str] = []
        self.transactions: dict[str, Mapping[str, Any]] = {}
        self.judged: Mapping[str, Any] | None = {
            "labels": 0, "total": DecisionGroup().as_dict(), "by_day": {}, "by_model": {},
            "seconds": 0.1, "age_seconds": 0, "from_ms": T0, "to_ms": None,
            "curves": {"precision_recall": [], "calibration": []},
        }  # fmt: skip
        self.of_models: dict[str, Any] = {
            "decides": None, "challengers": [], "changes": [], "more_changes": 0, "changes_fault": None,
            "gates": [], "gates_fault": None, "lineage": {},
        }  # fmt: skip
        self.drifts: dict[str, Any] = {}
        self.in_force: dict[str, dict[str, Any]] = {}
        self.raised: list[Alert] = []
        self.wanted: AlertQuery | None = None
        self.letters = RecentDeadLetters()
        self.wanted_letters: DeadLetterQuery | None = None
        self.answers: dict[str, tuple[int, str, bytes]] = {}
        self.stopping = False
        self.history: list[dict[str, Any]] | Exception = []
        self.pushed: dict[str, tuple[float, float]] = {}
        self.period: tuple[int | None, int | None] | None = None
        self.reviews = DictReviews()
        self.labels: list[dict[str, Any]] = []
        self.written: list[AuditRecord] = []
        self.kept: dict[str, AuditRecord] = {}
        self.looked_for_labels = 0
        self.counted = CounterTotals()
        self.labelled_counts = LabelledCounts()._asdict()
        self.newest_alerts: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str, Mapping[str, str]]] = []
        self.now = WorkerReading(
            outcomes={("cards", "enriched"): 5, ("cards", "dead"): 1},
            records={"cards": 6, "scoring": 2},
            partitions=[
                PartitionReading(
                    "cards", 0, 6, 1, 2, 10, 17, T0, T0 + 9_000, 7_000, waits_for="labels/2"
                )
            ],
            parked=[ParkedSummary(2, 3, T0, "who")],
            waits=["labels/2 waits for <nothing>"],
            state_bytes={("cards", 0): 2048},
            kafka_answers=True,
            model=("default@1", "abcd"),
        )

    def add(self, identifier: str, times: Sequence[int], *, minor: int = 1000) -> WindowRow:
        """A row with transactions at `times`, milliseconds after T0."""
        row = WindowRow(identifier.encode(), row_rules(self.settings), self.store.get)
        for offset, at in enumerate(times):
            row.insert(T0 + at, minor, counted=True, id8=offset.to_bytes(8, "big"))
            row.last_offset = offset
        self.keep(row)
        return row

    def keep(self, row: WindowRow) -> None:
        """Store a row."""
        for key, raw in row.encode():
            if raw is not None:
                self.store[key] = raw

    def find(self, kind: str, key: bytes) -> Place:
        return self.place or OwnedHere(1, self.store.get)

    def owners(self) -> Mapping[str, Sequence[int]]:
        return {self.url: [0, 1], "http://127.0.0.1:6067": [2, 3]}

    async def reasons(self) -> list[str]:
        return self.not_ready

    def waits(self) -> list[str]:
        return self.now.waits

    async def look_up(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        return ask(*arguments)

    async def keep_records(self, *records: AuditRecord) -> None:
        self.written += records
        self.kept |= {record.id: record for record in records}

    async def send_labels(self, labels: Sequence[dict[str, Any]]) -> None:
        self.labels += labels

    def totals(self) -> CounterTotals:
        return self.counted

    def labelled(self) -> dict[str, int]:
        return self.labelled_counts

    def recent_alerts(self) -> list[dict[str, Any]]:
        return self.newest_alerts

    async def reading(self, *, sizes: bool = True) -> WorkerReading:
        self.now.reasons = self.not_ready
        return self.now

    async def transaction(self, transaction_id: str) -> Mapping[str, Any] | None:
        return self.transactions.get(transaction_id)

    async def is_scored(self, transaction_id: str) -> bool:
        return await self.transaction(transaction_id) is not None

    async def label(self, transaction_id: str, event_time_ms: int) -> Mapping[str, Any] | None:
        """As the transaction has it; tests see how often it was looked for."""
        self.looked_for_labels += 1
        found = self.transactions.get(transaction_id, {})
        known: Mapping[str, Any] | None = found.get("label")
        return known if found.get("event_time_ms") == event_time_ms else None

    async def models(self) -> dict[str, Any]:
        """Nothing decides, unless a test says otherwise."""
        return dict(self.of_models)

    async def drift(self) -> dict[str, Any]:
        return self.drifts

    async def try_model(self, model_hash: str) -> dict[str, Any]:
        """It has one."""
        known = model_hash == "aa" * 32
        return {"loads": known, "reason": "" if known else "no such model"}

    def deciding(self) -> dict[str, dict[str, Any]]:
        return self.in_force

    async def alerts(self, query: AlertQuery) -> tuple[list[Alert], bool]:
        """Those that a test puts there; it sees what was wanted."""
        self.wanted = query
        return self.raised, False

    async def timeline(self, kind: str, identifier: str) -> list[dict[str, Any]]:
        if isinstance(self.history, Exception):
            raise self.history
        return self.history

    def pushes(self, row: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        return self.pushed

    async def quality(
        self, from_ms: int | None = None, to_ms: int | None = None
    ) -> Mapping[str, Any] | None:
        """Nothing scored, unless a test says otherwise."""
        self.period = from_ms, to_ms
        return self.judged

    async def dead_letters(self, query: DeadLetterQuery) -> RecentDeadLetters:
        """Those that a test puts there; it sees what was wanted."""
        self.wanted_letters = query
        return self.letters

    async def forward(
        self, url: str, method: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> PeerAnswer:
        self.asked.append((url, method, headers))
        if url not in self.answers:
            msg = f"the worker at {url} owns it and does not answer; try again"
            raise UnavailableError(msg)
        return PeerAnswer(*self.answers[url])


def client_of(worker: DictWorker) -> TestClient:
    """A client of the worker's views, for `async with`."""
    application = web.Application()
    install(application, worker)
    return TestClient(TestServer(application))


def raw(path: str) -> URL:
    """A path that no client library tidies up."""
    return URL(path, encoded=True)
