"""What `fraudstream monitoring export` writes: rules that promtool accepts, each alert with a runbook section."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from app.cli.command_errors import run
from app.monitoring import FILES
from app.notify.metrics import NotifierMetrics

RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"
pytestmark = pytest.mark.usefixtures("no_settings")


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert run(["monitoring", "export", str(tmp_path / "new" / "folder")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line.split("  ")[0]).name for line in lines] == list(FILES)
    return tmp_path / "new" / "folder"


def alerts(rules: str) -> list[str]:
    return re.findall(r"- alert: (\w+)", rules)


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed"
)
def test_the_rules_pass_their_tests(folder: Path) -> None:
    for words in (
        ("check", "rules", "rules.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "rules-test.yml"),
    ):
        done = subprocess.run(
            ["promtool", *words], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_has_a_section_in_the_runbook(folder: Path) -> None:
    rules = (folder / "rules.yml").read_text()
    names = alerts(rules)
    assert len(names) == len(set(names))
    tests = (folder / "rules-test.yml").read_text()
    assert all(name in tests for name in names)
    sections = re.findall(r"^## (Fraudstream\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sections == names
    assert re.findall(r"runbook: docs/runbook.md#(\w+)", rules) == [name.lower() for name in names]


def expressions(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["expr"]] if "expr" in node else []
        return own + [each for value in node.values() for each in expressions(value)]
    return [each for value in node for each in expressions(value)] if isinstance(node, list) else []


def test_the_notifier_has_the_metrics_of_its_rules(folder: Path) -> None:
    known = set(re.findall(r"^# TYPE (\w+)", NotifierMetrics({}).text().decode(), re.MULTILINE))
    used = set(re.findall(r"\bfraudstream_notify_[a-z_]+", (folder / "rules.yml").read_text()))
    assert len(used) >= 3
    assert used <= known


def test_the_dashboard_asks_for_recorded_series_that_the_rules_make(folder: Path) -> None:
    recorded = set(re.findall(r"- record: ([\w:]+)", (folder / "rules.yml").read_text()))
    asked = set()
    for expression in expressions(json.loads((folder / "dashboard.json").read_text())):
        asked |= set(re.findall(r"fraudstream:[\w:]+", expression))
    assert asked <= recorded
    assert asked == recorded  # none that nobody looks at


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(["monitoring", "export", str(tmp_path / "file" / "below")]) != 0
    assert capsys.readouterr().err.startswith("fraudstream: ")


def test_each_alert_counts_what_a_new_series_begins_with(folder: Path) -> None:
    """`increase` alone misses what a worker has counted before it is scraped for the first time."""
    rules = (folder / "rules.yml").read_text()
    expressions_of_alerts = [
        re.sub(r"\s+", " ", one)
        for one in re.findall(r"- alert: .*?(?=for:|labels:)", rules, re.DOTALL)
    ]
    found = 0
    for expression in expressions_of_alerts:
        for series, window in re.findall(r"increase\(([^\[]+)\[(\w+)\]\)", expression):
            one = re.escape(series)
            whole = (
                rf"\( ?max_over_time\({one}\[{window}\]\) "
                rf"unless last_over_time\({one}\[\w+\] offset {window}\) ?\) or increase\({one}\["
            )
            assert re.search(whole, expression), (series, expression)
            found += 1
    assert found > 5
