"""Training on what the stream has scored: stored features and labels, from a deployment in memory."""

import asyncio
from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson
import pytest

from app.cli.command_errors import run
from app.errors import UsageError
from app.ops.train_from_cassandra import Gathering, gather
from app.settings import Settings
from models.training_examples import Examples
from tests.builders import T0, tx_bytes
from tests.verify_world import MemoryLog, VerifyWorld

HOUR = 3_600_000


def gathered(world: VerifyWorld) -> Examples:
    return asyncio.run(gather(MemoryLog(world), world.settings))  # type: ignore[arg-type]


def said(number: int, *, fraud: bool, hours: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "transaction_id": f"tx-{number}",
        "is_fraud": fraud,
        "labelled_at": T0 + hours * HOUR - 100 * HOUR,
        "card_id": f"c{number % 3}",
        "terminal_id": "t1",
        "event_time": T0 - (60 - number) * HOUR,
        **more,
    }


@pytest.fixture
def world() -> VerifyWorld:
    world = VerifyWorld()
    for number in range(30):
        card = f"c{number % 3}"
        at = (number - 60) * HOUR
        world.send(tx_bytes(number, card=card, terminal="t1", at=at), card.encode())
    world.send(tx_bytes(3, card="c0", terminal="t1", at=-57 * HOUR), b"c0")  # a repetition
    world.run()
    return world


def test_labelled_transactions_are_learned_from_with_their_stored_features(
    world: VerifyWorld,
) -> None:
    for number in range(20, 10, -1):
        world.label(said(number, fraud=number % 4 == 0))
    world.label(said(13, fraud=True, hours=3))  # a correction
    world.label(said(13, fraud=False, hours=2))  # which came late
    got = gathered(world)
    assert got.event_time_ms.tolist() == [T0 + (number - 60) * HOUR for number in range(11, 21)]
    assert got.is_fraud.tolist() == [number in (12, 13, 16, 20) for number in range(11, 21)]
    assert got.card_id.tolist() == [f"c{number % 3}" for number in range(11, 21)]
    assert got.terminal_id is not None
    assert got.terminal_id.tolist() == ["t1"] * 10
    records = [orjson.loads(record.value or b"") for record in world.log(world.topics.predictions)]
    by_time = {fields["event_time_ms"]: list(fields["features"].values()) for fields in records}
    np.testing.assert_array_equal(got.features, [by_time[t] for t in got.event_time_ms.tolist()])


def test_nothing_to_learn_from(world: VerifyWorld) -> None:
    with pytest.raises(UsageError, match="Kafka contains no scored transactions with labels"):
        gathered(world)
    world.label(said(4, fraud=True))
    world.settings = world.settings.model_copy(update={"windows": (HOUR, 48 * HOUR)})
    with pytest.raises(UsageError, match="some have v1-1h-1d-7d-30d: set FRAUDSTREAM_FEAT"):
        gathered(world)


def labels(verdicts: Iterable[tuple[str, str, int, bool]], *rows: tuple[str, str]) -> list[Any]:
    """What is learned of some transactions and cards; verdicts as transaction, card, time, fraud."""
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    gathering = Gathering(
        settings, {(name, card): ((when, 0), fraud) for name, card, when, fraud in verdicts}
    )
    names = gathering._names
    for index, (name, card) in enumerate(rows):
        gathering.add(name, card, index, gathering._schema, dict.fromkeys(names, float(index)))
    got = gathering.examples("the test")
    return list(zip(got.event_time_ms.tolist(), got.is_fraud.tolist(), strict=True))


def test_a_label_without_a_card_counts_where_one_card_has_the_transaction() -> None:
    known = [("a", "", 5, True), ("b", "", 5, True)]
    assert labels(known, ("a", "c1"), ("b", "c1"), ("b", "c2")) == [(0, True)]
    known.append(("b", "c2", 4, False))
    assert labels(known, ("a", "c1"), ("b", "c1"), ("b", "c2")) == [(0, True), (2, False)]


def test_the_later_of_a_label_with_and_one_without_a_card_holds() -> None:
    known = [("a", "", 5, True), ("a", "c1", 6, False), ("b", "", 8, True), ("b", "c1", 7, False)]
    assert labels(known, ("a", "c1"), ("b", "c1")) == [(0, False), (1, True)]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--from-kafka", "--from-cassandra"], "--from-kafka cannot be used with --from-cassandra"),
        (["--from-kafka", "--days", "3"], "--days cannot be used with --from-kafka"),
        (["--from-cassandra", "--label", "x"], "--label needs --from-file"),
    ],
)
def test_sources_do_not_mix(
    capsys: pytest.CaptureFixture[str], args: list[str], words: str
) -> None:
    assert run(["train", *args]) != 0
    assert words in capsys.readouterr().err
