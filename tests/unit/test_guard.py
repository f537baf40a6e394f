"""The guard: its rule, what it counts, what it proposes, and what becomes of rows without a score."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.blocks.core.partition import Computed
from app.cli import model_changes
from app.domain.changes import ChallengerChange, LoadChange, ModelChange, ThresholdChange
from app.domain.changes_in_force import EarlierModel, InForce, RevertibleChange
from app.domain.guard_limits import LIMITS, DecisionTally, trip
from app.errors import StateError, UsageError
from app.kafka.change_history import ChangeHistory, LoggedChange
from app.stages.all_or_nothing import computed_or_needed
from app.stages.challenger_scores import CanaryDecision
from app.stages.guard_counts import TalliesByChange
from app.stages.guard_proposals import Guard
from app.stages.model_fallbacks import Champion
from app.stages.reserved_rows import in_force_row, read_in_force
from app.stages.scoring_models import (
    FallbackModel,
    FallbackNeededError,
    ModelNeeded,
    ScoringModels,
    TallyKey,
    UnloadableModel,
)
from models.model_loader import Model
from tests.builders import tx_bytes
from tests.unit import test_challenger_scores
from tests.unit.test_challenger_scores import (
    Holder,
    Make,
    feed,
    found,
    models,
    tamper,
    whats,
)
from tests.verify_world import VerifyWorld

__all__ = ["models"]  # a fixture

BEFORE = EarlierModel("a" * 64, 0.4)
SINCE = RevertibleChange(0, 7, 1_000_000, BEFORE)
#: What decided before that, and since.
PAST, EPOCH = TallyKey(*("a" * 64, 0.4)), TallyKey("b" * 64, None, SINCE)
counts = st.integers(0, 50_000)


def tally(scored: int, flagged: int, unscored: int = 0, microseconds: float = 10) -> DecisionTally:
    """In micro-batches of ten."""
    made = DecisionTally()
    for _ in range(scored // 10):
        made.add(10, 0, 0, microseconds * 10, LIMITS)
    made.flagged, made.unscored = flagged, unscored
    return made


def cause(before: DecisionTally, now: DecisionTally) -> str | None:
    tripped = trip(before, now)
    return None if tripped is None else tripped.cause


class TestRule:
    """```text
    before: 10,000 transactions, 100 of them flagged (1 %), 10 us each
    ```"""

    BEFORE = tally(10_000, 100)

    @pytest.mark.parametrize(
        ("now", "what"),
        [
            (tally(0, 0), None),
            (tally(1_000, 10), None),
            (tally(1_000, 30), None),  # a worse hour
            (tally(10, 10), None),  # too few to tell: fraud of one card, perhaps
            (tally(20, 20), "more_alerts"),  # threshold 0
            (tally(100, 20), None),
            (tally(100, 60), "more_alerts"),  # inverted scores
            (tally(10_000, 700), None),
            (tally(10_000, 900), "more_alerts"),
            (tally(10_000, 0), None),
            (tally(30_000, 0), "fewer_alerts"),  # every score is 0
            (tally(1_000, 10, unscored=1), "unscored"),
            (tally(1_000, 10, microseconds=100), None),  # ten times slower, and still quick
            (tally(1_000, 10, microseconds=300), "slow"),
            (tally(60, 1, microseconds=300), None),  # six micro-batches say little
            (tally(70, 1, microseconds=300), "slow"),  # each takes more than ten times as long
        ],
    )
    def test_of_a_usual_stream(self, now: DecisionTally, what: str | None) -> None:
        assert cause(self.BEFORE, now) == what

    def test_it_says_why(self) -> None:
        for now, text in (
            (
                tally(100, 60),
                "60 of 100 transactions are flagged (60 %); before the change, 1 % were",
            ),
            (tally(1_000, 9, unscored=3), "no score between 0 and 1 for 3 of 1,000 transactions"),
            (
                tally(1_000, 9, microseconds=300),
                "scoring takes 300 us per transaction, 100 us are allowed; before 10 us",
            ),
        ):
            tripped = trip(self.BEFORE, now)
            assert tripped is not None
            assert tripped.reason == text

    def test_a_model_that_was_as_slow_before_is_not_too_slow(self) -> None:
        slow = tally(1_000, 10, microseconds=300)
        assert cause(slow, tally(1_000, 10, microseconds=400)) is None
        assert cause(slow, tally(100, 1, microseconds=700)) is None  # so few say little
        assert cause(slow, tally(1_000, 10, microseconds=700)) == "slow"

    def test_smaller_micro_batches_are_not_slow(self) -> None:
        """A batch takes 3 ms and 5 us per transaction, before and after; the traffic is less."""

        def batches(*sizes: int, of: float = 3_000) -> DecisionTally:
            made = DecisionTally()
            for size in sizes * 30:
                made.add(size, 0, 0, of + 5 * size, LIMITS)
            return made

        assert cause(batches(100), batches(1)) is None
        assert cause(batches(100), batches(1, 100)) is None
        assert cause(batches(100, 1), batches(1)) is None
        assert cause(batches(100, 1), batches(1, of=9_000)) == "slow"
        # larger ones, because a slow model falls behind
        assert cause(batches(1), batches(100, of=700_000)) == "slow"
        # of a size of which nothing is known
        assert cause(batches(100), batches(1, of=9_000)) == "slow"

    def test_a_few_stalls_are_not_slow(self) -> None:
        now = tally(1_000, 10)
        for _ in range(50):
            now.add(10, 0, 0, 100_000, LIMITS)
        assert cause(self.BEFORE, now) is None

    def test_the_threshold_is_judged_by_alerts_only(self) -> None:
        for now in (tally(1_000, 10, unscored=9), tally(1_000, 10, microseconds=300)):
            assert trip(self.BEFORE, now, same_model=True) is None
        assert trip(self.BEFORE, tally(30, 30), same_model=True) is not None

    @pytest.mark.parametrize(
        ("before", "now", "unscored", "taken"),
        [
            (1, 10_000, 1, False),  # one of 10,000, as before
            (1, 100_000, 24, False),
            (1, 100_000, 50, True),
            (5_000, 1_000_000, 1, False),  # repaired
            (0, 100_000, 1, True),
        ],
    )
    def test_rows_without_a_score_are_compared_with_those_before(
        self, before: int, now: int, unscored: int, taken: bool
    ) -> None:
        was, is_ = DecisionTally(10_000, 100, before), DecisionTally(now, now / 100, unscored)
        assert cause(was, is_) == ("unscored" if taken else None)

    def test_without_a_past_one_in_a_hundred(self) -> None:
        assert cause(DecisionTally(), DecisionTally(1_000, 10, 10)) is None
        assert cause(DecisionTally(), DecisionTally(1_000, 10, 11)) == "unscored"

    def test_without_a_past_only_what_no_model_does(self) -> None:
        assert cause(DecisionTally(), tally(1_000, 500)) is None
        assert cause(DecisionTally(), tally(1_000, 550)) is None
        assert cause(DecisionTally(), tally(1_000, 650)) == "more_alerts"
        assert cause(DecisionTally(), tally(1_000, 0, microseconds=900)) is None
        assert cause(DecisionTally(), tally(1_000, 0, microseconds=1_100)) == "slow"

    @given(st.integers(500, 50_000), counts)
    def test_the_same_share_of_alerts_is_never_taken_back(self, scored: int, flagged: int) -> None:
        one = tally(scored, min(flagged, scored // 10 * 10))
        assert cause(one, one) is None

    @given(counts, st.floats(0, 0.2), counts)
    def test_flagging_all_is_always_taken_back(self, before: int, share: float, now: int) -> None:
        taken = cause(tally(before, int(before // 10 * 10 * share)), tally(now, now // 10 * 10))
        assert taken == ("more_alerts" if now >= 200 else taken)

    @given(counts, counts, st.integers(0, 5_000), st.integers(0, 5_000))
    def test_more_alerts_are_no_better(self, before: int, now: int, few: int, more: int) -> None:
        """What is taken back for too many alerts would be with even more."""
        assume(few + more <= now // 10 * 10)
        was = tally(before, before // 100)
        if cause(was, tally(now, few)) == "more_alerts":
            assert cause(was, tally(now, few + more)) == "more_alerts"

    @given(st.lists(st.tuples(st.integers(1, 50_000), st.floats(0, 1)), max_size=300))
    def test_what_is_long_ago_fades(self, blocks: list[tuple[int, float]]) -> None:
        made = DecisionTally()
        for scored, share in blocks:
            made.add(scored, int(scored * share), 0, 1, LIMITS)
            made.fade()
        assert made.scored <= 1_000_000
        assert 0 <= made.flagged <= made.scored


class Scores:
    """A model whose scores are the rows' first feature; it raises for a second one of 1, and has NaN for 2."""

    threshold = 0.5
    anomaly_threshold = None

    def __init__(self, name: str, *, fine: bool = False) -> None:
        self.hash, self.version, self._fine = name, f"{name}@1", fine

    def score(self, rows: np.ndarray) -> np.ndarray:
        if not self._fine and (rows[:, 1] == 1).any():
            msg = "a row that it does not like"
            raise ValueError(msg)
        return np.where((rows[:, 1] == 2) & (not self._fine), np.nan, rows[:, 0])

    def reasons(self, rows: np.ndarray) -> list[list[str]]:
        if (rows[:, 1] == 3).any():
            raise ArithmeticError
        return [["because"] for _ in rows]

    def anomalies(self, rows: np.ndarray) -> np.ndarray:
        if (rows[:, 1] == 3).any():
            raise ArithmeticError
        return rows[:, 0] / 2


