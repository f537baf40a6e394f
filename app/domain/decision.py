"""From a score to a decision and to reasons: pure, deterministic, in words a reviewer understands.

A reason is a feature that moved the score towards suspicion, with its value. Which features moved it, and
how much, is the scorer's to say (`models/scoring.py`); here the strongest are chosen and worded.
"""

import re
from collections.abc import Callable, Sequence

#: A feature's words: the values of all features in, and whether its own is above the usual one.
Phrase = Callable[[Sequence[float], bool], str]

#: The flag of a transaction whose anomaly score reaches its threshold; behind those of the stages.
ANOMALY = "anomaly"
MAX_REASONS = 3
#: A push weaker than this share of the strongest is noise beside it, and not told.
WORTH_TELLING = 0.1
#: From here on an amount is told as a multiple of the card's average: that says more than "high".
TIMES_THE_AVERAGE = 1.5

_WINDOW = re.compile(r"(.+)_(\d+(?:ms|s|m|h|d))")


def decide(score: float, threshold: float) -> bool:
    """Whether a transaction is called fraud: its score reaches the threshold."""
    return score >= threshold


class Explainer:
    """Turns contributions into at most three sentences.

    Args:
        names: the features, in the order of the values that `reasons` gets.
        usual: each feature's usual value (the training median), in the same order.
        digits: digits after the decimal point in the deployment's currency.
    """

    def __init__(self, names: Sequence[str], usual: Sequence[float], digits: int = 2) -> None:
        self.usual = tuple(usual)
        self._phrases = [_phrase(names, index, digits) for index in range(len(names))]
        self._families = [_family(name) for name in names]
        self._lone = [_lone(names, name) for name in names]

    def reasons(self, values: Sequence[float], contributions: Sequence[float]) -> list[str]:
        """What moved one transaction's score most towards suspicion, strongest first.

        Args:
            values: the transaction's features.
            contributions: how far each moved the score from where its usual value would leave it;
                positive means towards suspicion. The unit is the scorer's.

        Returns:
            At most three sentences, one for a family of features (the windows of one count are a
            family): a card that is used ten times in an hour would fill all three with the same news.
            The average of a single transaction is its amount, and told as that.
        """
        ranked = sorted((-push, index) for index, push in enumerate(contributions) if push > 0)
        told: list[str] = []
        families = set()
        for push, index in ranked:
            if (
                push > WORTH_TELLING * ranked[0][0]
            ):  # both negative: weaker than a tenth of the first
                break
            lone = self._lone[index]
            if lone and values[lone[0]] == 1:
                index = lone[1]  # noqa: PLW2901 -- the same news under another name
            family = self._families[index]
            if family in families:
                continue
            families.add(family)
            told.append(self._phrases[index](values, values[index] > self.usual[index]))
            if len(told) == MAX_REASONS:
                break
        return told


def _family(name: str) -> str:
    """Features that tell the same news: one count in several windows, an amount and its ratio."""
    if name.startswith("amount"):
        return "amount"
    if name.startswith(
        ("terminal_risk", "terminal_fraud", "terminal_last", "terminal_genuine", "terminal_plain")
    ):
        return "terminal frauds"
    match = _WINDOW.fullmatch(name)
    return match[1] if match else name


def _lone(names: Sequence[str], name: str) -> tuple[int, int] | None:
    """Of a card's average: where its count and the amount stand."""
    count = name.replace("card_avg_amount_", "card_count_")
    if count != name and count in names and "amount" in names:
        return names.index(count), names.index("amount")
    return None


def _phrase(names: Sequence[str], index: int, digits: int) -> Phrase:
    """The words for one feature; an unknown one is told by its name and value."""
    name = names[index]
    if name in _SIMPLE:
        return _SIMPLE[name](names, index, digits)
    match = _WINDOW.fullmatch(name)
    if match and match[1] in _WINDOWED:
        return _WINDOWED[match[1]](names, index, digits, match[2])
    return lambda values, above: f"{name} {values[index]:g} is {'high' if above else 'low'}"


def _amount(names: Sequence[str], index: int, digits: int, _window: str = "") -> Phrase:
    """Both for the amount and for its ratio to the card's average."""
    amount = names.index("amount") if "amount" in names else None
    prefix = "amount_over_card_avg_"
    ratio = next((i for i, name in enumerate(names) if name.startswith(prefix)), None)
    average = "" if ratio is None else f"the card's {names[ratio].removeprefix(prefix)} average"

    def words(values: Sequence[float], above: bool) -> str:
        what = "amount" if amount is None else f"amount {values[amount]:.{digits}f}"
        if ratio is not None and (values[ratio] >= TIMES_THE_AVERAGE or amount is None):
            return f"{what} is {values[ratio]:.1f} times {average}"
        return f"{what} is {'high' if above else 'low'}"

    return words


def _weekend(names: Sequence[str], index: int, digits: int) -> Phrase:
    return lambda values, above: "on a weekend" if values[index] else "on a working day"


def _night(names: Sequence[str], index: int, digits: int) -> Phrase:
    return lambda values, above: "at night" if values[index] else "by day"


def _since_last(names: Sequence[str], index: int, digits: int) -> Phrase:
    counts = [i for i, name in enumerate(names) if name.startswith("card_count_")]
    longest = counts[-1] if counts else None
    window = names[longest].removeprefix("card_count_") if longest is not None else ""

    def words(values: Sequence[float], above: bool) -> str:
        if longest is not None and values[longest] <= 1:
            return f"first transaction of this card within {window}"
        return f"{span(values[index])} after this card's previous transaction"

    return words


