"""`fraudstream bench --stages`: where a worker's time goes, stage by stage, without any server.

The real handlers run over a seeded, simulated backlog in one thread, block by block, with a real RocksDB
and real record batches; network, event loop and what Kafka's client does with a fetch are missing. Parts
of a stage are timed by themselves over the same data, so they need not add up to it exactly.
Time is CPU time of the thread: what else runs on the machine disturbs it little.
"""

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson

from app.blocks.core.partition import Handler
from app.blocks.core.row_groups import RowGroup
from app.cassandra.prediction_rows import RowPacker
from app.domain.changes_in_force import InForce
from app.domain.features import Catalogue
from app.domain.label_outcomes import TerminalStage
from app.domain.transaction import Transaction
from app.domain.transaction_outcomes import CardStage
from app.lab.bench.stage_store import (
    MemoryRows,
    Record,
    build_changelog,
    build_outputs,
    write_store,
)
from app.lab.simulation.simulate import SimulationConfig, simulate
from app.ops.temporary_stores import open_store
from app.settings import Settings
from app.stages.block_rows import row_rules, terminal_rules
from app.stages.card_stage import CardsHandler
from app.stages.deployed_features import catalogue_of
from app.stages.reserved_rows import in_force_row
from app.stages.scoring_models import Model
from app.stages.scoring_stage import ScoringHandler
from app.topics import Topics
from app.windows.waiting_labels import MAX_WAITING_LABELS
from app.windows.window_row import RowRules, WindowRow
from app.wire.control_records import decode_message
from app.wire.input_records import RecordRules, parse_transaction
from app.wire.output_records import prediction_message
from app.wire.prediction_fields import OUTPUT_FIELDS
from models.artifact_folders import artifact_folders
from models.model_loader import ModelHolder

#: A backlog as a run over servers has it.
_CARDS, _TERMINALS = 5_000, 10_000
#: The order in which stages are told, their parts behind them.
_ORDER = (
    "cards", "decode", "card features", "card row encode", "scoring", "decode enriched", "terminal features",
    "model", "reasons", "prediction encode", "output batches", "changelog rows", "store", "sink packing",
)  # fmt: skip
#: What a fetch of one partition holds while a backlog is worked off.
BLOCK = 500
#: The newest event time, epoch milliseconds: figures of two days are of the same data.
_END_MS = 1_790_000_000_000


T = TypeVar("T")
#: name of a part, and the stage that it is part of
Key = tuple[str, str | None]


@dataclass(frozen=True)
class Stage:
    """One line of the account.

    Attributes:
        name: of the stage or part.
        part_of: the stage whose part it is, None for a stage.
        us: microseconds an event, median of the repetitions.
        spread: least and most.
    """

    name: str
    part_of: str | None
    us: float
    spread: tuple[float, float]


def measure_stages(settings: Settings, *, events: int, repeats: int, seed: int) -> list[Stage]:
    """Time every stage.

    Args:
        settings: windows, model and rules that are used; nothing is connected to.
        events: transactions of the backlog.
        repeats: how often everything is done; the median counts.
        seed: of the backlog.
    """
    settings = settings.model_copy(update={"input_format": "json", "input_envelope": "none"})
    catalogue = catalogue_of(settings)
    bench = _Bench(settings, catalogue, _backlog(settings, events, seed))
    found: dict[Key, list[float]] = {}
    for _ in range(repeats):
        for key, seconds in bench.once().items():
            found.setdefault(key, []).append(seconds / events * 1e6)
    return [
        Stage(name, part_of, statistics.median(us), (min(us), max(us)))
        for (name, part_of), us in found.items()
    ]


def _backlog(settings: Settings, events: int, seed: int) -> list[Record]:
    config = SimulationConfig(
        cards=_CARDS,
        terminals=_TERMINALS,
        count=events,
        seed=seed,
        end_ms=_END_MS,
        currency=settings.currency,
        minor_digits=settings.minor_unit_digits,
    )
    pairs = simulate(config).pairs()
    return [Record(offset, _END_MS, key, value) for offset, (key, value) in enumerate(pairs)]


