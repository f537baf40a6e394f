"""The Faust app: made from settings, once a process."""

import logging
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import faust
from faust.types import TP
from mode import Service

from app.blocks.core.row_groups import RECORD_OVERHEAD_BYTES
from app.blocks.faust.block_app import BlockApp
from app.blocks.faust.block_topic import BlockTopic
from app.blocks.faust.fatal_errors import halt, leave
from app.blocks.faust.garbage_collection import calm_collector
from app.blocks.faust.output_sender import Outputs
from app.domain.changes_in_force import InForce
from app.domain.features import Catalogue
from app.errors import DamagedLogError, FraudstreamError, SchemaError, SettingsError
from app.kafka.clients import watch_of
from app.kafka.credentials import security
from app.kafka.skip_records import find_skip
from app.kafka.topic_admin import topic_ids
from app.kafka.topic_checks import recreated
from app.kafka.topic_watch import watch_topics
from app.metrics.trace_spans import Spans, spans_of
from app.server_addresses import resolve
from app.settings import Settings, load_settings
from app.stages.block_rows import row_rules, terminal_rules
from app.stages.deployed_features import catalogue_of
from app.stages.loaded_models import ModelSupply, StartingModel
from app.stages.parked_label_retries import LabelRetries
from app.stages.recent_alerts import RecentAlerts
from app.stages.score_callers import ScoreCallers
from app.start_checks import (
    check_schema_later,
    check_start,
    claim_state,
    discard_stale_stores,
)
from app.topics import Topics, batch_bytes
from app.windows.row_format import max_group_bytes
from app.wire.dead_letters import loss_letter
from app.wire.input_records import MAX_ID_BYTES

#: Under a name of its own: the module's is silenced with Faust's services, which log under it.
logger = logging.getLogger("fraudstream")

#: Longer than any outage: while everything is congested nothing is polled, and that is no reason to
#: leave the group.
_MAX_POLL_SECONDS = 7 * 86_400.0
#: A member hears with its next heartbeat that another one has left, and until then nobody has its partitions.
_HEARTBEAT_SECONDS = 1.0
#: More transactions than a fetch of one partition (1 MiB) holds.
_MAX_BLOCK_ENTRIES = 20_000
#: Agents that share `max_waiting_bytes`.
_STAGES = 4
#: Blocks waiting between fetch and agent. Small values make Faust's fetch loop sleep.
_STREAM_BUFFER_BLOCKS = 64


class FraudApp(BlockApp):
    """The app with what agents need of the deployment.

    Attributes:
        settings: the deployment's settings.
        fraud_topics: its topics.
        catalogue: its features.
        topic_ids: Kafka's ids of its topics, as they were when this worker started.
        schema_checked: whether the tables of Cassandra were looked at: they are not while it is away.
        spans: what traces transactions; None: nothing does.
        answers: who waits for the prediction of one transaction.
        recent_alerts: the newest alerts that this worker has seen.
        retries: what looks again for the transactions of parked labels.
        models: the loaded models.
        starting_model: what a new deployment starts with.
        in_force: by partition of `enriched` that is or was here, what decides.
    """

    settings: Settings
    fraud_topics: Topics
    catalogue: Catalogue
    topic_ids: Mapping[str, str]
    schema_checked: bool = False
    spans: Spans | None
    answers: ScoreCallers
    recent_alerts: RecentAlerts
    retries: LabelRetries
    models: ModelSupply
    starting_model: StartingModel
    in_force: Mapping[int, InForce]

    async def on_first_start(self) -> None:
        """Check servers, topics and schema before anything joins the group."""
        try:
            claim_state(self.settings)
            await super().on_first_start()
            self.schema_checked = await check_start(self.settings, self.fraud_topics)
            names = [spec.name for spec in self.fraud_topics.known]
            self.topic_ids = await topic_ids(self.settings, names)
            await discard_stale_stores(self)
        except FraudstreamError as error:
            # nothing is in flight, and the way out by Faust's own command ends with exit code 1
            print(f"fraudstream: {error}", file=sys.stderr, flush=True)
            leave(error.exit_code)
        except Exception as error:
            halt("its start", error)
        calm_collector()

    def recreated(self, names: Sequence[str]) -> SchemaError:
        """The refusal of a state whose topics are others now."""
        return recreated(names, self.settings)

    @Service.task
    async def _watch_topics(self) -> None:
        await watch_topics(self)

    @Service.task
    async def _check_schema_later(self) -> None:
        await check_schema_later(self)

    def loss_record(self, tp: TP, begin: int, end: int) -> Outputs:
        """Offsets that were deleted before they were read are accounted for on `dead-letters`."""
        destination = self.fraud_topics.dead_letters.name, tp.partition
        return {destination: [loss_letter(tp.topic, tp.partition, begin, end)]}

    def on_partitions_open(self) -> None:
        """Log what this worker does from here on."""
        super().on_partitions_open()
        source = self.fraud_topics.transactions.name
        held = sorted(tp.partition for tp in self.consumer.assignment() if tp.topic == source)
        logger.info(
            "ready: partitions %s of %s; web pages at http://%s:%s/",
            ", ".join(map(str, held)) or "none", source,
            self.settings.advertised_host or self.settings.web_host, self.settings.web_port,
        )  # fmt: skip

    async def find_skip(self, error: DamagedLogError) -> int | None:
        """See `BlockApp`: an operator may have given it up."""
        return await find_skip(self.settings, error)


