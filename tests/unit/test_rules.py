"""Rules and lists: the language and what it refuses, what fires, precedence, limits, and both evaluations alike."""

import json
import math
import random
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import orjson
import pytest

from app.blocks.core.row_groups import chunk_groups
from app.cli.rule_text import described_rule, trial_lines
from app.domain.challengers import MAX_CHALLENGERS, Challenger
from app.domain.changes import ListChange, RuleChange
from app.domain.changes_in_force import InForce
from app.domain.features.own_features import NOTHING, parse_own
from app.domain.rules import Rule, RuleError, RulePolicy, RuleSet
from app.domain.rules.defaults import default_rules
from app.domain.rules.language import MAX_CHARACTERS, check
from app.domain.rules.policy import rule_fields, rule_function, types_of
from app.domain.rules.ruleset import MAX_LISTED, MAX_RULES, MAX_RULES_BYTES, RuleField
from app.domain.transaction import DeadRecordError
from app.errors import SettingsError, UsageError
from app.kafka.change_history import ChangeHistory, LoggedChange, send_changes
from app.ops import rule_changes as rule_commands
from app.ops.reference_rules import outcome
from app.ops.rule_changes import add_rule, change_list
from app.quality.rule_trial import RuleTrial
from app.quality.verdicts import Verdicts
from app.settings import load_settings
from app.stages.change_forwarding import first_rules
from app.stages.deployed_features import catalogue_of
from app.stages.reserved_rows import in_force_row, read_in_force
from app.topics import batch_bytes
from app.wire.control_records import encode_change, parse_change
from tests.builders import tx_bytes
from tests.verify_world import VerifyWorld

OWN = parse_own("""
fields.kind = {type = "text", default = "none"}
fields.parts = {type = "integer", default = 1}
fields.online = {type = "boolean", default = false}
fields.ratio = {type = "number", default = 0.5}
""")
NAMES = ("amount", "card_count_1h", "terminal_count_1h")
TYPES = types_of(NAMES, OWN.fields)
VALUES = (100.0, 4.0, 0.0)
#: A character of four bytes.
WIDE = "\N{FIRE}"


def item(**fields: Any) -> Any:
    """A transaction on its way to be scored."""
    said = {"transaction_id": "tx", "card_id": "c1", "terminal_id": "t1", "event_time_ms": 1_000}
    said |= fields
    return SimpleNamespace(**said, body=orjson.dumps(said))


def decided(rules: RuleSet, *, is_fraud: bool = False, score: float = 0.25, **fields: Any) -> Any:
    """What the stream makes of a transaction; the reference implementation must say the same."""
    one = item(**fields)
    found = RulePolicy(rules).decide(NAMES, VALUES, one, score, is_fraud=is_fraud)
    record = orjson.loads(one.body) | {
        "features": dict(zip(NAMES, VALUES, strict=True)), "score": score, "is_fraud": is_fraud,
    }  # fmt: skip
    assert outcome(rules, record) == (found.fired, found.action)
    return found


def fires(expression: str, **fields: Any) -> bool:
    own = rule_fields(expression, OWN)
    return bool(decided(RuleSet().with_rule("r", expression, "tag", "", own), **fields).fired)


