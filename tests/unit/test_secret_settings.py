"""Secret settings: none is shown where settings are, or quoted where one is refused."""

import base64
import re

import pytest

from app.cli.command_errors import run
from app.errors import SettingsError
from app.settings import Settings, load_settings
from tests.secret_settings import HIDDEN, SECRETS, secret_fields, secrets_in

pytestmark = pytest.mark.usefixtures("no_settings")

#: Settings whose names sound like secrets, and are none.
PUBLIC = {
    "kafka_token_provider", "kafka_token_scope", "kafka_key_file", "cassandra_key_file", "model_keys",
    "max_entries_per_key",
}  # fmt: skip
#: Others that the ones with secrets need.
OTHERS = {
    "kafka_username": "u", "cassandra_username": "u", "cassandra": "127.0.0.1", "schema_registry_username": "u",
    "web_oidc_issuer": "https://login.test", "web_oidc_client_id": "pages", "web_oidc_roles": "team=viewer",
}  # fmt: skip


def test_each_secret_has_a_value_that_tests_search_for() -> None:
    assert SECRETS.keys() == secret_fields(), "tests/secret_settings.py has a value for each"
    assert all(secrets_in(value) for value in SECRETS.values())


def test_what_sounds_like_a_secret_is_declared_as_one() -> None:
    sounds = re.compile(r"password|secret|token|keys?(_|$)|credential|routes")
    named = {
        name
        for name, field in Settings.model_fields.items()
        if sounds.search(name) and field.annotation is not bool
    }
    assert named - secret_fields() == PUBLIC


def test_a_secret_is_found_however_it_is_written() -> None:
    for before in ("", "u:", "us:", "use:"):
        text = f"{before}{HIDDEN}-x"
        for written in (
            text,
            repr(text.encode()),
            base64.b64encode(text.encode()),
            text.encode().hex(),
        ):
            assert secrets_in(written), written
    assert secrets_in("hidden, base64, WnE4, Zq8") is None


def test_settings_show_no_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (SECRETS | OTHERS).items():
        monkeypatch.setenv(f"FRAUDSTREAM_{name.upper()}", value)
    settings = load_settings()
    for arguments in ([], ["--json"], ["--changed"]):
        assert run(["config", *arguments]) == 0
    shown = capsys.readouterr().out + repr(settings) + str(settings) + settings.model_dump_json()
    assert secrets_in(shown) is None
    assert "FRAUDSTREAM_NOTIFY_SECRET" in shown


@pytest.mark.parametrize("name", sorted(SECRETS))
@pytest.mark.parametrize(
    "value", [f" {HIDDEN}", f'"{HIDDEN}"', f"{HIDDEN},{HIDDEN}", f"1:{HIDDEN}"]
)
def test_a_refused_secret_is_not_quoted(name: str, value: str) -> None:
    try:
        load_settings({name: value})
    except SettingsError as error:
        assert secrets_in(str(error)) is None
