"""Recipes for well-known public data sets: what their columns mean, and what is to be made of them.

A recipe is data. `derived` makes the columns that a file lacks; everything else is as with `--map`.
Names in `docs/input-files.md`, "Recipes for well-known data sets", are those of `RECIPES`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from string import Formatter

_HOUR_MS, _SECOND_MS = 3_600_000, 1_000


@dataclass(frozen=True)
class RelativeTimes:
    """Times that count from a moment which the file does not name.

    Attributes:
        column: where they are.
        unit_ms: their unit, milliseconds.
        first: the number that stands for the moment itself.
        origin: that moment where nobody gives another, ISO 8601.
    """

    column: str
    unit_ms: int
    origin: str
    first: int = 0


@dataclass(frozen=True)
class Recipe:
    """One data set.

    Attributes:
        name: what `--recipe` calls it.
        title: what people call it.
        columns: a file with all of these is recognised.
        mapping: field of the input record -> column of the file.
        made: field -> template of columns, such as `{User}-{Card}`.
        numbered: the file has no transaction ids: they are made of the file and the number of the row.
        clock: of times that count from some moment.
        label: column that says what was fraud.
        unused: columns that are never passed on: they give the answer away, or are known to be wrong.
        sign: currency sign in front of amounts.
        rounds: amounts have noise of floating point behind the minor units, and are rounded.
        note: what to know before using it.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    label: str
    mapping: Mapping[str, str] = field(default_factory=dict)
    made: Mapping[str, str] = field(default_factory=dict)
    numbered: bool = False
    clock: RelativeTimes | None = None
    unused: tuple[str, ...] = ()
    sign: str = ""
    rounds: bool = False
    note: str = ""

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of the record that are made, not taken from a column."""
        numbered = ("transaction_id",) if self.numbered else ()
        timed = ("event_time",) if self.clock else ()
        return (*numbered, *self.made, *timed)

    @property
    def consumed(self) -> frozenset[str]:
        """Columns that a made field consists of, in place of which it is sent."""
        templates = "".join(self.made.values())
        names = {name for _, name, _, _ in Formatter().parse(templates) if name}
        names |= {self.clock.column} if self.clock else set()
        return frozenset(names).difference(self.fields)

    @property
    def required(self) -> frozenset[str]:
        """Columns without which it cannot be applied."""
        return frozenset(self.columns) | frozenset(self.mapping.values())


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="handbook",
            title="the Fraud Detection Handbook's simulated transactions",
            columns=("TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TX_AMOUNT"),
            mapping={
                "transaction_id": "TRANSACTION_ID",
                "card_id": "CUSTOMER_ID",
                "terminal_id": "TERMINAL_ID",
                "amount": "TX_AMOUNT",
                "event_time": "TX_DATETIME",
            },
            label="TX_FRAUD",
            rounds=True,  # some amounts are written like 85.64999999999999
        ),
        Recipe(
            name="sparkov",
            title="Sparkov's simulated credit card transactions",
            columns=("trans_date_trans_time", "cc_num", "merchant", "amt", "trans_num"),
            mapping={
                "transaction_id": "trans_num",
                "card_id": "cc_num",
                "terminal_id": "merchant",
                "amount": "amt",
                "event_time": "trans_date_trans_time",
            },
            label="is_fraud",
            unused=("unix_time",),  # years before trans_date_trans_time in the published files
        ),
        Recipe(
            name="tabformer",
            title="IBM's TabFormer credit card transactions",
            columns=("User", "Card", "Year", "Month", "Day", "Time", "Amount", "Merchant Name"),
            mapping={"amount": "Amount", "terminal_id": "Merchant Name"},
            made={
                "card_id": "{User}-{Card}",
                "event_time": "{Year}-{Month:0>2}-{Day:0>2}T{Time}",
            },
            numbered=True,
            label="Is Fraud?",
            sign="$",
            note="negative amounts are refunds",
        ),
        Recipe(
            name="paysim",
            title="PaySim's simulated mobile money transactions",
            columns=("step", "type", "amount", "nameOrig", "nameDest"),
            mapping={"card_id": "nameOrig", "terminal_id": "nameDest"},
            numbered=True,
            clock=RelativeTimes("step", _HOUR_MS, "2020-01-01T00:00:00Z", first=1),
            label="isFraud",
            # frauds were cancelled, so the balances after them give them away
            unused=(
                "isFlaggedFraud",
                "oldbalanceOrg",
                "newbalanceOrig",
                "oldbalanceDest",
                "newbalanceDest",
            ),
            note="times are whole hours; nearly every payer occurs once",
        ),
        Recipe(
            name="ieee-cis",
            title="the IEEE-CIS Fraud Detection competition's transactions",
            columns=("TransactionID", "TransactionDT", "TransactionAmt", "card1", "addr1"),
            mapping={"transaction_id": "TransactionID", "amount": "TransactionAmt"},
            made={"card_id": "{card1}|{card2}|{card3}|{card4}|{card5}|{card6}|{addr1}"},
            clock=RelativeTimes("TransactionDT", _SECOND_MS, "2017-11-30T00:00:00Z"),
            label="isFraud",
            rounds=True,  # amounts of foreign cards have three decimals
            note="cards are a guess (card1 to card6 and addr1), and there are no terminals",
        ),
        Recipe(
            name="creditcard",
            title="the credit card transactions of ULB's Machine Learning Group",
            columns=("Time", "V1", "V28", "Amount"),
            mapping={"amount": "Amount"},
            made={"card_id": "{transaction_id}"},
            numbered=True,
            clock=RelativeTimes("Time", _SECOND_MS, "2013-09-01T00:00:00Z"),
            label="Class",
            note=(
                "the file has no cards, so every row gets its own card and no history; use it to "
                "measure load or to score by amount and time, not to evaluate detection"
            ),
        ),
    )
}


def recognised(columns: Collection[str]) -> Recipe | None:
    """The recipe for a file of these columns, None without one."""
    names = frozenset(columns)
    return next((each for each in RECIPES.values() if names.issuperset(each.columns)), None)