class TestLanguage:
    @pytest.mark.parametrize(
        "expression",
        [
            "amount > 99", "amount >= 100 and card_count_1h < 5", "not amount < 100",
            "amount / card_count_1h == 25", "-amount < -99.5", "amount - 1 != amount",
            "0 < score <= 0.25", "card_id == 'c1'", "card_id in ('c0', 'c1')",
            "terminal_id not in ['t0']", "startswith(terminal_id, 't')", "kind == 'none'",
            "parts == 1", "not online", "online == False", "abs(-3) == 3",
            "max(amount, 5, 300) == 300", "min(amount, 5) == 5", "amount in (100, 200)",
            "True", " amount * 2 == 200 ", "transaction_id != 'x'",
        ],
    )  # fmt: skip
    def test_what_holds(self, expression: str) -> None:
        check(expression, TYPES)
        assert fires(expression)

    @pytest.mark.parametrize(
        "expression",
        [
            "amount / terminal_count_1h > 0", "amount / terminal_count_1h < 0",
            "amount / terminal_count_1h == 0", "amount / terminal_count_1h != 0",
            "terminal_count_1h / terminal_count_1h != 1", "amount > 100", "card_id in ('c2', '')",
            "0.3 < score < 1",
        ],
    )  # fmt: skip
    def test_what_does_not(self, expression: str) -> None:
        check(expression, TYPES)
        assert not fires(expression)

    def test_fields_have_their_defaults_and_a_missing_terminal_is_empty(self) -> None:
        assert fires("terminal_id == ''", terminal_id=None)
        assert fires("kind == 'a' and parts == 2 and online", kind="a", parts=2, online=True)
        assert fires("kind == 'none' and parts == 1", kind=None, parts=None)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"kind": 5}, {"kind": ["a"]}, {"kind": "x" * 1_025}, {"parts": "n/a"}, {"parts": 1.5},
            {"parts": 2**64 - 1}, {"parts": True}, {"online": 1}, {"online": "false"}, {"online": {}},
            {"ratio": "n/a"}, {"ratio": [1]},
        ],
    )  # fmt: skip
    def test_a_field_of_another_type_is_its_default(self, wrong: dict[str, Any]) -> None:
        """A worker whose file lacks the field passes on what comes."""
        assert fires(
            "startswith(kind, 'no') and parts < 2 and not online and ratio == 0.5", **wrong
        )

    @pytest.mark.parametrize(
        ("expression", "says"),
        [
            ("amount", "it is a number, and a rule is true or false"),
            ("card_id", "it is a text"),
            ("amout > 5", "no feature and no field amout; did you mean amount"),
            ("amount > 'x'", "takes a number, and `'x'` is a text"),
            ("card_id > 5", "takes a number, and `card_id` is a text"),
            ("card_id == 5", "compares a text with a number"),
            ("card_id in (1, 2)", "compares a text with a number"),
            ("amount in card_id", "followed by constants"),
            ("amount in (amount, 2)", "is not a constant"),
            ("amount and True", "compare it, such as `amount > 0`"),
            ("online > 1", "takes a number, and `online` is true or false"),
            ("amount > 5 && score > 1", "write `and` in place of `&&`"),
            ("amount > 5 || score > 1", "write `or` in place of `||`"),
            ("!online", "write `not` in place of `!`"),
            ("amount > 5 or", "not a valid expression"),
            ("", "not a valid expression"),
            ("amount = 5", "not a valid expression"),
            ("1 < amount == 2", "one thing at a time"),
            ("amount == 1 == 2", "one thing at a time"),
            ("card_id is 5", "compare with"),
            ("amount > None", "is not a number"),
            ("amount > 1j", "is not a number"),
            ("card_id == b'x'", "is not a number"),
            ("amount > 1e999", "too large"),
            ("amount > " + "9" * 400, "too large"),
            ("round(amount) > 1", "there is no function round"),
            ("abs(amount, 1) > 1", "abs takes 1 values, not 2"),
            ("min(1) > 1", "min takes 2 to 8 values, not 1"),
            ("min(*(1, 2)) > 1", "not 1"),
            ("abs(x=amount) > 1", "call a function by its name"),
        ],
    )
    def test_what_is_refused_and_why(self, expression: str, says: str) -> None:
        with pytest.raises(RuleError) as caught:
            check(expression, TYPES)
        assert says in str(caught.value)

    @pytest.mark.parametrize(
        "expression",
        [
            "().__class__.__bases__[0].__subclasses__()", "card_id.__class__", "card_id.upper() == 'C'",
            "__import__('os').system('id')", "abs.__self__", "eval('1')", "exec('1')", "open('x')",
            "(lambda: True)()", "[x for x in (1, 2)]", "{1: 2}", "[1][0] == 1", "card_id[0] == 'c'",
            "f'{card_id}' == 'c'", "(y := amount) > 1", "amount ** 9 ** 9 > 1", "amount // 2 > 1",
            "amount % 2 > 1", "1 << 99 > 1", "~1 > 1", "+amount > 1", "'a' * 99 == 'x'",
            "card_id + card_id == 'x'", "amount if online else score", "await amount", "yield amount",
            "print(1)", "globals()", "HELPERS", "features[0] > 1", "item", "own", "fired", "v0 > 1",
            "min.__call__(1, 2) > 1", "startswith.__globals__", "divide(1, 0) > 1", "... == 1",
            "amount > 1\nimport os", "amount > 1; 1", "amount > 1 #", "'\\x00' == card_id.x",
        ],
    )  # fmt: skip
    def test_hostile_expressions_are_refused(self, expression: str) -> None:
        if expression == "amount > 1 #":  # a comment is harmless
            check(expression, TYPES)
            return
        with pytest.raises(RuleError):
            check(expression, TYPES)

    @pytest.mark.parametrize(
        "expression",
        [
            "(" * 400 + "amount > 1" + ")" * 400, "not " * 240 + "online", "-" * 900 + "amount > 1",
            " or ".join(["amount > 1"] * 80), "amount > 1" + " + amount" * 90,
            "card_id in (" + "'c'," * 240 + ")", "x" * (MAX_CHARACTERS + 1),
            "abs(" * 100 + "1" + ")" * 100 + " > 1", "[" * 500,
        ],
    )  # fmt: skip
    def test_work_is_bounded(self, expression: str) -> None:
        with pytest.raises(RuleError):
            check(expression, TYPES)

    def test_texts_cannot_leave_their_quotes(self) -> None:
        for text in ("'", '"', "\\", "\n", "'); import os; ('", "\u2028", "{card_id}"):
            assert fires(f"card_id == {text!r}", card_id=text)

    def test_both_evaluations_agree_on_drawn_expressions(self, seed: int) -> None:
        rng = random.Random(seed)

        def number(depth: int) -> str:
            if depth == 0 or rng.random() < 0.3:
                return rng.choice((*NAMES, "score", "parts", "0", "2.5", "100"))
            one, other = number(depth - 1), number(depth - 1)
            return rng.choice(
                (f"({one} {rng.choice('+-*/')} {other})", f"max({one}, {other})", f"-{one}")
            )

        def truth(depth: int) -> str:
            if depth == 0 or rng.random() < 0.4:
                sign = rng.choice(("<", "<=", ">", ">=", "==", "!="))
                return f"({number(2)} {sign} {number(2)})"
            word = rng.choice(("and", "or"))
            return f"({truth(depth - 1)} {word} not {truth(depth - 1)})"

        for _ in range(300):
            fires(truth(2), parts=rng.choice((None, 0, 7)))


