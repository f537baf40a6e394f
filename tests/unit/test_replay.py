"""What a replay is asked for, refused for, and how its results stand beside the live ones."""

import re
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from app.cli.replay import bound_of, summary
from app.errors import UsageError
from app.ops.replaying.comparison import Comparison
from app.ops.replaying.enriched_survey import SourceRecords
from app.ops.replaying.look_back_bounds import Bound, LookBack, ReplayRange, RetainedRange
from app.ops.replaying.plan import shadow_of
from app.quality.verdicts import Verdicts
from app.settings import Settings
from app.topics import Topics
from tests.builders import T0

DAY = 86_400_000


def settings(**values: Any) -> Settings:
    return Settings(_env_file=None, **{"features": ("basic",), **values})  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("2026-10-01", Bound("2026-10-01", time_ms=1_790_812_800_000)),
        ("2026-10-01T02:00+02:00", Bound("2026-10-01T02:00+02:00", time_ms=1_790_812_800_000)),
        ("1790812800000", Bound("1790812800000", time_ms=1_790_812_800_000)),
        ("120000", Bound("120000", offsets={}, everywhere=120_000)),
        ("0:12,3:7", Bound("0:12,3:7", offsets={0: 12, 3: 7})),
    ],
)
def test_a_bound_is_a_time_or_offsets(text: str, bound: Bound) -> None:
    assert bound_of("--from", text) == bound


@pytest.mark.parametrize("text", ["yesterday", "0:12,3", "-5", "0:1,0:2", ""])
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="--to") as refused:
        bound_of("--to", text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (Bound("b", time_ms=5), Bound("e", time_ms=5)),
        (Bound("b", time_ms=6), Bound("e", time_ms=5)),
        (Bound("b", offsets={}, everywhere=7), Bound("e", offsets={}, everywhere=7)),
        (Bound("b", offsets={0: 7}), Bound("e", offsets={1: 9})),  # no partition has both
    ],
)
def test_an_end_before_the_beginning_is_refused(begin: Bound, end: Bound) -> None:
    with pytest.raises(UsageError, match="--from b is not before --to e"):
        ReplayRange(begin, end, 2)


def test_the_beginning_is_asked_for_and_the_end_is_not() -> None:
    asked = ReplayRange(Bound("b", time_ms=100), Bound("e", offsets={0: 8}, everywhere=9), 2)
    records = [(0, 7, 100), (0, 7, 99), (0, 8, 100), (1, 8, 100), (1, 9, 100)]
    assert [record in asked for record in records] == [True, False, False, True, False]
    for partition in (0, 1):
        mine = [record for record in records if record[0] == partition]
        mask = asked.mask(partition, *(np.array([r[n] for r in mine]) for n in (1, 2)))
        assert mask.tolist() == [record in asked for record in mine]


def test_offsets_that_are_not_in_the_log_are_refused() -> None:
    asked = ReplayRange(Bound("3", offsets={}, everywhere=3), None, 2)
    asked.check_kept("tx", [3, 0], [9, 9])
    with pytest.raises(
        UsageError, match=re.escape("offset 3 of tx/1 was deleted by retention; the earliest is 4")
    ):
        asked.check_kept("tx", [3, 4], [9, 9])
    only = ReplayRange(Bound("1:9", offsets={1: 9}), None, 2)
    with pytest.raises(UsageError, match="tx/1 ends at offset 9"):
        only.check_kept("tx", [0, 0], [5, 9])
    only.check_kept("tx", [4, 0], [5, 10])  # the other partition is not asked for


def test_short_windows_are_refused_with_what_is_missing() -> None:
    kept = RetainedRange(LookBack(38 * DAY, 69 * DAY), "tx/0", T0 + 3 * DAY)
    full = T0 + 72 * DAY
    assert kept.full_from_ms == full
    assert (
        kept.terminals_from_ms == T0 + 34 * DAY
    )  # what is older has a card whose habits are not known
    assert kept.missing_ms(full, allowed=False) == 0
    assert kept.missing_ms(full - 3 * DAY, allowed=True) == 3 * DAY
    assert RetainedRange(kept.reach).missing_ms(0, allowed=False) == 0
    with pytest.raises(UsageError) as refused:
        kept.missing_ms(full - 3 * DAY, allowed=False)
    said = str(refused.value)
    assert said.startswith("tx/0 begins at 2023-11-17T22:13:20.000Z: of the 69d that windows")
    assert "look back before --from, 3d are missing" in said
    assert "The earliest --from with full windows is 2024-01-25T22:13:20.000Z" in said
    assert "--allow-short-windows" in said


def test_it_reaches_as_far_back_as_the_features_do() -> None:
    assert LookBack.of(settings()) == LookBack(38 * DAY, 38 * DAY)
    # a terminal remembers which amounts were high for their cards: those must be known, too
    assert LookBack.of(settings(features=("engineered",))) == LookBack(38 * DAY, 69 * DAY)
    assert (
        LookBack.of(settings(label_delay=14 * DAY, allowed_lateness=2 * DAY)).terminals_ms
        == 46 * DAY
    )


