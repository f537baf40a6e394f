"""What settings refuse, in one line that names the setting."""

from pathlib import Path

import pytest

from app.errors import SettingsError
from app.settings import ENV_PREFIX, load_settings

pytestmark = pytest.mark.usefixtures("no_settings")


def refusal() -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings()
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("WINDOWS", "1 day", "'1 day' is not a duration"),
        ("PREDICTION_TTL", "500ms", "500ms is less than a second; write forever"),  # not: for ever
        ("PREDICTION_TTL", "0s", "0s is less than a second"),
        ("AUDIT_TTL", "0s", "0s is less than a second"),
        ("AUDIT_TTL", "7301d", "7301d is more than the 7300d that Cassandra allows"),
        ("PREDICTION_TTL", "7301d", "7301d is more than the 7300d that Cassandra allows"),
        ("RETENTION", "0s", "0s is less than a second"),
        ("SESSION_TIMEOUT", "0s", "0ms is less than 10ms"),
        ("COMMIT_INTERVAL", "1ms", "1ms is less than 10ms"),
        ("BROKER", "localhost:abc", "'localhost:abc' is not host:port"),
        ("BROKER", "localhost:", "'localhost:' is not host:port"),
        ("BROKER", "a:1,localhost:99999", "'localhost:99999' is not host:port"),
        ("BROKER", "a b:9092", "'a b:9092' is not host:port"),
        ("BROKER", ",", "',' is not host:port"),
        ("CASSANDRA", ",", "',' is not host:port"),
        ("CASSANDRA", "db:0", "'db:0' is not host:port, such as 127.0.0.1:9042"),
        ("KAFKA_SECURITY", "SASL_SSL", "needs FRAUDSTREAM_KAFKA_USERNAME and _PASSWORD"),
        ("MIN_INSYNC", "2", "min_insync 2 is more than replication 1"),
        ("THRESHOLD", "nan", "it must be less than or equal to 1"),
        ("PARTITIONS", "", "write a whole number"),
        ("PARTITIONS", "0", "greater than or equal to 1"),
        ("REPLICATION", "9" * 30, "less than or equal to"),
        ("ALLOWED_LATENESS", "999999999999d", "999999999999d is more than 36,525d"),
        ("WINDOWS", "1h,99999999999999d", "is more than 36,525d"),
        ("RETENTION", "99999999999999d", "is more than 36,525d"),
        ("ALLOWED_LATENESS", "\u0663s", "is not a duration"),
        ("MODEL", '"default@1"', '"default@1" has quotes, which count as a part of it'),
        ("KAFKA_USERNAME", "'fraud'", "'fraud' has quotes"),
        ("BROKER", '"kafka:9092"', "has quotes"),
        ("HOME", "", "it is empty; remove it to get the default, .fraudstream"),
        ("WEB_HOST", " ", "it is empty; remove it to get the default, 127.0.0.1"),
    ],
)
def test_what_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(ENV_PREFIX + name, value)
    line = refusal()
    assert says in line
    assert (
        line.startswith((f"{ENV_PREFIX}{name}: ", f"{ENV_PREFIX}{name}=")) or name == "MIN_INSYNC"
    )


def test_values_are_read_as_they_were_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "BROKER": " kafka:9092\r", "DATADIR": "", "KAFKA_CA_FILE": " ", "CASSANDRA": "", "MODEL": "default\t",
        "HOME": "~/fraud", "DROP_FIELDS": "", "MASK_CARD_NUMBERS": "false ", "KAFKA_PASSWORD": " 'p' ",
    }.items():  # fmt: skip
        monkeypatch.setenv(ENV_PREFIX + name, value)
    settings = load_settings()
    assert (settings.broker, settings.model) == ("kafka:9092", "default")
    assert settings.datadir is settings.kafka_ca_file is settings.cassandra is None
    assert settings.home == Path.home() / "fraud"
    assert settings.drop_fields == ""
    assert settings.mask_card_numbers is False
    assert settings.kafka_password
    assert settings.kafka_password.get_secret_value() == " 'p' "


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("fraudstream_brokr", "did you mean FRAUDSTREAM_BROKER?"),
        ("FRAUDSTREAM-BROKER", "did you mean FRAUDSTREAM_BROKER?"),
        ("FRAUDSTREAMWEB_PORT", "did you mean FRAUDSTREAM_WEB_PORT?"),
        ("FRAUD_STREAM_HOME", "did you mean FRAUDSTREAM_HOME?"),
        ("FRAUDSTREAM_SERVICE_HOST", "set enableServiceLinks: false"),
        ("FRAUDSTREAM_PORT_6066_TCP_ADDR", "set enableServiceLinks: false"),
    ],
)
def test_names_that_were_meant_to_be_settings(
    monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.setenv(name, "x")
    line = refusal()
    assert line.startswith(f"{name} is not a setting")
    assert line.endswith(hint)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("KEYSPAC", "did you mean FRAUDSTREAM_KEYSPACE?"), ("X", "`fraudstream config` lists them")],
)
@pytest.mark.parametrize("in_file", [False, True])
def test_a_name_that_is_no_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, hint: str, in_file: bool
) -> None:
    if in_file:
        (tmp_path / "env").write_text(f"{ENV_PREFIX}{name}=abc\n")
        monkeypatch.setenv("FRAUDSTREAM_ENV_FILE", str(tmp_path / "env"))
    else:
        monkeypatch.setenv(ENV_PREFIX + name, "abc")
    line = refusal()
    assert line.startswith(f"{ENV_PREFIX}{name} is not a setting")
    assert line.endswith(hint)
    assert (str(tmp_path) in line) == in_file


def test_a_file_of_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text(
        "# ours\n\nexport FRAUDSTREAM_KEYSPACE=ours\nFRAUDSTREAM_PARTITIONS=8\nOTHER=1\n"
    )
    monkeypatch.setenv("FRAUDSTREAM_ENV_FILE", str(file))
    monkeypatch.setenv("FRAUDSTREAM_PARTITIONS", "2")  # the environment wins
    settings = load_settings()
    assert (settings.keyspace, settings.partitions) == ("ours", 2)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"FRAUDSTREAM_KEYSPACE=a\n- what is this\n", "line 2: write NAME=value"),
        (b"FRAUDSTREAM_KEYSPACE\n", "'FRAUDSTREAM_KEYSPACE' without a value"),
        (b"FRAUDSTREAM_KEYSPACE=\xff\n", "is not UTF-8 text"),
        (None, "which is not a file"),
    ],
)
def test_a_file_that_is_none_of_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, says: str
) -> None:
    file = tmp_path / "env"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("FRAUDSTREAM_ENV_FILE", str(file))
    line = refusal()
    assert str(file) in line
    assert says in line