def _card_count(names: Sequence[str], index: int, digits: int, window: str) -> Phrase:
    return lambda values, above: f"{_number(values[index], above)} of this card within {window}"


def _card_average(names: Sequence[str], index: int, digits: int, window: str) -> Phrase:
    return lambda values, above: (
        f"the card's {window} average amount {values[index]:.{digits}f} is "
        f"{'high' if above else 'low'}"
    )


def _terminal_count(names: Sequence[str], index: int, digits: int, window: str) -> Phrase:
    def words(values: Sequence[float], above: bool) -> str:
        if values[index] == 0:  # the transaction itself counts: zero means it names no terminal
            return "no terminal is named"
        return f"{_number(values[index], above)} at this terminal within {window}"

    return words


def _over_median(names: Sequence[str], index: int, digits: int) -> Phrase:
    # the features made of the ratio are told by it, where it is there
    at = names.index("amount_over_card_median") if "amount_over_card_median" in names else None
    if at is not None:
        index = at
    elif names[index].startswith("amount_is"):
        return lambda values, above: (
            f"the amount is {'' if values[index] else 'not '}high beside the card's recent median"
        )
    return lambda values, above: f"amount is {values[index]:.1f} times the card's recent median"


def _deviation(names: Sequence[str], index: int, digits: int) -> Phrase:
    def words(values: Sequence[float], above: bool) -> str:
        side = "above" if values[index] >= 0 else "below"
        return (
            f"amount is {abs(values[index]):.1f} standard deviations {side} the card's recent mean"
        )

    return words


def _high_count(names: Sequence[str], index: int, digits: int, window: str) -> Phrase:
    return lambda values, above: (
        f"{values[index]:.0f} of this card's recent transactions within {window} were unusually high"
    )


def _known_count(names: Sequence[str], index: int, digits: int, window: str) -> Phrase:
    return lambda values, above: (
        f"{_number(values[index], above)} at this terminal in the {window} whose labels count"
    )


def _risk(names: Sequence[str], index: int, digits: int, window: str) -> Phrase:
    return lambda values, above: (
        f"{values[index]:.0%} of this terminal's transactions in the {window} whose labels count were fraud"
    )


def _last_label(names: Sequence[str], index: int, digits: int) -> Phrase:
    return lambda values, above: (
        f"the newest label known of this terminal {'says' if values[index] else 'does not say'} fraud"
    )


def _share(names: Sequence[str], index: int, digits: int) -> Phrase:
    return lambda values, above: (
        f"{values[index]:.0%} of this terminal's last known labels say fraud"
    )


def _streak(names: Sequence[str], index: int, digits: int) -> Phrase:
    return lambda values, above: f"{values[index]:.0f} known frauds in a row at this terminal"


def _plain_streak(names: Sequence[str], index: int, digits: int) -> Phrase:
    return lambda values, above: (
        f"{values[index]:.0f} known frauds in a row at this terminal were of amounts usual for their cards"
    )


def _plain_streak_age(names: Sequence[str], index: int, digits: int) -> Phrase:
    return lambda values, above: (
        "known frauds of usual amounts at this terminal "
        + (f"began {values[index]:.1f} days ago" if values[index] else "are none")
    )


def _streak_age(names: Sequence[str], index: int, digits: int) -> Phrase:
    return lambda values, above: (
        f"the known frauds in a row at this terminal began {values[index]:.1f} days ago"
    )


def _genuine_age(names: Sequence[str], index: int, digits: int) -> Phrase:
    return lambda values, above: (
        f"no transaction of this terminal is known to be genuine since {values[index]:.1f} days ago"
    )


_SIMPLE: dict[str, Callable[[Sequence[str], int, int], Phrase]] = {
    "amount": _amount,
    "is_weekend": _weekend,
    "is_night": _night,
    "seconds_since_last": _since_last,
    "amount_over_card_median": _over_median,
    "amount_over_card_median_max_6": _over_median,
    "amount_is_high": _over_median,
    "amount_is_very_high": _over_median,
    "amount_is_high_again": _over_median,
    "amount_deviation": _deviation,
    "terminal_last_label": _last_label,
    "terminal_fraud_share_last_5": _share,
    "terminal_fraud_streak": _streak,
    "terminal_fraud_streak_age": _streak_age,
    "terminal_plain_streak": _plain_streak,
    "terminal_plain_streak_max_3": _plain_streak,
    "terminal_plain_streak_age": _plain_streak_age,
    "terminal_genuine_age": _genuine_age,
}
_WINDOWED: dict[str, Callable[[Sequence[str], int, int, str], Phrase]] = {
    "amount_over_card_avg": _amount,
    "card_count": _card_count,
    "card_avg_amount": _card_average,
    "card_high_count": _high_count,
    "terminal_count": _terminal_count,
    "terminal_delayed_count": _known_count,
    "terminal_risk": _risk,
}


def _number(count: float, above: bool) -> str:
    noun = "transaction" if count == 1 else "transactions"
    return f"{count:.0f} {noun}" if above else f"only {count:.0f} {noun}"


def span(seconds: float) -> str:
    """A length of time as a person would say it: 42 s, 5 min, 3.2 h, 4.1 days."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3_600:
        return f"{seconds / 60:.0f} min"
    if seconds < 86_400:
        return f"{seconds / 3_600:.1f} h"
    return f"{seconds / 86_400:.1f} days"
