"""The simulation can fail: each of these breaks of one line is found within a few hundred schedules."""

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from app.domain.window_row import RowRules
from tests.stream.sim_checks import play
from tests.stream.sim_world import LATENESS, SKEW, WINDOWS

#: No break may take longer to be found.
MAX_SCHEDULES = 300


@dataclass(frozen=True)
class Break:
    """One way to get it wrong.

    Attributes:
        name: what is broken.
        module: where.
        changes: text and what replaces it; each text stands exactly once in the module.
        takes: names that other modules have imported from it: (module, name).
        schedules: changes to the schedules that bring the case about more often.
    """

    name: str
    module: str
    changes: tuple[tuple[str, str], ...]
    takes: tuple[tuple[str, str], ...]
    schedules: dict[str, Any] = field(default_factory=dict)


PARTITION = (("app.blocks.pipeline", "Partition"),)
SCORING = (("app.handlers.scoring", "ScoringHandler"),)
CARDS = (("app.handlers.cards", "CardsHandler"),)

BREAKS = (
    Break(
        "changelog before outputs",
        "app.blocks.partition",
        (
            ("            await step.durable  # (2)\n", ""),
            (
                "            self._finish(steps)\n",
                "            await step.durable\n            self._finish(steps)\n",
            ),
        ),
        PARTITION,
    ),
    Break(
        "acknowledged before stored",
        "app.blocks.partition",
        (
            (
                "            steps = self._durable_steps()\n",
                "            steps = self._durable_steps()\n"
                "            for step in steps:\n                self._ports.finish(step.block)\n",
            ),
            ("            self._ports.finish(step.block)  # (5)\n", ""),
        ),
        PARTITION,
        {"rates": {"crash": 6, "commit": 100, "rebalance": 0, "refuse": 0}},
    ),
    Break(
        "overlay kept on revocation",
        "app.blocks.partition",
        (
            (
                "        self._overlay.clear()\n",
                "        ports = vars(self._ports)\n"
                "        ports.setdefault('kept', {})[self.number] = dict(self._overlay)\n",
            ),
            (
                "        self._overlay: dict[bytes, tuple[int, bytes | None]] = {}\n",
                "        self._overlay = vars(ports).get('kept', {}).get(number, {})\n",
            ),
        ),
        PARTITION,
        {"rates": {"rebalance": 6, "crash": 0}},
    ),
    Break(
        "persisted changelog offset off by one",
        "app.blocks.partition",
        (("base + len(chunk) - 1)  # (4)", "base + len(chunk))"),),
        PARTITION,
    ),
    Break(
        "no contiguity check after a seek",
        "app.blocks.partition",
        (("if block.first > self.next_offset:", "if False:"),),
        PARTITION,
    ),
    Break(
        "no fence against a zombie",
        "app.blocks.partition",
        (("if base != self.changelog_next:", "if False:"),),
        PARTITION,
        {
            "workers": 2,
            "partitions": 1,
            "records": 60,
            "lose": 0,
            "rates": {
                "freeze": 10,
                "thaw": 5,
                "notice": 20,
                "crash": 0,
                "rebalance": 0,
                "refuse": 0,
                "produce": 100,
                "commit": 20,
            },
        },
    ),
    Break(
        "gate left out",
        "app.handlers.cards",
        (("        stretch = Stretch(until_ms)\n", "        stretch = Stretch(math.inf)\n"),),
        CARDS,
        {"skew_ms": SKEW, "partitions": 3},
    ),
    Break(
        "a partition counts as far as it has computed",
        "app.blocks.partition",
        (
            (
                "return self._steps[0].computed.first_ms",
                "return self._steps[-1].computed.newest_ms",
            ),
        ),
        PARTITION,
        {"skew_ms": SKEW, "partitions": 3, "records": 60, "depth": 4},
    ),
    Break(
        "replay counted as new in the second stage",
        "app.handlers.scoring",
        (("if item.offset <= seen:  # the first", "if False:  # the first"),),
        SCORING,
    ),
    Break(
        "replayed label counted as new",
        "app.handlers.scoring",
        (("if item.offset <= seen:\n", "if False:\n"),),
        SCORING,
        {"labels": 1},
    ),
    Break(
        "late record does not advance last_offset",
        "app.handlers.cards",
        (
            (
                "            outcome = self._stage.apply(transaction, row, partition)\n",
                "            outcome = self._stage.apply(transaction, row, partition)\n"
                "            if 'late' in getattr(outcome, 'flags', ()):\n"
                "                row.last_offset = record.offset - 1\n",
            ),
        ),
        CARDS,
    ),
    Break(
        "replayed record applied again",
        "app.handlers.cards",
        (
            (
                "            if not rows.advance(row, record.offset):\n",
                "            rows.advance(row, record.offset)\n            if False:\n",
            ),
        ),
        CARDS,
    ),
    Break(
        "lower offset wins in recovery",
        "app.blocks.rows",
        (("current is None or row_offset(candidate)", "True or row_offset(candidate)"),),
        (("app.blocks.table", "supersedes"),),
        {
            "workers": 2,
            "partitions": 1,
            "records": 30,
            "lose": 0,
            "rates": {
                "crash": 10,
                "late": 2,
                "restart": 100,
                "notice": 100,
                "freeze": 0,
                "rebalance": 0,
                "refuse": 0,
                "produce": 100,
                "commit": 20,
                "acknowledge": 10,
            },
        },
    ),
    Break(
        "position before the rows",
        "app.handlers.scoring",
        (
            (
                "[*rows.groups(), [position.encode()]]",
                "[[position.encode()], *rows.groups()]",
            ),
        ),
        SCORING,
        {
            "block_records": 20,
            "row_batch_bytes": 600,
            "rules": RowRules(WINDOWS[-1] + LATENESS, 3, 0, 4),
            "records": 60,
            "pack_bytes": 1,
            "crash_after_store": 0.1,
            "rates": {"crash": 0, "restart": 50, "produce": 100, "rebalance": 0, "freeze": 0},
        },
    ),
    Break(
        "second batch handed over before the first is known",
        "app.blocks.batches",
        (("if self._known_until.get(destination, -math.inf) < time():", "if False:"),),
        (("app.blocks.pipeline", "OutputSender"),),
        {
            "depth": 4,
            "block_records": 3,
            "rates": {"refuse": 20, "crash": 0, "produce": 100, "rebalance": 0, "freeze": 0},
        },
    ),
    Break(
        "rows logged behind some that are not",
        "app.blocks.table",
        (("            self._database(partition).flush()\n", ""),),
        (("app.blocks.table", "BlockTable"),),
        {"rates": {"crash": 6, "produce": 100, "refuse": 0}},
    ),
    Break(
        "replay scored by the present model",
        "app.handlers.rows",
        (
            (
                "self.pins.append((log_end if self.pins else 0, model_hash))",
                "self.pins = [(0, model_hash)]",
            ),
        ),
        (("app.handlers.start", "Pins"),),
        {"model_names": ("ada", "bea"), "rates": {"crash": 6}},
    ),
)


