"""What the sink stage makes of records whose rows are on their way already."""

import asyncio
from collections.abc import Iterable
from typing import Any

import orjson
import pytest

from app.blocks.core.interfaces import Begun, ForwardedRecord
from app.cassandra.prediction_rows import RowPacker
from app.errors import StateError
from app.stages.sink_stage import SinkHandler, has_challengers
from tests.prediction_builder import prediction, prediction_bytes


class Packer:
    """Rows are the values."""

    def pack_many(self, values: Iterable[bytes]) -> list[bytes]:
        return list(values)


def outputs(values: list[bytes], early: dict[bytes, Any]) -> Any:
    records = [ForwardedRecord(at, 0, None, value, []) for at, value in enumerate(values)]
    handler = SinkHandler(Packer(), lambda value: early.pop(value, None))
    return handler.compute(0, records, None).outputs  # type: ignore[arg-type]


async def test_rows_that_are_not_on_their_way_are_packed() -> None:
    one, other = (asyncio.get_running_loop().create_future() for _ in range(2))
    made = outputs([b"a", b"b", b"c", b"d", b"e"], {b"a": one, b"c": other, b"e": one})
    assert made == Begun({one, other}, [b"b", b"d"])


async def test_where_all_are_on_their_way_nothing_is_packed() -> None:
    one: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    assert outputs([b"a", b"b"], {b"a": one, b"b": one}) == Begun({one}, None)


def test_where_none_is_all_are_packed() -> None:
    assert outputs([b"a", b"b"], {}) == [b"a", b"b"]


def test_a_record_that_cannot_be_stored_is_named_by_its_offset() -> None:
    values = [
        prediction_bytes(1),
        prediction_bytes("Zq8-id", score="Zq8-score"),
        prediction_bytes(3),
    ]
    records = [ForwardedRecord(70 + at, 0, None, value, []) for at, value in enumerate(values)]
    with pytest.raises(StateError, match="offset 71: this prediction cannot be stored") as caught:
        SinkHandler(RowPacker("EUR", 2)).compute(0, records, None)  # type: ignore[arg-type]
    assert "Zq8" not in str(caught.value)


def test_rows_with_scores_of_challengers_are_known() -> None:
    record = prediction(1)
    assert not has_challengers(orjson.dumps(record))
    assert not has_challengers(orjson.dumps(record | {"terminal_id": '"shadow_scores":'}))
    assert has_challengers(orjson.dumps(record | {"shadow_scores": {}}))
