"""What the pages need from a running worker."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from aiohttp import web

from app.cassandra.alert_queries import AlertQuery
from app.cassandra.audit_records import AuditRecord
from app.cassandra.stored_alert import Alert
from app.domain.features import Catalogue
from app.kafka.recent_dead_letters import DeadLetterQuery, RecentDeadLetters
from app.metrics.last_hour import CounterTotals
from app.metrics.worker_reading import WorkerReading
from app.settings import Settings
from app.web.key_owner import Place
from app.web.review_reads import ReviewReads
from app.web.worker_requests import PeerAnswer

T = TypeVar("T")


class Worker(Protocol):
    """A running worker, as the views need it."""

    @property
    def settings(self) -> Settings:
        """The deployment's settings."""

    @property
    def catalogue(self) -> Catalogue:
        """Its features."""

    @property
    def url(self) -> str:
        """Where this worker answers; names it."""

    @property
    def deployment(self) -> str:
        """Name of the consumer group: workers of one deployment share it."""

    def find(self, kind: str, key: bytes) -> Place:
        """Who holds a card's or terminal's row."""

    def owners(self) -> Mapping[str, Sequence[int]]:
        """Partitions by the URL of the worker that holds them."""

    async def reasons(self) -> list[str]:
        """Why this worker is not ready; empty when it is."""

    def waits(self) -> list[str]:
        """Who waits for what in it, a line each: partitions paused for alignment, parked labels."""

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop: then no answer may take long."""

    def totals(self) -> CounterTotals:
        """What it has counted since it started."""

    def recent_alerts(self) -> list[dict[str, Any]]:
        """The newest alerts that it has seen, newest first, as the topic has them."""

    def labelled(self) -> dict[str, int]:
        """What its live precision rests on: see `app.web.live_precision.LabelledCounts`."""

    async def reading(self, *, sizes: bool = True) -> WorkerReading:
        """What it tells about itself; `sizes`: with the bytes of its state, which takes a look at folders."""

    @property
    def reviews(self) -> ReviewReads:
        """Claims and verdicts; its methods block."""

    async def look_up(self, ask: Callable[..., T], *arguments: Any) -> T:
        """Call something that blocks, in a thread.

        Raises:
            UnavailableError: Cassandra does not answer.
        """

    async def send_labels(self, labels: Sequence[dict[str, Any]]) -> None:
        """Append labels to their topic; done once they are durable.

        Raises:
            UnavailableError: Kafka does not accept them.
        """

    async def keep_records(self, *records: AuditRecord) -> None:
        """Write audit records.

        Raises:
            UnavailableError: Cassandra does not answer.
            SchemaError: the table is missing.
        """

    async def transaction(self, transaction_id: str) -> Mapping[str, Any] | None:
        """A scored transaction from Cassandra, None when there is none.

        Raises:
            UnavailableError: Cassandra does not answer.
        """

    async def is_scored(self, transaction_id: str) -> bool:
        """Whether a scored transaction is in Cassandra.

        Raises:
            UnavailableError: Cassandra does not answer.
        """

    async def label(self, transaction_id: str, event_time_ms: int) -> Mapping[str, Any] | None:
        """What is known of a transaction: `is_fraud`, `labelled_at` (epoch ms); None without a label.

        Raises:
            UnavailableError: Cassandra does not answer.
        """

    async def timeline(self, kind: str, identifier: str) -> list[dict[str, Any]]:
        """The transactions of a card, or of a terminal's alerts, newest first; see `app.cassandra.timeline`.

        Raises:
            UnavailableError: Cassandra does not answer.
            SchemaError: a table is missing.
        """

    def pushes(self, row: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        """By feature of a stored prediction: its baseline, and how far it moved the score; empty: unknown here."""

    async def quality(
        self, from_ms: int | None = None, to_ms: int | None = None
    ) -> Mapping[str, Any] | None:
        """How good decisions on a period were, as `app.quality.measure_decisions` has it, and `age_seconds`.

        With `from_ms` and `to_ms`. None: it is being measured for the first time, which takes a while. Without a
        beginning: the last 30 days.

        Raises:
            UnavailableError: Cassandra does not answer.
            SchemaError: a table is missing.
        """

    async def models(self) -> dict[str, Any]:
        """What decides, challengers, changes, gates and lineage, as `app.web.model_facts` has it."""

    async def drift(self) -> dict[str, Any]:
        """The newest predictions of this worker against training, by model: see `app.quality.drift_live`."""

    async def try_model(self, model_hash: str) -> dict[str, Any]:
        """Load a registered model: `loads`, None if this worker cannot say now, and the `reason` if it does not."""

    def deciding(self) -> dict[str, dict[str, Any]]:
        """By partition that is here: `model`, `threshold` and `challengers` in force."""

    async def alerts(self, query: AlertQuery) -> tuple[list[Alert], bool]:
        """The newest alerts of a query, and whether there are more.

        Raises:
            UnavailableError: Cassandra does not answer.
            SchemaError: a table is missing.
        """

    async def dead_letters(self, query: DeadLetterQuery) -> RecentDeadLetters:
        """The newest dead letters of a query.

        Raises:
            UnavailableError: Kafka does not answer.
            SchemaError: the topic is missing.
        """

    async def forward(
        self, url: str, method: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> PeerAnswer:
        """Another worker's answer.

        Raises:
            UnavailableError: it does not answer, or says too much.
        """


#: The worker, in an application.
WORKER = web.AppKey("worker", Worker)