def earlier(model: Any, threshold: float | None) -> FallbackModel:
    return FallbackModel(EarlierModel(model.hash, threshold), model)


def judges(*, fallback: bool = True) -> ScoringModels:
    before = (earlier(Scores("old", fine=True), 0.3),) if fallback else ()
    return ScoringModels(Scores("new"), 0.5, (), before, EPOCH)  # type: ignore[arg-type]


ROWS = np.array([(0.9, 0), (0.8, 1), (0.2, 0), (0.4, 2), (0.7, 3)], np.float64)


class TestChampion:
    def test_a_row_without_a_score_is_decided_by_the_model_before(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING, "fraudstream")
        tallies = TalliesByChange()
        champion = Champion(0.5, tallies)
        for _ in range(2):
            scores = champion.scores(judges(), ROWS)
            assert scores == [0.9, None, 0.2, None, 0.7]
        decided = champion.fall_back(judges(), [1, 3], {}, lambda _: ROWS)
        assert {n: (one.model.version, one.score, one.threshold) for n, one in decided.items()} == {
            1: ("old@1", 0.8, 0.3), 3: ("old@1", 0.4, 0.3),
        }  # fmt: skip
        assert [one.reasons for one in decided.values()] == [["because"], []]
        assert [r.message.count("new@1 gives no score") for r in caplog.records] == [1]
        now = tallies.of(InForce(0, "b" * 64, watched=(SINCE,)), SINCE)[1]
        # what the model before called fraud counts, too
        assert (now.scored, now.flagged, now.unscored, now.times[3].batches) == (10, 6, 4, 2)
        assert champion.failures == 4

    def test_without_reasons_or_an_anomaly_score_it_decides_all_the_same(self) -> None:
        champion = Champion(0.5, TalliesByChange())
        rows = ROWS[[0, 4]]
        assert champion.anomalies(judges().model, rows) == [0.45, None]
        assert champion.reasons(judges().model, rows) == [["because"], []]

    def test_no_model_gives_a_score(self) -> None:
        champion = Champion(0.5, TalliesByChange())
        with pytest.raises(
            StateError, match=r"no model returns a score .* \(new@1\): start with another"
        ):
            champion.fall_back(judges(fallback=False), [1], {}, lambda _: ROWS)
        bad = judges()._replace(fallbacks=(earlier(Scores("old"), 0.3),))
        with pytest.raises(StateError, match=r"\(new@1, old@1\): start with another"):
            champion.fall_back(bad, [1], {}, lambda _: ROWS)

    def test_no_model_gives_a_score_because_one_cannot_be_loaded(self) -> None:
        refused = UnloadableModel("f" * 64, "it is a pickle: convert it")
        bad = judges()._replace(fallbacks=(earlier(refused, None),))
        says = r"\(new@1; f{16} cannot be loaded: it is a pickle: convert it\): fix that and restart the worker, or"
        with pytest.raises(StateError, match=says):
            Champion(0.5, TalliesByChange()).fall_back(bad, [1], {}, lambda _: ROWS)

    def test_an_earlier_model_is_waited_for_where_a_row_needs_it(self) -> None:
        champion, older = Champion(0.5, TalliesByChange()), Scores("older", fine=True)
        away = judges()._replace(
            fallbacks=(
                earlier(Scores("old", fine=True), 0.3),
                FallbackModel(EarlierModel("f" * 64), None),
            )
        )
        assert champion.fall_back(away, [], {}, lambda _: ROWS) == {}
        assert set(champion.fall_back(away, [1, 3], {}, lambda _: ROWS)) == {1, 3}
        away = away._replace(
            fallbacks=(FallbackModel(EarlierModel("f" * 64), None), earlier(older, 0.3))
        )
        canary = CanaryDecision(Scores("canary"), 0.1, 0.2, None, [])  # type: ignore[arg-type]
        assert champion.fall_back(away, [1], {1: canary}, lambda _: ROWS) == {}
        with pytest.raises(FallbackNeededError) as error:
            champion.fall_back(away, [1, 3], {1: canary}, lambda _: ROWS)
        assert error.value.needed == ModelNeeded("f" * 64, challenger=True)

    def test_what_needs_an_earlier_model_is_counted_once(self) -> None:
        champion, counts = Champion(0.5, TalliesByChange()), Counter(scored=7)
        state = SimpleNamespace(memo={"rows": "changed in place", "policy": "kept"})

        def compute(needs: bool) -> Computed:
            champion.scores(judges(), ROWS)
            counts["scored"] += 5
            if needs:
                raise FallbackNeededError("f" * 64)
            return Computed()

        def computed(needs: bool) -> Computed:
            return computed_or_needed(
                lambda: compute(needs),
                state,
                champion.tallies,
                (counts,),  # type: ignore[arg-type]
            )

        needed = computed(needs=True)
        assert (needed.taken, str(needed.needs), needed.groups) == (0, f"model {'f' * 16}", [])
        assert (counts, state.memo) == (Counter(scored=7), {"policy": "kept"})
        assert computed(needs=False).taken is None
        assert (counts["scored"], champion.failures) == (12, 2)
        now = champion.tallies.of(InForce(0, "b" * 64, watched=(SINCE,)), SINCE)[1]
        assert (now.scored, now.unscored) == (5, 2)

    def test_earlier_models_are_asked_in_turn(self) -> None:
        champion = Champion(0.5, TalliesByChange())
        scores = champion.scores(judges(), ROWS)
        assert scores[1] is scores[3] is None
        chain = (Scores("middle"), 0.1), (Scores("old", fine=True), 0.3), (Scores("older"), 0.2)
        several = judges()._replace(fallbacks=tuple(earlier(*one) for one in chain))
        rows = ROWS.copy()
        rows[3, 1] = 0  # one that the second has a score for
        decided = champion.fall_back(several, [1, 3], {}, lambda _: rows)
        assert {n: (one.model.version, one.threshold) for n, one in decided.items()} == {
            1: ("old@1", 0.3), 3: ("middle@1", 0.1),
        }  # fmt: skip

    def test_what_the_canary_decides_needs_no_earlier_model(self) -> None:
        tallies = TalliesByChange()
        champion = Champion(0.5, tallies)
        champion.scores(judges(fallback=False), ROWS)
        canary = CanaryDecision(Scores("canary"), 0.1, 0.2, None, [])  # type: ignore[arg-type]
        decided = {1: canary, 3: canary._replace(threshold=0.9)}
        assert not champion.fall_back(judges(fallback=False), [1, 3], decided, lambda _: ROWS)
        assert tallies.of(InForce(0, "b" * 64, watched=(SINCE,)), SINCE)[1].flagged == 3

    def test_a_machine_without_memory_does_not_decide(self) -> None:
        """Another worker would have a score."""

        class Greedy(Scores):
            def score(self, rows: np.ndarray) -> np.ndarray:
                raise MemoryError

        with pytest.raises(MemoryError):
            Champion(0.5, TalliesByChange()).scores(ScoringModels(Greedy("new"), 0.5), ROWS)  # type: ignore[arg-type]