def test_a_shadow_has_names_of_its_own() -> None:
    live = settings(topic_prefix="eu-")
    shadow = shadow_of(live, "model_2")
    names = [topic.name for topic in shadow.topics]
    assert names == ["eu-model_2.predictions", "eu-model_2.late-transactions"]
    assert shadow.keyspace == "fraud_detection_model_2"
    assert {topic.name for topic in Topics(live).all}.isdisjoint(t.name for t in shadow.topics)


@pytest.mark.parametrize("name", ["", "Model", "model-2", "2model", "über", "a" * 40, "_x", "a.b"])
def test_a_name_that_fits_no_keyspace_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="--group"):
        shadow_of(settings(), name)


def compared() -> dict[str, Any]:
    """Six transactions of two partitions, of which the replay decides two otherwise; four have labels."""
    every = np.ones(3, np.bool_)
    sources = [
        SourceRecords(10, every, every),
        SourceRecords(0, every, np.array([True, True, False])),
    ]
    at = datetime.fromtimestamp(5, UTC).replace(tzinfo=None)
    labels = [
        (5_000, name, fraud)
        for name, fraud in (("t10", True), ("t11", False), ("t12", True), ("t0", False))
    ]
    found = Comparison(sources, "tx", Verdicts(labels), full_from_ms=T0 + 11)
    for partition, offset, score in ((0, 10, 0.9), (0, 11, 0.2), (0, 12, 0.7), (1, 0, 0.6), (1, 1, 0.1)):  # fmt: skip
        found.replayed(
            {
                "source_partition": partition, "source_offset": offset, "score": score, "is_fraud": score >= 0.5,
                "event_time_ms": T0 + offset,
            }
        )  # fmt: skip
    live = ((0, 10, 0.9), (0, 11, 0.8), (0, 12, 0.3), (1, 0, 0.2), (1, 2, 0.9), (0, 9, 0.9))
    rows = [("tx", p, o, at, f"t{o}", score, score >= 0.5, "m@1") for p, o, score in live]
    assert found.live([*rows, ("elsewhere", 0, 10, at, "t10", 0.0, False, "m@9")]) == 7
    return found.result()


def test_results_stand_beside_the_live_rows() -> None:
    result = compared()
    assert result["compared"] == 4
    assert result["without_live_row"] == 1  # offset 1 of partition 1
    assert result["same_score"] == 1
    assert result["short_windows"] == 3  # offsets 10, 0 and 1
    assert result["newly_flagged"] == {"all": 2, "fraud": 1, "genuine": 1}
    assert result["no_longer_flagged"] == {"all": 1, "fraud": 0, "genuine": 1}
    assert (result["labelled"], result["frauds"], result["live_models"]) == (4, 2, ["m@1"])
    assert result["live"] == {
        "alerts": 2, "true_positives": 1, "false_positives": 1, "missed": 1,
        "average_precision": pytest.approx((1 + 2 / 3) / 2),
    }  # fmt: skip
    assert result["replay"] == {
        "alerts": 3, "true_positives": 2, "false_positives": 1, "missed": 0, "average_precision": 1.0,
    }  # fmt: skip


def test_without_labels_nothing_is_judged() -> None:
    every = np.ones(1, np.bool_)
    found = Comparison([SourceRecords(0, every, every)], "tx", Verdicts([]))
    found.replayed(
        {
            "source_partition": 0,
            "source_offset": 0,
            "score": 0.5,
            "is_fraud": True,
            "event_time_ms": T0,
        }
    )
    found.live(
        [("tx", 0, 0, datetime.fromtimestamp(5, UTC).replace(tzinfo=None), "t", 0.5, True, "m@1")]
    )
    result = found.result()
    assert result["live"]["average_precision"] is None
    assert result["replay"]["average_precision"] is None
    assert result["labelled"] == 0


def test_the_summary_says_what_matters() -> None:
    result = {
        "group": "x", "model": "m@2", "threshold": 0.5, "feature_schema": "v1", "read": 9, "warmed": 4, "scored": 5,
        "topics": ["x.predictions"], "table": "k_x.predictions", "horizon_ms": 38 * DAY, "lost": 1,
        "not_scored_live_yet": 3, "short_by_ms": DAY, "full_windows_from_ms": T0, "seconds": 1.0,
        "transactions_per_second": 9, "comparison": compared(),
    }  # fmt: skip
    text = "\n".join(summary(result))
    for said in (
        "5  scored, into topic x.predictions and table k_x.predictions",
        "1  in the range but not scored",
        "3  records not replayed, because the stream has not processed them yet",
        "3  of these, before 2023-11-14T22:13:20.000Z, with windows that lack up to 1d, deleted by retention",
        "2  newly flagged as fraud: 1 labelled fraud, 1 labelled genuine",
    ):
        assert said in text
    assert re.search(r"live +2 +1 +1 +1 +0\.833", text)
    assert re.search(r"replay +3 +2 +1 +0 +1\.000", text)
