"""`fraudstream grants`: commands for administrators, and the tables in the docs."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli.grants import grants
from app.ops.role_grants import ROLES, grants_of
from app.settings import load_settings
from app.topics import Topics

pytestmark = pytest.mark.usefixtures("no_settings")


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(grants, arguments)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_tables_in_the_docs_are_the_code_s() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "access.md"
    tables = printed("--markdown").strip()
    assert tables in page.read_text(), "write them anew: fraudstream grants --markdown"


def test_commands_have_the_names_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_TOPIC_PREFIX", "bank-")
    monkeypatch.setenv("FRAUDSTREAM_KEYSPACE", "scores")
    text = printed("worker", "--user", "fw")
    assert "--allow-principal User:fw --topic bank-transactions --operation Read" in text
    assert "--group bank-fraudstream --operation Read" in text
    assert '''cqlsh -e "GRANT MODIFY ON TABLE scores.predictions TO \\"fw\\""''' in text
    assert "setup" not in text


@pytest.mark.parametrize("role", ROLES)
def test_no_role_has_more_than_it_uses(role: str) -> None:
    settings = load_settings()
    used = {one for grant in grants_of(role, settings) for one in grant.operations}  # type: ignore[arg-type]
    assert not used & {"ALL", "DELETE", "ALTER_CONFIGS"}
    assert role == "setup" or not used & {"CREATE", "ALTER"}


def test_every_topic_is_granted_to_the_worker() -> None:
    settings = load_settings()
    granted = {one.name for one in grants_of("worker", settings) if one.kind == "topic"}
    assert granted == {topic.name for topic in Topics(settings).all}
