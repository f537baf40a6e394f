"""Which rules and list entries fire for a transaction, and the action that follows: a function of the transaction.

Decided in this order, the first that fits:

1. an entry of the block list, or a rule that declines: `decline`;
2. an entry of the allow list, or a rule that allows: `approve`, whatever the model says;
3. a rule that asks for a review, or the model's decision (`is_fraud`): `review`;
4. otherwise: `approve`. A tag decides nothing.
"""

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from app.domain.features.own_features import NOTHING, OwnCatalogue, OwnField
from app.domain.rules.language import HELPERS, NUMBER, TEXT, TRUTH, RuleError, check, compiled
from app.domain.rules.ruleset import MAX_RULES, Rule, RuleField, RuleSet, entries

DECLINE, REVIEW, APPROVE = "decline", "review", "approve"
#: Fields of every transaction that rules may name; a missing terminal is an empty text.
_TEXTS = ("transaction_id", "card_id", "terminal_id")
#: The model's probability of fraud.
SCORE = "score"
_KINDS = {"text": TEXT, "integer": NUMBER, "number": NUMBER, "boolean": TRUTH}
#: Compiled sets of rules that are kept: a worker has one per list of features, two while a change is on its way.
_KEPT = 32

#: Gives the places of the rules that fire: of features, score, ids and values of own fields.
Fires = Callable[[Sequence[float], float, Any, Sequence[Any]], list[int]]


class RuleOutcome(NamedTuple):
    """What rules and lists make of a transaction.

    Attributes:
        fired: entries and rules that fired, rules with versions.
        action: `decline`, `review` or `approve`.
        alerting: names of what calls for an alert.
        reasons: of these, in words.
        allowed: an entry or a rule allows it: what the model says calls for no alert.
    """

    fired: list[str]
    action: str
    alerting: Sequence[str] = ()
    reasons: Sequence[str] = ()
    allowed: bool = False


def kept_policy(memo: dict[str, Any], rules: RuleSet) -> "RulePolicy | None":
    """Rules and lists, ready to use; None where there are none.

    Args:
        memo: of a partition: they are kept there until they change.
        rules: what is in force.
    """
    kept: tuple[RuleSet, RulePolicy | None] | None = memo.get("policy")
    if kept is None or kept[0] is not rules:
        kept = memo["policy"] = rules, RulePolicy(rules) if rules else None
    return kept[1]


def outcome_of(
    policy: "RulePolicy | None",
    names: tuple[str, ...],
    features: Sequence[float],
    item: Any,
    score: float,
    is_fraud: bool,
) -> RuleOutcome:
    """See `RulePolicy.decide`; without a policy, nothing but the model decides."""
    if policy is None:
        return _FLAGGED if is_fraud else _PLAIN
    return policy.decide(names, features, item, score, is_fraud=is_fraud)


def types_of(names: Sequence[str], fields: Iterable[OwnField | RuleField] = ()) -> dict[str, str]:
    """The type of everything that a rule may name.

    Args:
        names: of features.
        fields: own fields.
    """
    own = {each.name: _KINDS[each.kind] for each in fields}
    return {**own, **dict.fromkeys(_TEXTS, TEXT), SCORE: NUMBER, **dict.fromkeys(names, NUMBER)}


def rule_fields(used: Container[str], own: OwnCatalogue) -> tuple[RuleField, ...]:
    """The own fields among the names that an expression uses, as a change of rules carries them."""
    return tuple(RuleField(f.name, f.kind, f.default) for f in own.fields if f.name in used)


_FLAGGED, _PLAIN = RuleOutcome([], REVIEW), RuleOutcome([], APPROVE)


