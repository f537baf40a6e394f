"""What decides in a replay: the model that was asked for, or what decided live at each offset."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from app.cassandra.fetched_models import holder_of
from app.cassandra.model_registry import find_registered
from app.cassandra.session import shared_session
from app.domain.changes import (
    ChallengerChange,
    ListChange,
    LoadChange,
    ModelChange,
    RuleChange,
)
from app.domain.changes_in_force import EarlierModel, InForce
from app.domain.features import Catalogue
from app.domain.rules import NO_RULES, RuleSet
from app.errors import NotAnsweringError, NotFoundError, UnavailableError
from app.kafka.change_history import ChangeHistory, read_history
from app.ops.replaying.enriched_survey import EnrichedSurvey
from app.ops.replaying.plan import Plan
from app.ops.verification.topic_log import Log
from app.stages import scoring_models
from app.stages.scoring_models import UnloadableModel, is_refused
from app.wire.control_records import ChangeMessage, Message, encode_change
from app.wire.enriched_records import ENRICHED_VERSION, EnrichedBatch
from models.artifact_folders import is_path
from models.model_loader import Model, ModelHolder


@dataclass(frozen=True)
class ReplayDecisions:
    """What decides in a replay of one partition.

    Attributes:
        begins: at its first message.
        follows: whether live changes are followed; else one model scores all, whatever scored it live.
        threshold: replaces every other one; None: nothing does.
        model: gives the loaded model of a hash.
        challenger: the same of a challenger; a stand-in without scores for one that cannot be loaded.
    """

    begins: InForce
    follows: bool
    threshold: float | None
    model: Callable[[str], scoring_models.Model]
    challenger: Callable[[str], scoring_models.Model]

    @classmethod
    def by(
        cls, model: scoring_models.Model, threshold: float | None, rules: RuleSet = NO_RULES
    ) -> "ReplayDecisions":
        """One model for all of it, beside the rules of its time."""
        begins = InForce(0, model.hash, threshold, rules=rules)
        return cls(begins, False, threshold, lambda _: model, lambda _: model)  # no challengers

    def read(self, message: ChangeMessage) -> Message:
        """A change as it is in the replay: as it was, or none."""
        change = message.change
        if isinstance(change, RuleChange | ListChange):
            return message
        if not self.follows:
            return EnrichedBatch(ENRICHED_VERSION, message.topic, 0, [])
        if self.threshold is not None and not isinstance(change, LoadChange):
            change = replace(change, threshold=self.threshold)
            return replace(message, body=encode_change(change))
        return message


class Deciders:
    """See `ReplayDecisions`, of each partition.

    Args:
        plan: what is replayed.
        holder: loads models.
        model: the one that was asked for; None: what decided live.
    """

    def __init__(self, plan: Plan, holder: ModelHolder, model: Model | None) -> None:
        self._plan = plan
        self._holder = holder
        self._model = model
        self._history = ChangeHistory([])
        self._survey: EnrichedSurvey | None = None
        self._unloadable: dict[str, UnloadableModel] = {}

    @classmethod
    async def of(cls, plan: Plan, catalogue: Catalogue) -> "Deciders":
        """What a plan asks for.

        Raises:
            NotFoundError, UsageError: the model is not there, or does not fit.
        """
        holder = holder_of(plan.own, catalogue)
        wanted = plan.own.model
        if "model" not in plan.by:
            return cls(plan, holder, None)
        return cls(plan, holder, await asyncio.to_thread(_named, plan, holder, wanted))

    async def read(self, log: Log, survey: EnrichedSurvey) -> None:
        """What was changed live, as far as it is forwarded.

        Raises:
            NotFoundError, UsageError: nothing was, and the model of the settings is not there, or does not fit.
        """
        self._survey = survey
        done = await log.done(log.topics.control)
        history = await read_history(self._plan.live)
        self._history = ChangeHistory(
            [one for one in history.changes if one.offset < done[one.partition]]
        )
        if (
            self._model is None and self._history.decides() is None
        ):  # what was scored before any worker of this release
            self._model = await asyncio.to_thread(
                _named, self._plan, self._holder, self._plan.own.model
            )

    async def load(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Load what decided in ranges of `enriched`, by partition: before anything is made that would be left behind.

        Raises:
            NotFoundError, UsageError: a model is not there, or does not fit; a challenger that does not fit has no
                scores, as in the stream.
            UnavailableError: the registry does not answer.
        """
        if self._model is not None:
            return
        assert self._survey is not None
        deciding, challengers = set[str](), set[str]()
        for number, (begin, end) in enumerate(ranges):
            if begin == end:
                continue
            begins = self.at(number, begin).begins
            deciding.add(begins.model)
            # a revert goes back to what was before the change that it undoes
            for before in (begins.fallbacks, *(each.fallbacks for each in begins.watched)):
                challengers |= {one.hash for one in before}
            challengers |= {one.hash for one in begins.challengers}
            made = self._survey.changes(number, begin, end)
            for one in self._history.changes:
                if (one.partition, one.offset) not in made:
                    continue
                if isinstance(one.change, ModelChange):
                    deciding.add(one.change.hash)
                elif isinstance(one.change, ChallengerChange) and one.change.share is not None:
                    challengers.add(one.change.hash)
        for model_hash in deciding - {""}:  # empty: an older release bound it
            await asyncio.to_thread(self._holder.by_hash, model_hash)
        for model_hash in challengers - deciding:
            await asyncio.to_thread(self._challenger, model_hash)

    def at(self, partition: int, offset: int) -> ReplayDecisions:
        """What decides from an offset of a partition of `enriched` on."""
        threshold = self._plan.own.threshold if self._own_threshold else None
        assert self._survey is not None
        until = self._survey.first_change(partition, offset)
        begins = self._started_with()
        for one in self._history.changes:
            if until is None or one.partition != until[0] or one.offset < until[1]:
                begins = begins.after(one.change, one.partition, one.offset, one.at_ms)
        if self._model is not None:
            return ReplayDecisions.by(self._model, threshold, begins.rules)
        if threshold is not None:
            challengers = tuple(replace(one, threshold=threshold) for one in begins.challengers)
            watched = tuple(
                replace(one, fallbacks=_by(threshold, one.fallbacks)) for one in begins.watched
            )
            fallbacks = _by(threshold, begins.fallbacks)
            begins = replace(
                begins, threshold=threshold, challengers=challengers, fallbacks=fallbacks, watched=watched
            )  # fmt: skip
        return ReplayDecisions(begins, True, threshold, self._holder.by_hash, self._challenger)

    def _started_with(self) -> InForce:
        """What decided before the first change: its model, to which partitions were bound at their start.

        A worker that starts on a backlog scores some of it before the change arrives on `enriched`.
        """
        for one in self._history.changes:
            if isinstance(one.change, ModelChange) and one.change.how == "start":
                return InForce(0, one.change.hash, one.change.threshold)
        return InForce()

    def _challenger(self, model_hash: str) -> scoring_models.Model:
        """The loaded model of a challenger; without scores where it does not fit, as in the stream.

        Raises:
            Exception: it cannot be loaded now; the stream waits for it then, so nothing is scored without it.
        """
        found = self._unloadable.get(model_hash)
        if found is None:
            try:
                return self._holder.by_hash(model_hash)
            except Exception as error:
                if not is_refused(error):
                    raise
                found = self._unloadable[model_hash] = UnloadableModel(model_hash, str(error))
        return found

    @property
    def _own_threshold(self) -> bool:
        return "threshold" in self._plan.by or self._model is not None

    def described(self) -> dict[str, Any]:
        """For the result: the model and threshold that were asked for, None for what decided live."""
        threshold = self._plan.own.threshold if self._own_threshold else None
        if self._model is None:
            return {"model": "as live", "model_hash": None, "threshold": threshold}
        own = self._model.threshold if threshold is None else threshold
        return {"model": self._model.version, "model_hash": self._model.hash, "threshold": own}


def _by(threshold: float, models: tuple[EarlierModel, ...]) -> tuple[EarlierModel, ...]:
    return tuple(replace(one, threshold=threshold) for one in models)


def _named(plan: Plan, holder: ModelHolder, wanted: str) -> Model:
    """The registry's model of a name, else the one in a folder here."""
    if not is_path(wanted):
        try:
            return holder.by_hash(
                find_registered(shared_session(plan.live), plan.live, wanted).hash
            )
        except NotAnsweringError:  # what it has of this name is not known
            raise
        except (NotFoundError, UnavailableError):
            pass
    return holder.named(wanted)