class TestInForce:
    A, B, C = "a" * 64, "b" * 64, "c" * 64

    def begun(self, *changes: Any) -> InForce:
        start = ModelChange(model="a@1", hash=self.A, threshold=0.4, how="start")
        in_force = InForce()
        for offset, change in enumerate((start, *changes)):
            in_force = in_force.after(change, 0, offset, 10 * offset)
        return in_force

    def to(self, model: str, **others: Any) -> ModelChange:
        return ModelChange(model=f"{model[0]}@1", hash=model, **others)

    def back(self, model: str, reverts: int | None = None, **others: Any) -> ModelChange:
        return self.to(model, how="rollback", reverts=reverts, **others)

    def chain(self, in_force: InForce) -> str:
        return in_force.model[0] + "".join(one.hash[0] for one in in_force.fallbacks)

    def test_what_decided_before_is_known(self) -> None:
        before = EarlierModel(self.A, 0.4)
        assert (self.begun().fallbacks, self.begun().since) == ((), None)
        promoted = self.begun(self.to(self.B))
        assert promoted.fallbacks == (before,)
        assert promoted.since == promoted.promoted == RevertibleChange(0, 1, 10, before)
        assert read_in_force(in_force_row(promoted, 5)[1]) == promoted
        again = promoted.after(ThresholdChange(threshold=0.1), 0, 2, 20)
        assert again.fallbacks == (before,)
        assert again.since == RevertibleChange(0, 2, 20, EarlierModel(self.B, None), (before,))
        assert again.promoted == promoted.since
        assert read_in_force(in_force_row(again, 5)[1]) == again
        loads = again.after(LoadChange(model="c@1", hash="c"), 0, 3)
        assert (loads.fallbacks, loads.watched) == (again.fallbacks, again.watched)

    def test_three_earlier_models_are_kept_each_once(self) -> None:
        assert self.chain(self.begun(self.to(self.B), self.to(self.C))) == "cba"
        again = self.begun(self.to(self.B), self.to(self.C), self.to(self.B))
        assert self.chain(again) == "bca"
        assert self.chain(again.after(self.to(self.B, threshold=0.1), 0, 9)) == "bca"
        more = [self.to(one * 64) for one in "bcdef"]
        assert self.chain(self.begun(*more)) == "fedc"

    def test_whoever_goes_back_also_goes_back_to_those_before(self) -> None:
        promoted = self.to(self.B), self.to(self.C)
        assert self.chain(self.begun(*promoted, self.back(self.B, 2))) == "ba"
        assert self.chain(self.begun(*promoted, self.back(self.B))) == "ba"
        assert self.chain(self.begun(*promoted, self.back(self.A))) == "a"
        assert self.chain(self.begun(*promoted, self.back("d" * 64))) == "dcba"
        # exactly, also where the promotion has moved one to the front, or out
        turned = self.begun(*promoted, self.to(self.A))
        assert self.chain(turned.after(self.back(self.C, 3), 0, 4)) == "cba"
        many = [self.to(one * 64) for one in "bcde"]
        assert self.chain(self.begun(*many, self.back("d" * 64, 4))) == "dcba"

    def test_a_revert_restores_the_watch_that_it_interrupted(self) -> None:
        promoted = self.begun(self.to(self.B))
        threshold = promoted.after(ThresholdChange(threshold=0), 0, 2, 20)
        back = threshold.after(ThresholdChange(threshold=None, reverts=2), 0, 3)
        assert (back.model, back.threshold) == (self.B, None)
        assert back.watched == promoted.watched
        again = promoted.after(self.to(self.C), 0, 2, 20).after(self.back(self.B, 2), 0, 3)
        assert again.watched == promoted.watched

    def test_a_promotion_is_undone_with_the_thresholds_that_followed(self) -> None:
        threshold = self.begun(
            self.to(self.B), ThresholdChange(threshold=0.9), ThresholdChange(threshold=0.8)
        )
        assert threshold.promoted is not None
        assert threshold.promoted.offset == 1
        back = threshold.after(self.back(self.A, 1, threshold=0.4), 0, 4)
        assert (back.model, back.threshold, back.watched) == (self.A, 0.4, ())
        # not an earlier one of several, and not by a change of the threshold
        assert threshold.after(ThresholdChange(threshold=0.1, reverts=2), 0, 4).threshold == 0.8
        assert threshold.after(ThresholdChange(threshold=0.1, reverts=1), 0, 4).threshold == 0.8
        other = threshold.after(self.to(self.C), 0, 4)
        assert other.after(self.back(self.A, 1), 0, 5).model == self.C

    def test_what_it_remembers_is_bounded(self) -> None:
        changes = [ThresholdChange(threshold=one / 10) for one in range(9)]
        assert len(self.begun(self.to(self.B), *changes).watched) == 4

    def test_a_revert_to_something_else_is_not_watched(self) -> None:
        promoted = self.begun(self.to(self.B), self.to(self.C))
        assert promoted.after(self.back("d" * 64, 2), 0, 3).watched == ()
        assert promoted.after(ThresholdChange(threshold=0.1, reverts=2), 0, 3).watched == ()

    @pytest.mark.parametrize(
        "change",
        [
            ModelChange(model="b@1", hash="b" * 64, how="rollback"),
            ModelChange(model="b@1", hash="b" * 64, unguarded=True),
            ThresholdChange(threshold=0.9, unguarded=True),
        ],
    )
    def test_what_is_not_taken_back(self, change: Any) -> None:
        assert self.begun(change).since is None

    def test_of_several_that_undo_a_change_one_has_an_effect(self) -> None:
        promoted = self.begun(ModelChange(model="b@1", hash=self.B))
        revert = ModelChange(model="a@1", hash=self.A, threshold=0.4, how="rollback", reverts=1)
        once = promoted.after(revert, 0, 2)
        assert (once.model, once.threshold, once.since) == (self.A, 0.4, None)
        other = ModelChange(model="c@1", hash="c" * 64)
        assert once.after(other, 0, 3).after(revert, 0, 4).model == "c" * 64
        assert promoted.after(other, 0, 2).after(revert, 0, 3).model == "c" * 64
        assert promoted.after(revert, 1, 2).model == self.B  # the offset is of another partition