class TestOwnFields:
    """A rule carries the declarations of the own fields that it names: no worker's file takes part."""

    KIND = RuleField("kind", "text", "none")

    def test_two_rules_may_have_a_field_from_different_declarations(self) -> None:
        rules = RuleSet().with_rule("a", "kind == 'none'", "tag", "", (self.KIND,))
        rules = rules.with_rule("b", "kind == ''", "tag", "", (RuleField("kind", "text", ""),))
        rules = rules.with_rule("c", "kind > 4", "tag", "", (RuleField("kind", "integer", 0),))
        assert decided(rules).fired == ["a@1", "b@1"]
        assert decided(rules, kind=5).fired == ["a@1", "b@1", "c@1"]
        assert decided(rules, kind="none").fired == ["a@1"]

    def test_a_field_that_a_rule_does_not_declare_is_none(self) -> None:
        rules = RuleSet().with_rule("a", "not kind == 'none'", "tag", "")
        assert decided(rules, kind="x").fired == []

    def test_features_and_fields_of_every_transaction_go_before(self) -> None:
        fields = (RuleField("amount", "text", "x"), RuleField("card_id", "integer", 1))
        rules = RuleSet().with_rule("a", "amount > 99 and card_id == 'c1'", "tag", "", fields)
        assert decided(rules).fired == ["a@1"]

    def test_there_and_back(self) -> None:
        fields = (self.KIND, RuleField("n", "number", 0.5), RuleField("b", "boolean", True))
        change = RuleChange(name="a", expression="kind == 'x' and n > 1 and b", fields=fields)
        assert parse_change(encode_change(change)) == change
        in_force = InForce().after(change, 0, 0)
        assert read_in_force(in_force_row(in_force, 0)[1]) == in_force
        assert in_force.rules.rules[0].fields == fields

    def test_a_rule_of_before_there_were_fields_is_read(self) -> None:
        rule = msgspec.msgpack.encode(["a", 1, "amount > 1", "tag", ""])
        assert msgspec.msgpack.decode(rule, type=Rule) == Rule("a", 1, "amount > 1", "tag")

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ((RuleField("other", "text", ""),), "does not name the field 'other'"),
            ((KIND, KIND), "or it is declared twice"),
            ((RuleField("kind", "text", 5),), "default of the field kind is not of type text"),
            ((RuleField("kind", "text", "x" * 1_025),), "is not of type text"),
            ((RuleField("kind", "number", 2**63),), "is not of type number"),
            ((RuleField("kind", "integer", True),), "is not of type integer"),
        ],
    )
    def test_what_is_no_declaration(self, fields: Any, says: str) -> None:
        change = RuleChange(name="a", expression="kind == 'x'", fields=fields)
        with pytest.raises(DeadRecordError, match=says):
            parse_change(encode_change(change))


