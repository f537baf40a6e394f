"""The reference implementation of rules and lists: evaluates each expression node by node, one transaction at a time.

It shares the check of expressions with the stream (app/domain/rules/language.py), and nothing of their evaluation.
"""

import ast
import math
import operator
from collections.abc import Mapping
from functools import cache
from typing import Any

from app.domain.rules.language import RuleError, check
from app.domain.rules.ruleset import Rule, RuleSet

_COMPARE = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq,
}  # fmt: skip
_CALLS = {
    "abs": abs,
    "min": min,
    "max": max,
    "startswith": lambda text, head: text[: len(head)] == head,
}


def outcome(rules: RuleSet, fields: Mapping[str, Any]) -> tuple[list[str], str]:
    """What fires for a prediction record, and the action that follows.

    Args:
        rules: what is in force.
        fields: the record.
    """
    if not rules:
        return [], "review" if fields["is_fraud"] else "approve"
    fired: list[str] = []
    lists: set[str] = set()
    decisions: set[str] = set()
    for subject in ("card", "terminal"):
        its_id = fields.get(f"{subject}_id")
        # in the order in which they were put there
        for key, until in rules.listed.items():
            name, its_subject, listed_id = key.split("/", 2)
            if its_subject != subject or listed_id != its_id:
                continue
            if until is None or fields["event_time_ms"] < until:
                fired.append(f"{name}-list:{subject}")
                lists.add(name)
    for rule in rules.rules:
        known = _known(fields, rule)
        types = {name: _type(value) for name, value in known.items()}
        try:
            check(rule.expression, types)
        except RuleError:
            continue
        if _evaluate(_tree(rule.expression), known):
            fired.append(f"{rule.name}@{rule.version}")
            decisions.add(rule.action)
    if "block" in lists or "decline" in decisions:
        return fired, "decline"
    if "allow" in lists or "allow" in decisions:
        return fired, "approve"
    return fired, "review" if fields["is_fraud"] or "review" in decisions else "approve"


def _known(fields: Mapping[str, Any], rule: Rule) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for each in (one.field for one in rule.fields):
        value: Any = fields.get(each.name)
        value = value if each.accepts(value) else each.default
        known[each.name] = float(value) if each.kind in ("integer", "number") else value
    for name in ("transaction_id", "card_id", "terminal_id"):
        known[name] = fields.get(name) or ""
    return known | {"score": fields["score"]} | fields["features"]


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "truth"
    return "text" if isinstance(value, str) else "number"


@cache
def _tree(expression: str) -> ast.expr:
    return ast.parse(expression.strip(), mode="eval").body


def _evaluate(node: Any, known: Mapping[str, Any]) -> Any:  # noqa: PLR0911 -- a case per kind of node
    match node:
        case ast.Constant(value=bool() | str() as value):
            return value
        case ast.Constant(value=value):
            return float(value)  # type: ignore[arg-type]
        case ast.Name(id=name):
            return known[name]
        case ast.Tuple(elts=members) | ast.List(elts=members) | ast.Set(elts=members):
            return [_evaluate(one, known) for one in members]
        case ast.BoolOp(op=ast.And(), values=values):
            return all(_evaluate(one, known) for one in values)
        case ast.BoolOp(values=values):
            return any(_evaluate(one, known) for one in values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _evaluate(operand, known)
        case ast.UnaryOp(operand=operand):
            return -_evaluate(operand, known)
        case ast.BinOp(left=left, op=op, right=right):
            return _arithmetic(op, _evaluate(left, known), _evaluate(right, known))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _CALLS[name](*(_evaluate(one, known) for one in arguments))  # type: ignore[operator]
        case ast.Compare(left=left, ops=ops, comparators=others):
            values = [_evaluate(one, known) for one in (left, *others)]
            return all(map(_compare, ops, values, values[1:]))
    raise AssertionError(ast.dump(node))


def _arithmetic(op: Any, one: float, other: float) -> float:
    if isinstance(op, ast.Div):
        return one / other if other else math.nan
    if isinstance(op, ast.Mult):
        return one * other
    return one + other if isinstance(op, ast.Add) else one - other


def _compare(op: Any, one: Any, other: Any) -> bool:
    if isinstance(op, ast.In | ast.NotIn):
        return (one in other) is isinstance(op, ast.In)
    if isinstance(op, ast.NotEq):
        return one != other and one == one and other == other  # noqa: PLR0124 -- NaN differs from nothing
    return bool(_COMPARE[type(op)](one, other))
