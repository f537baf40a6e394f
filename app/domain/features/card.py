"""The features that need a card's recent transactions, and those of the transaction alone."""

from app.domain.features.feature import (
    BAHNSEN,
    DAY_MS,
    HANDBOOK,
    WHITROW,
    ExplainedTransaction,
    Feature,
    window_name,
)

#: A card's habits: its last entries, this many at most and no older than that.
PROFILE_ENTRIES, PROFILE_MS = 20, 30 * DAY_MS
#: An amount over this many medians is high, or very high; very high ones are counted this far back.
HIGH_RATIO, VERY_HIGH_RATIO, HIGH_MS = 2, 3, 14 * DAY_MS
#: From here on an explanation gives an amount as a multiple of the card's average: that says more than "high".
TIMES_THE_AVERAGE = 1.5
#: Bounded for the sake of linear models.
MOST_MEDIANS = 6
#: Card testing: what is charged to find out whether a stolen card still works, at most, in major units.
SMALL_AMOUNT = 5

#: Terms of the formulas below, and what they mean.
CARD_TERMS = {
    "recent amounts": (
        f"the amounts of the card's last {PROFILE_ENTRIES} transactions in "
        f"(t - {window_name(PROFILE_MS)}, t], without this one"
    ),
}
_HIGH_WINDOW = window_name(HIGH_MS)


def _first(facts: ExplainedTransaction, prefix: str) -> str | None:
    return next((name for name in facts.others if name.startswith(prefix)), None)


def _amount(facts: ExplainedTransaction) -> str:
    """For the amount and for its ratio to the card's average."""
    amount = facts.others.get("amount")
    what = "amount" if amount is None else f"amount {facts.money(amount)}"
    ratio = _first(facts, "amount_over_card_avg_")
    if ratio and (facts.others[ratio] >= TIMES_THE_AVERAGE or amount is None):
        window = ratio.removeprefix("amount_over_card_avg_")
        return f"{what} is {facts.others[ratio]:.1f} times the card's {window} average"
    return f"{what} is {facts.level}"


def _since_last(facts: ExplainedTransaction) -> str:
    counts = [name for name in facts.others if name.startswith("card_count_")]
    if counts and facts.others[counts[-1]] <= 1:
        return f"first transaction of this card within {counts[-1].removeprefix('card_count_')}"
    return f"{span(facts.value)} after this card's previous transaction"


def _median(facts: ExplainedTransaction) -> str:
    """For everything that is made of the ratio to the card's median."""
    ratio = facts.others.get("amount_over_card_median", facts.value)
    return f"amount is {ratio:.1f} times the card's recent median"


def _above_median(facts: ExplainedTransaction) -> str:
    if "amount_over_card_median" in facts.others:
        return _median(facts)
    return f"amount is {'' if facts.value else 'not '}high compared with the card's recent median"


def _deviation(facts: ExplainedTransaction) -> str:
    side = "above" if facts.value >= 0 else "below"
    return f"amount is {abs(facts.value):.1f} standard deviations {side} the card's recent mean"


def transactions(facts: ExplainedTransaction) -> str:
    """`3 transactions`, or `only 3 transactions` where more are normal."""
    noun = "transaction" if facts.value == 1 else "transactions"
    return f"{'' if facts.high else 'only '}{facts.value:.0f} {noun}"