class TestHistory:
    REVERT = ModelChange(model="a@1", hash="a", how="rollback", reverts=1, by="guard", note="NaN")

    def history(self) -> ChangeHistory:
        changes = (
            ModelChange(model="a@1", hash="a", how="start"), ModelChange(model="b@1", hash="b"),
            self.REVERT, self.REVERT, ThresholdChange(threshold=0.2), self.REVERT,
        )  # fmt: skip
        return ChangeHistory([LoggedChange(0, n, n, change) for n, change in enumerate(changes)])

    def test_what_had_no_effect_decides_nothing(self) -> None:
        history = self.history()
        assert history.ignored() == {(0, 3), (0, 5)}
        decides = history.decides()
        assert decides is not None
        assert (decides.model, decides.threshold, decides.since.offset) == ("a@1", 0.2, 4)
        assert history.before() is None
        assert history.in_force().threshold == 0.2

    def test_it_is_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from click.testing import CliRunner

        async def read(_: Any) -> ChangeHistory:
            return self.history()

        monkeypatch.setattr("app.kafka.change_history.read_history", read)
        shown = CliRunner().invoke(model_changes.history).output.splitlines()
        assert ["(without effect)" in line for line in shown[:6]] == [
            False, False, False, True, False, True,
        ]  # fmt: skip
        assert shown[2].endswith("rollback a@1  by guard: NaN")


