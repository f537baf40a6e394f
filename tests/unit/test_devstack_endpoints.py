"""Where servers are: settings first, then stack.json, else one line that says what to do."""

import json
from pathlib import Path

import pytest

from app.address_syntax import CASSANDRA_PORT, parse_address
from app.errors import UnavailableError
from app.server_addresses import Endpoints, resolve, resolve_broker
from app.settings import Settings

RECORD = {
    "kafka": {"host": "127.0.0.1", "port": 19092, "pid": 1, "log": "k"},
    "cassandra": {"host": "127.0.0.1", "port": 19042, "pid": 2, "log": "c"},
}


def settings(home: Path, **values: str) -> Settings:
    return Settings(home=home, **{"broker": None, "cassandra": None, **values})  # type: ignore[arg-type]


def test_settings_win_over_the_record(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text(json.dumps(RECORD))
    found = resolve(settings(tmp_path, broker="a:1,b:2", cassandra="c:3, d"))
    assert found == Endpoints("a:1,b:2", [("c", 3), ("d", 9042)])


def test_the_record_serves_what_settings_leave_open(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text(json.dumps(RECORD))
    assert resolve(settings(tmp_path)) == Endpoints("127.0.0.1:19092", [("127.0.0.1", 19042)])
    assert resolve(settings(tmp_path, broker="a:1")).broker == "a:1"


def test_neither_names_the_command_and_the_setting(tmp_path: Path) -> None:
    with pytest.raises(
        UnavailableError, match=r"no Kafka: run `fraudstream up`, or set FRAUDSTREAM_B"
    ):
        resolve(settings(tmp_path))
    with pytest.raises(UnavailableError, match="no Cassandra"):
        resolve(settings(tmp_path, broker="a:1"))
    assert resolve_broker(settings(tmp_path, broker="a:1")) == "a:1"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kafka": 3}', '{"kafka": {"port": 1}}', "\x00"])
def test_a_damaged_record_reads_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "stack.json").write_text(text)
    with pytest.raises(UnavailableError, match="no Kafka"):
        resolve(settings(tmp_path))


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("db", ("db", 9042)),
        ("db:19042", ("db", 19042)),
        ("[::1]:19042", ("::1", 19042)),
        ("[::1]", ("::1", 9042)),
        ("fe80::1", ("fe80::1", 9042)),
    ],
)
def test_contact_points(text: str, point: tuple[str, int]) -> None:
    assert parse_address(text, CASSANDRA_PORT) == point


@pytest.mark.parametrize("text", [":1", "db:", "db:x", "db:0", "db:65536", ""])
def test_wrong_contact_points_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not host:port"):
        parse_address(text, CASSANDRA_PORT)