class TestPrecedence:
    """Block list and declines, then allow list and allows, then reviews and the model."""

    def rules(self, *actions: Any) -> RuleSet:
        found = RuleSet()
        for number, action in enumerate(actions):
            found = found.with_rule(f"r{number}", "amount > 1", action, f"because {number}")
        return found

    @pytest.mark.parametrize(
        ("actions", "lists", "is_fraud", "action"),
        [
            ((), (), False, "approve"), ((), (), True, "review"),
            (("tag",), (), False, "approve"), (("tag",), (), True, "review"),
            (("review",), (), False, "review"), (("allow",), (), True, "approve"),
            (("allow", "review"), (), True, "approve"), (("allow", "decline"), (), False, "decline"),
            (("decline",), ("allow",), False, "decline"), (("review",), ("allow",), True, "approve"),
            (("allow",), ("block",), False, "decline"), ((), ("allow", "block"), False, "decline"),
        ],
    )  # fmt: skip
    def test_order(self, actions: Any, lists: Any, is_fraud: bool, action: str) -> None:
        rules = self.rules(*actions)
        for name in lists:
            rules = rules.with_listed(name, "card", ["c1"], None)
        assert decided(rules, is_fraud=is_fraud).action == action

    def test_what_alerts_say(self) -> None:
        rules = self.rules("review", "tag").with_listed("block", "terminal", ["t1"], None)
        found = decided(rules)
        assert found.fired == ["block-list:terminal", "r0@1", "r1@1"]
        assert found.alerting == ["block-list:terminal", "r0"]
        assert found.reasons == ["the terminal is on the block list", "because 0"]
        allowed = decided(self.rules("review", "allow"), is_fraud=True)
        assert (allowed.alerting, allowed.allowed) == ((), True)

    def test_an_entry_ends_at_an_event_time(self) -> None:
        rules = RuleSet().with_listed("block", "card", ["c1"], 1_000)
        assert decided(rules, event_time_ms=999).action == "decline"
        assert decided(rules, event_time_ms=1_000).action == "approve"
        assert decided(rules, card_id="c2", event_time_ms=999).action == "approve"

    def test_a_rule_of_features_that_a_transaction_lacks_does_not_fire(self) -> None:
        rules = RuleSet().with_rule("a", "nothing > 1 or amount > 1", "review", "")
        assert decided(rules).fired == []
        rules = rules.with_rule("b", "not nothing > 1", "review", "")
        assert decided(rules).fired == []


