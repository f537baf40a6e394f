"""`fraudstream config`: every setting, as it would be written."""

import json
from pathlib import Path

import pytest

from app.cli.command_errors import run
from app.settings import ENV_PREFIX, Settings, load_settings

#: None of them the default.
CHANGED = {
    "FRAUDSTREAM_FEATURES": "handbook,engineered",
    "FRAUDSTREAM_WINDOWS": "90m,1d",
    "FRAUDSTREAM_LABEL_DELAY": "10d",
    "FRAUDSTREAM_KAFKA_SECURITY": "SSL",
    "FRAUDSTREAM_THRESHOLD": "0.25",
    "FRAUDSTREAM_PARTITIONS": "8",
}


pytestmark = pytest.mark.usefixtures("no_settings")


def test_every_setting_is_told_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.partition("=")[0] for line in lines[::2]]
    assert names == [ENV_PREFIX + name.upper() for name in Settings.model_fields]
    assert all(line.startswith("    ") and line.strip() for line in lines[1::2])
    assert "FRAUDSTREAM_FEATURES=engineered,label_free" in lines
    assert not any(line.endswith("(set)") for line in lines)


def test_what_differs_from_its_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["config", "--changed"]) == 0
    assert capsys.readouterr().out == ""
    for name, value in CHANGED.items():
        monkeypatch.setenv(name, value)
    assert run(["config", "--changed"]) == 0
    told = {line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")}
    assert told == {f"{name}={value}  (set)" for name, value in CHANGED.items()}


def test_settings_that_are_told_are_read_as_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {**CHANGED, "FRAUDSTREAM_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert run(["config", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    for name, value in told.items():
        if value is not None:
            monkeypatch.setenv(name, str(value))
    assert load_settings() == settings


def test_the_list_in_the_docs_is_the_code_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "--markdown"]) == 0
    table = capsys.readouterr().out
    assert len(table.splitlines()) == len(Settings.model_fields) + 2
    page = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
    assert table in page.read_text(), "write it anew: fraudstream config --markdown"