class TestWhoeverIsSecond:
    """Anna and the guard change the model at the same time; neither knows of the other."""

    A, B, C = (ModelChange(model=f"{one}@1", hash=one * 64) for one in "abc")
    BY_GUARD = ModelChange(
        model="b@1", hash="b" * 64, how="rollback", reverts=2, cause="slow", by="guard"
    )

    def history(self, *more: Any) -> ChangeHistory:
        start = msgspec.structs.replace(self.A, how="start", threshold=0.4)
        changes = (start, self.B, self.C, *more)
        return ChangeHistory([LoggedChange(0, n, n, change) for n, change in enumerate(changes)])

    def rollback(self, *more: Any) -> ModelChange:
        history = self.history(*more)
        before = history.before()
        assert before is not None
        return history.rollback_to(before)

    def test_a_rollback_does_not_go_back_twice(self) -> None:
        back = self.rollback()
        assert (back.hash, back.how, back.reverts) == ("b" * 64, "rollback", 2)
        for changes in ((self.BY_GUARD, back), (back, self.BY_GUARD)):
            history = self.history(*changes)
            assert history.ignored() == {(0, 4)}
            decides, before = history.decides(), history.before()
            assert decides is not None
            assert before is not None
            assert (decides.hash, before.hash, before.threshold) == ("b" * 64, "a" * 64, 0.4)
            assert history.in_force() == msgspec.structs.replace(
                self.history(self.BY_GUARD).in_force(), seen={0: 4}
            )
        assert self.history(ModelChange(model="d@1", hash="d"), back).in_force().model == "d"

    def test_the_guard_passes_over_a_model(self) -> None:
        history = self.history(msgspec.structs.replace(self.BY_GUARD, model="a@1", hash="a" * 64))
        decides = history.decides()
        assert decides is not None
        assert (decides.model, history.before()) == ("a@1", None)
        assert history.in_force().fallbacks == ()

    def test_a_rollback_after_changes_of_the_threshold(self) -> None:
        changes = ThresholdChange(threshold=0.1), ThresholdChange(threshold=0.2)
        back = self.rollback(*changes)
        assert back.reverts == 2
        assert self.history(*changes, back).in_force().model == "b" * 64

    def test_further_rollbacks(self) -> None:
        one = self.rollback()
        two = self.rollback(one)
        assert (two.hash, two.threshold, two.reverts) == ("a" * 64, 0.4, 1)
        history = self.history(one, two)
        assert (history.in_force().model, history.in_force().threshold) == ("a" * 64, 0.4)
        assert history.before() is None

    def test_a_rollback_of_what_is_not_watched_names_nothing(self) -> None:
        unguarded = ModelChange(model="d@1", hash="d" * 64, unguarded=True)
        back = self.rollback(unguarded)
        assert (back.hash, back.reverts) == ("c" * 64, None)
        assert self.history(unguarded, back).in_force().model == "c" * 64

    def test_a_threshold_is_for_its_model(self) -> None:
        typed = ThresholdChange(threshold=0.9, hash="c" * 64)
        assert self.history(typed).in_force().threshold == 0.9
        late = self.history(self.BY_GUARD, typed)
        assert late.ignored() == {(0, 4)}
        assert late.in_force().threshold is None
        decides = late.decides()
        assert decides is not None
        assert decides.threshold is None
        # an older record has no hash
        old = self.history(self.BY_GUARD, ThresholdChange(threshold=0.9))
        assert (old.ignored(), old.in_force().threshold) == (set(), 0.9)

    @pytest.mark.parametrize(
        ("command", "before", "meanwhile", "says"),
        [
            (["threshold", "0.3"], (), (BY_GUARD,), "without effect: .* b@1 is the current model"),
            (["rollback"], (), (BY_GUARD,), "without effect: .* b@1 is the current model"),
            (["rollback"], (BY_GUARD,), (), "the guard has gone back to b@1 already, .* --further"),
            (["threshold", "0.3"], (), (), None),
            (["rollback"], (), (), None),
            (["rollback", "--further"], (BY_GUARD,), (), None),
        ],
    )
    def test_it_is_told(
        self, monkeypatch: pytest.MonkeyPatch, command: Any, before: Any, meanwhile: Any, says: Any
    ) -> None:
        from click.testing import CliRunner

        changes = [*before]

        async def read(_: Any) -> ChangeHistory:
            return self.history(*changes)

        async def send(_: Any, *sent: Any) -> int:
            changes.extend([*meanwhile, *sent])
            return 2 + len(changes)

        @contextmanager
        def checked(*_: Any) -> Iterator[Any]:
            yield SimpleNamespace(manifest=SimpleNamespace(threshold=0.5))

        monkeypatch.setattr("app.kafka.change_history.read_history", read)
        monkeypatch.setattr("app.kafka.change_history.send_changes", send)
        monkeypatch.setattr("app.ops.model_checks.checked", checked)
        run = CliRunner().invoke(getattr(model_changes, command[0]), command[1:])
        if says is None:
            assert run.exit_code == 0, run.output
        else:
            assert isinstance(run.exception, UsageError)
            assert re.search(says, str(run.exception))