class TestRuleSet:
    def test_versions_go_on_after_a_removal(self) -> None:
        rules = RuleSet().with_rule("a", "True", "tag", "").with_rule("b", "True", "tag", "")
        rules = rules.with_rule("a", "False", "tag", "")
        assert [rule.title for rule in rules.rules] == ["a@2", "b@1"]
        again = rules.without_rule("a").with_rule("a", "True", "tag", "")
        assert [rule.title for rule in again.rules] == ["a@3", "b@1"]
        assert rules.without_rule("nothing") is rules

    def test_one_too_many_changes_nothing(self) -> None:
        rules = RuleSet()
        for number in range(MAX_RULES):
            rules = rules.with_rule(f"r{number}", "True", "tag", "")
        assert rules.with_rule("more", "True", "tag", "") is rules
        assert rules.with_rule("r0", "False", "tag", "") is not rules
        listed = rules.with_listed("block", "card", map(str, range(MAX_LISTED)), None)
        assert listed.with_listed("allow", "card", ["x"], None) is listed
        assert len(listed.without_listed("block", "card", ["0"]).listed) == MAX_LISTED - 1

    def test_the_largest_one_fits_a_batch_under_the_smallest_setting(self) -> None:
        """It travels with the rest of its row in one batch of the changelog of each partition."""
        rules = RuleSet()
        for number in range(MAX_RULES):
            text = f"card_id == '{WIDE * 480}'"
            rules = rules.with_rule(f"r{number:039}", text, "review", "y" * 200)
        for size in (100, 1):  # until not one more fits
            for begin in range(0, MAX_LISTED, size):
                ids = [f"{number:0100}" for number in range(begin, begin + size)]
                rules = rules.with_listed("block", "terminal", ids, 2_000_000_000_000)
        size = len(msgspec.msgpack.encode(rules))
        assert MAX_RULES_BYTES - 600 < size <= MAX_RULES_BYTES
        challenger = Challenger(WIDE * 300, WIDE * 128, 0.1, 0.1)
        seen = dict.fromkeys(range(2**40, 2**40 + 1024), 2**62)
        model = WIDE * 128
        whole = InForce(2**62, model, 0.1, seen, rules, (challenger,) * MAX_CHALLENGERS)
        smallest = load_settings({"max_message_bytes": 524_288})
        assert chunk_groups([[in_force_row(whole, 2**62)]], batch_bytes(smallest))
        with pytest.raises(SettingsError, match="MAX_MESSAGE_BYTES"):
            load_settings({"max_message_bytes": 524_287})

    def test_what_is_too_large_changes_nothing(self) -> None:
        ids = [f"{number:0100}" for number in range(MAX_LISTED)]
        rules = RuleSet().with_listed("block", "card", ids[:4_000], None)
        assert len(rules.listed) == 4_000
        assert rules.with_listed("block", "card", ids, None) is rules
        _, says = rules.adding_listed("block", "card", ids, None)
        assert says is not None
        assert says.startswith("rules and lists would take 570,0")
        assert rules.adding_listed("block", "card", ids[:4_000], None)[1] is None
        text = f"card_id == '{WIDE * 900}'"
        for number in range(100):
            rules = rules.with_rule(f"r{number}", text, "tag", "")
        assert len(rules.rules) < 20
        assert rules.with_rule("more", text, "tag", "") is rules
        _, says = rules.adding_rule("more", text, "tag", "")
        assert says is not None
        assert "the limit is 500,000" in says

    def test_usual_lists_and_rules_fit(self) -> None:
        rules = RuleSet()
        ids = [f"{number:036}" for number in range(MAX_LISTED)]
        rules = rules.with_listed("block", "terminal", ids, 2_000_000_000_000)
        for number in range(MAX_RULES):
            rules = rules.with_rule(f"r{number:020}", f"card_id == '{'x' * 480}'", "tag", "y" * 40)
        assert (len(rules.listed), len(rules.rules)) == (MAX_LISTED, MAX_RULES)

    def test_changes_on_the_wire(self) -> None:
        add = RuleChange(name="a", expression="amount > 1", action="decline", reason="why")
        remove = RuleChange(name="a")
        block = ListChange(name="block", subject="card", ids=("c1",), until_ms=5)
        for change in (add, remove, block):
            assert parse_change(encode_change(change)) == change
        in_force = InForce().after(add, 0, 0).after(block, 0, 1)
        assert in_force.rules == RuleSet(
            (Rule("a", 1, "amount > 1", "decline", "why"),), {"a": 1}, {"block/card/c1": 5}
        )
        assert in_force.after(add, 0, 0) is in_force
        assert in_force.after(remove, 0, 2).rules.rules == ()

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (RuleChange(name="A", expression="True"), "is not a valid rule name"),
            (RuleChange(name="a", expression="amount.x > 1"), "there are no attributes"),
            (RuleChange(name="a", expression="True", reason="x" * 201), "at most 200 bytes"),
            (ListChange(name="block", subject="card", ids=()), "name an id"),
            (ListChange(name="block", subject="card", ids=("x" * 101,)), "1 to 100 bytes"),
            (ListChange(name="block", subject="card", ids=("x",), until_ms=10**30), "until_ms"),
            (ListChange(name="block", subject="card", ids=("x",), until_ms=-(10**15)), "until_ms"),
        ],
    )
    def test_what_is_no_change(self, change: Any, says: str) -> None:
        with pytest.raises(DeadRecordError, match=says):
            parse_change(encode_change(change))


