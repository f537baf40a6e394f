"""Explanations, as a reviewer reads them: each feature as a sentence."""

import pytest

from app.domain.explanation import MAX_REASONS, Explainer
from app.domain.features.card import span
from app.domain.features.feature_sets import FEATURES

NAMES = (
    "amount",
    "is_weekend",
    "is_night",
    "seconds_since_last",
    "card_count_1h",
    "card_count_30d",
    "card_avg_amount_1h",
    "card_avg_amount_30d",
    "amount_over_card_avg_30d",
    "terminal_count_1h",
)
USUAL = (45.0, 0.0, 0.0, 14_000.0, 1.0, 56.0, 46.0, 54.0, 1.0, 1.0)


def told(pushes: dict[str, float], **values: float) -> list[str]:
    """Reasons when some features differ from the usual ones and some push the score."""
    row = [values.get(name, usual) for name, usual in zip(NAMES, USUAL, strict=True)]
    return Explainer(NAMES, USUAL).reasons(row, [pushes.get(name, 0.0) for name in NAMES])


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("amount", {"amount": 412.0}, "amount 412.00 is high"),
        ("amount", {"amount": 0.5}, "amount 0.50 is low"),
        (
            "amount",
            {"amount": 412.0, "amount_over_card_avg_30d": 6.28},
            "amount 412.00 is 6.3 times the card's 30d average",
        ),
        (
            "amount_over_card_avg_30d",
            {"amount": 412.0, "amount_over_card_avg_30d": 6.28},
            "amount 412.00 is 6.3 times the card's 30d average",
        ),
        ("is_weekend", {"is_weekend": 1.0}, "on a weekend"),
        ("is_weekend", {}, "on a weekday"),
        ("is_night", {"is_night": 1.0}, "at night"),
        ("is_night", {}, "during the day"),
        (
            "seconds_since_last",
            {"seconds_since_last": 34.0},
            "34 s after this card's previous transaction",
        ),
        (
            "seconds_since_last",
            {"seconds_since_last": 2_592_000.0, "card_count_30d": 1.0},
            "first transaction of this card within 30d",
        ),
        ("card_count_1h", {"card_count_1h": 14.0}, "14 transactions of this card within 1h"),
        ("card_count_30d", {"card_count_30d": 3.0}, "only 3 transactions of this card within 30d"),
        ("card_count_30d", {"card_count_30d": 1.0}, "only 1 transaction of this card within 30d"),
        (
            "card_avg_amount_30d",
            {"card_avg_amount_30d": 310.0},
            "the card's 30d average amount 310.00 is high",
        ),
        (
            "terminal_count_1h",
            {"terminal_count_1h": 52.0},
            "52 transactions at this terminal within 1h",
        ),
        ("terminal_count_1h", {"terminal_count_1h": 0.0}, "no terminal is named"),
    ],
)
def test_each_feature_has_words(name, values, words):
    assert told({name: 1.0}, **values) == [words]


def test_the_average_of_one_transaction_is_told_as_its_amount():
    pushes = {"card_avg_amount_1h": 2.0, "amount": 1.0}
    assert told(pushes, amount=300.0, card_avg_amount_1h=300.0) == ["amount 300.00 is high"]
    both = told(pushes, amount=300.0, card_avg_amount_1h=280.0, card_count_1h=2.0)
    assert both == ["the card's 1h average amount 280.00 is high", "amount 300.00 is high"]


def test_strongest_first_at_most_three_and_one_a_family():
    pushes = {
        "is_night": 0.3,
        "card_count_1h": 3.0,
        "card_count_30d": 2.5,
        "amount": 2.0,
        "is_weekend": 0.5,
    }
    reasons = told(pushes, card_count_1h=9.0, amount=400.0, is_weekend=1.0, is_night=1.0)
    assert reasons == [
        "9 transactions of this card within 1h",
        "amount 400.00 is high",
        "on a weekend",
    ]
    assert len(reasons) == MAX_REASONS


def test_what_lowers_the_score_or_hardly_moves_it_is_not_told():
    assert told({"amount": -1.0}) == []
    assert told({"amount": 1.0, "is_night": 0.09}, amount=99.0) == ["amount 99.00 is high"]


