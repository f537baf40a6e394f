"""Prediction records with defaults, and random ones, for tests of the Cassandra rooms."""

import random
from typing import Any

import orjson
from cassandra.cluster import Session

from app.cassandra.session import explained
from app.settings import Settings
from tests.builders import T0, tx

NAMES = ("amount", "is_night", "seconds_since_last", "card_count_1h", "card_avg_amount_1h")


def prediction(number: int | str = 1, **fields: Any) -> dict[str, Any]:
    """One prediction record as a dict; `fields` replace or add."""
    card, at = fields.pop("card", "c1"), fields.pop("at", 0)
    made = {
        **tx(number, card=card, at=at),
        "amount_minor": 1000,
        "event_time_ms": T0 + at,
        "features": {"amount": 10.0, "is_night": 0.0, "seconds_since_last": 3600.0},
        "score": 0.25,
        "is_fraud": False,
        "threshold": 0.5,
        "model_version": "default-1",
        "model_hash": "ab" * 32,
        "feature_schema": "v1-1h",
        "reasons": [],
        "anomaly_score": None,
        "flags": [],
        "rules": [],
        "action": "approve",
        "source_topic": "transactions",
        "source_partition": 3,
        "source_offset": 42,
        "received_at": T0 + at + 5,
        "scored_at": T0 + at + 9,
        "scored_by": "fraudstream",
    }
    return {**made, **fields}


def prediction_bytes(*args: Any, **kwargs: Any) -> bytes:
    """`prediction` as it is on the wire."""
    return orjson.dumps(prediction(*args, **kwargs))


def random_prediction(rng: random.Random, number: int, cards: int = 50) -> dict[str, Any]:
    """One of everything that a record may hold, drawn anew."""
    minor = rng.choice((0, 1, rng.randrange(10**4), 10**11))
    at = rng.randrange(-400, 400) * 86_400_000 + rng.randrange(86_400_000)
    names = NAMES if rng.random() < 0.9 else NAMES[: rng.randrange(len(NAMES))]
    made = prediction(
        f"{number}-{rng.choice(('a', 'ö', '漢', 'x' * 40))}",
        card=f"card-{rng.randrange(cards)}-é",
        at=at,
        amount_minor=minor,
        amount=str(minor / 100),
        features={
            name: None
            if rng.random() < 0.05
            else rng.choice((0.0, -0.0, rng.gauss(0, 1e9), 1e-300))
            for name in names
        },
        score=rng.random(),
        is_fraud=rng.random() < 0.5,
        reasons=[f"reason {n} ünïcode" for n in range(rng.randrange(4))],
        anomaly_score=rng.choice((None, rng.random())),
        flags=sorted(rng.sample(["late", "out_of_order", "inexact:card_30d"], rng.randrange(4))),
        source_partition=rng.randrange(64),
        source_offset=rng.choice((0, rng.randrange(2**62))),
        feature_schema=f"v1-{len(names)}",
        rules=[f"rule-{n}@{n + 1}" for n in range(rng.randrange(3))],
        action=rng.choice(("approve", "review", "decline")),
    )
    if rng.random() < 0.2:
        del made["terminal_id"]
    if rng.random() < 0.5:
        made["currency"] = "EUR"
    if rng.random() < 0.3:
        made["schema_version"] = 1
    if rng.random() < 0.3:
        made["merchant"] = {"name": "Çafé", "codes": [1, 2.5, None, True]}
    if rng.random() < 0.3:
        made |= {
            "shadow_scores": {"b@2": 0.5, "a@10": None, "ä@1": rng.random()},
            "shadow_flagged": ["b@2", "ä@1"],
        }
    if rng.random() < 0.1:
        made |= {"currency": "JPY", "amount": 1234, "converted_amount": "10.00"}
    return made


def expected_row(made: dict[str, Any], month: str, event_time: str) -> dict[str, Any]:
    """What `row_dict` must give for a record, worked out the slow way (two digits, EUR).

    Args:
        made: the record.
        month, event_time: the partition's month and ISO time, told by the test.
    """
    known = {
        "transaction_id", "card_id", "terminal_id", "amount", "currency", "event_time", "schema_version",
        "amount_minor", "event_time_ms", "features", "score", "is_fraud", "threshold", "model_version",
        "model_hash", "feature_schema", "reasons", "anomaly_score", "flags", "source_topic",
        "source_partition", "source_offset", "received_at", "scored_at", "rules", "action",
        "shadow_scores", "shadow_flagged",
    }  # fmt: skip
    extra = {name: value for name, value in made.items() if name not in known | {"scored_by"}}
    if made.get("currency") not in {None, "EUR"}:
        extra |= {"amount": made["amount"], "currency": made["currency"]}
    row = {name: value for name, value in made.items() if name in known}
    if "shadow_scores" in row:  # a frozen map has no null
        row["shadow_scores"] = {n: s for n, s in row["shadow_scores"].items() if s is not None}
    return row | {
        "month": month,
        "event_time": event_time,
        "amount": f"{made['amount_minor'] // 100}.{made['amount_minor'] % 100:02d}",
        "currency": "EUR",
        "terminal_id": made.get("terminal_id"),
        "schema_version": made.get("schema_version", 1),
        "features": {name: v for name, v in made["features"].items() if v is not None},
        "extra": extra,
    }


def count_predictions(session: Session, settings: Settings) -> int:
    """Rows of the table."""
    query = f"SELECT COUNT(*) AS number FROM {settings.keyspace}.predictions"
    with explained(settings):
        count: int = session.execute(query, timeout=20).one()["number"]
    return count
