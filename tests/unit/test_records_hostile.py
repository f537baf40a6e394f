"""Inputs made to slip past the checks of a record, or to break what comes after them."""

import orjson
import pytest

from app.domain.json_limits import MAX_DEPTH
from app.domain.transaction import DeadRecordError, Transaction
from app.wire.input_records import RecordRules, parse_transaction

NOW_MS = 1_700_000_000_000
RULES = RecordRules("EUR", 2, 300_000)
FIELDS = '"transaction_id":"t","card_id":"c","amount":5,"event_time":1700000000000'


def parse(text: str) -> Transaction:
    return parse_transaction(text.encode(), b"c", NOW_MS, RULES)


def reason(text: str) -> str:
    with pytest.raises(DeadRecordError) as caught:
        parse(text)
    return caught.value.reason


@pytest.mark.parametrize("colon", [":", " :", "\t:", "\n:", "\r\n:", "  \t :"])
def test_a_key_that_stands_twice_is_found_however_its_colon_is_spaced(colon: str) -> None:
    assert reason('{"amount"' + colon + "7," + FIELDS + "}") == "repeated_key"


def test_spaces_alone_kill_nothing() -> None:
    text = orjson.dumps(orjson.loads("{" + FIELDS + "}"), option=orjson.OPT_INDENT_2).decode()
    assert parse(text.replace(":", " :")).minor == 500


@pytest.mark.parametrize("reserved", ["", ',"score":1'])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_depth_is_refused_at_one_limit_whatever_reads_the_object(
    opening: str, closing: str, reserved: str
) -> None:
    def nested(depth: int) -> str:  # the object itself is the first level
        middle = opening * (depth - 1) + "1" + closing * (depth - 1)
        return "{" + FIELDS + reserved + ',"x":' + middle + "}"

    assert parse(nested(MAX_DEPTH)).minor == 500
    for depth in (MAX_DEPTH + 1, 300, 950):
        assert reason(nested(depth)) == "too_deep"


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert parse("{" + FIELDS + ',"x":[' + ",".join(["[]"] * 500) + "]}").minor == 500


def test_an_input_field_named_like_an_output_field_never_replaces_another() -> None:
    body = parse("{" + FIELDS + ',"score":1,"input_score":2,"input_input_score":3}').body
    fields = orjson.loads(body)
    assert "score" not in fields
    assert sorted(v for k, v in fields.items() if "score" in k) == [1, 2, 3]
