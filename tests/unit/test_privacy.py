"""Card numbers and private fields in what is passed on and in what is refused."""

import hmac
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.card_numbers import without_card_numbers
from app.domain.transaction import DeadRecordError
from app.errors import SettingsError
from app.settings import load_settings
from app.wire.input_records import RecordRules, parse_transaction
from app.wire.records import MASKED, dead_letter
from tests.builders import T0, tx_bytes

pytestmark = pytest.mark.usefixtures("no_settings")
VISA, MASKED_VISA = "4111111111111111", "4111110000001111"
KEY = "k" * 32


def record(value: bytes, key: bytes) -> Any:
    return SimpleNamespace(offset=7, timestamp=T0, key=key, value=value, headers=())


def body(text: bytes, **settings: Any) -> dict[str, Any]:
    rules = RecordRules.of(load_settings(settings))
    card = json.loads(text)["card_id"].encode()
    return dict(json.loads(parse_transaction(text, card, T0 + 10**9, rules).body))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (VISA, MASKED_VISA),
        ("4111 1111 1111 1111", "4111 1100 0000 1111"),
        ("4111-1111-1111-1111", "4111-1100-0000-1111"),
        ("378282246310005", "378282000000005"),  # 15 digits
        ("6011000990139424000", "6011000990139424000"),  # 19 digits, no card's
        (f"to {VISA}, then 5555555555554444.", f"to {MASKED_VISA}, then 5555550000004444."),
        ("4111111111111112", "4111111111111112"),  # the last digit does not fit
        ("1795000000123456", "1795000000123456"),  # a time
        ("0.4111111111111111", "0.4111111111111111"),
        ("4111111111111111.5", "4111111111111111.5"),
        ("94111111111111111111", "94111111111111111111"),  # of a longer number
        ("2026-11-20 10:00:00", "2026-11-20 10:00:00"),
        ("", ""),
    ],
)
def test_what_looks_like_a_card_number(text: str, kept: str) -> None:
    assert without_card_numbers(text.encode()).decode() == kept


@given(st.binary(max_size=200))
def test_nothing_else_changes_and_once_is_enough(text: bytes) -> None:
    once = without_card_numbers(text)
    assert len(once) == len(text)
    assert without_card_numbers(once) == once


def test_unknown_fields_are_masked_and_ours_are_not() -> None:
    more = {"pan": int(VISA), "note": f"card {VISA}", "deep": {"list": [int(VISA), 1.50]}}
    told = body(tx_bytes("x", card=VISA, at=0, **more))
    assert told["card_id"] == VISA  # an id: pseudonyms are the remedy there
    assert told["pan"] == int(MASKED_VISA)
    assert told["note"] == f"card {MASKED_VISA}"
    assert told["deep"] == {"list": [int(MASKED_VISA), 1.50]}
    assert body(tx_bytes("x", card="c", at=0, **more), mask_card_numbers=False)["pan"] == int(VISA)


def test_single_fields_are_hashed_or_kept() -> None:
    settings = {"private_fields": "device=hash, order=keep", "privacy_key": KEY}
    told = body(tx_bytes("x", card="c", at=0, device="abc", order=VISA, other=VISA), **settings)
    digest = hmac.digest(KEY.encode(), b'"abc"', "sha256").hex()[:32]
    assert (told["device"], told["order"], told["other"]) == (digest, VISA, MASKED_VISA)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"private_fields": "device=drop"}, "FRAUDSTREAM_DROP_FIELDS drops fields"),
        ({"private_fields": "card_id=hash"}, "fraudstream needs this field itself"),
        ({"private_fields": "a=keep,a=hash"}, "each name once"),
        ({"private_fields": "a=hash"}, "set FRAUDSTREAM_PRIVACY_KEY"),
        ({"privacy_key": "short"}, "at least 32 random characters"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        load_settings(settings)


def test_dead_letters_are_masked_and_say_so() -> None:
    rules = RecordRules.of(load_settings())
    dead = DeadRecordError("key_mismatch", f"the Kafka key is not the card_id '{VISA}'")
    source = record(value=b'{"card_id": "' + VISA.encode() + b'"', key=VISA.encode())
    _, value, headers = dead_letter("t", 0, source, dead, 1000, rules.privacy)
    assert VISA not in f"{value!r} {headers}"
    assert value == b'{"card_id": "' + MASKED_VISA.encode() + b'"'
    assert (MASKED, b"1") in headers
    harmless = record(value=b"{", key=b"c1")
    _, value, headers = dead_letter("t", 0, harmless, dead, 1000, rules.privacy)
    assert value == b"{"
    assert MASKED not in dict(headers)
