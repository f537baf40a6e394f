"""More transactions at one terminal within ten minutes than its state keeps, with honest cards among them."""

from typing import Any

import orjson

from app.stages.block_rows import terminal_rules
from app.windows.window_row import WindowRow
from tests.builders import tx_bytes
from tests.verify_world import VerifyWorld

CAP, FLOOD = 50, 400
MINUTE = 60_000


def flooded() -> VerifyWorld:
    """Stolen cards flood terminal `t`; every tenth transaction there is an honest card's, which also pays elsewhere."""
    world = VerifyWorld(partitions=1, max_entries_per_key=CAP)
    for number in range(FLOOD):
        at = -60 * MINUTE + number * 10 * MINUTE // FLOOD
        honest = number % 10 == 0
        card = f"honest{number % 3}" if honest else f"stolen{number}"
        world.send(tx_bytes(number, card=card, terminal="t", at=at), card.encode())
        if honest:
            world.send(tx_bytes(f"n{number}", card=card, terminal="n", at=at + 1), card.encode())
    world.run()
    return world


def predictions(world: VerifyWorld, terminal: str) -> list[dict[str, Any]]:
    every = [orjson.loads(r.value or b"") for r in world.log(world.topics.predictions)]
    found = [one for one in every if one["terminal_id"] == terminal]
    return sorted(found, key=lambda one: one["event_time_ms"])


def test_all_are_scored_and_what_is_missing_is_flagged() -> None:
    world = flooded()
    assert world.verify().passed
    there = predictions(world, "t")
    assert len(there) == FLOOD
    for number, one in enumerate(there):
        count, flags = one["features"]["terminal_count_1h"], one["flags"]
        assert count == min(number, CAP) + 1
        assert ("inexact:terminal_1h" in flags) == (number > CAP)
        assert not any(flag.startswith("inexact:card") for flag in flags)  # cards are not affected


def test_neighbours_do_not_feel_it() -> None:
    world = flooded()
    for one in predictions(world, "n"):
        assert not any(flag.startswith("inexact:") for flag in one["flags"])
    assert predictions(world, "n")[-1]["features"]["terminal_count_1h"] == FLOOD / 10


def test_the_state_of_the_terminal_is_bounded() -> None:
    world = flooded()
    rules = terminal_rules(world.settings)
    state = world.states[world.topics.enriched.name, world.home(b"t")]
    row = WindowRow.read(b"t", rules, state.get)
    assert row.count == CAP
    stored = sum(len(raw) for key, raw in state.rows.items() if key[1:].startswith(b"t"))
    assert stored <= CAP * rules.entry_bytes + 1_000