def broken(module: str, changes: tuple[tuple[str, str], ...]) -> ModuleType:
    """A module with some of its text replaced."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text()
    for old, new in changes:
        assert source.count(old) == 1, (
            f"{module} has changed: {old!r} stands there {source.count(old)} times"
        )
        source = source.replace(old, new)
    mutant = ModuleType(module)
    mutant.__file__ = spec.origin
    exec(compile(source, spec.origin, "exec"), vars(mutant))
    return mutant


@pytest.mark.parametrize("wrong", BREAKS, ids=lambda wrong: wrong.name)
def test_break_is_found(wrong: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    original = sys.modules[wrong.module]
    with monkeypatch.context() as patch:
        # dataclasses look their module up by name while a class is made
        patch.setitem(sys.modules, wrong.module, original)
        mutant = broken(wrong.module, wrong.changes)
    with monkeypatch.context() as patch:
        for module, name in wrong.takes:
            patch.setattr(sys.modules[module], name, getattr(mutant, name))
        found = next((s for s in range(MAX_SCHEDULES) if play(s, **wrong.schedules)[1]), None)
    assert found is not None, f"{MAX_SCHEDULES} schedules did not find: {wrong.name}"
    assert not play(found, **wrong.schedules)[1], "the schedule fails without the break, too"
