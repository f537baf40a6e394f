"""What becomes of changes that name an erased card: everything else stays in force, whatever the history."""

from random import Random

import pytest

from app.domain.changes import (
    AnyChange,
    ChallengerChange,
    ListChange,
    LoadChange,
    ModelChange,
    RuleChange,
    ThresholdChange,
)
from app.domain.changes_in_force import InForce
from app.domain.rules.ruleset import entries
from app.errors import UsageError
from app.kafka.change_history import LoggedChange
from app.ops.erase_from_changes import (
    Key,
    Keyed,
    _history,
    _names,
    deletable,
    keys_naming,
    refuse_named_rules,
    restating,
)
from tests.seed import SEED

CARD = "C42"
NOTE = f"after the fraud on {CARD}"


def logged(changes: list[AnyChange]) -> list[Keyed]:
    return [
        Keyed((0, b"%d" % n), LoggedChange(0, n, n, change)) for n, change in enumerate(changes)
    ]


def cleaned(changes: list[AnyChange], card: str = CARD) -> tuple[list[Keyed], list[Key]]:
    """The log with what the command adds, and the keys that it deletes."""
    log = logged([*changes, *restating(logged(changes), card)])
    return log, deletable(log, keys_naming(log, card))


def of_others(in_force: InForce, card: str = CARD) -> object:
    """All that is in force but the card's entries, and which changes were seen."""
    rules = in_force.rules
    listed = {one for one in entries(rules.listed) if one[1:3] != ("card", card)}
    return (
        in_force.model, in_force.threshold, in_force.challengers, in_force.fallbacks,
        in_force.watched, rules.rules, rules.versions, listed,
    )  # fmt: skip


def block(
    *ids: str, note: str = "", remove: bool = False, until_ms: int | None = None
) -> AnyChange:
    return ListChange(
        name="block", subject="card", ids=ids, note=note, remove=remove, until_ms=until_ms
    )


def model(name: str, note: str = "", how: str = "promote") -> AnyChange:
    return ModelChange(model=f"{name}@1", hash=name * 8, note=note, how=how)  # type: ignore[arg-type]


def test_models_rules_and_other_entries_stay() -> None:
    changes = [
        model("a", how="start"),
        block("C7"),
        block("C7", CARD, remove=True),
        block(CARD, "C8", until_ms=9),
        RuleChange(name="r1", expression="amount > 10", note=NOTE),
        model("b", note=f"{CARD} was missed"),
    ]
    log, gone = cleaned(changes)
    after = _history(log, gone).in_force()
    assert after.model == "b" * 8
    assert [rule.title for rule in after.rules.rules] == ["r1@1"]
    assert after.rules.listed == {"block/card/C8": 9}
    kept = [one.made.change for one in log if one.key not in gone]
    assert [change for change in kept if _names(change, CARD)] == [changes[4], changes[5]]


def _any_change(rng: Random) -> AnyChange:
    note = rng.choice(["", "", NOTE])
    ids = tuple(rng.sample([CARD, "C7", "C8", "C9"], rng.randint(1, 3)))
    name, score = rng.choice("abc"), rng.choice([None, 0.25, 0.5])
    return rng.choice([
        lambda: ListChange(name=rng.choice(["block", "allow"]), subject=rng.choice(["card", "terminal"]), ids=ids,
                           note=note, remove=rng.random() < 0.4, until_ms=rng.choice([None, 5, 6])),
        lambda: RuleChange(name=rng.choice(["r1", "r2"]), expression=rng.choice(["", "amount > 42", "amount > 7"]),
                           note=note),
        lambda: ModelChange(model=f"{name}@1", hash=name * 8, note=note, how=rng.choice(["promote", "rollback"])),
        lambda: ThresholdChange(threshold=score, note=note, reverts=rng.choice([None, None, 3, 7])),
        lambda: LoadChange(model=f"{name}@1", hash=name * 8, note=note),
        lambda: ChallengerChange(model=f"{name}@1", hash=name * 8, share=rng.choice([None, 0.0, 0.1]), note=note),
    ])()  # fmt: skip


@pytest.mark.parametrize("number", range(150))
def test_whatever_the_history_nothing_of_others_changes(number: int) -> None:
    rng = Random(SEED + number)
    changes = [model("a", how="start"), *(_any_change(rng) for _ in range(rng.randint(1, 25)))]
    wanted = of_others(_history(logged(changes)).in_force())
    log, gone = cleaned(changes)
    assert of_others(_history(log).in_force()) == wanted
    for count in range(len(gone) + 1):  # compaction may have come that far
        rest = _history(log, gone[:count])
        assert of_others(rest.in_force()) == wanted
        assert not [key for key in rest.in_force().rules.listed if key.endswith(f"card/{CARD}")]
        assert rest.leads_to() == _history(log).leads_to()
    for one in log:  # a list change never has to stay: what it says of others is said once more
        if isinstance(one.made.change, ListChange) and _names(one.made.change, CARD):
            assert one.key in gone


def test_a_number_is_not_a_card() -> None:
    rule = RuleChange(name="r", expression="amount > 100 and merchant_category == 'gas 7'")
    assert not _names(rule, "100")
    assert _names(rule, "7")
    refuse_named_rules(logged([rule]), "100")
    with pytest.raises(UsageError, match="rule r names the card"):
        refuse_named_rules(logged([rule]), "7")
    refuse_named_rules(logged([rule, RuleChange(name="r")]), "7")


def test_list_changes_name_cards_by_their_ids() -> None:
    change = block("C1", "C2")
    assert _names(change, "C1")
    assert not _names(change, "C12")
    on_terminal = ListChange(name="block", subject="terminal", ids=("T1",), note="with C1, twice")
    assert _names(on_terminal, "C1")
    assert not _names(on_terminal, "C")
