"""Card numbers and private fields in what is passed on and in what is refused."""

import hmac
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from app.cli.pseudonym import pseudonym
from app.domain.card_number_masking import without_card_numbers
from app.domain.privacy import Privacy
from app.domain.transaction import DeadRecordError
from app.errors import SettingsError
from app.ops.files.columns import FileOptions
from app.ops.files.label_file import open_labels
from app.ops.files.transaction_file import open_reading
from app.pseudonyms import Pseudonyms, parse_keys
from app.settings import load_settings
from app.wire.dead_letters import MASKED, PRIVATE, dead_letter
from app.wire.input_records import RecordRules, parse_transaction
from tests.builders import T0, tx_bytes
from tests.verify_world import VerifyWorld

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


BODY = b'{"card_id": "c1", "is_fraud": 1, "device": "abc", "order": "4111111111111111", "n": 1.50}'
DEAD = DeadRecordError("invalid_amount", "amount is missing")


def letter(value: bytes, **settings: Any) -> tuple[bytes | None, dict[str, bytes]]:
    rules = RecordRules.of(load_settings(settings))
    _, kept, headers = dead_letter("t", 0, record(value, b"c1"), DEAD, 1000, rules.privacy)
    return kept, dict(headers)


def test_dead_letters_lack_what_is_dropped() -> None:
    kept, headers = letter(BODY, drop_fields="is_fraud,device", mask_card_numbers=False)
    assert kept == b'{"card_id":"c1","order":"4111111111111111","n":1.50}'
    assert PRIVATE in headers
    assert MASKED not in headers, "it can be sent back: its fields would be dropped then, too"
    kept, headers = letter(b'{"card_id": "c1"}', drop_fields="is_fraud")
    assert (kept, PRIVATE in headers) == (b'{"card_id": "c1"}', False)


def test_fields_of_dead_letters_are_hashed_or_kept() -> None:
    settings = {"private_fields": "device=hash,order=keep", "privacy_key": KEY, "drop_fields": ""}
    kept, headers = letter(BODY, **settings)
    assert kept is not None
    digest = hmac.digest(KEY.encode(), b'"abc"', "sha256").hex()[:32]
    assert json.loads(kept)["device"] == digest
    assert (json.loads(kept)["order"], headers[MASKED]) == (VISA, b"1")
    kept, headers = letter(BODY.replace(b"device", b"other"), **settings)
    assert MASKED not in headers
    kept, headers = letter(
        BODY.replace(b"device", b"other").replace(b"1.50", VISA.encode()), **settings
    )
    assert MASKED in headers


def test_rows_in_envelopes_lack_what_is_dropped() -> None:
    row = {"card_id": "c1", "device": "abc"}
    event = {"op": "u", "before": row, "after": row, "source": {"device": "a database"}}
    for value in (event, {"schema": {"x": 1}, "payload": event}, {"schema": {}, "payload": row}):
        kept, headers = letter(json.dumps(value).encode(), drop_fields="device")
        assert kept is not None
        assert b"abc" not in kept
        assert PRIVATE in headers
        assert (b"a database" in kept) == (b"a database" in json.dumps(value).encode())


@pytest.mark.parametrize(
    "value",
    [b"{", b'[{"device": "abc"}]', b"\0\0\0\0\1binary", b'{"device": 1, "device": 2}', BODY[:-1] + b" " * 1000],
    ids=["cut", "array", "binary", "twice", "large"],
)  # fmt: skip
def test_values_without_fields_are_kept_or_dropped(value: bytes) -> None:
    kept, headers = letter(value, drop_fields="device", mask_card_numbers=False)
    assert (kept, PRIVATE in headers) == (value[:1000], False)
    kept, headers = letter(value, dead_letter_values="drop")
    assert (kept, PRIVATE in headers) == (None, True)
    assert letter(b"", dead_letter_values="drop")[0] == b""


NAMES = st.sets(st.sampled_from(["is_fraud", "device", "order", "n", "missing"]))


@given(NAMES, NAMES, NAMES, NAMES, st.booleans(), st.booleans(), st.sampled_from([BODY, BODY[:-1]]))
def test_a_letter_is_compared_with_its_record_whatever_the_rules_were(
    dropped: set[str], hashed: set[str], now_dropped: set[str], now_hashed: set[str],
    keep: bool, now_keep: bool, value: bytes,
) -> None:  # fmt: skip
    def rules(dropped: set[str], hashed: set[str], keep: bool) -> Privacy:
        hashes = dict.fromkeys(sorted(hashed - dropped), "hash")
        return Privacy(True, hashes, b"k", frozenset(), frozenset(dropped), keep)  # type: ignore[arg-type]

    then, now = rules(dropped, hashed, keep), rules(now_dropped, now_hashed, now_keep)
    left = then.of_letter(value)
    same = now.compared(left.value) == now.compared(value)
    assert same or (left.is_private and then.digest != now.digest)
    if then.digest == now.digest:
        assert same
        changed = value.replace(b'"c1"', b'"c2"')
        if left.value is not None:
            assert now.compared(changed) != now.compared(left.value)