class TestGuard:
    def guard(
        self,
        tallies: TalliesByChange,
        watch_ms: int = 60_000,
        refusal: Callable[[str], str | None] = lambda _: "",
    ) -> Guard:
        return Guard(tallies, LIMITS, watch_ms, lambda one: f"{one[0]}@1", refusal)

    def in_force(self, *watched: RevertibleChange, model: str = "b") -> InForce:
        return InForce(0, model * 64, watched=watched or (SINCE,))

    def tripped(self) -> TalliesByChange:
        tallies = TalliesByChange()
        tallies.add(PAST, 1_000, 10, 0, 0.01)
        tallies.add(EPOCH, 50, 50, 0, 0.01)
        return tallies

    def test_it_restores_the_model_and_threshold_of_before(self) -> None:
        guard = self.guard(self.tripped())
        ((since, change),) = guard.proposals([self.in_force()] * 3, 1_001_000)
        assert since == SINCE
        assert change == ModelChange(
            model="a@1", hash="a" * 64, threshold=0.4, how="rollback", reverts=7, cause="more_alerts", by="guard",
            note="b@1 reverted: 50 of 50 transactions are flagged (100 %); before the change, 1 % were",
        )  # fmt: skip
        assert guard.proposals([self.in_force()], 1_002_000) == []  # it is on its way
        assert len(guard.proposals([self.in_force()], 1_020_000)) == 1

    def test_it_passes_over_models_that_workers_refuse(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING, "fraudstream")
        older, oldest = EarlierModel("y" * 64, 0.7), EarlierModel("z" * 64)
        since = RevertibleChange(0, 7, 1_000_000, BEFORE, (older, oldest))
        tallies = TalliesByChange()
        tallies.add(PAST, 1_000, 10, 0, 0.01)
        tallies.add(TallyKey("b" * 64, None, since), 50, 50, 0, 0.01)
        refused: dict[str, str | None] = {"a": "it is not signed", "y": None}
        guard = self.guard(tallies, refusal=lambda of: refused.get(of[0], ""))
        assert (
            guard.proposals([self.in_force(since)], 1_001_000) == []
        )  # the next one is being loaded
        refused["y"] = ""
        ((_, change),) = guard.proposals([self.in_force(since)], 1_002_000)
        assert isinstance(change, ModelChange)
        assert (change.hash, change.threshold, change.reverts) == ("y" * 64, 0.7, 7)
        assert change.note.endswith("1 % were; a@1 cannot be loaded: it is not signed")
        before = InForce(0, "b" * 64, fallbacks=(BEFORE, older, oldest), watched=(since,))
        after = before.after(change, 0, 9)
        assert (after.model, after.threshold, after.fallbacks) == ("y" * 64, 0.7, (oldest,))
        assert after.watched == ()
        refused |= {"y": "a pickle", "z": "damaged"}
        guard = self.guard(tallies, refusal=lambda of: refused.get(of[0], ""))
        for now_ms in (1_001_000, 1_002_000):
            assert guard.proposals([self.in_force(since)], now_ms) == []
        (line,) = [one.message for one in caplog.records if one.levelname == "ERROR"]
        assert "cannot restore an earlier model instead of b@1: 50 of 50 transactions" in line
        assert "a@1 cannot be loaded: it is not signed; y@1 cannot be loaded: a pickle; z@1" in line

    def test_it_restores_the_threshold_of_before(self) -> None:
        tallies = TalliesByChange()
        tallies.add(PAST, 1_000, 10, 0, 0.01)
        tallies.add(TallyKey("a" * 64, 0.0, SINCE), 50, 50, 0, 0.01)
        in_force = InForce(0, "a" * 64, 0.0, watched=(SINCE,))
        ((_, change),) = self.guard(tallies).proposals([in_force], 1_001_000)
        assert isinstance(change, ThresholdChange)
        assert (change.threshold, change.reverts, change.by) == (0.4, 7, "guard")

    def test_it_ends(self) -> None:
        off, on = self.guard(self.tripped(), 0), self.guard(self.tripped(), 500)
        assert off.proposals([self.in_force()], 1_001_000) == []
        assert on.proposals([self.in_force()], 1_001_000 + 86_400_000) == []
        assert on.proposals([self.in_force()], 1_000_500 + 86_400_000)  # of a worker that lags

    def test_a_proposal_without_effect_is_repeated_less_and_less(self) -> None:
        guard = self.guard(self.tripped(), 1_000_000)
        seconds = range(1_000, 1_600)
        made = [s for s in seconds if guard.proposals([self.in_force()], s * 1_000)]
        assert [s - 1_000 for s in made] == [0, 10, 30, 70, 150, 310]

    def test_transactions_count_that_came_while_it_was_watched(self) -> None:
        tallies = TalliesByChange(LIMITS, 60_000)
        for received, judged in (
            ([1_000_001, 1_060_000], True),
            ([1_000_000, 1_000_001], False),  # of a rebuild, or of a worker that lags
            ([1_000_001, 1_060_001], False),
        ):
            assert tallies.of_time(EPOCH, received).judged == judged
            assert tallies.of_time(PAST, received) == PAST

    def test_other_changes_are_not_its_business(self) -> None:
        guard = self.guard(self.tripped())
        other = RevertibleChange(0, 8, 1_000_000, SINCE.before)
        assert guard.proposals([self.in_force(other), InForce(0, "b" * 64)], 1_001_000) == []

    def test_reverts_are_counted_when_they_take_effect_and_once_for_all_partitions(self) -> None:
        tallies = TalliesByChange()
        for _ in range(3):
            tallies.revert(
                [RevertibleChange(0, 8, 2_000_000, EarlierModel("b" * 64)), SINCE], "slow"
            )
        tallies.revert([RevertibleChange(0, 9, 2_000_000, BEFORE)])  # somebody's rollback
        tallies.revert([], "slow")  # without effect
        assert tallies.reverts == {"slow": 1}

    def test_the_past_is_what_decided_right_before_then_what_decided_last(self) -> None:
        tallies = TalliesByChange()
        for model, scored in (("z", 900), ("a", 300), ("y", 400), ("x", 400)):
            tallies.add(TallyKey(model * 64, 0.4), scored, ord(model), 0, 0.01)
        before, _ = tallies.of(self.in_force(), SINCE)
        assert (before.scored, before.flagged) == (700, ord("a") + ord("x"))

    def test_good_promotions_after_a_revert_stay(self) -> None:
        """What was counted under a change that was taken back is no measure."""
        tallies = TalliesByChange()
        guard = self.guard(tallies)
        tallies.add(PAST, 100_000, 1_000, 0, 1)
        tallies.add(EPOCH, 10_000, 5_000, 5_000, 0.1)
        assert guard.proposals([self.in_force()], 1_001_000)
        tallies.revert([SINCE])
        tallies.add(PAST, 300, 3, 0, 0.003)
        good = RevertibleChange(0, 9, 1_000_000, BEFORE)
        tallies.add(TallyKey("c" * 64, None, good), 90_000, 900, 0, 1)
        assert guard.proposals([self.in_force(good, model="c")], 1_001_000) == []

    def test_far_fewer_alerts_are_noticed_where_there_are_few(self) -> None:
        """One of 1,000 before, none of 250,000 since."""
        tallies = TalliesByChange()
        for _ in range(1_500):
            tallies.add(PAST, 1_000, 1, 0, 0.01)
        for _ in range(250):
            tallies.add(EPOCH, 1_000, 0, 0, 0.01)
        ((_, change),) = self.guard(tallies).proposals([self.in_force()], 1_001_000)
        assert change.cause == "fewer_alerts"

    def test_harm_is_reverted_each_time(self) -> None:
        """Threshold 0, a revert, and threshold 0 again."""
        tallies = TalliesByChange()
        guard = self.guard(tallies)
        tallies.add(PAST, 600, 6, 0, 0.01)
        for offset in (7, 9, 11):
            since = RevertibleChange(0, offset, 1_000_000, BEFORE)
            tallies.add(TallyKey("a" * 64, 0.0, since), 5_000, 5_000, 0, 0.01)
            in_force = InForce(0, "a" * 64, 0.0, watched=(since,))
            ((_, change),) = guard.proposals([in_force], 1_001_000)
            assert (change.threshold, change.reverts) == (0.4, offset)
            tallies.revert([since])

    def test_a_threshold_does_not_shield_a_harmful_model(self) -> None:
        """Promoted, and the threshold changed a moment later: the promotion is what is taken back."""
        threshold = RevertibleChange(0, 8, 1_000_000, EarlierModel("b" * 64))
        epoch = TallyKey("b" * 64, 0.9, threshold)
        in_force = InForce(0, "b" * 64, 0.9, watched=(threshold, SINCE))
        for flagged, unscored in ((500, 0), (10, 7)):
            tallies = TalliesByChange()
            tallies.add(PAST, 1_000, 10, 0, 0.01)
            tallies.add(EPOCH, 1_000, flagged, unscored, 0.01)
            tallies.add(epoch, 1_000, flagged, unscored, 0.01)
            ((since, change),) = self.guard(tallies).proposals([in_force] * 2, 1_001_000)
            assert since == SINCE
            assert isinstance(change, ModelChange)
            assert (change.hash, change.threshold, change.reverts) == ("a" * 64, 0.4, 7)

    def test_a_threshold_of_a_model_that_fails_now_and_then_stays(self) -> None:
        tallies = TalliesByChange()
        tallies.add(PAST, 10_000, 100, 1, 0.1)
        tallies.add(TallyKey("a" * 64, 0.3, SINCE), 10_000, 120, 3, 0.1)
        in_force = InForce(0, "a" * 64, 0.3, watched=(SINCE,))
        assert self.guard(tallies).proposals([in_force], 1_001_000) == []


