"""Groups whose default subcommand is `list`: it takes options, and never swallows a misspelt name."""

import pytest
from click.testing import CliRunner

from app.cli import COMMANDS, cli
from app.cli.options import ListByDefault

GROUPS = [
    name
    for name in COMMANDS
    if isinstance(cli.get_command(cli.make_context("fraudstream", ["x"]), name), ListByDefault)
]


def answer(*arguments: str) -> tuple[int, str]:
    made = CliRunner().invoke(cli, arguments)
    return made.exit_code, made.output


def test_there_are_such_groups() -> None:
    assert {"deadletters", "lists", "models", "rules"} <= set(GROUPS)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("more", [(), ("--help",), ("--json",)])
def test_a_name_that_is_none_is_refused(group: str, more: tuple[str, ...]) -> None:
    code, text = answer(group, "resend", *more)
    assert code == 2
    assert "No such command 'resend'" in text


@pytest.mark.parametrize("group", GROUPS)
def test_options_alone_are_those_of_the_list(group: str) -> None:
    code, text = answer(group, "--no-such-option")
    assert code == 2
    assert f"{group} list" in text


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_alone_is_that_of_the_group(group: str, option: str) -> None:
    code, text = answer(group, option)
    assert code == 0
    assert "Commands:" in text
