"""The table of a prediction's fields against what is written apart from it: CQL, records, documents, `verify`."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from app.cassandra import prediction_rows
from app.cassandra.migration_files import load_migrations
from app.cassandra.prediction_columns import ColumnOrder
from app.cassandra.prediction_rows import COLUMNS, RowPacker
from app.cassandra.schema_shape import shape_of
from app.settings import Settings
from app.wire.prediction_fields import (
    ADDED,
    FIELDS,
    INPUT,
    OUTPUT_FIELDS,
    PredictionField,
    columns_of,
    columns_page,
    names_of,
    record_page,
)
from tests.builders import tx_bytes
from tests.prediction_builder import prediction
from tests.verify_world import VerifyWorld

PAGE = Path(__file__).parents[2] / "docs" / "outputs.md"


@pytest.mark.parametrize("table", ["predictions", "conflicting_predictions"])
def test_the_migrations_make_these_columns(table: str) -> None:
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    made = shape_of(s for m in load_migrations() for s in m.statements(settings)).tables[table]
    wanted = {name: cql.replace(" ", "") for name, cql in columns_of().items()}
    assert made.columns == wanted
    assert sorted(COLUMNS) == sorted(wanted)


def test_a_packed_row_begins_with_its_partition_key() -> None:
    assert COLUMNS[:2] == ("card_id", "month")


@pytest.mark.parametrize("page", [record_page(), columns_page()])
def test_the_document_has_the_table(page: str) -> None:
    assert page in PAGE.read_text(), f"docs/outputs.md needs this table:\n{page}"


def test_the_scoring_stage_writes_these_fields_in_this_order() -> None:
    world = VerifyWorld()
    world.send(tx_bytes(1), b"c1")
    world.run()
    (record,) = world.log(world.topics.predictions)
    fields = list(orjson.loads(record.value or b""))
    sent = list(orjson.loads(tx_bytes(1)))
    # the last ones are there while models score beside the one that decides (test_challenger_scores.py)
    assert fields == [*sent, *(n for n in names_of(ADDED) if not n.startswith("shadow_"))]


def test_a_field_may_be_missing_only_where_the_table_says_so() -> None:
    needed = {f.name for f in FIELDS if f.name in OUTPUT_FIELDS and not f.optional and f.cql}
    for name in sorted(needed):
        made = prediction()
        del made[name]
        with pytest.raises(Exception, match="this prediction cannot be stored"):
            RowPacker("EUR", 2).pack(orjson.dumps(made))
    for name in sorted(OUTPUT_FIELDS - needed - {"event_time_ms"}):
        made = prediction()
        made.pop(name, None)
        RowPacker("EUR", 2).pack(orjson.dumps(made))


class TestAnInputFieldWithoutAColumn:
    """It is stored in `extra`, and `verify` finds out when it is not."""

    def run(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
        field = PredictionField("merchant_category", INPUT, **options)
        monkeypatch.setattr(prediction_rows, "ORDER", ColumnOrder((*FIELDS, field)))
        world = VerifyWorld()
        world.send(tx_bytes(1, merchant_category="books"), b"c1")
        world.run()
        return world.verify()

    def test_is_stored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        report = self.run(monkeypatch, optional=True)
        assert report.passed, report.as_json()

    def test_is_missed_when_it_is_dropped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        report = self.run(monkeypatch, optional=True, dropped=True)
        assert not report.passed
        assert "extra" in str(report.as_json())
