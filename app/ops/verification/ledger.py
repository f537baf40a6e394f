"""What is expected and what was seen of each source record: a few hundred bytes each, in numpy columns.

A million records have to fit into memory together, because their outputs are spread over other topics and
over Cassandra in other orders. Texts are kept as 64-bit hashes of this process: they are compared, never shown.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np

from app.domain.challengers import MAX_CHALLENGERS, Challenger
from app.domain.changes_in_force import EarlierModel, InForce
from app.domain.features import Catalogue
from app.domain.prediction_flags import ANOMALY, CONFLICTING, HIGH_AMOUNT, LATE, OUT_OF_ORDER
from app.domain.rules import RuleSet
from app.ops.reference import ReferenceOutcome

Flags = tuple[str, ...]


class ExpectedOutcome(IntEnum):
    """What the oracle says a source record becomes."""

    HOLE = 0  # no record at this offset
    DEAD = 1
    MOVED = 2
    DUPLICATE = 3
    LATE = 4
    SCORED = 5
    UNKNOWN = (
        6  # scored, late, conflicting or duplicate: what decides has been deleted by retention
    )
    CONFLICTING = 7
    REFUND = 8


FATE_OF = {
    ReferenceOutcome.DUPLICATE: ExpectedOutcome.DUPLICATE,
    ReferenceOutcome.CONFLICTING: ExpectedOutcome.CONFLICTING,
    ReferenceOutcome.LATE: ExpectedOutcome.LATE,
    ReferenceOutcome.SCORED: ExpectedOutcome.SCORED,
}
#: Fates of records that are scored and whose features are known; and these with what cannot be told any more.
CERTAIN = (ExpectedOutcome.SCORED, ExpectedOutcome.LATE, ExpectedOutcome.CONFLICTING)
PREDICTED = (*CERTAIN, ExpectedOutcome.UNKNOWN)


class FoundIn:
    """Where a source record was found: bits of the column `seen`."""

    ITEM = 1  # on `enriched`
    PREDICTED = 2
    LATE_COPY = 4
    DEAD = 8
    DUPLICATE = 16
    FORWARDED = 32
    ROW = 64  # in Cassandra
    WAITING = 128  # on a topic, but whoever reads it has not come there yet
    REFUND = 256


class RecordFault:
    """What is wrong with a source record: bits of the column `faults`."""

    PENDING = 1
    MISSING = 2
    DIFFERING = 4
    UNVERIFIABLE = 8


_COLUMNS: dict[str, type] = {
    "fate": np.uint8,
    "seen": np.uint16,
    "faults": np.uint8,
    "terminal_known": np.bool_,  # whether the terminal's features could be computed
    "received_at": np.int64,  # when the broker appended it, epoch ms
    "identity": np.int64,  # hash of card, event time, transaction; of a refund, and the amount
    "detail": np.int64,  # hash of terminal, minor units
    "content": np.int64,  # hash of what outputs repeat of the input, `length` bytes
    "length": np.int32,
    "card": np.int32,  # index into `Ledger.cards`
    "flags": np.uint64,  # bits in the order of `Ledger.flag_names`
    "digest": np.int64,  # hash of the first output, without its time
    "copy": np.int64,  # hash of a forwarded copy
    "score": np.float64,
    "threshold": np.float64,
    "anomaly": np.float64,  # NaN: none
    "is_fraud": np.bool_,
    "late": np.bool_,  # as stored
    "conflicting": np.bool_,  # as stored
    "model": np.int32,  # index into `Ledger.models`
    "decides": np.int32,  # index into `Ledger.decisions`: what the log says; -1: it does not say
    "fell_back": np.uint8,  # number of the earlier model that decided, as the others gave no score; 0: none did
    "ruled": np.int32,  # index into `Ledger.rule_sets`; -1: the log does not say
    "outcome": np.int64,  # hash of the rules that fired, and of the action
    "reasons": np.int64,  # hash of the reasons
    "shadows": np.int64,  # hash of what the models say that did not decide; 0: there are none
    "extra": np.int64,  # hash of schema version and unknown fields
    "scored_at": np.int64,
    "listed": np.uint8,  # index into `Ledger.lists`
    "erased": np.bool_,  # its card was erased behind it
    "named": np.bool_,  # a prediction names this deployment: those that name none are another's
}


class OtherModelScores:
    """What models say that did not decide: in the order of a decision, the one that decides at 0, then challengers.

    Attributes:
        scores: (n, 1 + challengers) float64; NaN: none.
        flagged: the same as bools: whether it would have flagged the transaction as fraud.
        there: the same: whether the prediction says so.
    """

    def __init__(self, size: int) -> None:
        shape = (size, 1 + MAX_CHALLENGERS)
        self.scores = np.full(shape, np.nan)
        self.flagged = np.zeros(shape, np.bool_)
        self.there = np.zeros(shape, np.bool_)


#: See `Ledger.decisions`.
Decision = tuple[str, float | None, tuple[Challenger, ...], tuple[EarlierModel, ...]]


def decision_of(in_force: InForce) -> Decision:
    """What a prediction is compared with."""
    return in_force.model, in_force.threshold, in_force.challengers, in_force.fallbacks


class SourcePage:
    """The source records of one partition, from `begin` to `end`; columns as in `_COLUMNS`, and `features`.

    Attributes:
        beside: what the models say that did not decide; None where no prediction has it.
        number: the partition.
        begin, end: offsets; `end` is the first that is not looked at.
    """

    fate: np.ndarray
    seen: np.ndarray
    faults: np.ndarray
    terminal_known: np.ndarray
    received_at: np.ndarray
    identity: np.ndarray
    detail: np.ndarray
    content: np.ndarray
    length: np.ndarray
    card: np.ndarray
    flags: np.ndarray
    digest: np.ndarray
    copy: np.ndarray
    score: np.ndarray
    threshold: np.ndarray
    anomaly: np.ndarray
    is_fraud: np.ndarray
    late: np.ndarray
    conflicting: np.ndarray
    model: np.ndarray
    decides: np.ndarray
    fell_back: np.ndarray
    ruled: np.ndarray
    outcome: np.ndarray
    reasons: np.ndarray
    shadows: np.ndarray
    extra: np.ndarray
    scored_at: np.ndarray
    listed: np.ndarray
    named: np.ndarray
    erased: np.ndarray

    def __init__(self, number: int, begin: int, end: int, features: int) -> None:
        self.number = number
        self.begin, self.end = begin, end
        size = end - begin
        for name, kind in _COLUMNS.items():
            setattr(self, name, np.zeros(size, kind))
        self.card -= 1
        self.model -= 1
        self.decides -= 1
        self.ruled -= 1
        self.features = np.full((size, features), np.nan)
        self.beside: OtherModelScores | None = None

    def __len__(self) -> int:
        return self.end - self.begin

    def put(self, at: Sequence[int], **values: Sequence[Any]) -> None:
        """Fill cells: `values[name][i]` goes to row `at[i]` of that column."""
        for name, column in values.items():
            getattr(self, name)[at] = column


@dataclass(frozen=True)
class FeatureList:
    """The features that a transaction has which was begun under one schema.

    Attributes:
        schema: names them.
        names: in their order, the card's first.
        card: how many are the card's.
        columns: where they stand in `SourcePage.features`.
        flags: the flags that such a transaction can have.
    """

    schema: str
    names: tuple[str, ...]
    card: int
    columns: np.ndarray
    flags: np.uint64


@dataclass
class Ledger:
    """All source records of one run.

    Attributes:
        topic: the source topic.
        catalogue: every feature that is recomputed: those of all schemas that are found on `enriched`.
        schemas: catalogues by the schema that a message names; empty: it names none. The first is the settings'.
        pages: by partition.
        cards, models, letters: what `card`, `model` and the `flags` of dead records index; a model is
            (version, hash, feature schema), a letter the reason code.
        decisions: what `decides` indexes: the hash of the model that decides (empty: the log does not say), the
            threshold that replaces its own, the models that score beside it, and those that decide, in turn,
            where it gives no score.
        rule_sets: what `ruled` indexes: rules and lists in force.
        expired_rows: rows in Cassandra whose source record retention has deleted.
    """

    topic: str
    catalogue: Catalogue
    pages: list[SourcePage]
    schemas: Mapping[str, Catalogue] = field(default_factory=dict)
    cards: list[str] = field(default_factory=list)
    models: list[tuple[str, str, str]] = field(default_factory=list)
    letters: list[str] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    rule_sets: list[RuleSet] = field(default_factory=list)
    expired_rows: int = 0

    def __post_init__(self) -> None:
        stages = [feature.stage for feature in self.catalogue.columns]
        self.card_features = stages.count("card")
        inexact = self.catalogue.flags
        self.flag_names = (
            *inexact["card"], CONFLICTING, LATE, OUT_OF_ORDER, HIGH_AMOUNT, *inexact["terminal"], ANOMALY,
        )  # fmt: skip
        self._bits = {name: 1 << index for index, name in enumerate(self.flag_names)}
        self._flags: dict[int, Flags] = {}
        self._model_index: dict[tuple[str, str, str], int] = {}
        self._letter_index: dict[str, int] = {}
        named = self.schemas or {self.catalogue.schema: self.catalogue}
        self.lists = [self._list(schema, catalogue) for schema, catalogue in named.items()]
        self.list_of = {schema: place for place, schema in enumerate(named)}

    def _list(self, schema: str, catalogue: Catalogue) -> FeatureList:
        every = self.catalogue.names
        inexact = {flag for flags in catalogue.flags.values() for flag in flags}
        possible = [
            name
            for name in self.flag_names
            if name in inexact
            or (":" not in name and (name != HIGH_AMOUNT or catalogue.tells_high))
        ]
        return FeatureList(
            catalogue.schema,
            catalogue.names,
            sum(column.stage == "card" for column in catalogue.columns),
            np.array([every.index(name) for name in catalogue.names]),
            np.uint64(self.mask(possible)),
        )

    def by_list(
        self, rows: Sequence[int], page: SourcePage
    ) -> Iterator[tuple[FeatureList, list[int]]]:
        """Which of some rows of a page have which features; indices into `rows`."""
        listed = page.listed[rows]
        for place, found in enumerate(self.lists):
            at = np.flatnonzero(listed == place)
            if len(at):
                yield found, at.tolist()

    def found_schemas(self) -> dict[str, int]:
        """How many transactions were begun under which schema."""
        found: dict[str, int] = {}
        for page in self.pages:
            listed = page.listed[(page.seen & FoundIn.ITEM) != 0]
            for place, each in enumerate(self.lists):
                count = int(np.count_nonzero(listed == place))
                if count:
                    found[each.schema] = found.get(each.schema, 0) + count
        return found

    def find(self, topic: Any, partition: Any, offset: Any) -> tuple[SourcePage, int] | None:
        """The page and row of a source position; None when it is outside of what is looked at."""
        if self.is_foreign(topic, partition, offset):
            return None
        page = self.pages[partition]
        if not page.begin <= offset < page.end:
            return None
        return page, offset - page.begin

    def mark_named(self, partition: int, offset: int) -> None:
        """A prediction of this source record names this deployment."""
        found = self.find(self.topic, partition, offset)
        if found is not None:
            found[0].named[found[1]] = True

    def is_foreign(self, topic: Any, partition: Any, offset: Any) -> bool:
        """Whether a position cannot be one of the source topic at all."""
        if topic != self.topic or type(partition) is not int or type(offset) is not int:
            return True
        return not 0 <= partition < len(self.pages)

    def mask(self, flags: Sequence[str]) -> int:
        """Flags as bits; an unknown flag raises KeyError."""
        mask = 0
        for flag in flags:
            mask |= self._bits[flag]
        return mask

    def names(self, mask: int) -> Flags:
        """Flags of a mask, in the order in which the stages add them."""
        found = self._flags.get(mask)
        if found is None:
            found = tuple(name for name, bit in self._bits.items() if mask & bit)
            self._flags[mask] = found
        return found

    def model_index(self, model: tuple[str, str, str]) -> int:
        """Where a model stands in `models`; it is added if it is new."""
        index = self._model_index.get(model)
        if index is None:
            index = self._model_index[model] = len(self.models)
            self.models.append(model)
        return index

    def letter_index(self, reason: str) -> int:
        """Where a reason stands in `letters`; it is added if it is new."""
        index = self._letter_index.get(reason)
        if index is None:
            index = self._letter_index[reason] = len(self.letters)
            self.letters.append(reason)
        return index

    def position(self, page: SourcePage, row: int) -> str:
        """A source position for people: topic/partition/offset."""
        return f"{self.topic}/{page.number}/{page.begin + row}"

    def card_of(self, page: SourcePage, row: int) -> str | None:
        """The card of a source record, None when it names none."""
        index = int(page.card[row])
        return None if index < 0 else self.cards[index]
