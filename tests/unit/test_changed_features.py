"""Windows and feature sets that change on a running deployment: a transaction keeps the features it was begun with.

```text
settings   1h,1d,7d,30d         | 1m,1h,1d,7d,30d
cards      a  b  c  d           | e  f
scoring    a  b                 | c  d  e  f          c and d have no 1m
```
"""

from typing import Any

import msgspec
import numpy as np
import orjson
import pytest

from app.domain.features import Catalogue
from app.domain.features.feature_schema import parse_schema, same_meaning
from app.errors import SchemaError
from app.stages.reserved_rows import POSITION_KEY, StatePosition
from app.stages.scoring_models import rearranged
from app.stages.state_settings import terminal_settings
from app.wire.enriched_records import decode_enriched
from tests.builders import tx_bytes
from tests.verify_world import VerifyWorld

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
USUAL = (HOUR, DAY, 7 * DAY, 30 * DAY)
MORE = (MINUTE, *USUAL)
OLD, NEW = "v1-1h-1d-7d-30d", "v1-1m-1h-1d-7d-30d"


def send(world: VerifyWorld, first: int, count: int = 20) -> None:
    for number in range(first, first + count):
        card = f"c{number % 5}"
        world.send(
            tx_bytes(
                number, card=card, terminal=f"t{number % 3}", at=number * 17_000, amount=number + 1
            ),
            card.encode(),
        )


def changed(*, to: Any = MORE, features: Any = ("basic",), block: int = 7) -> VerifyWorld:
    """Twenty transactions are scored before the change, twenty are in flight, and twenty begin after it."""
    world = VerifyWorld(max_future_skew="1d")
    send(world, 0)
    world.run(block)
    send(world, 20)
    world.run(block, scoring=False, sink=False)
    world.restart(windows=to, features=features)
    world.run(block)
    send(world, 40)
    world.run(block)
    return world


def schemas(world: VerifyWorld) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for record in world.log(world.topics.predictions):
        fields = orjson.loads(record.value or b"")
        names = Catalogue(USUAL, 2, "UTC", ("basic",)).under(fields["feature_schema"]).names
        assert tuple(fields["features"]) == names
        number = int(fields["transaction_id"].removeprefix("tx-"))
        found.setdefault(fields["feature_schema"], []).append(number)
    return {schema: sorted(numbers) for schema, numbers in found.items()}


@pytest.mark.parametrize("block", [1, 7, 100])
def test_a_new_window_is_computed_from_the_state_that_there_is(block: int) -> None:
    world = changed(block=block)
    assert schemas(world) == {OLD: list(range(40)), NEW: list(range(40, 60))}
    report = world.verify()
    assert report.passed, report.as_json()
    assert report.details["feature_schemas"] == {NEW: 20, OLD: 40}
    first = next(
        orjson.loads(r.value or b"")
        for r in world.log(world.topics.predictions)
        if b'"tx-40"' in (r.value or b"")
    )
    assert first["features"]["card_count_1h"] == 9.0  # eight of them from before the change


def test_a_window_may_go_and_sets_may_come() -> None:
    world = changed(to=USUAL, features=("basic", "handbook", "terminal_avg_amount_1m"))
    assert world.verify().passed
    world.restart(windows=MORE, features=("basic",))
    send(world, 60)
    world.run(scoring=False, sink=False)
    world.restart(windows=USUAL, features=("basic",))
    world.run()
    report = world.verify()
    assert report.passed, report.as_json()
    assert len(report.details["feature_schemas"]) == 3


def test_a_first_stage_that_sends_once_more_after_the_change_changes_nothing() -> None:
    world = VerifyWorld(max_future_skew="1d")
    send(world, 0)
    world.run(scoring=False, sink=False)
    for partition in range(world.settings.partitions):
        world.replay(world.topics.transactions, partition)
    world.restart(windows=MORE)
    world.run()
    assert schemas(world) == {OLD: list(range(20))}
    report = world.verify()
    assert report.passed, report.as_json()