class TestCommands:
    """What is written is what workers accept: everything is checked before the first record."""

    @pytest.fixture
    def sent(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Changes that are sent; they are the history, too."""
        sent: list[Any] = []

        async def begun(_settings: Any) -> ChangeHistory:
            made = [LoggedChange(0, n, n, one) for n, one in enumerate(sent)]
            return ChangeHistory(made)

        async def send(_settings: Any, *changes: Any) -> int:
            sent.extend(parse_change(encode_change(one)) for one in changes)
            return len(sent)

        monkeypatch.setattr(rule_commands, "_begun", begun)
        monkeypatch.setattr(rule_commands, "send_changes", send)
        return sent

    async def test_thousands_of_ids_are_several_changes(self, sent: list[Any]) -> None:
        ids = tuple(f"{number:016}" for number in range(4_000))
        add = ListChange(name="block", subject="card", ids=(*ids, ids[0]), note="because")
        assert await change_list(load_settings(), add) == 4_000
        assert len(sent) == 2
        assert tuple(one for change in sent for one in change.ids) == ids
        assert {change.note for change in sent} == {"because"}
        remove = msgspec.structs.replace(add, remove=True)
        assert await change_list(load_settings(), remove) == 0
        assert len(sent) == 4

    async def test_ids_that_json_makes_longer(self, sent: list[Any]) -> None:
        ids = tuple(f"\0{number:05}" + "\1" * 94 for number in range(1_000))
        add = ListChange(name="allow", subject="card", ids=ids, note="\2" * 200, by="\3" * 300)
        assert await change_list(load_settings(), add) == 1_000
        assert len(sent) > 5

    async def test_too_much_is_refused_with_the_figure(self, sent: list[Any]) -> None:
        ids = tuple(f"{number:0100}" for number in range(MAX_LISTED))
        add = ListChange(name="block", subject="card", ids=ids)
        with pytest.raises(UsageError, match="would take 5.*the limit is 500,000: remove"):
            await change_list(load_settings(), add)
        more = ListChange(name="block", subject="card", ids=tuple(map(str, range(5_001))))
        with pytest.raises(UsageError, match="would have 5,001 entries"):
            await change_list(load_settings(), more)
        assert sent == []
        await change_list(load_settings(), msgspec.structs.replace(add, ids=ids[:4_300]))
        rule = RuleChange(name="a", expression=f"card_id == '{WIDE * 900}'")
        sent += [msgspec.structs.replace(rule, name=f"r{n}") for n in range(20)]
        with pytest.raises(UsageError, match="the limit is 500,000"):
            await add_rule(load_settings(), rule)

    async def test_a_rule_takes_its_fields_along(self, sent: list[Any], tmp_path: Path) -> None:
        file = tmp_path / "own.toml"
        file.write_text("fields.kind = {type = 'text', default = 'none'}\n"
                        "fields.parts = {type = 'integer', default = 1}\n")  # fmt: skip
        settings = load_settings({"catalogue_file": str(file)})
        title = await add_rule(settings, RuleChange(name="a", expression="kind == 'x'"))
        assert (title, sent[0].fields) == ("a@1", (RuleField("kind", "text", "none"),))
        described = described_rule(InForce().after(sent[0], 0, 0).rules.rules[0])
        assert json.loads(json.dumps(described))["fields"] == [["kind", "text", "none"]]

    @pytest.mark.parametrize(
        "change",
        [
            RuleChange(name="a", note="x" * 70_000),
            RuleChange(name="a", note="x" * 2_001),
            ListChange(name="block", subject="card", ids=("x" * 16,) * 4_000),
        ],
    )
    async def test_a_change_that_would_be_dead_lettered_is_refused(self, change: Any) -> None:
        """Before Kafka is asked: there is none here."""
        with pytest.raises(UsageError, match="workers would refuse this change"):
            await send_changes(load_settings(), RuleChange(name="b"), change)


@pytest.mark.parametrize("features", ["basic", "engineered,label_free"])
def test_defaults_fit_what_a_deployment_computes(features: str) -> None:
    settings = load_settings({"features": features})
    catalogue = catalogue_of(settings)
    rules = default_rules(catalogue.names, 1_000)
    assert [rule.name for rule in rules] == ["very-large-amount", "many-small-amounts"]
    for rule in rules:
        parse_change(
            encode_change(
                RuleChange(name=rule.name, expression=rule.expression, reason=rule.reason)
            )
        )
        check(rule.expression, types_of(catalogue.names))
    assert default_rules((), 1_000) == ()


@pytest.mark.parametrize("features", ["basic", "engineered,label_free", "card_count_1d,amount"])
def test_the_default_rules_catch_what_everybody_would_expect(features: str) -> None:
    catalogue = catalogue_of(load_settings({"features": features}))
    (large, _) = default_rules(catalogue.names, 1_000)
    fires, _ = rule_function(large.expression, catalogue.names, NOTHING)

    def fired(amount: float, ratio: float = 1.0) -> bool:
        said = {
            "amount": amount,
            "amount_over_card_median": ratio,
            "amount_over_card_avg_30d": ratio,
        }
        features = [said.get(name, 1.0) for name in catalogue.names]
        return bool(fires(features, 0.0, SimpleNamespace(), []))

    assert fired(50_000.0)  # the first payment of a card: there is no median to compare it with
    assert fired(10_000.0)
    assert not fired(9_999.99)
    compared = "card_median" in large.expression or "card_avg" in large.expression
    assert fired(1_000.0, ratio=10.0) == compared
    assert not fired(1_000.0, ratio=9.9)
    assert not fired(999.0, ratio=400.0)


def test_default_rules_have_plain_numbers() -> None:
    (large, small) = default_rules(catalogue_of(load_settings()).names, 500_000.5)
    assert large.expression.startswith("amount >= 5000005 or (amount >= 500000.5 and ")
    assert small.expression.endswith("amount <= 2500.0025")


def test_only_a_new_deployment_starts_with_rules() -> None:
    catalogue = catalogue_of(load_settings())
    records = first_rules(catalogue, 1_000, [InForce(), InForce(0, "m")])
    found = [parse_change(value) for _, value, _ in records]
    assert [one.name for one in found if isinstance(one, RuleChange)] == [
        "very-large-amount", "many-small-amounts",
    ]  # fmt: skip
    assert len({key for key, _, _ in records}) == 2  # compaction keeps both
    assert first_rules(catalogue, 1_000, [InForce(), InForce(7, "m")]) == []


class TestVerify:
    """`verify` recomputes rules and action by what was in force at each offset."""

    def world(self) -> VerifyWorld:
        world = VerifyWorld()
        for number in range(4):
            world.send(tx_bytes(number, card="c1", amount=50), b"c1")
            world.send(tx_bytes(10 + number, card="c2", amount=5, terminal="t2"), b"c2")
            world.run()
            world.control(
                RuleChange(name="large", expression=f"amount > {10 * number}", action="decline")
            )
            if number == 2:
                world.control(RuleChange(name="large"))
                world.control(ListChange(name="block", subject="card", ids=("c2",)))
        world.send(tx_bytes(99, card="c2", amount=5), b"c2")
        world.run()
        return world

    def test_what_was_in_force_is_what_fired(self) -> None:
        world = self.world()
        found = {
            one["transaction_id"]: (one["rules"], one["action"])
            for one in (orjson.loads(r.value or b"") for r in world.log(world.topics.predictions))
        }
        assert found["tx-0"] == ([], "approve")
        assert found["tx-1"] == (["large@1"], "decline")
        assert found["tx-11"] == (["large@1"], "decline")
        assert found["tx-12"] == ([], "approve")
        assert found["tx-99"][1] == "decline"
        assert world.verify().passed, world.verify().as_json()

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ((b'"large@1"', b'"large@2"'), "rules"),
            ((b'"action":"decline"', b'"action":"approve"'), "action"),
        ],
    )
    def test_another_rule_or_action_is_found(self, change: Any, says: str) -> None:
        world = self.world()
        records = world.log(world.topics.predictions)
        at = next(n for n, one in enumerate(records) if change[0] in (one.value or b""))
        world.change(world.topics.predictions, at, value=records[at].value.replace(*change))  # type: ignore[union-attr]
        report = world.verify()
        assert not report.passed
        assert says in {one["what"] for one in report.examples}, report.examples

    def test_a_shortened_log_is_judged_by_all_changes(self) -> None:
        world = self.world()
        for number in range(2):
            log = world.logs[world.topics.enriched.name][number]
            world.begins[world.topics.enriched.name, number] = len(log) - 1
        report = world.verify()
        assert report.counts["differing"] == 0, report.as_json()


class TestTrial:
    """```text
    amount    10  20  30  40  50  60
    label     -   F   F   g   g   F      F fraud, g genuine
    decided   -   -   x   -   x   -      x flagged already
    ```"""

    def trial(self, expression: str, names: tuple[str, ...] = ("amount",)) -> dict[str, Any]:
        labels = {2: True, 3: True, 4: False, 5: False, 6: True}
        verdicts = Verdicts((n * 1000, f"tx-{n}", fraud) for n, fraud in labels.items())
        trial = RuleTrial(expression, names, OWN, verdicts)
        rows = [
            (
                f"tx-{n}", datetime(1970, 1, 1) + timedelta(seconds=n), f"c{n % 2}", None, 1000 * n, n / 10,  # noqa: DTZ001
                n in (3, 5), None if n == 3 else ("approve", "review")[n == 5],
                *(10.0 * n if n < 6 else None for _ in names), *(None for _ in trial.fields),
            )
            for n in range(1, 7)
        ]  # fmt: skip
        for row in rows:
            trial.take([row])
        whole = RuleTrial(expression, names, OWN, verdicts)
        whole.take(rows)
        assert whole.as_dict() == trial.as_dict()  # wherever chunks end
        return trial.as_dict()

    def test_what_it_catches_and_disturbs(self) -> None:
        found = self.trial("amount >= 20 and kind == 'none'")
        assert {name: found[name] for name in ("read", "labelled", "lacking", "frauds")} == {
            "read": 6, "labelled": 5, "lacking": 1, "frauds": 3,
        }  # fmt: skip
        assert (found["fired"], found["caught"], found["false_positives"], found["unlabelled"]) == (
            4, 2, 2, 0,
        )  # fmt: skip
        assert (found["caught_minor"], found["new_caught"], found["new_caught_minor"]) == (
            5000, 1, 2000,
        )  # fmt: skip
        assert (found["precision"], found["recall"], found["cards_disturbed"]) == (0.5, 2 / 3, 2)

    def test_as_text(self) -> None:
        lines = trial_lines({**self.trial("amount >= 20")}, load_settings())
        assert [" ".join(line.split()) for line in lines] == [
            "read 6 transactions of 1 days, 5 with a label",
            "matches 4 66.7% of them, 4.0 per day; 2 were approved",
            "caught 2 of 3 frauds, 50.00 EUR of 110.00 EUR",
            "newly caught 1 frauds that were approved, 20.00 EUR",
            "false positives 2 genuine transactions, 90.00 EUR",
            "unlabelled 0 0.00 EUR",
            "cards disturbed 2 with a genuine or unlabelled transaction that matches",
            "precision 50.0%",
            "recall 66.7%",
            "1 transactions lack a feature that the rule uses: it does not match them",
        ]
        assert trial_lines({"read": 0}, load_settings()) == [
            "there are no predictions in that period"
        ]

    def test_a_rule_without_features(self) -> None:
        found = self.trial("score > 0.45 and terminal_id == ''", ())
        assert (found["fired"], found["caught"], found["lacking"]) == (2, 1, 0)
        assert self.trial("card_id == 'nobody'", ())["precision"] is None


def test_no_number_is_no_reason_to_fire() -> None:
    assert math.isnan(math.inf - math.inf)
    assert not fires("amount / 0 - amount / 0 == 0")


def test_a_row_of_before_there_were_rules_is_read() -> None:
    row = bytes(8) + msgspec.msgpack.encode((0, "m", 0.5, {0: 3}))
    assert read_in_force(row) == InForce(0, "m", 0.5, {0: 3}, rules=RuleSet())
