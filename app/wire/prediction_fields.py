"""The fields of a prediction: one table.

Derived from it: which input fields are ours, what the prediction record holds, the columns of `predictions` and
`conflicting_predictions` and how they are packed (app/cassandra/prediction_rows.py), and the tables of
docs/outputs.md. Tests compare it with the CQL of cql/ and with the records of the scoring stage.

To add a field: one line here, a migration that adds its column to both tables, and the value where it is computed.
`verify` has a list of its own (app/ops/verification/output_fields.py), so that a field that gets lost is found.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app.scoring_deployment import SCORED_BY

#: Fields of models that score beside the one that decides.
SHADOW_SCORES, SHADOW_FLAGGED = "shadow_scores", "shadow_flagged"

Origin = Literal["input", "added", "row"]
INPUT: Origin = "input"
ADDED: Origin = "added"
ROW: Origin = "row"


@dataclass(frozen=True, slots=True)
class PredictionField:
    """One field.

    Attributes:
        name: in the record, and of its column.
        origin: `input`: the producer's; `added`: ours, in the record; `row`: in Cassandra only.
        cql: type of the column; empty: it has none. An input field without a column is stored in `extra`.
        kind: JSON type in the record, for people.
        meaning: for people.
        source: field of the record that the column is made from; empty: this one.
        optional: records may lack it, or have null; the column is then `default`, or unset.
        default: see `optional`.
        seldom: it has few values in a stream, so that its packed form is worth keeping.
        dropped: it has no column on purpose, and is not stored in `extra` either.
    """

    name: str
    origin: Origin
    cql: str = ""
    kind: str = ""
    meaning: str = ""
    source: str = ""
    optional: bool = False
    default: Any = None
    seldom: bool = False
    dropped: bool = False


def _of_input(name: str, cql: str = "", **options: Any) -> PredictionField:
    return PredictionField(name, INPUT, cql, **options)


def _added(name: str, cql: str, kind: str, meaning: str, **options: Any) -> PredictionField:
    return PredictionField(name, ADDED, cql, kind, meaning, **options)


#: In the order of the record, and of the documents.
FIELDS = (
    _of_input("card_id", "text"),
    # after card_id and before all others: the partition key, which begins a packed row
    PredictionField(
        "month", ROW, "text", meaning="of the event time in UTC, such as `2026-11`", source="event_time_ms"
    ),
    _of_input("transaction_id", "text"),
    _of_input("terminal_id", "text", optional=True),
    _of_input(
        "amount", "decimal", meaning="in `currency`, from `amount_minor`", source="amount_minor"
    ),
    _of_input("currency", "text", meaning="the deployment's", optional=True),
    _of_input("converted_amount"),
    _of_input("event_time", "timestamp", meaning="from `event_time_ms`", source="event_time_ms"),
    _of_input("schema_version", "int", meaning="1 if the input has none", optional=True, default=1),
    _added(
        "amount_minor", "bigint", "integer",
        "the amount in minor units of the deployment's currency (`converted_amount` if the "
        "record has another currency)",
    ),
    _added("event_time_ms", "", "integer", "event time of the transaction; its column is `event_time`", dropped=True),
    _added(
        "features", "frozen<map<text, double>>", "object of numbers", "by [name](features.md)"
    ),
    _added("score", "double", "number in [0, 1]", "the model's probability of fraud"),
    _added("is_fraud", "boolean", "boolean", "whether the model flags it: `score >= threshold`"),
    _added("threshold", "double", "number", "the threshold that the score was compared with"),
    _added("model_version", "text", "text", "name and version of the model", seldom=True),
    _added(
        "model_hash", "text", "text",
        "the hash of everything that scoring uses from the model's artifact", seldom=True,
    ),
    _added(
        "feature_schema", "text", "text",
        "sets, versions, windows and label delay of the features", seldom=True,
    ),
    _added(
        "reasons", "frozen<list<text>>", "array of texts",
        "the top reasons for the score; empty below `FRAUDSTREAM_REASONS_FROM`",
    ),
    _added(
        "anomaly_score", "double", "number or null", "null if the model has no anomaly part",
        optional=True,
    ),
    _added("flags", "frozen<set<text>>", "array of texts", "below"),
    _added(
        "rules", "frozen<list<text>>", "array of texts",
        "the [rules](rules.md) that fired, with versions, and entries of lists", optional=True,
    ),
    _added(
        "action", "text", "text",
        "the decision of model, rules and lists: `decline`, `review` or `approve`", optional=True,
    ),
    _added("source_topic", "text", "text", "the topic of the input record", seldom=True),
    _added("source_partition", "int", "integer", "its partition"),
    _added("source_offset", "bigint", "integer", "its offset"),
    _added("received_at", "timestamp", "integer", "when Kafka appended the input record"),
    _added("scored_at", "timestamp", "integer", "when it was scored, by the worker's clock"),
    _added(
        SCORED_BY, "", "text",
        "the deployment: `FRAUDSTREAM_TOPIC_PREFIX` and `FRAUDSTREAM_APP_ID`. Missing in records of release "
        "0.1.0. It has no column",
        optional=True, dropped=True,
    ),
    _added(
        SHADOW_SCORES, "frozen<map<text, double>>", "object of numbers or nulls",
        "scores of the challengers (and of the current model, if the canary decided), by name and version; null: "
        "no score. Missing if there is no "
        "[challenger](models-live.md#shadow)",
        optional=True,
    ),
    _added(
        SHADOW_FLAGGED, "frozen<set<text>>", "array of texts",
        "which of these models would have flagged it as fraud. Missing if there is no challenger",
        optional=True,
    ),
    PredictionField(
        "extra", ROW, "text",
        meaning="a JSON object of the input fields without a column; null if there are none",
    ),
)  # fmt: skip


def names_of(origin: Origin, fields: Iterable[PredictionField] = FIELDS) -> tuple[str, ...]:
    """The names of the fields of an origin, in order."""
    return tuple(field.name for field in fields if field.origin == origin)


def columns_of(fields: Iterable[PredictionField] = FIELDS) -> dict[str, str]:
    """The type of each column by name, in the table's order."""
    return {field.name: field.cql for field in fields if field.cql}


#: Fields of the input record; everything else is unknown to us, kept and passed on.
INPUT_FIELDS = frozenset(names_of(INPUT))
#: Fields that we add to a prediction. An input field of the same name is passed on as `input_<name>`.
OUTPUT_FIELDS = frozenset(names_of(ADDED))


def record_page(fields: Sequence[PredictionField] = FIELDS) -> str:
    """The fields that are added to the input record, as a table of docs/outputs.md."""
    rows = (
        f"| `{field.name}` | {field.kind} | {field.meaning} |"
        for field in fields
        if field.origin == ADDED
    )
    return "\n".join(("| field | type | meaning |", "|---|---|---|", *rows))


def columns_page(fields: Sequence[PredictionField] = FIELDS) -> str:
    """The columns of the table `predictions`, as a table of docs/outputs.md."""
    rows = (
        f"| `{field.name}` | {field.cql} | {field.meaning if field.origin != ADDED else 'as in the record'} |"
        for field in fields
        if field.cql
    )
    return "\n".join(("| column | type | meaning |", "|---|---|---|", *rows))