def test_verify_finds_a_stage_that_takes_features_by_position(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two lists of the same length: one has the largest amount where the other has the smallest."""
    after = ("basic", "card_min_amount_1h")

    def swapped() -> VerifyWorld:
        world = VerifyWorld(max_future_skew="1d", features="basic,card_max_amount_1h")
        send(world, 0)
        world.run(scoring=False, sink=False)
        world.restart(features=after)
        world.run()
        return world

    assert swapped().verify().passed
    monkeypatch.setattr(Catalogue, "under", lambda self, _schema: self)
    world = swapped()
    monkeypatch.undo()
    report = world.verify()
    assert not report.passed
    assert {e["what"] for e in report.examples} >= {"feature_schema", "feature names"}


def test_messages_of_the_release_before_have_the_features_of_their_state() -> None:
    world = VerifyWorld(max_future_skew="1d")
    send(world, 0)
    world.run()
    send(world, 20)
    world.run(scoring=False, sink=False)
    topic = world.topics.enriched
    for number, record in enumerate(world.log(topic)):
        batch = decode_enriched(record.value or b"")
        before = msgspec.msgpack.encode((1, batch.topic, batch.partition, batch.items))
        world.change(topic, number, value=before)
    text = (
        "windows=1h,1d,7d,30d allowed_lateness=1d max_entries_per_key=16 currency=EUR "
        "features=basic label_delay=7d"
    )
    for (name, _), state in world.states.items():
        if name == topic.name:
            position = StatePosition.decode(
                state.rows[POSITION_KEY], terminal_settings(world.settings)
            )
            body = msgspec.msgpack.encode((text, position.seen))
            head = position.last_offset.to_bytes(8, "big", signed=True)
            state.rows[POSITION_KEY] = head + body
    world.restart(windows=MORE)
    world.run(block=1)
    send(world, 40)
    world.run()
    assert schemas(world) == {OLD: list(range(40)), NEW: list(range(40, 60))}
    report = world.verify()
    assert report.passed, report.as_json()


def test_a_model_sees_its_baseline_for_what_a_transaction_lacks() -> None:
    matrix = np.array([[1.0, 2.0], [3.0, 4.0]])
    made = rearranged(matrix, ("a", "b"), ("b", "x", "a", "y"), {"x": 9.0})
    assert made.tolist() == [[2.0, 9.0, 1.0, 0.0], [4.0, 9.0, 3.0, 0.0]]


class TestSchemas:
    catalogue = Catalogue(USUAL, 2, "UTC", ("basic", "handbook"), 7 * DAY)

    @pytest.mark.parametrize(
        "schema", [OLD, NEW, "handbook@1-delay7d", "card_max_amount_1h@1+v1-1d-30d", "label_free@1"]
    )
    def test_a_schema_names_its_features(self, schema: str) -> None:
        found = self.catalogue.under(schema)
        assert found.schema == schema
        assert self.catalogue.under(schema) is found

    @pytest.mark.parametrize(
        "schema",
        [
            "",
            "v1-1x",
            "v2-1h",
            "handbook@2-delay7d",
            "handbook@1-delay8d",
            "gone@1",
            "v1-1h+nothing",
        ],
    )
    def test_what_is_computed_otherwise_here_is_refused(self, schema: str) -> None:
        with pytest.raises(SchemaError, match="which this worker does not compute"):
            self.catalogue.under(schema)

    @pytest.mark.parametrize(
        ("names", "before", "now", "same"),
        [
            (("card_count_1h",), OLD, NEW, True),
            (("card_count_1h", "seconds_since_last"), OLD, NEW, True),
            (("card_count_1h",), OLD, "v1-1h-7d", True),
            (("seconds_since_last",), OLD, "v1-1h-7d", False),
            (("card_count_1h",), OLD, "handbook@1-delay7d+card_count_1h@1", True),
            (("terminal_risk_7d",), "handbook@1-delay7d", "v1-1h+handbook@1-delay8d", False),
            (("card_count_7d",), "handbook@1-delay7d", "v1-1h+handbook@1-delay8d", True),
            (("amount",), "v0-1h", "v1-1h", False),
            (("amount",), "handbook@0", "v1-1h", False),
            (("seconds_since_last",), "seconds_since_last@1", OLD, True),
            (("seconds_since_last",), "seconds_since_last@1-7d", OLD, False),
        ],
    )
    def test_a_model_stays_valid_while_its_features_mean_the_same(
        self, names: tuple[str, ...], before: str, now: str, same: bool
    ) -> None:
        assert same_meaning(names, before, now) is same

    def test_written_as_it_was_read(self) -> None:
        text = "v1-1m-1h+handbook@1-delay7d+seconds_since_last@1-30d"
        assert "+".join(map(str, parse_schema(text))) == text
