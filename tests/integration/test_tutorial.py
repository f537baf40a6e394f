"""docs/tutorial-models.md does what it says: its commands run here, in their order, and print what it shows.

Figures in the output may differ, lines may not. A line `...` on the page stands for any lines.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.cli.command_errors import run
from app.settings import Settings
from tests.deployment import Deployment, wait_until
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[2] / "docs" / "tutorial-models.md"
#: What a test does in another way, because it shares its servers.
ELSEWHERE = ("up", "worker", "wipe --yes")
#: What may take a moment to show: it is repeated.
REPEATED = "models history"
_BLOCKS = re.compile(r"```(console|text)\n(.*?)```", re.DOTALL)
#: What differs from run to run, and what it becomes.
_VARIES = (
    (re.compile(r"\d{4}-\d\d-\d\d(T[\d:.]+Z?)?"), "TIME"),
    (re.compile(r"\b[0-9a-f]{16,64}\b"), "HASH"),
    (re.compile(r"\bby \S+?@[\w.-]+"), "by AUTHOR"),
    (re.compile(r"[+-]?\b\d[\d,.]*"), "N"),
)


def steps() -> Iterator[tuple[list[str], list[str]]]:
    """The commands of each block of the page, and the output that follows it; none: it is not shown."""
    found = [(kind, text.splitlines()) for kind, text in _BLOCKS.findall(PAGE.read_text())]
    for (kind, commands), (after, output) in zip(found, [*found[1:], ("console", [])], strict=True):
        if kind == "console":
            yield commands, output if after == "text" else []


def shape(lines: list[str]) -> list[str]:
    """Lines without what differs from run to run."""
    shaped = []
    for line in lines:
        for pattern, instead in _VARIES:
            line = pattern.sub(instead, line)  # noqa: PLW2901
        shaped.append(" ".join(line.split()))
    return shaped


def is_shown(wanted: list[str], printed: list[str]) -> bool:
    """Whether an output has the lines of the page and, except for a line `...`, no others."""
    lines = [r"(.*\n)*" if line == "..." else re.escape(line + "\n") for line in shape(wanted)]
    return re.fullmatch("".join(lines), "\n".join([*shape(printed), ""])) is not None


def test_outputs_are_compared_without_their_figures() -> None:
    wanted = ["mine@1 passes", "...", "precision  78.9%  2025-01-06T00:11  by anna@host-1: why"]
    last = "precision 8% 2026-02-01T00:12 by root@vm: why"
    assert is_shown(wanted, ["mine@2 passes", last])
    assert is_shown(wanted, ["mine@2 passes", "more", "lines", last])
    assert not is_shown(wanted, ["mine@2 fails", last])
    assert not is_shown(wanted, ["mine@2 passes", last, "more"])


def test_the_tutorial_of_models_does_what_it_says(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = settings.model_copy(update={"features": ("basic", "engineered")})
    deployment = Deployment(settings)
    deployment.prepare()
    monkeypatch.chdir(tmp_path)
    environ = environ_of(settings)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    skipped = []

    def printed_by(words: list[str]) -> list[str]:
        code = run(words)
        shown = capsys.readouterr()
        assert code == 0, (words, shown)
        return shown.out.replace(settings.topic_prefix, "").splitlines()

    with Fleet(environ, tmp_path / "fleet") as fleet:
        fleet.start("a")
        fleet.await_ready()
        for commands, wanted in steps():
            printed: list[str] = []
            for command in commands:
                program, *words = shlex.split(command)
                if program == "export":
                    assert dict(word.split("=", 1) for word in words).items() <= environ.items()
                    continue
                assert program == "fraudstream"
                if " ".join(words) in ELSEWHERE:
                    skipped.append(" ".join(words))
                elif words == ["verify"] and not (wanted and commands == [command]):
                    deployment.drain()  # it only waits here, and the page does not show its output
                elif command == commands[-1] and " ".join(words) == REPEATED:
                    before = printed
                    wait_until(
                        lambda: is_shown(wanted, [*before, *printed_by(words)]),  # noqa: B023
                        f"what the page shows for {commands}",
                    )
                    printed = wanted
                else:
                    printed += printed_by(words)
            assert is_shown(wanted or ["..."], printed), (commands, printed)
        assert fleet.restarts == fleet.failures == []
    assert skipped == list(ELSEWHERE)