def span(seconds: float) -> str:
    """A length of time as a person would put it: 42 s, 5 min, 3.2 h, 4.1 days."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3_600:
        return f"{seconds / 60:.0f} min"
    if seconds < 86_400:
        return f"{seconds / 3_600:.1f} h"
    return f"{seconds / 86_400:.1f} days"


CARD_FEATURES = (
    Feature(
        "amount",
        "major units",
        "amount",
        "card",
        "minor / unit",
        _amount,
        HANDBOOK,
        fact="amount",
    ),
    Feature(
        "is_weekend",
        "0 or 1",
        "1 on Saturday and Sunday, local time",
        "card",
        "weekend",
        lambda facts: "on a weekend" if facts.value else "on a weekday",
        HANDBOOK,
    ),
    Feature(
        "is_night",
        "0 or 1",
        "1 when the local hour is 6 or less",
        "card",
        "night",
        lambda facts: "at night" if facts.value else "during the day",
        HANDBOOK,
    ),
    Feature(
        "seconds_since_last",
        "seconds",
        "t minus the time of the card's previous transaction (at or before t), at most {longest}",
        "card",
        "gap / 1000",
        _since_last,
        WHITROW,
    ),
    Feature(
        "card_count_{w}",
        "transactions",
        "transactions of the card in (t - w, t], this one included",
        "card",
        "float(count_{w})",
        lambda facts: f"{transactions(facts)} of this card within {facts.window}",
        HANDBOOK,
    ),
    Feature(
        "card_avg_amount_{w}",
        "major units",
        "mean amount of the card in (t - w, t], this one included",
        "card",
        "total_{w} / (count_{w} * unit)",
        lambda facts: (
            f"the card's {facts.window} average amount {facts.money(facts.value)} is {facts.level}"
        ),
        HANDBOOK,
        # the average of a single transaction is its amount
        plainer=lambda facts: (
            "amount" if facts.others.get(f"card_count_{facts.window}") == 1 else None
        ),
    ),
    Feature(
        "card_total_amount_{w}",
        "major units",
        "sum of the card's amounts in (t - w, t], this one included",
        "card",
        "total_{w} / unit",
        lambda facts: (
            f"{facts.money(facts.value)} spent with this card within {facts.window} is {facts.level}"
        ),
        WHITROW,
    ),
    Feature(
        "card_min_amount_{w}",
        "major units",
        "smallest amount of the card in (t - w, t], this one included",
        "card",
        "min(amounts_{w}) / unit",
        lambda facts: (
            f"the card's smallest amount within {facts.window}, {facts.money(facts.value)}, is {facts.level}"
        ),
    ),
    Feature(
        "card_max_amount_{w}",
        "major units",
        "largest amount of the card in (t - w, t], this one included",
        "card",
        "max(amounts_{w}) / unit",
        lambda facts: (
            f"the card's largest amount within {facts.window}, {facts.money(facts.value)}, is {facts.level}"
        ),
    ),
    Feature(
        "card_small_count_{w}",
        "transactions",
        f"transactions of the card in (t - w, t] of at most {SMALL_AMOUNT} major units, this one included",
        "card",
        f"float(sum([amount <= {SMALL_AMOUNT} * unit for amount in amounts_{{w}}]))",
        lambda facts: (
            f"{transactions(facts)} of at most {SMALL_AMOUNT} with this card within {facts.window}"
        ),
    ),
    Feature(
        "amount_over_card_avg_{w}",
        "ratio",
        "amount / card_avg_amount_w, 1 when that is 0",
        "card",
        "minor * count_{w} / total_{w} if total_{w} else 1.0",
        _amount,
        BAHNSEN,
        fact="amount",
    ),
    Feature(
        "amount_over_card_median",
        "ratio",
        "amount / median of the recent amounts; 1 when there are none or the median is 0",
        "card",
        "ratio",
        _median,
        fact="amount",
    ),
    Feature(
        "amount_deviation",
        "standard deviations",
        "(amount - mean) / standard deviation of the recent amounts; 0 when the deviation is 0",
        "card",
        "deviation",
        _deviation,
        WHITROW,
        fact="amount",
    ),
    Feature(
        f"card_high_count_{_HIGH_WINDOW}",
        "transactions",
        f"number of recent amounts in (t - {_HIGH_WINDOW}, t] above {VERY_HIGH_RATIO} times their median",
        "card",
        "float(habit_high)",
        lambda facts: (
            f"{transactions(facts)} of this card within {_HIGH_WINDOW} had an unusually high amount"
        ),
    ),
    Feature(
        f"amount_over_card_median_max_{MOST_MEDIANS}",
        "ratio",
        f"amount_over_card_median, at most {MOST_MEDIANS}",
        "card",
        f"min(ratio, {float(MOST_MEDIANS)})",
        _median,
        fact="amount",
    ),
    Feature(
        "amount_is_high",
        "0 or 1",
        f"1 when amount_over_card_median is over {HIGH_RATIO}",
        "card",
        f"float(ratio > {HIGH_RATIO})",
        _above_median,
        fact="amount",
    ),
    Feature(
        "amount_is_very_high",
        "0 or 1",
        f"1 when amount_over_card_median is over {VERY_HIGH_RATIO}",
        "card",
        f"float(ratio > {VERY_HIGH_RATIO})",
        _above_median,
        fact="amount",
    ),
    Feature(
        "amount_is_high_again",
        "transactions",
        f"card_high_count_{_HIGH_WINDOW} if amount_is_very_high is 1, else 0",
        "card",
        f"float(habit_high) if ratio > {VERY_HIGH_RATIO} else 0.0",
        _above_median,
        fact="amount",
    ),
)
