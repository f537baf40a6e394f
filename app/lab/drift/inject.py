"""`fraudstream drift --inject`: a model is trained on the beginning of a simulated stream, then faults begin.

Everything is what the product uses: records are parsed, both stages compute the features, `train` writes the manifest
with the distribution, the detectors see what would have been stored.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from app.domain.prediction_flags import CONFLICTING, LATE
from app.durations import DAY_MS
from app.errors import UsageError
from app.lab.drift.faults import FAULTS, Arrival, Fault
from app.lab.drift.feed import Feed, Scored, arrivals, number_of
from app.lab.simulation.simulate import SimulationConfig, simulate
from app.ops.train import TrainingOptions, train_on
from app.quality import drift_comparison
from app.quality.drift_comparison import (
    DriftFinding,
    LabelArrivals,
    ObservedTransactions,
    RecordCounts,
)
from app.settings import Settings
from app.stages.deployed_features import catalogue_of
from models.artifact_folders import ArtifactFolders
from models.model_loader import Model, ModelHolder
from models.training_distribution import WINDOW, Distribution, read_distribution
from models.training_examples import Examples

#: 2025-01-01, a Wednesday.
_FROM_MS = 1_735_689_600_000
#: Days that a model is trained on: windows fill for 37 of them.
TRAINED_DAYS = 60
#: A card makes two transactions a day; a fault may take half of them away.
_DAILY, _SPARE = 2.0, 2.5
#: Records between two looks.
STEP = 250

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Named:
    """What became of a fault.

    Attributes:
        fault: which one.
        after: transactions from its beginning until it was named; None: it was not.
        text: how it was named.
        others: other findings at that moment.
    """

    fault: Fault
    after: int | None
    text: str
    others: tuple[DriftFinding, ...] = ()


class Watched:
    """A feed with a model and its detectors, from the moment on at which training ended.

    Args:
        feed: with everything before.
        model: scores.
        distribution: of its training data.
    """

    def __init__(self, feed: Feed, model: Model, distribution: Distribution) -> None:
        self._feed, self._model, self._distribution = feed, model, distribution
        self._names = catalogue_of(feed.settings).names
        self._columns = [self._names.index(name) for name in distribution.features]
        arrived = [at for at, _ in feed.labels]
        self._pause_ms = int(np.diff(arrived).max()) if len(arrived) > 1 else 0
        self._parts: deque[ObservedTransactions] = deque()
        self._observe()

    def copy(self) -> "Watched":
        """The same once more."""
        twin = Watched.__new__(Watched)
        twin.__dict__.update(self.__dict__)
        twin._feed, twin._parts = self._feed.copy(), deque(self._parts)  # noqa: SLF001 -- our own
        return twin

    def run(
        self,
        stream: Iterator[Arrival],
        fault: Fault | None,
        random: np.random.Generator,
        step: int = STEP,
    ) -> Iterator[tuple[int, tuple[DriftFinding, ...]]]:
        """Records that have arrived so far, and what is found then, every so many of the stream."""
        feed, done = self._feed, 0
        while part := list(islice(stream, step)):
            for one in part:
                for arrival in (one,) if fault is None else fault.change(one, random):
                    done += 1
                    if fault is None:
                        feed.take(arrival)
                    else:
                        feed.take(arrival, lambda said: fault.label(said, random))
            self._observe()
            yield done, self._look()

    def _observe(self) -> None:
        rows, self._feed.scored = self._feed.scored, []
        if rows:
            self._parts.append(self._observed(rows))
        while sum(map(len, self._parts)) - len(self._parts[0]) >= WINDOW:
            self._parts.popleft()
        for kept in (self._feed.outcomes, self._feed.labels):
            while len(kept) > WINDOW:
                kept.popleft()

    def _observed(self, rows: Sequence[Scored]) -> ObservedTransactions:
        features = np.array([row.features for row in rows], np.float64)
        scores = self._model.score(features)
        return ObservedTransactions(
            *drift_comparison.bin_features(self._distribution, features[:, self._columns]),
            self._distribution.score.codes(scores),
            scores >= self._model.threshold,
            np.array([row.amount for row in rows]),
            np.array([row.event_time_ms for row in rows], np.int64),
            np.array([row.received_ms for row in rows], np.int64),
            np.array([number_of(row.card_id) for row in rows], np.int64),
            np.array([number_of(row.terminal_id) for row in rows], np.int64),
            np.array([LATE in row.flags for row in rows]),
            np.array([CONFLICTING in row.flags for row in rows]),
        )

    def _look(self) -> tuple[DriftFinding, ...]:
        feed = self._feed
        outcomes = Counter(feed.outcomes)
        read, duplicates = outcomes.total(), outcomes.pop("duplicate", 0)
        outcomes.pop("scored", 0)
        labels = list(feed.labels)
        silent = feed.now_ms - labels[-1][0] if labels else None
        frauds = sum(fraud for _, fraud in labels)
        found = drift_comparison.compare(
            self._distribution,
            drift_comparison.together(list(self._parts)).take(slice(-WINDOW, None)),
            RecordCounts(read, outcomes, duplicates),
            LabelArrivals(len(labels), frauds, silent, self._pause_ms),
        )
        return found.findings


class Laboratory:
    """A trained model, and the stream that goes on.

    Args:
        settings: features and everything else that records go through.
        folder: an empty one, for the model.
        cards: number of cards; terminals are twice as many.
        seed: of the simulation and of the faults.
        quiet: transactions that follow training, at least.
        kind: of the model.
        progress: told how many transactions were computed.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        *,
        cards: int,
        seed: int,
        quiet: int,
        kind: str = "logistic",
        progress: Progress = lambda _count: None,
    ) -> None:
        more = max(quiet, round(_SPARE * WINDOW))
        drawn = simulate(
            SimulationConfig(
                cards=cards,
                terminals=2 * cards,
                days=TRAINED_DAYS + round(more / (_DAILY * cards)) + 1,
                seed=seed,
                start_ms=_FROM_MS,
                currency=settings.currency,
                minor_digits=settings.minor_unit_digits,
            )
        )
        begin = int(np.searchsorted(drawn.event_time_ms, _FROM_MS + TRAINED_DAYS * DAY_MS))
        self._rest = list(arrivals(drawn.take(slice(begin, None))))
        self._seed, self._progress, self._done = seed, progress, 0
        feed = Feed(settings)
        for one in arrivals(drawn.take(slice(0, begin))):
            feed.take(one)
            self._count()
        manifest = train_on(
            _examples(feed.scored),
            settings,
            TrainingOptions(folder, name="injected", kind=kind, seed=seed, importance=False),
            now_ms=_FROM_MS,
        ).manifest
        distribution = read_distribution(manifest)
        assert distribution is not None
        feed.scored = feed.scored[-WINDOW:]
        holder = ModelHolder(
            ArtifactFolders(folder), catalogue_of(settings), settings.minor_unit_digits
        )
        self._watched = Watched(feed, holder.named(str(folder)), distribution)

    def quiet(self, transactions: int, step: int = WINDOW // 5) -> list[tuple[int, DriftFinding]]:
        """What is found although nothing happens, and after how many transactions."""
        watched = self._watched.copy()
        found = []
        stream = islice(self._rest, transactions)
        for done, findings in watched.run(stream, None, np.random.default_rng(self._seed), step):
            self._count(step)
            found += [(done, one) for one in findings]
        return found

    def inject(self, fault: Fault, most: int = WINDOW) -> Named:
        """Let something break, and look until it is named, or `most` records have arrived."""
        random = np.random.default_rng([self._seed, FAULTS.index(fault)])
        watched = self._watched.copy()
        findings: tuple[DriftFinding, ...] = ()
        for done, findings in watched.run(iter(self._rest), fault, random):
            self._count(STEP)
            if done > most:
                break
            for one in findings:
                if (one.detector, one.subject) == (fault.detector, fault.subject):
                    others = tuple(other for other in findings if other is not one)
                    return Named(fault, done, one.text, others)
        return Named(fault, None, "not named", findings)

    def _count(self, transactions: int = 1) -> None:
        self._done += transactions
        self._progress(self._done)


def fault_of(name: str) -> Fault:
    """The fault of a name.

    Raises:
        UsageError: there is none.
    """
    for one in FAULTS:
        if one.name == name:
            return one
    msg = f"there is no fault {name!r}; there are {', '.join(one.name for one in FAULTS)}"
    raise UsageError(msg)


def _examples(rows: Sequence[Scored]) -> Examples:
    columns: dict[str, Any] = {
        name: np.array([getattr(row, name) for row in rows])
        for name in ("event_time_ms", "card_id", "terminal_id", "fraud")
    }
    return Examples(
        np.array([row.features for row in rows], np.float64),
        columns["fraud"],
        columns["event_time_ms"],
        columns["card_id"],
        terminal_id=columns["terminal_id"],
    )
