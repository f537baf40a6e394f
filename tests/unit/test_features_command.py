"""`fraudstream features`: every feature, as the page of the documents has it."""

import json
from pathlib import Path

import pytest

from app.cli.command_errors import run
from app.domain.features.feature_sets import FEATURES, SETS, set_names

pytestmark = pytest.mark.usefixtures("no_settings")


def test_the_page_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["features", "--markdown"]) == 0
    page = Path(__file__).parents[2] / "docs" / "features.md"
    assert capsys.readouterr().out == page.read_text()


def test_every_feature_is_listed_with_the_sets_that_have_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["features", "--json"]) == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert list(listed) == [feature.name for feature in FEATURES]
    assert listed["card_count_{w}"]["sets"] == ["basic", "handbook", "engineered"]
    assert listed["card_max_amount_{w}"]["sets"] == []
    assert listed["terminal_fraud_streak"]["sets"] == ["engineered"]
    for name in SETS:
        columns = set_names(name, (86_400_000,))
        families = [each for each in listed.values() if name in each["sets"]]
        assert len(families) <= len(columns)
    assert run(["features"]) == 0
    assert "card_max_amount_{w}  (major units)" in capsys.readouterr().out
