"""Each feature with a memory, drawn: `*` is the transaction that is scored, `F`/`G`/`?` are labels, `|` edges."""

import math

import pytest

from app.domain.features import Catalogue
from app.domain.features.catalogue import StagePlan
from app.domain.features.feature_sets import in_order
from app.domain.transaction import hash_id
from app.errors import SettingsError
from app.windows.waiting_labels import EntryLabel
from app.windows.window_row import RowRules, WindowRow

DAY = 86_400_000
T0 = 1_700_000_000_000
DELAY = 7 * DAY
SETS = ("basic", "handbook", "engineered", "label_free")
CATALOGUE = Catalogue((DAY, 7 * DAY, 30 * DAY), 2, "UTC", SETS, DELAY)
CARD = [each.name for each in CATALOGUE.columns if each.stage == "card"]
TERMINAL = [each.name for each in CATALOGUE.columns if each.stage == "terminal"]


def row_of(*entries: tuple[float, int, str], cap: int = 1_000, segment: int = 2) -> WindowRow:
    """A row; each entry is days after T0, minor units, and `F`, `G` or `?`, with `late` or `high`."""
    row = WindowRow(b"k", RowRules(60 * DAY, cap, segment_entries=segment), lambda _: None)
    for number, (days, minor, label) in enumerate(entries):
        at, id8 = T0 + round(days * DAY), hash_id(str(number))
        row.insert(at, minor, counted="late" not in label, id8=id8, high="high" in label)
        if label[0] in "FG":
            row.label(EntryLabel(at, id8, label[0] == "F", at, 0, b""))
    return row


def card(row: WindowRow, days: float, minor: int) -> dict[str, float]:
    return dict(zip(CARD, CATALOGUE.card(row, T0 + round(days * DAY), minor), strict=True))


def terminal(row: WindowRow, days: float, later_ms: int = 0) -> dict[str, float]:
    at = T0 + round(days * DAY) + later_ms
    return dict(zip(TERMINAL, CATALOGUE.terminal(row, at, 100), strict=True))


def flags(stage: str, row: WindowRow, days: float) -> list[str]:
    return CATALOGUE.inexact(stage, row, T0 + round(days * DAY))


def test_delayed_windows_end_where_labels_begin_to_count():
    """
    day        0     1     2           8     9            w = 1d, delay = 7d
               F     G     F           |-7d--*
               (  1d ]
    window of * at 8:    (0, 1]: G      at 8 + 1 day: (1, 2]: F     at 7: (-1, 0]: F, its edge included
    """
    row = row_of((0, 100, "F"), (1, 100, "G"), (2, 100, "F"))
    at = [terminal(row, day) for day in (7, 8, 9)]
    assert [each["terminal_delayed_count_1d"] for each in at] == [1, 1, 1]
    assert [each["terminal_risk_1d"] for each in at] == [1.0, 0.0, 1.0]
    assert terminal(row, 7, later_ms=-1)["terminal_delayed_count_1d"] == 0
    assert terminal(row, 9)["terminal_risk_7d"] == 2 / 3
    assert terminal(row, 9)["terminal_count_1d"] == 1  # itself, which no delayed window holds


def test_unknown_labels_are_no_fraud_and_late_entries_no_transactions():
    """
    day   0    0.1   0.2   0.3        8
          F    ?     ?     F late     *       risk 1d = 1 / 3
    """
    row = row_of((0.5, 1, "F"), (0.6, 1, "?"), (0.7, 1, "?"), (0.8, 1, "F late"))
    found = terminal(row, 8)
    assert found["terminal_delayed_count_7d"] == 3
    assert found["terminal_risk_7d"] == 1 / 3


def test_no_terminal_and_a_new_one():
    assert set(CATALOGUE.terminal(None, T0, 100)) == {0.0}
    new = terminal(row_of(), 0)
    assert new["terminal_count_1d"] == 1
    assert new["terminal_risk_30d"] == new["terminal_last_label"] == 0
    assert new["terminal_genuine_age"] == 37  # delay + 30d: none is known