def create_app(settings: Settings) -> FraudApp:
    """Build the app; no connection is made before the worker starts.

    Raises:
        SettingsError: settings contradict each other.
        UnavailableError: no broker is set and none runs here.
    """
    largest = batch_bytes(settings)
    # terminals have labels; either may have more of the deployment's own fields
    group = max(
        max_group_bytes(
            rules,
            key_bytes=MAX_ID_BYTES,
            block_entries=_MAX_BLOCK_ENTRIES,
            record_bytes=RECORD_OVERHEAD_BYTES,
        )
        for rules in (row_rules(settings), terminal_rules(settings))
    )
    if group > largest:
        msg = (
            f"FRAUDSTREAM_MAX_ENTRIES_PER_KEY={settings.max_entries_per_key} lets one block change {group} "
            f"bytes of one key, but a changelog batch holds at most {largest}: lower it, or raise "
            "FRAUDSTREAM_MAX_MESSAGE_BYTES"
        )
        raise SettingsError(msg)
    if settings.web_port == 0:
        msg = "FRAUDSTREAM_WEB_PORT=0 works only with `fraudstream worker`: set a port"
        raise SettingsError(msg)
    brokers = resolve(settings).broker.split(",")
    app = FraudApp(
        settings.deployment,
        broker=";".join(f"block://{broker.strip()}" for broker in brokers),
        broker_credentials=_credentials(settings),
        autodiscover=False,  # it drops modules that fail to import and exits 0: main.py imports them
        store="rocksdb://",
        datadir=str(settings.state_dir),
        topic_partitions=settings.partitions,
        topic_replication_factor=settings.replication,
        topic_allow_declare=False,  # `fraudstream topics` makes them
        topic_disable_leader=True,
        table_standby_replicas=settings.standby_replicas,
        consumer_auto_offset_reset="earliest",
        stream_buffer_maxsize=_STREAM_BUFFER_BLOCKS,
        stream_wait_empty=True,
        stream_recovery_delay=0.0,
        broker_max_poll_records=settings.block_records,
        broker_max_poll_interval=_MAX_POLL_SECONDS,
        broker_commit_interval=settings.commit_interval / 1000,
        broker_session_timeout=settings.session_timeout / 1000,
        broker_heartbeat_interval=min(_HEARTBEAT_SECONDS, settings.session_timeout / 4000),
        broker_rebalance_timeout=20.0,
        broker_request_timeout=20.0,
        producer_linger_ms=0,
        producer_max_batch_size=largest,
        producer_max_request_size=largest * 2,
        web_host=settings.advertised_host or settings.web_host,
        web_bind=settings.web_host,
        web_port=settings.web_port,
    )
    app.settings = settings
    app.isolation_level = settings.isolation_level
    app.client_rack = settings.kafka_rack
    app.host_name = settings.host_name or socket.gethostname()
    app.fetch_bytes = waiting_bytes(settings)
    app.fraud_topics = Topics(settings)
    app.catalogue = catalogue_of(settings)
    app.spans = spans_of(settings)
    app.answers = ScoreCallers(app.fraud_topics, settings.score_waiting)
    app.recent_alerts = RecentAlerts(settings.deployment)
    app.watch = watch_of(settings, report=_tell_unreadable)
    sources = (app.fraud_topics.transactions, app.fraud_topics.labels)
    app.align_partitions(
        [TP(topic.name, number) for topic in sources for number in range(topic.partitions)],
        settings.max_event_skew,
    )
    return app


def _tell_unreadable(tp: Any, offset: int, message: str) -> None:
    logger.warning("%s/%s, offset %s: %s", *tp, offset, message)


def _credentials(settings: Settings) -> Any:
    who = security(settings)
    context = who["ssl_context"]
    if "sasl_oauth_token_provider" in who:
        return faust.auth.OAuthCredentials(
            oauth_cb=who["sasl_oauth_token_provider"], ssl_context=context
        )
    if "sasl_mechanism" in who:
        return faust.SASLCredentials(
            username=who["sasl_plain_username"],
            password=who["sasl_plain_password"],
            mechanism=who["sasl_mechanism"],
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None


def waiting_bytes(settings: Settings) -> int:
    """Memory for the blocks of one stage: one that waits for a server must not stop the others."""
    return settings.max_waiting_bytes // _STAGES


def source(app: FraudApp, name: str) -> BlockTopic:
    """A topic of the app that is read in blocks."""
    return BlockTopic(app, topics=[name], partitions=app.settings.partitions)


app = create_app(load_settings())
