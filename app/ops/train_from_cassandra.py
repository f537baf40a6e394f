"""Learns from what the stream has done: stored features, as they were when each transaction was scored, and labels.

Nothing is computed again, so that a model learns exactly what it will meet, a late label and a full window
included. A transaction without a label is not
learned from, and neither is a late one.
"""

from array import array
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from itertools import islice
from operator import itemgetter
from typing import Any

import numpy as np
import orjson

from app.cassandra.label_queries import scan_verdicts
from app.cassandra.prediction_queries import scan_predictions
from app.cassandra.raw_rows import DoubleMaps, doubles, read_raw, texts
from app.cassandra.session import connected
from app.domain.features.feature_schema import same_meaning
from app.domain.transaction import DeadRecordError
from app.errors import TooFewSamplesError, UsageError
from app.ops.verification.topic_log import Log, open_log
from app.scoring_deployment import is_anothers
from app.settings import Settings
from app.stages.deployed_features import catalogue_of
from app.stages.parked_labels import copied_offset
from app.topics import TopicSpec
from app.wire.label_records import parse_label
from models.training_examples import Examples

Progress = Callable[[int], None]
#: A label's word: when it was made and came, epoch ms, and whether it says fraud.
Verdict = tuple[tuple[int, int], bool]
#: By transaction and its event time; or its card, "" where the label names neither.
Verdicts = dict[tuple[str, int | str], Verdict]
_STEP = 5_000
_COLUMNS = (
    "transaction_id", "card_id", "event_time", "flags", "feature_schema", "features", "terminal_id",
)  # fmt: skip


class Gathering:
    """Collects predictions whose labels are known, and sorts them by time.

    Args:
        settings: feature sets, windows and all else that decides what features mean.
        verdicts: what labels say.
    """

    def __init__(self, settings: Settings, verdicts: Verdicts) -> None:
        catalogue = catalogue_of(settings)
        self._schema = catalogue.schema
        self._names = catalogue.names
        self._take = itemgetter(*catalogue.names)
        self._wanted = set(catalogue.names)
        self._same: dict[str, bool] = {}
        self._verdicts = verdicts
        self._seen: set[tuple[str, str]] = set()
        # rows whose transaction a label names without a card, and what others say of them
        self._shared: dict[str, list[tuple[int, Verdict | None]]] = {}
        self._features = array("d")
        self._fraud, self._times = array("b"), array("q")
        self._cards: list[str] = []
        self._terminals: list[str] = []
        self._other_schemas: set[str] = set()

    def add(
        self,
        transaction: str,
        card: str,
        time_ms: int,
        schema: str,
        features: Mapping[str, float] | np.ndarray,
        terminal: str | None = None,
    ) -> None:
        """One prediction; repeated ones are the same and count once.

        Features are given by name, or as those of the catalogue in order.
        """
        key = transaction, card
        own = [self._verdicts.get((transaction, which)) for which in (time_ms, card)]
        found = [
            max((verdict for verdict in own if verdict is not None), default=None),
            self._verdicts.get((transaction, "")),
        ]
        said = [verdict for verdict in found if verdict is not None]
        if not said or key in self._seen:
            return
        if schema != self._schema and not self._fits(schema, features):
            self._other_schemas.add(schema)
            return
        if isinstance(features, Mapping):
            self._features.extend(self._take(features))
        else:
            self._features.frombytes(features.tobytes())
        self._seen.add(key)
        if found[1] is not None:
            self._shared.setdefault(transaction, []).append((len(self._times), found[0]))
        self._fraud.append(max(said)[1])
        self._times.append(time_ms)
        self._cards.append(card)
        self._terminals.append(terminal or "")

    def _fits(self, schema: str, features: Mapping[str, float] | np.ndarray) -> bool:
        """Whether what was computed under another schema has all of these features, with the same meaning."""
        if isinstance(features, Mapping) and not features.keys() >= self._wanted:
            return False
        fits = self._same.get(schema)
        if fits is None:
            fits = self._same[schema] = same_meaning(self._names, schema, self._schema)
        return fits

    def examples(self, source: str) -> Examples:
        """What was gathered, oldest first.

        Raises:
            UsageError: nothing was.
        """
        if not self._times:
            msg = f"{source} contains no scored transactions with labels"
            if not self._other_schemas:
                raise TooFewSamplesError(msg)
            msg += (
                f" and features {self._schema}; some have "
                f"{', '.join(sorted(self._other_schemas))}: set FRAUDSTREAM_FEATURES and "
                "FRAUDSTREAM_WINDOWS to match"
            )
            raise UsageError(msg)
        times = np.array(self._times, dtype=np.int64)
        cards = np.array(self._cards)
        fraud = np.array(self._fraud, dtype=bool)
        clear = np.ones(len(times), dtype=bool)
        # a label without a card says nothing where several cards have this transaction: dead in the stream too
        for shared in self._shared.values():
            for row, own in shared if len(shared) > 1 else ():
                clear[row] = own is not None
                fraud[row] = own is not None and own[1]
        order = np.lexsort((cards, times))
        order = order[clear[order]]
        features = np.array(self._features).reshape(len(times), len(self._names))
        return Examples(
            features[order],
            fraud[order],
            times[order],
            cards[order],
            terminal_id=np.array(self._terminals)[order],
        )