def test_equal_pushes_are_told_in_the_order_of_the_features():
    assert told({"is_night": 1.0, "is_weekend": 1.0}) == ["on a weekday", "during the day"]


def test_digits_follow_the_currency_and_unknown_features_are_told_by_name():
    assert Explainer(["amount"], [45.0], digits=0).reasons([412.0], [1.0]) == ["amount 412 is high"]
    unknown = Explainer(["risk_7d", "seconds_since_last"], [0.0, 60.0])
    assert unknown.reasons([0.25, 7_200.0], [2.0, 1.0]) == [
        "risk_7d 0.25 is high",
        "2.0 h after this card's previous transaction",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (300, "5 min"), (11_520, "3.2 h"), (354_240, "4.1 days")],
)
def test_spans(seconds, words):
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("amount_over_card_median", 4.2, "amount is 4.2 times the card's recent median"),
        (
            "amount_deviation",
            -2.0,
            "amount is 2.0 standard deviations below the card's recent mean",
        ),
        (
            "card_high_count_14d",
            3.0,
            "3 transactions of this card within 14d had an unusually high amount",
        ),
        (
            "terminal_delayed_count_7d",
            9.0,
            "9 transactions at this terminal in the 7d before the label delay",
        ),
        (
            "terminal_risk_7d",
            0.25,
            "25% of this terminal's transactions in the 7d before the label delay were fraud",
        ),
        ("terminal_last_label", 1.0, "the latest label at this terminal is fraud"),
        ("terminal_fraud_share_last_5", 0.8, "80% of the last 5 labels at this terminal are fraud"),
        ("terminal_fraud_streak", 3.0, "3 consecutive confirmed frauds at this terminal"),
        ("terminal_fraud_streak", 1.0, "1 confirmed fraud at this terminal"),
        (
            "terminal_fraud_streak_age",
            9.5,
            "consecutive confirmed frauds at this terminal began 9.5 days ago",
        ),
        (
            "terminal_plain_streak",
            3.0,
            "3 consecutive confirmed frauds at this terminal had normal amounts for their cards",
        ),
        (
            "terminal_plain_streak_age",
            9.5,
            "confirmed frauds at normal amounts at this terminal began 9.5 days ago",
        ),
        ("amount_is_high", 1.0, "amount is high compared with the card's recent median"),
        ("terminal_plain_streak", 0.0, "no confirmed fraud at normal amounts at this terminal"),
        ("terminal_fraud_streak_age", 0.0, "the latest label at this terminal is not fraud"),
        ("card_total_amount_1d", 812.0, "812.00 spent with this card within 1d is high"),
        ("card_small_count_1m", 4.0, "4 transactions of at most 5 with this card within 1m"),
        ("card_max_amount_1h", 900.0, "the card's largest amount within 1h, 900.00, is high"),
        ("terminal_avg_amount_7d", 71.5, "the terminal's 7d average amount 71.50 is high"),
        (
            "terminal_genuine_age",
            30.0,
            "last confirmed-genuine transaction at this terminal: 30.0 days ago",
        ),
    ],
)
def test_what_labels_and_habits_say_is_told_in_words(name, value, words):
    (reason,) = Explainer((name,), (0.0,)).reasons([value], [1.0])
    assert reason == words


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.family)
@pytest.mark.parametrize("value", [0.0, 1.0, 2.0])
def test_every_feature_has_a_sentence(feature, value):
    name = feature.name.format(w="7d")
    (sentence,) = Explainer((name,), (1.0,)).reasons([value], [1.0])
    assert "_" not in sentence
    assert sentence[0].islower() or sentence[0].isdigit()
    assert not sentence.endswith(".")


def test_the_labels_of_a_terminal_are_one_piece_of_news():
    names = ("terminal_risk_7d", "terminal_risk_30d", "terminal_fraud_streak", "is_night")
    told = Explainer(names, [0.0] * 4).reasons([0.5, 0.4, 3.0, 1.0], [4.0, 3.0, 2.0, 1.0])
    assert len(told) == 2