def test_a_streak_of_frauds_reaches_back_to_the_last_genuine_one():
    """
    day   0   1   2   3   4   5   6   7     |         13
          F   G   F   ?   F   F   G   F     |  -7d-   *      (6 counts: t_j + delay = t)
                                  ^ newest known: genuine
    at 12:            streak 2, 4, 5 = 3, its oldest 10 days old; genuine 11 days old; of five: F F F G F
    """
    labels = "FGF?FFGF"
    row = row_of(*((day, 1, label) for day, label in enumerate(labels)))
    at = terminal(row, 12)
    assert at["terminal_last_label"] == 1
    assert at["terminal_fraud_streak"] == 3
    assert at["terminal_fraud_streak_age"] == 10
    assert at["terminal_genuine_age"] == 11
    assert at["terminal_fraud_share_last_5"] == 4 / 5
    just_before, then = terminal(row, 13, later_ms=-1), terminal(row, 13)
    assert just_before["terminal_fraud_streak"] == 3
    assert (then["terminal_last_label"], then["terminal_fraud_streak"]) == (0, 0)
    assert (then["terminal_fraud_streak_age"], then["terminal_genuine_age"]) == (0, 7)


def test_a_fraud_of_a_high_amount_says_little_of_its_terminal():
    """
    day   0   1   2       3   4           11
          F   G   F high  F   F high      *       streak 2, 3, 4 = 3, of usual amounts 3 = 1, 8 days old
    """
    row = row_of((0, 1, "F"), (1, 1, "G"), (2, 1, "F high"), (3, 1, "F"), (4, 1, "F high"))
    at = terminal(row, 11)
    assert (at["terminal_fraud_streak"], at["terminal_plain_streak"]) == (3, 1)
    assert (at["terminal_fraud_streak_age"], at["terminal_plain_streak_age"]) == (9, 8)
    assert at["terminal_risk_30d"] == 4 / 5  # a fraud all the same
    only_high = terminal(row_of((0, 1, "F high")), 8)
    assert (only_high["terminal_last_label"], only_high["terminal_plain_streak"]) == (1, 0)
    assert only_high["terminal_plain_streak_age"] == 0
    many = terminal(row_of(*((day / 10, 1, "F") for day in range(5))), 8)
    assert (many["terminal_plain_streak"], many["terminal_plain_streak_max_3"]) == (5, 3)


def test_an_amount_is_high_from_two_medians_on():
    """
    amounts   10  10  10  90  *       median 10; 20 is not high, 21 is, 31 very, and for the second time
    """
    row = row_of(*((number, amount, "?") for number, amount in enumerate((10, 10, 10, 90))))
    found = [card(row, 4, minor) for minor in (20, 21, 31, 70)]
    assert [each["amount_is_high"] for each in found] == [0, 1, 1, 1]
    assert [each["amount_is_very_high"] for each in found] == [0, 0, 1, 1]
    assert [each["amount_is_high_again"] for each in found] == [0, 0, 1, 1]
    assert [each["amount_over_card_median_max_6"] for each in found] == [2, 2.1, 3.1, 6]
    assert [CATALOGUE.is_high(list(each.values())) for each in found] == [False, True, True, True]


def test_only_the_last_32_are_asked_for_labels():
    """
    G ? ? ? ... ? *      a genuine one behind 32 without a label is out of sight
    """
    unknown = [(1 + number / 100, 1, "?") for number in range(31)]
    assert terminal(row_of((0, 1, "G"), *unknown), 9)["terminal_genuine_age"] == 9
    assert terminal(row_of((0, 1, "G"), *unknown, (1.5, 1, "?")), 9)["terminal_genuine_age"] == 37


def test_an_amount_beside_the_median_and_spread_of_the_last():
    """
    day      0      1      2      3         30            31
             10.00  20.00  30.00  100.00    * 50.00       *   (0, then 1 is 30 days old: out)
    """
    row = row_of((0, 1_000, "?"), (1, 2_000, "?"), (2, 3_000, "?"), (3, 10_000, "?"))
    at = card(row, 29, 5_000)
    assert at["amount_over_card_median"] == 2 * 5_000 / (2_000 + 3_000)
    total, squares = 16_000, 114_000_000
    spread = math.sqrt(4 * squares - total * total)
    assert at["amount_deviation"] == (4 * 5_000 - total) / spread
    assert card(row, 30, 5_000)["amount_over_card_median"] == 5_000 / 3_000
    assert card(row, 31, 5_000)["amount_over_card_median"] == 2 * 5_000 / 13_000


def test_a_card_without_a_past_or_with_free_ones_alone():
    assert card(row_of(), 0, 500)["amount_over_card_median"] == 1
    free = card(row_of((0, 0, "?"), (1, 0, "?")), 2, 500)
    assert (free["amount_over_card_median"], free["amount_deviation"]) == (1, 0)


