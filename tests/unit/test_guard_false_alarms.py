"""What the guard's tests promise: how rarely a good change is reverted, and how few decisions show a bad one."""

import numpy as np
import pytest

from app.domain.guard_limits import LIMITS, DecisionTally, trip
from app.domain.sequential_tests import nearly_all_hit, share_exceeds
from app.lab.simulation.simulate import SimulationConfig, simulate

#: Decisions of a run, and after how many of them the next promotion follows.
DECISIONS, APART = 100_000, 5_000
#: Of micro-batches on a busy machine: the share that has to wait for it, and how much longer these take.
STALLED, STALL = 0.05, 100.0


@pytest.mark.parametrize("seed", [1, 2])
def test_none_of_20_good_promotions_is_reverted_in_100_000_decisions(seed: int) -> None:
    """Alerts are the frauds of a simulated stream, in its order: those of a card or a terminal follow each other."""
    rng = np.random.default_rng(seed)
    stream = simulate(
        SimulationConfig(cards=1_000, terminals=2_000, count=DECISIONS, days=50, start_ms=0, seed=seed)
    )  # fmt: skip
    flagged = (stream.kind > 0) | (rng.random(DECISIONS) < 0.003)
    before, now = DecisionTally(), DecisionTally()
    at, next_at, examined = 0, APART, 0
    while at < DECISIONS:
        size = min(int(rng.geometric(1 / 12)), DECISIONS - at)
        took = (60 + 5 * size) * rng.lognormal(0, 0.4)
        took *= STALL if rng.random() < STALLED else 1
        now.add(size, int(flagged[at : at + size].sum()), 0, took, LIMITS)
        at += size
        if before.scored:
            assert trip(before, now) is None, (at, now)
            examined += size
        if at >= next_at:
            before, now, next_at = before.with_(now), DecisionTally(), next_at + APART
    assert before.flagged / before.scored > 0.005  # there is something that it could count
    assert examined >= DECISIONS - 2 * APART


def test_a_share_at_its_limit_exceeds_it_no_more_often_than_stated() -> None:
    """A hundred looks at growing counts: a test for a fixed number would fail in a third of the runs."""
    rng, alpha, wrong, naive = np.random.default_rng(1), 0.05, 0, 0
    for most in (0.06, 0.5):
        for _ in range(200):
            hits = np.cumsum(rng.random(2_000) < most)[19::20]
            looks = [(int(n), 20 * place + 20) for place, n in enumerate(hits)]  # n of how many
            wrong += any(share_exceeds(n, of - n, most) >= -np.log(alpha) for n, of in looks)
            spread = [np.sqrt(of * most * (1 - most)) for _, of in looks]
            naive += any(
                n - of * most > 1.645 * one for (n, of), one in zip(looks, spread, strict=True)
            )
    assert wrong <= alpha * 400
    assert naive > 3 * alpha * 400


def test_stalls_at_their_limit_look_slow_no_more_often_than_stated() -> None:
    rng, alpha = np.random.default_rng(1), 0.05
    wrong = sum(nearly_all_hit(rng.random(20) < 0.2, 0.2) >= -np.log(alpha) for _ in range(2_000))
    assert 0 < wrong <= alpha * 2_000


@pytest.mark.parametrize(
    ("share", "most"), [(0.001, 9), (0.01, 12), (0.05, 24)], ids=["0.1%", "1%", "5%"]
)
def test_a_dozen_decisions_show_that_everything_is_flagged(share: float, most: int) -> None:
    before = DecisionTally(10_000, 10_000 * share)
    needed = next(n for n in range(1, 1_000) if trip(before, DecisionTally(n, n)) is not None)
    assert needed <= most


def test_seven_micro_batches_show_a_model_that_is_far_slower() -> None:
    before, now = DecisionTally(), DecisionTally()
    for _ in range(100):
        before.add(10, 0, 0, 200, LIMITS)
    for number in range(7):
        assert trip(before, now) is None, number
        now.add(10, 0, 0, 20_000, LIMITS)
    tripped = trip(before, now)
    assert tripped is not None
    assert tripped.cause == "slow"
