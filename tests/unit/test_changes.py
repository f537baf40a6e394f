"""Changes: what they add up to, on the wire, forwarded, and what a worker does about a model that is not here."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.display import iso
from app.domain.changes import LoadChange, ModelChange, ThresholdChange
from app.domain.changes_in_force import InForce
from app.domain.rules import RulePolicy
from app.domain.rules.ruleset import entries
from app.domain.transaction import DeadRecordError
from app.errors import NotAnsweringError, NotFoundError, StateError
from app.kafka.change_history import ChangeHistory, LoggedChange, read_history
from app.settings import load_settings
from app.stages.change_forwarding import ControlHandler
from app.stages.loaded_models import KEPT, ModelSupply, StartingModel
from app.stages.reserved_rows import in_force_row, read_in_force
from app.stages.scoring_models import ModelNeeded
from app.stages.scoring_stage import ScoringHandler
from app.topics import Topics
from app.wire.control_records import (
    ChangeMessage,
    change_message,
    decode_message,
    encode_change,
    parse_change,
)
from tests.fakes import Rows
from tests.stream.sim_world import World

TOPICS = Topics(load_settings({"topic_prefix": "", "app_id": "a", "partitions": 3}))
ADA = ModelChange(model="ada@1", hash="a" * 64, threshold=0.4)
ITEM = SimpleNamespace(
    card_id="c", terminal_id="t", transaction_id="x", event_time_ms=1, body=b"{}"
)
encode_rules = msgspec.msgpack.Encoder().encode
BEA = ModelChange(model="bea@1", hash="b" * 64)


def record(offset: int, value: bytes | None) -> Any:
    return SimpleNamespace(offset=offset, timestamp=7, key=b"k", value=value, headers=[])


class TestInForce:
    def test_each_change_makes_the_next(self) -> None:
        one = InForce().after(ADA, 0, 3)
        assert (one.model, one.threshold) == ("a" * 64, 0.4)
        two = one.after(ThresholdChange(threshold=0.7), 0, 4)
        assert (two.model, two.threshold) == ("a" * 64, 0.7)
        three = two.after(BEA, 0, 5)  # a threshold is in units of its model's score
        assert (three.model, three.threshold) == ("b" * 64, None)
        assert three.after(LoadChange(model="ada@1", hash="a" * 64), 0, 6).model == "b" * 64

    def test_a_change_counts_once(self) -> None:
        after = InForce().after(ADA, 0, 3).after(BEA, 0, 4)
        assert after.after(ADA, 0, 3) is after
        assert after.after(ADA, 1, 3).model == "a" * 64  # another partition's offsets are its own


class TestWire:
    @pytest.mark.parametrize(
        "change",
        [ADA, BEA, ThresholdChange(), ThresholdChange(hash="a"), LoadChange(model="m@1", hash="c")],
    )
    def test_there_and_back(self, change: Any) -> None:
        message = decode_message(change_message("control", 0, record(9, encode_change(change))))
        assert isinstance(message, ChangeMessage)
        assert (message.topic, message.partition, message.offset) == ("control", 0, 9)
        assert message.change == change

    @pytest.mark.parametrize(
        "value",
        [
            None, b"", b"{}", b"[]", b'{"change":"model"}', b'{"change":"everything"}',
            b'{"change":"threshold","threshold":2}', b'{"change":"threshold","threshold":"high"}',
            b'{"change":"model","model":"m","hash":"h","how":"anyhow"}', b" " * 70_000,
        ],
    )  # fmt: skip
    def test_what_is_no_change(self, value: bytes | None) -> None:
        with pytest.raises(DeadRecordError) as caught:
            parse_change(value)
        assert caught.value.reason == "invalid_change"


#: Whatever somebody may write where a change has a value.
WILD = (
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats()
    | st.sampled_from([-(2**63) - 1, 2**63, 2**64, 10**15, "", "\0", "x" * 301, "x" * 30_000])
    | st.text()
    | st.lists(st.text(), max_size=5)
)
FIELDS: dict[str, Any] = {
    "change": st.sampled_from(["model", "threshold", "load", "rule", "list", "challenger"]),
    "by": st.text(),
    "note": st.text(),
    "model": st.text(max_size=250),
    "hash": st.text(max_size=150),
    "threshold": st.floats(0, 1),
    "share": st.none() | st.floats(0, 1),
    "how": st.sampled_from(["start", "promote", "rollback"]),
    "name": st.sampled_from(["block", "allow", "a", "A"]),
    "expression": st.sampled_from(["", "True", "amount > 1", "card_id == '\\ud800'", "-" * 900]),
    "action": st.sampled_from(["decline", "tag"]),
    "reason": st.text(max_size=80),
    "fields": st.lists(
        st.tuples(
            st.sampled_from(["amount", "card_id", "x"]),
            st.sampled_from(["text", "integer", "number", "boolean"]),
            st.text(max_size=9) | st.integers() | st.booleans() | st.floats(allow_nan=False),
        ),
        max_size=2,
    ),
    "subject": st.sampled_from(["card", "terminal"]),
    "ids": st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=9),
    "until_ms": st.integers(),
    "remove": st.booleans(),
    "forced": st.booleans(),
}


class TestWhatIsAccepted:
    """Whatever `parse_change` accepts, each partition can apply, write down and read back; else it would stop."""

    @given(
        st.fixed_dictionaries(FIELDS),
        st.dictionaries(st.sampled_from([*FIELDS, "more"]), WILD, max_size=2),
        st.integers(0, 2**63 - 1),
    )
    @example(
        {"change": "list", "name": "block", "subject": "card", "ids": ["x"]},
        {"until_ms": 10**30},
        1,
    )
    @example({"change": "model", "model": "m", "hash": "h"}, {"hash": ""}, 1)
    @example({"change": "model", "model": "m"}, {"hash": "x" * 30_000}, 1)
    @example({"change": "challenger", "hash": "h"}, {"model": "x" * 30_000}, 1)
    @example({"change": "threshold"}, {"threshold": float("nan")}, 1)
    @example(
        {"change": "rule", "name": "a", "expression": "x > 1"},
        {"fields": [["x", "number", 2**64]]},
        1,
    )
    @example(
        {"change": "rule", "name": "a", "expression": "x > 1"}, {"fields": [["x", "number", 1]]}, 1
    )
    def test_can_be_written_down(
        self, fields: dict[str, Any], wild: dict[str, Any], offset: int
    ) -> None:
        self.check(json.dumps(fields | wild).encode(), offset)
        self.check(
            json.dumps(fields | wild, ensure_ascii=False).encode(errors="surrogatepass"), offset
        )

    @given(st.binary(max_size=40))
    @example(b'"note":"\xff"')
    @example(b'"more":' + b"[" * 30_000 + b"]" * 30_000)
    @example(b'"more":' + b'{"x":' * 9_000 + b"1" + b"}" * 9_000)
    @example(b'"threshold":1e999')
    @example(b'"note":"' + b"[" * 1_000 + b'"')
    def test_whatever_bytes(self, part: bytes) -> None:
        self.check(b'{"change":"threshold",' + part + b"}", 1)
        self.check(b"{" + part + b',"change":"threshold"}', 1)

    def check(self, value: bytes, offset: int) -> None:
        try:
            change = parse_change(value)
        except DeadRecordError:
            return
        message = decode_message(change_message("control", 0, record(offset, value)))
        assert isinstance(message, ChangeMessage)
        assert message.change == change
        in_force = InForce(0, "m").after(change, 0, offset)
        _, raw = in_force_row(in_force, offset)
        assert read_in_force(raw) == in_force
        assert in_force.model
        assert len(raw or b"") - len(encode_rules(in_force.rules)) < 20_000
        RulePolicy(in_force.rules).decide((), (), ITEM, 0.5, is_fraud=False)
        for _, _, _, until_ms in entries(in_force.rules.listed):
            iso(until_ms)  # `fraudstream lists` shows it


def test_a_change_goes_to_every_partition_and_what_is_none_to_dead_letters() -> None:
    handler = ControlHandler(TOPICS)
    records = [record(0, encode_change(ADA)), record(1, b"{"), record(2, encode_change(BEA))]
    outputs = handler.compute(0, records, Rows()).outputs
    for partition in range(3):
        values = [value for _, value, _ in outputs[TOPICS.enriched.name, partition]]
        assert [decode_message(value).offset for value in values] == [0, 2]  # type: ignore[union-attr]
    ((key, value, _),) = outputs[TOPICS.dead_letters.name, 0]
    assert (key, value) == (b"control/0/1", b"{")
    assert handler.counts == {"forwarded": 2, "dead": 1}


class TestHistory:
    """```text
    at        1      2      3     4        5
    change    ada    bea    0.9   cleo     rollback to bea
    ```"""

    def history(self, *changes: Any) -> ChangeHistory:
        return ChangeHistory(
            [LoggedChange(0, n, n + 1, change) for n, change in enumerate(changes)]
        )

    def test_rollbacks_go_back_one_by_one(self) -> None:
        cleo = ModelChange(model="cleo@1", hash="c" * 64)
        steps = [ADA, BEA, ThresholdChange(threshold=0.9), cleo]
        found = self.history(*steps)
        before = found.before()
        assert before is not None
        assert (before.model, before.threshold) == ("bea@1", 0.9)
        back = ModelChange(model="bea@1", hash="b" * 64, threshold=0.9, how="rollback")
        found = self.history(*steps, back)
        assert found.decides().model == "bea@1"  # type: ignore[union-attr]
        before = found.before()
        assert before is not None
        assert (before.model, before.threshold) == ("ada@1", 0.4)
        further = ModelChange(model="ada@1", hash="a" * 64, threshold=0.4, how="rollback")
        assert self.history(*steps, back, further).before() is None

    def test_at_a_time(self) -> None:
        found = self.history(ADA, BEA)
        assert found.decides(0) is None
        assert [found.decides(at).model for at in (1, 1.5, 2, 9)] == [  # type: ignore[union-attr]
            "ada@1", "ada@1", "bea@1", "bea@1",
        ]  # fmt: skip

    def test_what_precedes_a_change_has_taken_effect_where_times_go_backwards(self) -> None:
        steps = (ADA, BEA, ThresholdChange(threshold=0.9))
        found = ChangeHistory(
            [LoggedChange(0, n, at, steps[n]) for n, at in enumerate((10, 50, 30))]
        )
        for at in (None, 30, 49, 99):
            decides = found.decides(at)
            assert decides is not None
            assert (decides.model, decides.threshold) == ("bea@1", 0.9)
            assert found.in_force(at).model == BEA.hash
        assert found.decides(9) is None
        assert found.decides(29).model == "ada@1"  # type: ignore[union-attr]


class Log:
    """A consumer of one partition, whose broker has set its clock back between two records."""

    def __init__(self, *records: Any) -> None:
        self._records = list(records)

    async def __aenter__(self) -> "Log":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def assign(self, tps: Any) -> None:
        self._tps = tps

    def seek(self, *_: Any) -> None:
        pass

    async def end_offsets(self, tps: Any) -> dict[Any, int]:
        return {tp: len(self._records) if tp.partition == 0 else 0 for tp in tps}

    async def getmany(self, *_: Any, **__: Any) -> dict[Any, list[Any]]:
        return {self._tps[0]: self._records}

    async def position(self, _: Any) -> int:
        return len(self._records)


async def test_a_history_is_read_in_the_order_of_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    async def there(*_: Any) -> None:
        pass

    values = [encode_change(ADA), encode_change(BEA)]
    log = Log(*(
        SimpleNamespace(partition=0, offset=n, timestamp=at, value=value)
        for n, (at, value) in enumerate(zip((50, 10), values, strict=True))
    ))  # fmt: skip
    monkeypatch.setattr("app.kafka.change_history.check_topics", there)
    monkeypatch.setattr("app.kafka.change_history.consumer", lambda *_, **__: log)
    found = await read_history(load_settings())
    assert [one.offset for one in found.changes] == [0, 1]
    assert found.decides().model == "bea@1"  # type: ignore[union-attr]


class Loader:
    """Loads models of hashes; says that the registry is away for as long as it is told to."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.away = 0

    def __call__(self, model_hash: str) -> Any:
        self.loads.append(model_hash)
        if self.away:
            self.away -= 1
            msg = "no Cassandra"
            raise NotAnsweringError(msg)
        if model_hash == "none":
            msg = "not registered"
            raise NotFoundError(msg)
        return SimpleNamespace(version=model_hash, hash=model_hash)


