"""The features that need a terminal's recent transactions and what their labels say."""

from app.domain.features.card import transactions
from app.domain.features.feature import (
    DAY_MS,
    HANDBOOK,
    WHITROW,
    ExplainedTransaction,
    Feature,
    window_name,
)

#: What is known of a terminal: its last entries behind the label delay, this many at most, no older than that.
LABEL_ENTRIES, LABEL_MS = 32, 30 * DAY_MS
#: Labels in `terminal_fraud_share_last_5`.
SHARE_LABELS = 5
#: Bounded for the sake of linear models.
MOST_PLAIN = 3

#: Terms of the formulas below, and what they mean.
TERMINAL_TERMS = {
    "recent labels": (
        f"the known labels of the terminal's last {LABEL_ENTRIES} transactions in "
        f"(t - delay - {window_name(LABEL_MS)}, t - delay], ordered by event time of the transactions"
    ),
}
_FRAUDS = "terminal frauds"


def _count(facts: ExplainedTransaction) -> str:
    if facts.value == 0:  # the transaction itself counts: zero means that it names no terminal
        return "no terminal is named"
    return f"{transactions(facts)} at this terminal within {facts.window}"


def _plain_streak(facts: ExplainedTransaction) -> str:
    if not facts.value:
        return "no confirmed fraud at normal amounts at this terminal"
    if facts.value == 1:
        return "1 confirmed fraud at this terminal had a normal amount for its card"
    return f"{facts.value:.0f} consecutive confirmed frauds at this terminal had normal amounts for their cards"


def _streak(facts: ExplainedTransaction) -> str:
    if facts.value == 1:
        return "1 confirmed fraud at this terminal"
    return f"{facts.value:.0f} consecutive confirmed frauds at this terminal"


def _plain_streak_age(facts: ExplainedTransaction) -> str:
    if not facts.value:
        return "no confirmed fraud at normal amounts at this terminal"
    return f"confirmed frauds at normal amounts at this terminal began {facts.value:.1f} days ago"


def _streak_age(facts: ExplainedTransaction) -> str:
    if not facts.value:
        return "the latest label at this terminal is not fraud"
    return f"consecutive confirmed frauds at this terminal began {facts.value:.1f} days ago"


TERMINAL_FEATURES = (
    Feature(
        "terminal_count_{w}",
        "transactions",
        "transactions at the terminal in (t - w, t], this one included",
        "terminal",
        "float(count_{w})",
        _count,
        WHITROW,
    ),
    Feature(
        "terminal_avg_amount_{w}",
        "major units",
        "mean amount at the terminal in (t - w, t], this one included",
        "terminal",
        "total_{w} / (count_{w} * unit)",
        lambda facts: (
            f"the terminal's {facts.window} average amount {facts.money(facts.value)} is {facts.level}"
        ),
        WHITROW,
    ),
    Feature(
        "terminal_total_amount_{w}",
        "major units",
        "sum of amounts at the terminal in (t - w, t], this one included",
        "terminal",
        "total_{w} / unit",
        lambda facts: (
            f"{facts.money(facts.value)} taken at this terminal within {facts.window} is {facts.level}"
        ),
    ),
    Feature(
        "terminal_min_amount_{w}",
        "major units",
        "smallest amount at the terminal in (t - w, t], this one included",
        "terminal",
        "min(amounts_{w}) / unit",
        lambda facts: (
            f"the terminal's smallest amount within {facts.window}, {facts.money(facts.value)}, "
            f"is {facts.level}"
        ),
    ),
    Feature(
        "terminal_max_amount_{w}",
        "major units",
        "largest amount at the terminal in (t - w, t], this one included",
        "terminal",
        "max(amounts_{w}) / unit",
        lambda facts: (
            f"the terminal's largest amount within {facts.window}, {facts.money(facts.value)}, "
            f"is {facts.level}"
        ),
    ),
    Feature(
        "terminal_delayed_count_{w}",
        "transactions",
        "transactions at the terminal in (t - delay - w, t - delay]",
        "terminal",
        "float(known_{w})",
        lambda facts: (
            f"{transactions(facts)} at this terminal in the {facts.window} before the label delay"
        ),
        HANDBOOK,
    ),
    Feature(
        "terminal_risk_{w}",
        "share",
        "share of the terminal's transactions in (t - delay - w, t - delay] whose known label is fraud; "
        "0 when there are none",
        "terminal",
        "frauds_{w} / known_{w} if frauds_{w} else 0.0",
        lambda facts: (
            f"{facts.value:.0%} of this terminal's transactions in the {facts.window} before the label delay "
            "were fraud"
        ),
        HANDBOOK,
        fact=_FRAUDS,
    ),
    Feature(
        "terminal_last_label",
        "0 or 1",
        "1 when the last of the recent labels is fraud",
        "terminal",
        "1.0 if labels.streak else 0.0",
        lambda facts: f"the latest label at this terminal is {'' if facts.value else 'not '}fraud",
        fact=_FRAUDS,
    ),
    Feature(
        f"terminal_fraud_share_last_{SHARE_LABELS}",
        "share",
        f"share of fraud among the last {SHARE_LABELS} of the recent labels; 0 when there are none",
        "terminal",
        f"fraud_share(labels, {SHARE_LABELS})",
        lambda facts: (
            f"{facts.value:.0%} of the last {SHARE_LABELS} labels at this terminal are fraud"
        ),
        fact=_FRAUDS,
    ),
    Feature(
        "terminal_fraud_streak",
        "transactions",
        "number of recent labels after the last genuine one: the fraud streak",
        "terminal",
        "float(labels.streak)",
        _streak,
        fact=_FRAUDS,
    ),
    Feature(
        "terminal_fraud_streak_age",
        "days",
        "days since the oldest transaction of the fraud streak; 0 when there is none",
        "terminal",
        "days_since(t, labels.first_ms)",
        _streak_age,
        fact=_FRAUDS,
    ),
    Feature(
        "terminal_plain_streak",
        "transactions",
        "transactions of the fraud streak whose amounts are normal for their cards (the plain streak)",
        "terminal",
        "float(labels.plain)",
        _plain_streak,
        fact=_FRAUDS,
    ),
    Feature(
        f"terminal_plain_streak_max_{MOST_PLAIN}",
        "transactions",
        f"terminal_plain_streak, at most {MOST_PLAIN}",
        "terminal",
        f"float(min(labels.plain, {MOST_PLAIN}))",
        _plain_streak,
        fact=_FRAUDS,
    ),
    Feature(
        "terminal_plain_streak_age",
        "days",
        "days since the oldest transaction of the plain streak; 0 when there is none",
        "terminal",
        "days_since(t, labels.plain_ms)",
        _plain_streak_age,
        fact=_FRAUDS,
    ),
    Feature(
        "terminal_genuine_age",
        "days",
        "days since the newest transaction with a genuine recent label; "
        f"delay + {window_name(LABEL_MS)} when there is none",
        "terminal",
        "days_since(t, t - DELAY - LABEL_MS if labels.genuine_ms is None else labels.genuine_ms)",
        lambda facts: (
            f"last confirmed-genuine transaction at this terminal: {facts.value:.1f} days ago"
        ),
        fact=_FRAUDS,
    ),
)