def from_cassandra(settings: Settings, progress: Progress | None = None) -> Examples:
    """Rows of `predictions` whose labels are in `labels`.

    Args:
        settings: where Cassandra is, and what features mean.
        progress: told now and then how many rows were read.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: a table is missing.
        UsageError: no row has a label.
    """
    with connected(settings) as session:
        verdicts: Verdicts = {}
        for event_time_ms, transaction, fraud in scan_verdicts(session, settings):
            verdicts[transaction, event_time_ms] = (0, 0), fraud
        gathering = Gathering(settings, verdicts)
        # the driver's maps look a key up by serializing it: that took most of the time
        read_raw(session)
        maps, read = DoubleMaps(list(catalogue_of(settings).names)), 0
        rows = scan_predictions(session, settings, _COLUMNS)
        while chunk := list(islice(rows, _STEP)):
            ordered, values = maps.read([row[5] for row in chunk])
            for at, (transaction, card, time_ms, flags, schema, raw, terminal) in enumerate(chunk):
                if "late" in texts(flags):  # conflicting ones are in a table of their own
                    continue
                features = values[at] if ordered[at] else doubles(raw)
                gathering.add(transaction, card, time_ms, schema, features, terminal)
            read += len(chunk)
            if progress:
                progress(read)
    return gathering.examples("Cassandra")


async def from_kafka(settings: Settings, progress: Progress | None = None) -> Examples:
    """Records of `predictions` whose labels are in `labels`.

    Args:
        settings: where Kafka is, and what features mean.
        progress: told now and then how many records were read.

    Raises:
        UnavailableError: Kafka does not answer.
        SchemaError: topics are missing.
        UsageError: no record has a label.
    """
    async with open_log(settings) as log:
        return await gather(log, settings, progress)


async def gather(log: Log, settings: Settings, progress: Progress | None = None) -> Examples:
    """See `from_kafka`; from a log that is open."""
    said = []
    name = log.topics.labels.name
    async for record in _records(log, log.topics.labels):
        if copied_offset(name, record.partition, record) is not None:
            continue  # the label that it repeats stands before it
        try:
            label = parse_label(
                record.value,
                record.offset,
                record.timestamp,
                settings.max_future_skew,
                settings.event_time_unit,
            )
        except DeadRecordError:
            continue  # dead in the stream too
        where = label.labelled_at_ms, label.received_at
        which = label.event_time_ms if label.whole else label.card_id or ""
        assert which is not None
        said.append((label.transaction_id, which, label.is_fraud, where))
    gathering = Gathering(settings, _newest(said))
    number = 0
    async for record in _records(log, log.topics.predictions):
        fields = orjson.loads(record.value)
        taken = not {"late", "conflicting"} & set(fields["flags"])
        if taken and not is_anothers(fields, settings.deployment):
            gathering.add(
                fields["transaction_id"],
                fields["card_id"],
                fields["event_time_ms"],
                fields["feature_schema"],
                fields["features"],
                fields.get("terminal_id"),
            )
        number += 1
        if progress and number % _STEP == 0:
            progress(number)
    return gathering.examples("Kafka")


async def _records(log: Log, topic: TopicSpec) -> AsyncIterator[Any]:
    begins, ends = await log.begins(topic), await log.ends(topic)
    for partition, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        async for records in log.read(topic, partition, begin, end):
            for record in records:
                yield record


def _newest(said: Iterable[tuple[str, int | str, bool, tuple[int, int]]]) -> Verdicts:
    """Of several labels of one transaction the latest holds, and of equally late ones the last."""
    newest: Verdicts = {}
    for transaction, which, fraud, when in said:
        key = transaction, which
        if key not in newest or when >= newest[key][0]:
            newest[key] = when, fraud
    return newest