def test_what_letters_lack_is_no_difference_to_verify() -> None:
    world = VerifyWorld(
        private_fields="device=hash",
        privacy_key=KEY,
        drop_fields="order",
        dead_letter_values="drop",
    )
    for value in (BODY, b"{cut", b'{"card_id": "c1", "n": 1}'):
        world.send(value, b"c1")
    world.send(tx_bytes(1, card="c1", at=0), b"c1")
    world.run()
    letters = [one.value for part in world.logs[world.topics.dead_letters.name] for one in part]
    assert letters[1] is None
    assert not any(b"abc" in value or VISA.encode() in value for value in letters if value)
    counts = world.verify().counts
    assert (counts["read"], counts["dead"], counts["differing"]) == (4, 3, 0)
    # what is dropped cannot be compared with other rules later, and is no difference, either
    world.restart(private_fields="", drop_fields="", dead_letter_values="keep")
    assert world.verify().counts["differing"] == 0
    world.restart(private_fields="n=hash", drop_fields="is_fraud", dead_letter_values="drop")
    assert world.verify().counts["differing"] == 0
    part = next(part for part in world.logs[world.topics.dead_letters.name] if part)
    world.restart(private_fields="device=hash", drop_fields="order")
    part[0] = replace(part[0], value=(part[0].value or b"").replace(b"1.50", b"1.60"))
    assert world.verify().counts["differing"] == 1


# ---------------------------------------------------------------------- pseudonyms

OLD, NEW = "o" * 32, "n" * 32


def test_a_pseudonym_can_be_made_anywhere() -> None:
    digest = hmac.new(OLD.encode(), VISA.encode(), "sha256").hexdigest()[:32]
    made = Pseudonyms(parse_keys(f"1:{OLD}"))
    assert made.of(VISA) == f"p1-{digest}"
    assert made.of(made.of(VISA)) == made.of(VISA)
    both = Pseudonyms(parse_keys(f"1:{OLD}, 2:{NEW}"))
    assert both.all_of(VISA)[1] == made.of(VISA)
    assert both.of(VISA) == both.all_of(VISA)[0]
    assert both.of(VISA).startswith("p2-")


@pytest.mark.parametrize("text", ["", "k", f"0:{OLD}", f"{OLD}", f"1:{OLD},1:{NEW}", "1:short"])
def test_wrong_keys_are_refused_and_not_shown(text: str) -> None:
    with pytest.raises(
        SettingsError, match=r"FRAUDSTREAM_CARD_ID_KEYS: key \d: write VERSION:KEY"
    ) as caught:
        load_settings({"card_id_keys": text})
    assert OLD not in str(caught.value)
    assert "short" not in str(caught.value)


def test_only_pseudonyms_get_in() -> None:
    rules = RecordRules.of(load_settings({"card_ids": "pseudonyms"}))
    fits = Pseudonyms(parse_keys(f"1:{OLD}")).of(VISA)
    taken = parse_transaction(tx_bytes("x", card=fits, at=0), fits.encode(), T0 + 10**9, rules)
    assert taken.card_id == fits
    for more in ({}, {"schema_version": 99}):
        raw = tx_bytes("x", card=VISA, at=0, **more)
        with pytest.raises(DeadRecordError) as caught:
            parse_transaction(raw, VISA.encode(), T0 + 10**9, rules)
        assert caught.value.card_id is None, "nothing may be kept under it"
        assert VISA not in caught.value.message
    assert caught.value.reason == "unknown_schema_version"


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_files_are_sent_with_pseudonyms(tmp_path: Path, name: str) -> None:
    made = Pseudonyms(parse_keys(f"1:{OLD}"))
    file = tmp_path / name
    text = {
        "t.csv": f"transaction_id,card_id,amount,event_time\na,{VISA},1.50,2026-01-01T00:00:00Z\n",
        "t.jsonl": tx_bytes("a", card=VISA).decode() + "\n" + tx_bytes("b", card=7).decode() + "\n",  # type: ignore[arg-type]
    }[name]
    file.write_text(text)
    with open_reading(file, FileOptions(pseudonym=made.of)) as reading:
        items = list(reading.pairs())
    assert [key for key, _ in items][0] == made.of(VISA).encode()
    for key, value in items:
        assert json.loads(value)["card_id"].encode() == key
        assert VISA.encode() not in value


def test_labels_are_sent_with_pseudonyms(tmp_path: Path) -> None:
    made = Pseudonyms(parse_keys(f"1:{OLD}"))
    file = tmp_path / "labels.csv"
    file.write_text(f"transaction_id,is_fraud,card_id\na,1,{VISA}\n")
    with open_labels(file, FileOptions(pseudonym=made.of), now_ms=T0) as reading:
        [(_, value)] = list(reading.items())
    assert json.loads(value)["card_id"] == made.of(VISA)


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "FRAUDSTREAM_CARD_ID_KEYS" in str(CliRunner().invoke(pseudonym, input="a\n").exception)
    monkeypatch.setenv("FRAUDSTREAM_CARD_ID_KEYS", f"1:{OLD}")
    made = Pseudonyms(parse_keys(f"1:{OLD}"))
    assert CliRunner().invoke(pseudonym, input=f"{VISA}\n\nx\n").output.split() == [
        made.of(VISA), made.of("x"),
    ]  # fmt: skip


def test_epoch_milliseconds_are_no_card_number() -> None:
    """It passes Luhn's check, and a dead letter that is sent once more must say the same time."""
    for time in (b"3247214400000", b"32472144000000"):
        assert without_card_numbers(time) is time
    assert without_card_numbers(b'{"note":"4222222222222"}') == b'{"note":"4222220002222"}'
