"""Steps of an erasure, without servers: what is waited for, refused, counted and said."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from app.cassandra.erase_rows import KEPT, Before, Erasure, replay_names
from app.cli.erase import _cards
from app.errors import UnavailableError, UsageError
from app.ops.erase_card import Again, counted_again, refuse_replays, settled
from app.settings import load_settings
from app.topics import Topics


class Log:
    """Workers that are always done up to the end; whatever they move to its partition lengthens the topic once."""

    def __init__(self, *, stuck: str = "") -> None:
        self.topics = Topics(load_settings({"partitions": "2", "topic_prefix": ""}))
        self.asked: list[tuple[str, list[int]]] = []
        self._ends = {self.topics.labels.name: [3, 3], self.topics.transactions.name: [5, 5]}
        self._stuck = stuck

    async def ends(self, topic: Any) -> list[int]:
        self.asked.append((topic.name, list(self._ends[topic.name])))
        return list(self._ends[topic.name])

    async def done(self, topic: Any) -> list[int]:
        done = list(self._ends[topic.name])
        if topic is self.topics.transactions:
            self._ends[topic.name] = [5, 6]  # a record of another partition
        return [0, 0] if topic.name == self._stuck else done


def test_moved_records_precede_the_erase_record() -> None:
    log = Log()
    asyncio.run(settled(log, 1, lambda *_: None))  # type: ignore[arg-type]
    assert log.asked == [("labels", [3, 3]), ("transactions", [5, 5]), ("transactions", [5, 6])]


@pytest.mark.parametrize("topic", ["labels", "transactions"])
def test_workers_that_do_not_come_along_are_named(topic: str) -> None:
    with pytest.raises(UnavailableError, match=f"not processed {topic}"):
        asyncio.run(settled(Log(stuck=topic), 0, lambda *_: None))  # type: ignore[arg-type]


ERASURE = Erasure("e1", 1_000, "me", "asked", (0, 1), {0: 5})


def test_an_interrupted_erasure_is_finished() -> None:
    begun = Erasure("e1", 1_000, "me", "asked", (0, 1), deleted={KEPT: 2})
    assert not begun.rows
    counted = counted_again(begun, {"predictions": 0}, {"transactions": 9})
    assert (counted.rows, counted.kept, counted.gone_by) == (
        {"predictions": 0},
        2,
        {"transactions": 9},
    )
    assert counted_again(counted, {"predictions": 0}, {"transactions": 20}) == counted
    more = counted_again(counted, {"predictions": 3}, {"transactions": 20})
    assert (more.rows, more.gone_by) == ({"predictions": 3}, {"transactions": 20})


def test_an_erasure_is_over_only_when_no_topic_has_the_card() -> None:
    done = counted_again(ERASURE, {"predictions": 1}, {"transactions": 10, "predictions": 20})
    assert Again(done, {"predictions": 0}).lacks(0) is None
    assert "other topics may still" in str(Again(done, None).lacks(19))
    assert Again(done, None).lacks(20) is None
    assert "not finished" in str(Again(ERASURE, None).lacks(99))


def test_snoozes_since_the_erasure_stay() -> None:
    before = Before(0, 1, {}, 1_000)
    assert before.covers_snooze(1_000)
    assert before.covers_snooze(None)
    assert not before.covers_snooze(1_001)
    assert Before().covers_snooze(5)


def test_replays_are_copies() -> None:
    found = [
        ("fraud_model_2", "of fraud: what was replayed"),
        ("fraud_eu_model_2", "of fraud_eu: what was replayed"),
        ("fraud_old", "what was replayed"),  # by an earlier release, which does not say whose it is
        ("other_x", "of other: what was replayed"),
        ("fraudulent", ""),
    ]
    names = replay_names("fraud", found)
    assert names == ["model_2", "old"]
    refuse_replays([])
    with pytest.raises(UsageError, match="fraudstream replay --remove model_2"):
        refuse_replays(names)


def test_the_card_itself_is_tried_where_it_may_have_come() -> None:
    def cards(pseudonyms: Any, card_ids: str) -> list[str]:
        settings: Any = SimpleNamespace(pseudonyms=pseudonyms, card_ids=card_ids)
        return _cards(settings, "C1")

    keys = SimpleNamespace(all_of=lambda card: [f"p1-{card}"])
    assert cards(None, "any") == ["C1"]
    assert cards(keys, "any") == ["C1", "p1-C1"]
    assert cards(keys, "pseudonyms") == ["p1-C1"]