def badly(model: Model) -> None:
    """It raises for some rows and gives NaN for others."""
    score = model.score

    def fails(rows: np.ndarray) -> np.ndarray:
        if (rows[:, 0] > 20).any():
            msg = "a row that it does not like"
            raise ValueError(msg)
        return np.where(rows[:, 0] > 10, np.nan, score(rows))

    model.score = fails  # type: ignore[method-assign]


def worse(model: Model) -> None:
    """It has no score for half of the rows that have one by the bad model, and for all that have none."""
    score = model.score
    model.score = lambda rows: np.where(rows[:, 0] > 5, np.nan, score(rows))  # type: ignore[method-assign]


def broken(tmp_path: Path, models: Make, monkeypatch: pytest.MonkeyPatch) -> VerifyWorld:
    """A model without some scores is promoted, then one with fewer; then that is taken back twice, and the other."""
    whole = Model.__init__

    def begun(self: Model, *given: Any) -> None:
        whole(self, *given)
        {"bad@1": badly, "worse@1": worse}.get(self.version, lambda _: None)(self)

    monkeypatch.setattr(Model, "__init__", begun)
    world = VerifyWorld(home=tmp_path)
    bad, worst = models(world, "bad"), models(world, "worse")
    world.restart()
    start = world._champion.manifest
    world.control(ModelChange(model="default@1", hash=start.scoring_hash, how="start"))
    feed(world, 0)
    world.control(ModelChange(model="bad@1", hash=bad))
    feed(world, 60)
    world.control(ModelChange(model="worse@1", hash=worst, threshold=0.6))
    feed(world, 120)
    revert = ModelChange(model="bad@1", hash=bad, how="rollback", reverts=2, by="guard")
    world.control(revert)
    world.control(revert)
    feed(world, 180)
    first = start.scoring_hash
    world.control(ModelChange(model="default@1", hash=first, how="rollback", reverts=1, by="guard"))
    feed(world, 240)
    return world