class TestSupply:
    async def test_a_model_that_is_not_here_is_obtained_once(self) -> None:
        loader = Loader()
        supply = ModelSupply(loader)
        assert supply.get("a") is None
        assert supply.waiting == {"a": "it is being loaded"}
        await asyncio.gather(*(supply.obtain(ModelNeeded("a")) for _ in range(3)))
        assert supply.get("a").version == "a"  # type: ignore[union-attr]
        assert (loader.loads, supply.waiting) == (["a"], {})

    async def test_it_waits_for_a_registry_that_is_away(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.stages.loaded_models._RETRY_SECONDS", 0.001)
        loader = Loader()
        loader.away = 3
        await ModelSupply(loader).obtain(ModelNeeded("a"))
        assert loader.loads == ["a"] * 4

    async def test_a_start_refuses_what_is_nowhere_and_does_not_wait(self) -> None:
        loader = Loader()
        supply = ModelSupply(loader)
        with pytest.raises(NotFoundError, match="not registered"):
            await supply.try_once("none")
        loader.away = 1
        await supply.try_once("a")  # later
        assert supply.get("a") is None
        await supply.obtain(ModelNeeded("a"))

    async def test_models_that_nobody_uses_go(self) -> None:
        gone: list[str] = []
        supply = ModelSupply(Loader(), gone.append)
        for number in range(KEPT):
            await supply.try_once(str(number))
        supply.get("0")  # in use
        await supply.try_once("one more")
        assert gone == ["1"]

    async def test_the_registry_comes_before_folders(self) -> None:
        def nowhere() -> str:
            raise NotFoundError

        assert (
            await StartingModel(lambda: "registered", lambda: "local", str).hash() == "registered"
        )
        starting = StartingModel(nowhere, lambda: "local", lambda _: "ada@1")
        assert await starting.hash() == "local"
        told = orjson.loads(await starting.change(0.3) or b"")
        assert told == {
            "change": "model", "model": "ada@1", "hash": "local", "threshold": 0.3, "how": "start",
            "by": "FRAUDSTREAM_MODEL",
        }  # fmt: skip


def test_a_change_that_this_release_does_not_know_stops_the_worker() -> None:
    handler = World(1).scoring_handler(ScoringHandler, lambda: 0)
    value = change_message("control", 0, record(0, b'{"change":"everything"}'))
    with pytest.raises(StateError, match="run the release that made it"):
        handler.compute(0, [record(5, value)], Rows())