class _Bench:
    def __init__(self, settings: Settings, catalogue: Catalogue, records: list[Record]) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._records = records
        self._topics = Topics(settings)
        holder = ModelHolder(artifact_folders(settings), catalogue, settings.minor_unit_digits)
        self._model = holder.named(settings.model)
        self._rules = RecordRules.of(settings)
        self._batch_bytes = settings.max_message_bytes

    def once(self) -> dict[Key, float]:
        """Seconds of each stage and part, once over the backlog."""
        took: dict[Key, float] = {}
        gc.collect()
        decoded, took["decode", "cards"] = _timed(self._decode)
        rows, took["card features", "cards"] = _timed(lambda: self._card_features(decoded))
        took["card row encode", "cards"] = _timed(lambda: [row.encode() for row in rows])[1]
        cards, took["cards", None] = _timed(
            lambda: _run(
                CardsHandler.of(self._settings, self._topics, self._catalogue, lambda _: 0),
                MemoryRows(),
                self._records,
            )
        )
        messages = [
            Record(offset, _END_MS, None, value)
            for offset, value in enumerate(_values(cards.outputs, self._topics.enriched.name))
        ]
        batches, took["decode enriched", "scoring"] = _timed(
            lambda: [decode_message(message.value) for message in messages]
        )
        took["terminal features", "scoring"] = _timed(lambda: self._terminal_features(batches))[1]
        model, state = _TimedModel(self._model), MemoryRows()
        state.put([[in_force_row(InForce(0, self._model.hash), -1)]])
        scoring, took["scoring", None] = _timed(
            lambda: _run(
                ScoringHandler.of(
                    self._settings,
                    self._topics,
                    self._catalogue,
                    model=lambda _: model,
                    clock_ms=lambda: _END_MS,
                ),
                state,
                messages,
                per_block=1,
            )
        )
        took["model", "scoring"] = model.score_seconds
        took["reasons", "scoring"] = model.reasons_seconds
        predictions = _values(scoring.outputs, self._topics.predictions.name)
        added = [_ours(value) for value in predictions]
        bodies = [record.value for record in self._records]
        took["prediction encode", "scoring"] = _timed(
            lambda: list(map(prediction_message, bodies, added))
        )[1]
        took["output batches", None] = _timed(
            lambda: build_outputs([*cards.outputs, *scoring.outputs], self._batch_bytes)
        )[1]
        groups = [*cards.groups, *scoring.groups]
        took["changelog rows", None] = _timed(lambda: build_changelog(groups, self._batch_bytes))[1]
        with (
            tempfile.TemporaryDirectory() as folder,
            open_store(Path(folder) / "rows") as database,
        ):
            took["store", None] = _timed(lambda: write_store(database, groups, self._batch_bytes))[
                1
            ]
        packer = RowPacker(self._settings.currency, self._settings.minor_unit_digits)
        took["sink packing", None] = _timed(lambda: packer.pack_many(predictions))[1]
        return {key: took[key] for key in sorted(took, key=lambda key: _ORDER.index(key[0]))}

    def _decode(self) -> list[Transaction]:
        rules = self._rules
        return [
            parse_transaction(one.value, one.key, one.timestamp, rules) for one in self._records
        ]

    def _card_features(self, transactions: Sequence[Transaction]) -> list[WindowRow]:
        stage = CardStage(self._catalogue, self._settings.allowed_lateness, lambda _: 0)
        rules = row_rules(self._settings)
        rows: dict[str, WindowRow] = {}
        touched = []
        for transaction in transactions:
            row = rows.get(transaction.card_id)
            if row is None:
                row = rows[transaction.card_id] = _new_row(transaction.card_id, rules)
            stage.apply(transaction, row, 0)
            touched.append(row)
        return touched

    def _terminal_features(self, batches: Iterable[Any]) -> None:
        stage = TerminalStage(self._catalogue, self._settings.label_wait, MAX_WAITING_LABELS)
        rules = terminal_rules(self._settings)
        rows: dict[str, WindowRow] = {}
        for batch in batches:
            for item in batch.items:
                row = rows.get(item.terminal_id)
                if row is None:
                    row = rows[item.terminal_id] = _new_row(item.terminal_id, rules)
                stage.apply(row, item.event_time_ms, item.minor, item.flags, item.id8)


class _TimedModel:
    """The model, with a watch on it."""

    def __init__(self, model: Model) -> None:
        self.hash, self.version, self.threshold = model.hash, model.version, model.threshold
        self.anomaly_threshold = model.anomaly_threshold
        self.score_seconds = self.reasons_seconds = 0.0
        self._model = model

    def score(self, rows: np.ndarray) -> np.ndarray:
        """As the model's."""
        began = time.thread_time()
        scores = self._model.score(rows)
        self.score_seconds += time.thread_time() - began
        return scores

    def anomalies(self, rows: np.ndarray) -> np.ndarray | None:
        """As the model's; its time counts as the scores'."""
        began = time.thread_time()
        anomalies = self._model.anomalies(rows)
        self.score_seconds += time.thread_time() - began
        return anomalies

    def reasons(self, rows: np.ndarray) -> list[list[str]]:
        """As the model's."""
        began = time.thread_time()
        reasons = self._model.reasons(rows)
        self.reasons_seconds += time.thread_time() - began
        return reasons


@dataclass
class _Ran:
    outputs: list[Any]
    groups: list[list[RowGroup]]


def _run(
    handler: Handler, state: MemoryRows, records: Sequence[Record], per_block: int = BLOCK
) -> _Ran:
    """All blocks through a handler, each on the rows that the one before has left."""
    ran = _Ran([], [])
    for begin in range(0, len(records), per_block):
        computed = handler.compute(0, records[begin : begin + per_block], state)
        state.put(computed.groups)
        ran.outputs.append(computed.outputs)
        ran.groups.append(computed.groups)
    return ran


def _values(blocks: Iterable[Any], topic: str) -> list[bytes]:
    return [value for outputs in blocks for _, value, _ in outputs.get((topic, 0), ())]


def _ours(prediction: bytes) -> dict[str, Any]:
    fields = orjson.loads(prediction)
    return {name: value for name, value in fields.items() if name in OUTPUT_FIELDS}


def _new_row(key: str, rules: RowRules) -> WindowRow:
    return WindowRow(key.encode(), rules, lambda _: None)


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    began = time.thread_time()
    result = work()
    return result, time.thread_time() - began


def stages_text(stages: Sequence[Stage]) -> str:
    """A table for people."""
    lines = ["microseconds per event, median (min to max)"]
    for stage in stages:
        name = f"  {stage.name}" if stage.part_of else stage.name
        lines.append(f"{name:<24}{stage.us:8.2f}  ({stage.spread[0]:.2f} to {stage.spread[1]:.2f})")
    total = sum(stage.us for stage in stages if stage.part_of is None)
    lines.append(f"{'total':<24}{total:8.2f}  of one core, without network and event loop")
    return "\n".join(lines)
