"""How `verify` reads an output record: its fields, its source, its deployment, and what a row repeats of it."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson

from app.domain.features.own_features import OwnField
from app.domain.json_text import canonical, raw_fields
from app.ops.verification.ledger import SourcePage
from app.ops.verification.verify_run import VerifyRun
from app.scoring_deployment import SCORED_BY, is_anothers

_TIME = re.compile(rb'"scored_at":\d+')
#: What a prediction record adds to its input; records of 0.1.0 do not say who scored them. Written apart from
#: app/wire/prediction_fields.py on purpose: a field that gets lost there is found here.
NEEDED = frozenset({
    "amount_minor", "event_time_ms", "features", "score", "is_fraud", "threshold", "model_version",
    "model_hash", "feature_schema", "reasons", "anomaly_score", "flags", "source_topic",
    "source_partition", "source_offset", "received_at", "scored_at",
})  # fmt: skip
#: What it adds while models score beside the one that decides.
SHADOWS = {"shadow_scores", "shadow_flagged"}
#: Fields that a row repeats in columns which are compared one by one; whatever else a record says must be in `extra`.
_COMPARED = NEEDED | SHADOWS | {
    "transaction_id", "card_id", "terminal_id", "amount", "currency", "event_time", "schema_version",
    SCORED_BY, "rules", "action",
}  # fmt: skip
_POSITION = re.compile(rb'"source_partition":(\d+),"source_offset":(\d+)')
#: Which source record an output belongs to.
SOURCE_FIELDS = frozenset({"source_topic", "source_partition", "source_offset"})


def fields_of(record: Any, needed: frozenset[str]) -> dict[str, Any]:
    """The JSON object of an output; empty when it is none, or lacks fields."""
    try:
        fields = orjson.loads(record.value or b"")
    except orjson.JSONDecodeError:
        return {}
    return fields if isinstance(fields, dict) and needed <= fields.keys() else {}


def source_in(
    case: VerifyRun, where: str, record: Any, fields: dict[str, Any]
) -> tuple[SourcePage, int] | None:
    """The source record that an output names; None when it is not looked at. A foreign one is a stray."""
    if not fields:
        case.findings.stray(where, "record", f"{where}/{record.partition}/{record.offset}")
        return None
    source = fields["source_topic"], fields["source_partition"], fields["source_offset"]
    found = case.ledger.find(*source)
    if found is None and case.ledger.is_foreign(*source):
        case.findings.stray(where, "source", "/".join(map(str, source)))
    return found


def without_time(value: bytes) -> bytes:
    """A prediction without the moment when it was scored: what must not change when it is repeated."""
    return _TIME.sub(b"", value)


def extra_of(
    value: bytes, record: dict[str, Any], currency: str, own: Sequence[OwnField] = ()
) -> int:
    """Hash of what a row's `schema_version`, `extra` and own columns must say of a prediction record."""
    said = {each.name: _said(each, record) for each in own}
    names = record.keys() - _COMPARED - said.keys()
    foreign = record.get("currency")
    if foreign is not None and foreign != currency:
        names |= {"currency", "amount"}
    raw = raw_fields(value) if names else {}
    extra = {name: raw[name] for name in names}
    return hash_extra(record.get("schema_version", 1), extra, said)


def shadows_hash(scores: Mapping[str, Any] | None, flagged: Iterable[str] | None) -> int:
    """Hash of what a row must say of the models that did not decide; 0: nothing."""
    if scores is None and flagged is None:
        return 0
    known = sorted(pair for pair in (scores or {}).items() if pair[1] is not None)
    return hash((*known, *sorted(flagged or ())))


def _said(field: OwnField, record: dict[str, Any]) -> Any:
    value = record.get(field.name)
    return field.default if value is None else value


def hash_extra(
    schema_version: int, raw: Mapping[str, Any], own: Mapping[str, Any] | None = None
) -> int:
    """Hash of a schema version, the fields (as JSON text) without a column, and the values of own fields."""
    if not raw and not own:
        return schema_version
    fields = sorted((name, canonical(bytes(text))) for name, text in raw.items())
    return hash((schema_version, *fields, *sorted((own or {}).items())))


def ours(case: VerifyRun, found: tuple[SourcePage, int], fields: dict[str, Any]) -> bool:
    """Whether this deployment made an output; others are counted.

    One that names nobody is of release 0.1.0. It is ours unless there is one of the same source record that
    names us: then a changed `FRAUDSTREAM_APP_ID` has scored that record again.
    """
    if SCORED_BY in fields:
        mine = not is_anothers(fields, case.settings.deployment)
    else:
        page, row = found
        mine = not page.named[row]
    case.of_others += not mine
    return mine


class NameReader:
    """Reads one partition of `predictions` before all else: which source records have a prediction that names us.

    Args:
        deployment: its name.
        mark: given partition and offset of each of these source records.
    """

    def __init__(self, deployment: str, mark: Callable[[int, int], None]) -> None:
        self._mark = mark
        self._name = b'"%s":"%s"' % (SCORED_BY.encode(), deployment.encode())

    def take(self, records: list[Any]) -> None:
        """Records in offset order."""
        for record in records:
            value = record.value or b""
            tail = value[max(0, value.rfind(b'"source_partition":')) :]
            position = _POSITION.match(tail) if self._name in tail else None
            if position:
                self._mark(int(position[1]), int(position[2]))


def names_nobody(record: Any) -> bool:
    """Whether a prediction record does not say who scored it."""
    value = record.value or b""
    return b'"%s":' % SCORED_BY.encode() not in value[max(0, value.rfind(b'"source_partition":')) :]
