"""The words of verdicts, alike on the topic and in files."""

from typing import Any

import numpy as np
import orjson
import pytest

from app.domain.transaction import DeadRecordError
from app.domain.verdict_words import verdict_of
from app.ops.files.file_source import MalformedRecordError
from app.ops.files.verdict_columns import verdict
from app.wire.label_records import parse_label
from tests.builders import T0

FRAUD = (
    True,
    1,
    1.0,
    "1",
    "1.0",
    "1.00",
    "true",
    "TRUE",
    " True ",
    "t",
    "T",
    "yes",
    "Y",
    "Fraud\n",
)
GENUINE = (False, 0, 0.0, "0", "0.0", "false", " f", "F", "No", "n", "N", "genuine")
NEITHER = ("", " ", "maybe", 2, -1, 0.5, "10", "tr ue", [1], {}, "\0")


@pytest.mark.parametrize(
    ("value", "fraud"), [(v, True) for v in FRAUD] + [(v, False) for v in GENUINE]
)
def test_a_word_means_the_same_everywhere(value: Any, fraud: bool) -> None:
    record = {"transaction_id": "t", "is_fraud": value, "labelled_at": T0}
    assert verdict_of(value) is fraud
    assert verdict(value, "column") is fraud
    assert parse_label(orjson.dumps(record), 0, T0, 0).is_fraud is fraud


@pytest.mark.parametrize("value", NEITHER)
def test_what_is_no_word_is_refused_everywhere(value: Any) -> None:
    record = {"transaction_id": "t", "is_fraud": value, "labelled_at": T0}
    assert verdict_of(value) is None
    with pytest.raises(MalformedRecordError, match="column"):
        verdict(value, "column")
    with pytest.raises(DeadRecordError) as dead:
        parse_label(orjson.dumps(record), 0, T0, 0)
    assert dead.value.reason == "invalid_is_fraud"


def test_values_of_parquet_are_words_too() -> None:
    assert (
        verdict_of(np.float64(1.0)) is verdict_of(np.bool_(True)) is verdict_of(np.int8(1)) is True
    )
    assert verdict_of(None) is verdict_of(float("nan")) is None
