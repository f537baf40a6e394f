"""The rules that a new deployment starts with: what everybody would look at, whatever a model says."""

from collections.abc import Sequence

from app.domain.rules.language import RuleError, check
from app.domain.rules.policy import types_of
from app.domain.rules.ruleset import Rule

#: Name and reason, and expressions of which the first is taken whose features the deployment computes. `{huge}`,
#: `{large}` and `{small}` are amounts. A card without earlier payments has the ratio 1: only `{huge}` finds its first.
_DEFAULTS = (
    (
        "very-large-amount",
        "very large amount, for this card or for any card",
        (
            "amount >= {huge} or (amount >= {large} and amount_over_card_median >= 10)",
            "amount >= {huge} or (amount >= {large} and amount_over_card_avg_30d >= 10)",
            "amount >= {huge}",
        ),
    ),
    (
        "many-small-amounts",
        "many small payments in a short time: possible card testing",
        (
            "card_count_1m >= 5 and amount <= {small}",
            "card_count_1h >= 10 and amount <= {small}",
            "card_count_1d >= 20 and amount <= {small}",
        ),
    ),
)
#: A small amount as a part of a large one, and a huge one as a multiple.
_SMALL, _HUGE = 200, 10


def default_rules(names: Sequence[str], large: float) -> tuple[Rule, ...]:
    """The rules of a new deployment; one whose features it does not compute is left out.

    Args:
        names: of the features that it computes.
        large: an amount that is large for any card, in major units of its currency.
    """
    types, found = types_of(names), []
    for name, reason, expressions in _DEFAULTS:
        for each in expressions:
            expression = each.format(
                huge=_number(_HUGE * large), large=_number(large), small=_number(large / _SMALL)
            )
            try:
                check(expression, types)
            except RuleError:
                continue
            found.append(Rule(name, 1, expression, "review", reason))
            break
    return tuple(found)


def _number(amount: float) -> str:
    # not :g, which writes 1000000 as 1e+06
    return str(int(amount)) if amount == int(amount) else repr(amount)
