"""Labels that wait for their transactions, whatever happens to workers: see sim_labels.py."""

import sys
from collections import Counter

import pytest

from tests.seed import SEED
from tests.seeded_faults import LABEL_BREAKS, Break
from tests.stream.sim_labels import copies, play

BASE = SEED * 1_000_000
SCHEDULES, AT_ONCE = 320, 16
#: No break may take longer to be found.
MAX_SCHEDULES = 300

#: What the schedules went through, all together.
seen: Counter[str] = Counter()


@pytest.mark.parametrize("first", range(0, SCHEDULES, AT_ONCE))
def test_every_label_is_in_one_place(first: int) -> None:
    for seed in range(BASE + first, BASE + first + AT_ONCE):
        world, problems = play(seed)
        seen.update(world.seen)
        seen["copies"] += copies(world)
        assert not problems, f"seed {seed}: {len(problems)} problems:\n" + "\n".join(problems[:5])


def test_schedules_were_hard_enough() -> None:
    """Runs after the schedules above."""
    if not seen:
        pytest.skip("no schedule was played before")
    for what in ("crash", "rebalance", "copies", "wiped"):
        assert seen[what] > 100, (what, seen)


@pytest.mark.parametrize("wrong", LABEL_BREAKS, ids=lambda wrong: wrong.name)
def test_break_is_found(wrong: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    original = sys.modules[wrong.module]
    with monkeypatch.context() as patch:
        # dataclasses look their module up by name while a class is made
        patch.setitem(sys.modules, wrong.module, original)
        mutant = wrong.mutant()
    with monkeypatch.context() as patch:
        for module, name in wrong.takes:
            patch.setattr(sys.modules[module], name, getattr(mutant, name))
        found = next((s for s in range(MAX_SCHEDULES) if play(s)[1]), None)
    assert found is not None, f"{MAX_SCHEDULES} schedules did not find: {wrong.name}"
    assert not play(found)[1], "the schedule fails without the break, too"