class TestWholeStream:
    def test_what_came_before_a_change_does_not_count(self, tmp_path: Path, models: Make) -> None:
        """On `enriched` it stands behind the change, as in a rebuild, or where a worker lags."""
        world = VerifyWorld(home=tmp_path)
        other = models(world, "other")
        world.restart()
        start = world._champion.manifest.scoring_hash
        world.control(ModelChange(model="default@1", hash=start, how="start"))
        for number in range(20):
            world.send(tx_bytes(number, card=f"c{number}", at=number, amount=9), b"c%d" % number)
        world.clock_ms += 10
        world.control(ModelChange(model="other@1", hash=other))
        world.run()
        tallies = world._handlers[world.topics.enriched.name].champion.tallies
        assert {one.judged for one in tallies._by_epoch if one.since is not None} == {False}
        world.clock_ms += 10
        feed(world, 60)
        (judged,) = (one for one in tallies._by_epoch if one.since is not None and one.judged)
        assert tallies._by_epoch[judged].scored == 60

    def test_every_transaction_is_decided_and_verified(
        self, tmp_path: Path, models: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = broken(tmp_path, models, monkeypatch)
        every = found(world)
        assert len(every) == 300
        deciders = [one["model_version"] for one in every]
        assert set(deciders[:60]) == set(deciders[240:]) == {"default@1"}
        amounts = [number % 29 for number in range(300)]
        by_bad = ["bad@1" if amount <= 10 else "default@1" for amount in amounts]
        assert deciders[60:120] == by_bad[60:120]
        assert deciders[120:180] == [
            "worse@1" if amount <= 5 else other
            for amount, other in zip(amounts[120:180], by_bad[120:180], strict=True)
        ]
        assert deciders[180:240] == by_bad[180:240]
        report = world.verify()
        assert report.passed, report.as_json()

    def test_the_model_before_must_not_decide_what_the_other_one_has_a_score_for(
        self, tmp_path: Path, models: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = broken(tmp_path, models, monkeypatch)
        default = next(one for one in found(world) if one["model_version"] == "default@1")
        names = ("model_version", "model_hash", "threshold")
        number = next(n for n, one in enumerate(found(world)) if one["model_version"] == "bad@1")
        tamper(world, number, lambda f: f.update({name: default[name] for name in names}))
        assert {"model", "score"} <= whats(world)

    def test_an_earlier_one_must_not_decide_what_one_between_has_a_score_for(
        self, tmp_path: Path, models: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = broken(tmp_path, models, monkeypatch)
        every = found(world)
        default = next(one for one in every if one["model_version"] == "default@1")
        names = ("model_version", "model_hash", "threshold")
        number = next(
            n for n, one in enumerate(every[120:180], 120) if one["model_version"] == "bad@1"
        )
        model = Holder(world).by_hash(world._champion.manifest.scoring_hash)
        row = np.array([list(every[number]["features"].values())])
        score = float(model.score(row)[0])  # of a model that may decide, only not here
        tamper(world, number, lambda f: f.update({n: default[n] for n in names}, score=score))
        assert "model" in whats(world)

    def test_the_canary_decides_where_no_model_was_before(
        self, tmp_path: Path, models: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = Model.__init__

        def begun(self: Model, *given: Any) -> None:
            whole(self, *given)
            if self.version == "default@1":
                badly(self)

        monkeypatch.setattr(Model, "__init__", begun)
        world = VerifyWorld(home=tmp_path)
        canary = models(world, "canary")
        world.restart()
        start = world._champion.manifest.scoring_hash
        world.control(ModelChange(model="default@1", hash=start, how="start"))
        world.control(ChallengerChange(model="canary@1", hash=canary, share=1.0))
        feed(world, 0)
        assert {one["model_version"] for one in found(world)} == {"canary@1"}
        report = world.verify()
        assert report.passed, report.as_json()

    def test_a_replay_decides_alike(
        self, tmp_path: Path, models: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = broken(tmp_path, models, monkeypatch)
        live = [{**fields, "scored_at": 0} for fields in found(world)]
        again = test_challenger_scores.TestReplay().replayed(
            world, tmp_path / "again", Holder(world)
        )
        assert again == live[70:170]