class RulePolicy:
    """Rules and lists, ready to use.

    Args:
        rules: what is in force.
    """

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules.rules
        self._titles = [rule.title for rule in rules.rules]
        self._listed: dict[str, dict[str, list[tuple[str, float]]]] = {"card": {}, "terminal": {}}
        for name, subject, listed_id, until_ms in entries(rules.listed):
            until = math.inf if until_ms is None else until_ms
            self._listed[subject].setdefault(listed_id, []).append((name, until))
        self._cards, self._terminals = self._listed["card"], self._listed["terminal"]
        self._names: tuple[str, ...] | None = None
        self._compiled: tuple[Fires, Sequence[OwnField]] | None = None

    def decide(
        self,
        names: tuple[str, ...],
        features: Sequence[float],
        item: Any,
        score: float,
        *,
        is_fraud: bool,
    ) -> RuleOutcome:
        """What rules and lists make of a transaction.

        Args:
            names: of its features. A rule that names a feature which it lacks does not fire.
            features: their values.
            item: has `transaction_id`, `card_id`, `terminal_id`, `event_time_ms` and `body`.
            score: of the model.
            is_fraud: what the model decides.
        """
        fired, alerting, reasons = [], [], []
        actions = {REVIEW} if is_fraud else set()
        if self._cards or self._terminals:
            for subject, listed in (
                ("card", self._cards.get(item.card_id, ())),
                ("terminal", self._terminals.get(item.terminal_id, ())),
            ):
                for name, until in listed:
                    if item.event_time_ms < until:
                        title = f"{name}-list:{subject}"
                        fired.append(title)
                        actions.add(DECLINE if name == "block" else "allow")
                        if name == "block":
                            alerting.append(title)
                            reasons.append(f"the {subject} is on the block list")
        if self._rules:
            fires, fields = self._fires_of(names)
            for place in fires(features, score, item, _values(fields, item.body) if fields else ()):
                rule = self._rules[place]
                fired.append(self._titles[place])
                actions.add(rule.action)
                if rule.action in (DECLINE, REVIEW):
                    alerting.append(rule.name)
                    reasons.append(rule.reason or f"rule {rule.name}: {rule.expression}")
        if DECLINE in actions:
            return RuleOutcome(fired, DECLINE, alerting, reasons)
        if "allow" in actions:
            return RuleOutcome(fired, APPROVE, allowed=True)
        return RuleOutcome(fired, REVIEW if REVIEW in actions else APPROVE, alerting, reasons)

    def _fires_of(self, names: tuple[str, ...]) -> tuple[Fires, Sequence[OwnField]]:
        # kept for the last names, by identity: to hash hundreds of rules for each transaction would cost more than
        # they do
        if self._compiled is None or names is not self._names:
            self._names, self._compiled = names, _compile(self._rules, names)
        return self._compiled


def _values(fields: Sequence[Any], body: bytes) -> list[Any]:
    """Values of own fields, as rules take them."""
    record: Mapping[str, Any] = orjson.loads(body)
    return [field_value(each, record.get(each.name)) for each in fields]


def field_value(each: Any, value: Any) -> Any:
    """The value of an own field as rules take it: integers are numbers; the default where it is of another type.

    Such a record was begun by a worker that did not check the field: its file lacked it. None: there is no value.
    """
    value = value if each.accepts(value) else each.default
    return float(value) if each.kind in ("integer", "number") else value


def rule_function(
    expression: str, names: tuple[str, ...], own: OwnCatalogue = NOTHING
) -> tuple[Fires, Sequence[OwnField]]:
    """One rule as a function (it gives an empty list, or not), and the own fields whose values it takes."""
    fields = rule_fields(check(expression), own)
    return _compile((Rule("trial", 1, expression, "tag", "", fields),), names)


#: What a variable of the compiled rules stands for.
_Source = str | RuleField


@lru_cache(maxsize=8 * MAX_RULES)
def _code_of(
    expression: str, names: tuple[str, ...], fields: tuple[RuleField, ...]
) -> tuple[str, dict[str, _Source]] | None:
    """Code of one rule and what its variables stand for; None where it names what the transaction lacks."""
    own = {each.name: each for each in fields if each.name not in types_of(names)}
    used: dict[str, _Source] = {}

    def place(name: str) -> str:
        field = own.get(name)
        variable = f"v_{name}"
        if field is not None:  # another rule may have it from another declaration
            told = repr((field.name, field.kind, field.default))
            variable = f"o_{told.encode().hex()}"
        used[variable] = field or name
        return variable

    try:
        return compiled(expression, types_of(names, fields), place), used
    except RuleError:
        return None


@lru_cache(maxsize=_KEPT)
def _compile(rules: tuple[Rule, ...], names: tuple[str, ...]) -> tuple[Fires, Sequence[OwnField]]:
    """One function that evaluates all rules, and the own fields whose values it takes."""
    usable = [
        (place, _code_of(rule.expression, names, rule.fields)) for place, rule in enumerate(rules)
    ]
    used = {
        variable: source for _, found in usable if found for variable, source in found[1].items()
    }
    fields: list[OwnField] = []
    lines = ["def fires(features, score, item, own):", "    fired = []"]
    for variable, source in sorted(used.items()):
        if isinstance(source, RuleField):
            value = f"own[{len(fields)}]"
            fields.append(source.field)
        elif source in names:
            value = f"features[{names.index(source)}]"
        elif source == "terminal_id":
            value = "item.terminal_id or ''"
        else:
            value = "score" if source == SCORE else f"item.{source}"
        lines.append(f"    {variable} = {value}")
    lines += [f"    if {found[0]}: fired.append({place})" for place, found in usable if found]
    lines.append("    return fired")
    known = dict(HELPERS)
    exec(compile("\n".join(lines), "<the rules>", "exec"), known)  # noqa: S102 -- written from checked nodes
    return known["fires"], fields