def test_high_amounts_of_fourteen_days_among_the_last_twenty():
    """
    day      0    1    2    3      10     11     17      24
             5    5    5    5      16     15     *              more than 3 medians of 5: 16, and not 15
                                   |------- 14d -------| *     at 24 it is 14 days old: out
    """
    row = row_of(*((day, 500, "?") for day in range(4)), (10, 1_600, "?"), (11, 1_500, "?"))
    assert card(row, 17, 500)["card_high_count_14d"] == 1
    assert card(row, 23.99, 500)["card_high_count_14d"] == 1
    assert card(row, 24, 500)["card_high_count_14d"] == 0
    twenty = row_of((0, 9_000, "?"), *((1 + day / 10, 500, "?") for day in range(20)))
    assert card(twenty, 4, 500)["card_high_count_14d"] == 0
    assert card(twenty, 4, 500)["amount_deviation"] == 0


def test_what_has_left_is_told_unless_enough_is_newer():
    """
    kept at most 20:   x x [20 newer ones] *     the last twenty are whole, the windows of 30 days are not
    kept at most 19:   x x x [19 newer]   *     nor are they
    """
    entries = [(day / 2, 100, "?") for day in range(22)]
    whole, less = row_of(*entries, cap=20), row_of(*entries, cap=19)
    assert "inexact:card_30d" in flags("card", whole, 11)
    assert "inexact:card_last_20" not in flags("card", whole, 11)
    assert "inexact:card_last_20" in flags("card", less, 11)
    assert "inexact:terminal_risk_1d" not in flags("terminal", whole, 11)
    assert {"inexact:terminal_risk_30d", "inexact:terminal_labels"} <= set(
        flags("terminal", whole, 11)
    )
    assert flags("card", row_of(*entries), 11) == []


def test_sets_are_named_and_their_schema_tells_what_they_mean():
    def schema(*sets: str) -> str:
        return Catalogue((3_600_000, DAY), 2, "UTC", sets, DELAY).schema

    assert schema("basic") == "v1-1h-1d"
    assert schema("basic", "handbook") == "v1-1h-1d+handbook@1-delay7d"
    assert schema("label_free") == "label_free@1"
    with pytest.raises(SettingsError, match="FRAUDSTREAM_FEATURES: there is no feature set 'hand'"):
        schema("hand")
    union = Catalogue((3_600_000, DAY), 2, "UTC", SETS, DELAY)
    assert len(set(union.names)) == len(union.names)
    assert [each.stage for each in union.columns] == sorted(each.stage for each in union.columns)
    for each in union.columns:
        assert each.unit
        assert each.formula
        assert each.source


def test_one_feature_of_a_stage_is_enough():
    only = Catalogue((DAY,), 2, "UTC", ("basic",))
    assert only.terminal(row_of((0, 1, "?")), T0 + 1, 100) == [2.0]


def test_a_deployment_may_name_single_features_with_any_window():
    catalogue = Catalogue((DAY,), 2, "UTC", ("card_max_amount_1h", "terminal_risk_3d"), DELAY)
    assert catalogue.names == ("card_max_amount_1h", "terminal_risk_3d")
    assert catalogue.schema == "card_max_amount_1h@1+terminal_risk_3d@1-delay7d"
    assert catalogue.card_reach_ms == DAY // 24
    assert catalogue.terminal_reach_ms == 10 * DAY
    row = row_of((0, 900, "?"), (0.99, 4_000, "?"), (0.995, 300, "?"))
    assert catalogue.card(row, T0 + DAY, 100) == [40.0]
    with pytest.raises(SettingsError, match="write card_max_amount_1h for card_max_amount_60m"):
        Catalogue((DAY,), 2, "UTC", ("card_max_amount_60m",))
    with pytest.raises(SettingsError, match="'card_max_amount' and no feature of that name"):
        Catalogue((DAY,), 2, "UTC", ("card_max_amount",))


def test_a_plan_reads_only_what_its_features_need():
    plan = StagePlan("card", in_order(["amount", "card_count_7d"], "7d"), {"DELAY": 0, "unit": 100})
    assert plan.code == (
        "def compute(row, t, minor, own=()):\n"
        "    ((count_7d, total_7d),) = row.windows(t, WINDOWS_2)\n"
        "    count_7d += 1; total_7d += minor\n"
        "    return [minor / unit, float(count_7d)]\n"
    )
