"""What a feature is: one object that the stream, training, explanations and documents all read."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

DAY_MS = 86_400_000
_UNITS = (("d", DAY_MS), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))
WINDOW = re.compile(r"(.+)_(\d+)(ms|s|m|h|d)")

HANDBOOK, BAHNSEN, WHITROW, OWN = "handbook", "Bahnsen 2016", "Whitrow 2009", "own"
Stage = Literal["card", "terminal"]


def window_name(window_ms: int) -> str:
    """How a window is written in a feature's name: 86400000 -> 1d."""
    unit, size = next((unit, size) for unit, size in _UNITS if window_ms % size == 0)
    return f"{window_ms // size}{unit}"


def window_length_ms(name: str) -> int:
    """The opposite of `window_name`: 1d -> 86400000."""
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h|d)", name).groups()  # type: ignore[union-attr]
    return int(number) * dict(_UNITS)[unit]


@dataclass(frozen=True, slots=True)
class ExplainedTransaction:
    """One transaction's features, as an explanation reads them.

    Attributes:
        value: the feature that is explained.
        high: whether it is above the median of the training data.
        window: name of its window, empty without one.
        digits: digits after the decimal point in the deployment's currency.
        others: the model's features by name.
    """

    value: float
    high: bool
    window: str
    digits: int
    others: Mapping[str, float]

    def money(self, amount: float) -> str:
        """An amount in major units, with the currency's digits."""
        return f"{amount:.{self.digits}f}"

    @property
    def level(self) -> str:
        """`high` or `low`."""
        return "high" if self.high else "low"


Phrase = Callable[[ExplainedTransaction], str]


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature, or one per window: everything but its second implementation, the reference (`oracle`).

    Attributes:
        name: the column's name in models, Kafka and Cassandra; `{w}` stands for the name of a window.
        unit: of its number.
        formula: how it comes about, for people. `t` is the transaction's event time.
        stage: whose state it needs: `card` or `terminal`.
        value: how it is computed: a Python expression over the readings of `row_queries.py`. What the
            feature needs (windows, labels) follows from the readings that it names.
        phrase: how an explanation puts it.
        source: where it is from.
        fact: features that report the same fact share this; an explanation takes the strongest of them.
            Without one, the name without its window.
        plainer: gives the name of a feature that says the same more plainly, for these values, or None.
        version: rises when the formula changes, so that no model meets a feature of another meaning.
    """

    name: str
    unit: str
    formula: str
    stage: Stage
    value: str
    phrase: Phrase
    source: str = OWN
    fact: str = ""
    plainer: Callable[[ExplainedTransaction], str | None] = lambda _facts: None
    version: int | str = 1

    @property
    def windowed(self) -> bool:
        """Whether there is one per window."""
        return "{w}" in self.name

    @property
    def family(self) -> str:
        """The name without its window."""
        return self.name.removesuffix("_{w}")


@dataclass(frozen=True, slots=True)
class Column:
    """A feature as one deployment computes it: one number per transaction.

    Attributes:
        name: such as `card_count_7d`.
        feature: what it is.
        formula: for people, with the window filled in.
        window_ms: length of its window, milliseconds; None without one.
        labels: whether it depends on labels.
    """

    name: str
    feature: Feature
    formula: str
    window_ms: int | None
    labels: bool

    @property
    def unit(self) -> str:
        """Of its number."""
        return self.feature.unit

    @property
    def stage(self) -> str:
        """Whose state it needs."""
        return self.feature.stage

    @property
    def source(self) -> str:
        """Where it is from."""
        return self.feature.source
