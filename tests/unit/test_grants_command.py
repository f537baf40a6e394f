"""`fraudstream grants`: commands for administrators, and the tables in the docs."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from app.cassandra.prediction_rows import tables_of
from app.cli import cli
from app.cli.grants import grants
from app.ops.role_grants import DUTIES, ROLES, WITHOUT_ROLE, Role, grants_of, table_grants_of
from app.settings import Settings, load_settings
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
    topic = next(line for line in text.splitlines() if "--topic bank-transactions " in line)
    assert topic.startswith("kafka-acls.sh --bootstrap-server BROKER --command-config admin.prop")
    assert " --allow-principal User:fw --topic bank-transactions --topic bank-labels " in topic
    assert topic.endswith(
        "--operation Read --operation Write --operation Describe --operation DescribeConfigs"
    )
    assert " --group bank-fraudstream --operation Read\n" in text
    assert 'GRANT MODIFY ON TABLE scores.predictions TO "fw";' in text
    assert "setup" not in text
    monkeypatch.setenv("FRAUDSTREAM_BROKER", "kafka:9093")
    assert "--bootstrap-server kafka:9093 " in printed("worker")
    assert " --group bank-fraudstream-notify- --resource-pattern-type prefixed " in printed(
        "notifier"
    )


#: What only these roles may do.
RARE: dict[str, set[Role]] = {
    "CREATE": {"setup", "replayer", "repartitioner"},
    "ALTER": {"setup", "repartitioner"},
    "DELETE": {"replayer", "repartitioner"},
}


@pytest.mark.parametrize("role", ROLES)
def test_no_role_has_more_than_it_uses(role: Role) -> None:
    settings = load_settings()
    used = {one for grant in grants_of(role, settings) for one in grant.operations}
    assert used <= {"READ", "WRITE", "DESCRIBE", "DESCRIBE_CONFIGS", *RARE}
    assert {one for one, roles in RARE.items() if role in roles} == used & RARE.keys()
    for grant in grants_of(role, settings):
        assert "DELETE" not in grant.operations or "transactions" not in grant.name


def leaves(command: click.Command, *words: str) -> Iterator[str]:
    """All commands without commands of their own."""
    if not isinstance(command, click.Group):
        yield " ".join(words)
        return
    for name in command.list_commands(click.Context(command)):
        found = command.get_command(click.Context(command), name)
        assert found is not None
        yield from leaves(found, *words, name)


def test_every_command_belongs_to_a_role() -> None:
    named = {one for duty in DUTIES.values() for one in duty.commands}
    without = {line for line in leaves(cli) if line.split()[0] in WITHOUT_ROLE}
    owned = {line for line in leaves(cli) if any(f"{line} ".startswith(f"{one} ") for one in named)}
    assert owned | without == set(leaves(cli))
    assert not owned & without
    for one in named:
        assert any(f"{line} ".startswith(f"{one} ") for line in owned), f"{one} is no command"


def test_the_roles_are_named_by_the_help_page() -> None:
    page = CliRunner().invoke(grants, ["--help"]).output
    assert [role for role in ROLES if role not in page] == []


def test_every_topic_is_granted_to_the_worker() -> None:
    settings = load_settings()
    granted = {one.name for one in grants_of("worker", settings) if one.kind == "topic"}
    assert granted == {topic.name for topic in Topics(settings).all}


@pytest.mark.parametrize("role", ["replayer", "auditor"])
def test_who_compares_all_that_was_scored_may_read_it(role: Role) -> None:
    """`replay` and `verify` read these tables in `scan_scored`."""
    settings = load_settings()
    may = {one.resource for one in table_grants_of(role, settings) if "SELECT" in one.permissions}
    scored = {f"TABLE {settings.keyspace}.{table.name}" for table in tables_of(settings)}
    assert scored <= may


def test_a_new_number_of_partitions_has_other_topics() -> None:
    """The grants that are printed before it suffice for the change itself and for what `--finish` deletes."""
    before, after = load_settings(), load_settings({"generation": 2})

    def of(role: Role, settings: Settings) -> dict[str, tuple[str, ...]]:
        return {one.name: one.operations for one in grants_of(role, settings)}

    assert "CREATE" in of("repartitioner", before)["fraudstream-g2-enriched"]
    old, new = of("repartitioner", before), of("repartitioner", after)
    assert "DELETE" in old["fraudstream-cards-changelog"]
    assert "DELETE" not in old["fraudstream-enriched"]
    assert "DELETE" in new["fraudstream-cards-changelog"]
    assert "READ" in old["fraudstream-g2-labels-changelog"]
    assert "READ" in of("auditor", after)["fraudstream-enriched"]
    assert "READ" in of("repairer", after)["fraudstream-enriched"]
    assert "fraudstream-enriched" not in of("worker", after)
