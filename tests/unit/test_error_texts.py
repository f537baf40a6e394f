"""No text that reaches a worker's log contains an id, a key or a value of a record: offsets name records."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from app.blocks.core.row_groups import chunk_groups
from app.cassandra.alert_rows import AlertPacker
from app.cassandra.cql_wire import ServerError
from app.cassandra.prediction_rows import PREDICTIONS, RowPacker
from app.cassandra.refund_rows import RefundPacker
from app.cassandra.write_retries import refusal
from app.domain.rules.ruleset import check_ids
from app.ops.repartition_rows import moved
from app.windows.row_format import head_key, segment_key
from app.windows.window_row import RowRules, WindowRow
from tests.prediction_builder import prediction_bytes

CARD, VALUE = "Zq8-card", "Zq8-value"
KEY = CARD.encode()
ROOT = Path(__file__).parents[2]
RULES = RowRules(1000, 100, segment_entries=4)


def refused() -> None:
    row, *_ = RowPacker("EUR", 2).pack(prediction_bytes(VALUE, card=CARD))
    raise refusal(ServerError(0x2200, "Invalid"), PREDICTIONS, row)


def rows(number: int) -> dict[bytes, bytes]:
    row = WindowRow(KEY, RULES, {}.get)
    for at in range(number):
        row.insert(at, 1, counted=True, id8=at.to_bytes(8, "big"))
    return {name: raw for name, raw in row.encode() if raw is not None}


def read(stored: dict[bytes, bytes]) -> None:
    list(WindowRow.read(KEY, RULES, stored.get).entries())


def with_version(name: bytes) -> dict[bytes, bytes]:
    stored = rows(20)
    return stored | {name: stored[name][:8] + b"\x63" + stored[name][9:]}


def without_segment() -> dict[bytes, bytes]:
    stored = rows(20)
    del stored[segment_key(KEY, 0)]
    return stored


@pytest.mark.parametrize(
    "provoke",
    [
        lambda: chunk_groups([[(head_key(KEY), b"x" * 900)]], 400),
        lambda: read({head_key(KEY): b"damaged"}),
        lambda: read(with_version(head_key(KEY))),
        lambda: read(with_version(segment_key(KEY, 0))),
        lambda: read(without_segment()),
        lambda: list(moved(without_segment(), 0, lambda _: 0, lambda _: 0, [9])),
        lambda: list(moved(rows(3), 1, lambda _: 0, lambda _: 0, [9])),
        refused,
        lambda: RowPacker("EUR", 2).pack(prediction_bytes(1, card=CARD, score=VALUE)),
        lambda: RowPacker("EUR", 2).pack(prediction_bytes(1, card=CARD, is_fraud=VALUE)),
        lambda: RefundPacker("EUR", 2).pack_many([orjson.dumps({"card_id": CARD, "amount_minor": VALUE})]),
        lambda: AlertPacker(2, "d").pack_many([orjson.dumps({"card_id": CARD, "alert_id": VALUE})]),
        lambda: check_ids(["c", CARD * 99]),
    ],
    ids=[
        "too large", "damaged", "head version", "segment version", "no segment", "changelog", "misplaced", "refused",
        "no score", "no verdict", "no refund", "no alert", "list",
    ],
)  # fmt: skip
def test_errors_name_no_content(provoke: Callable[[], object]) -> None:
    with pytest.raises(Exception, match=".") as caught:
        provoke()
    told: BaseException | None = caught.value
    while told is not None:  # a traceback in the log prints causes as well
        assert "Zq8" not in repr(told)
        told = told.__cause__ or (None if told.__suppress_context__ else told.__context__)


# ---------------------------------------------------------------------- what could come back

#: What a worker runs. Pages and commands answer whoever has named the id.
CODE = (
    "agents",
    "tables",
    "app/blocks",
    "app/stages",
    "app/windows",
    "app/cassandra",
    "app/kafka",
    "app/metrics",
)
#: Names of what belongs to a record.
CONTENT = frozenset({
    "card", "card_id", "terminal_id", "transaction_id", "key", "value", "values", "body", "raw", "record", "group",
    "row", "label", "fields", "oldest_id", "amount",
})  # fmt: skip
#: Texts that answer a command, or whose name means something else; each with the reason.
ALLOWED = {
    ("app/kafka/topic_checks.py", "key"): "a configuration of a topic",
    ("app/kafka/topic_checks.py", "value"): "a configuration of a topic",
    ("app/cassandra/cql_wire.py", "body"): "what a node says about an error of its own",
    ("app/cassandra/write_retries.py", "row"): "its place: topic, partition and offset",
}


def content_in(node: ast.expr) -> Iterator[str]:
    """Names in an expression whose value is content; their length, or another fact of them, is none."""
    if isinstance(node, ast.Call) and not isinstance(node.func, ast.Attribute):
        inner = getattr(node.func, "id", "")
        if inner in {"len", "type", "min", "max", "next"}:
            return
    if isinstance(node, ast.Name) and node.id in CONTENT:
        yield node.id
    elif isinstance(node, ast.Attribute):
        if node.attr in CONTENT:
            yield node.attr
        elif not isinstance(node.value, ast.Name):  # an attribute of a record may be its offset
            yield from content_in(node.value)
    elif isinstance(node, ast.Subscript):
        yield from content_in(node.value)
    else:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                yield from content_in(child)


def told_by(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Content in messages of errors (`msg = ...`, arguments of errors) and in arguments of loggers."""
    for node in ast.walk(tree):
        said: list[ast.expr] = []
        if isinstance(node, ast.Assign) and any(
            getattr(t, "id", "") == "msg" for t in node.targets
        ):
            said = [node.value]
        elif isinstance(node, ast.Call):
            name = node.func
            called = getattr(name, "id", getattr(name, "attr", ""))
            if (
                called.endswith("Error") and called != "DeadRecordError"
            ):  # its text goes to dead letters
                said = node.args
            elif isinstance(name, ast.Attribute) and getattr(name.value, "id", "") == "logger":
                said = node.args
        for one in said:
            for part in ast.walk(one):
                if isinstance(part, ast.FormattedValue):
                    yield from ((part.lineno, found) for found in content_in(part.value))
            if not isinstance(one, ast.JoinedStr | ast.Constant):
                yield from ((one.lineno, found) for found in content_in(one))


def test_no_message_is_made_of_content() -> None:
    found = []
    for folder in CODE:
        for file in sorted((ROOT / folder).rglob("*.py")):
            name = str(file.relative_to(ROOT))
            found += [
                f"{name}:{line}: {content}"
                for line, content in told_by(ast.parse(file.read_text()))
                if (name, content) not in ALLOWED
            ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("code", "content"),
    [
        ('msg = f"the rows of {group[0][0]!r}"', ["group"]),
        ('raise StateError(f"{self.key!r} is missing")', ["key"]),
        ('logger.warning("%s waits", label.transaction_id)', ["transaction_id"]),
        ('msg = f"offset {record.offset} with {len(value)} bytes"', []),
    ],
)
def test_the_search_finds_what_it_should(code: str, content: list[str]) -> None:
    assert [name for _, name in told_by(ast.parse(code))] == content
