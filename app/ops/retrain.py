"""`fraudstream retrain`: one step from the current model to the next one, each time it is called.

Where a challenger of an earlier call is scoring, it is compared with the current model, and promoted if asked for.
Else the next one is trained, by the current model's recipe, on the stored features and labels, and starts as a shadow.
What has been done is read from the log and the registry: nothing is remembered elsewhere.
"""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from cassandra.cluster import Session

from app.cassandra.command_lock import command_lock
from app.cassandra.fetched_models import entry_of
from app.cassandra.model_registry import list_registered
from app.display import iso
from app.domain.challengers import MAX_CHALLENGERS, Challenger
from app.domain.changes import AnyChange, ChallengerChange, LoadChange, ModelChange
from app.durations import format_duration
from app.errors import NotFoundError, TooFewSamplesError, UsageError
from app.kafka.change_history import ChangeHistory, need_decides, read_history, send_changes
from app.ops import gate_scores, train_from_cassandra
from app.ops.manage_models import register, sign
from app.ops.model_checks import check_model
from app.ops.model_lineage import Recipe, lineage, parent_of, trained_until
from app.ops.revertible_promotion import check_restorable
from app.ops.train import Stage, place, train
from app.quality.gate_limits import GateLimits
from app.settings import Settings
from app.topics import Topics
from models.artifact_folders import Entry, artifact_folders
from models.manifest import Manifest

Did = Literal["trained", "shadowed", "promoted", "passed", "refused", "waits"]
#: Versions of a name that are looked at, the newest first.
_VERSIONS = 5
#: A challenger that is neither better nor worse with certainty stays a shadow until it was compared on so many days.
_UNDECIDED_DAYS = 28
#: The model that comes with fraudstream: what is trained here has a name of its own.
_SHIPPED, _OWN = "default", "fraud"


class Step(NamedTuple):
    """What a call has done.

    Attributes:
        did: what.
        model: name and version of the challenger; empty: there is none.
        lines: the same for people.
    """

    did: Did
    model: str
    lines: list[str]


class Retraining:
    """One call.

    Args:
        settings: the deployment.
        session: to read and write with.
        history: every change.
        name: of the challenger; None: the current model's.
        min_new: labelled transactions that a training needs, newer than those of the last one and older than the
            label delay.
        promote: whether a challenger that has passed the gate becomes the current model.
        key: file of the private key that signs it; None: it is not signed.
        now_ms: the time, epoch milliseconds.
        stage: shows progress.
        check: raises where another call may have begun; before each step that only one may take.
        ask_workers: raises UsageError if a running worker cannot load a model, of this name and version, and hash.
    """

    def __init__(
        self,
        settings: Settings,
        session: Session,
        history: ChangeHistory,
        *,
        name: str | None,
        min_new: int,
        promote: bool,
        key: Path | None,
        now_ms: int,
        stage: Stage,
        check: Callable[[], None] = lambda: None,
        ask_workers: Callable[[Settings, str, str], Awaitable[None]] | None = None,
    ) -> None:
        self._settings = settings
        self._session = session
        self._history = history
        self._promote = promote
        self._key = key
        self._min_new = min_new
        self._now_ms = now_ms
        # of what is newer, the labels that come fast are known, and the others are not: it would mislead
        self._known_ms = now_ms - settings.label_delay
        self._stage = stage
        self._check = check
        self._ask_workers = ask_workers
        self._current = need_decides(history, Topics(settings).control.name)
        self._parent = entry_of(settings, session, self._current.hash).manifest
        parent = self._parent.name
        self._name = name or (_OWN if parent == _SHIPPED else parent)

    async def step(self) -> Step:
        """Do what is next.

        Raises:
            UsageError: the current model cannot be trained again here, there is no room for a challenger, or the new
                model lacks a signature.
            UnavailableError, SchemaError: a server does not answer, or tables are missing.
        """
        challengers = self._history.in_force().challengers
        for one in challengers:
            if parent_of(self._manifest(one.hash)) is not None:
                return await self._gate(one)
        if len(challengers) >= MAX_CHALLENGERS:
            names = ", ".join(one.model for one in challengers)
            msg = (
                f"there are {MAX_CHALLENGERS} challengers already: {names}; stop one with `fraudstream models shadow "
                "NAME --stop`"
            )
            raise UsageError(msg)
        children = list(self._children())
        if children and not self._was_shadow(children[0]):  # an earlier call ended in between
            return await self._shadow(children[0], "shadowed", self._sign_again(children[0]))
        return await self._train(children)

    def _manifest(self, model_hash: str) -> Manifest:
        return entry_of(self._settings, self._session, model_hash).manifest

    def _children(self) -> Iterator[Manifest]:
        """What was trained after the current model, the newest first."""
        known = [
            one for one in list_registered(self._session, self._settings) if one.name == self._name
        ]
        for one in known[: -_VERSIONS - 1 : -1]:
            manifest = self._manifest(one.hash)
            if parent_of(manifest) == self._current.hash:
                yield manifest

    def _was_shadow(self, manifest: Manifest) -> bool:
        return any(
            isinstance(one.change, ChallengerChange | ModelChange)
            and one.change.hash == manifest.scoring_hash
            for one in self._history.changes
        )

    async def _gate(self, one: Challenger) -> Step:
        with self._stage("comparing", 0) as tell:
            try:
                result = await gate_scores.gate(
                    self._settings,
                    self._session,
                    one.model,
                    from_ms=None,
                    threshold=one.threshold,
                    progress=tell,
                    labels_until_ms=self._known_ms,
                )
            except TooFewSamplesError as error:
                return Step("waits", one.model, [f"{one.model} is not compared yet: {error}"])
        frauds, needed = result["frauds_compared"], GateLimits().frauds
        if frauds < needed or result["difference"] is None:
            text = f"{one.model} is not compared yet: {frauds} labelled frauds, {needed} are needed"
            return Step("waits", one.model, [text])
        current = self._current.model
        if result["undecided"] and result["days"] < _UNDECIDED_DAYS:
            lines = [
                f"{one.model} cannot be told from {current} yet: {frauds} labelled frauds in {result['days']:g} days; "
                f"it stays a shadow until there are more, or until there are {_UNDECIDED_DAYS} days",
                *result["reasons"],
            ]
            return Step("waits", one.model, lines)
        if not result["passed"]:
            note = f"did not pass the gate: {result['reasons'][0]}"[:500]
            await self._send(
                ChallengerChange(model=one.model, hash=one.hash, share=None, note=note)
            )
            lines = [
                f"{one.model} does not pass against {current} and is stopped:",
                *result["reasons"],
            ]
            return Step("refused", one.model, lines)
        if not self._promote:
            lines = [
                f"{one.model} passes against {current}",
                f"To use it: fraudstream models promote {one.model}, or fraudstream retrain --promote",
            ]
            return Step("passed", one.model, lines)
        warning = check_restorable(self._settings, self._history.in_force())
        await self._send(
            ModelChange(
                model=one.model,
                hash=one.hash,
                threshold=one.threshold,
                note="retrained: passed the gate",
            )
        )
        lines = [
            f"{one.model} passes against {current} and is the current model now",
            f"To go back to {current}: fraudstream models rollback",
            *([f"warning: {warning}"] if warning else []),
        ]
        return Step("promoted", one.model, lines)

    async def _train(self, children: list[Manifest]) -> Step:
        recipe = Recipe.of(self._settings, self._parent)
        try:
            with self._stage("reading Cassandra", 0) as tell:
                stored = train_from_cassandra.from_cassandra(self._settings, tell)
            examples = stored.until(self._known_ms)
            known = max((trained_until(one) for one in (self._parent, *children)), default=0)
            new = int(np.count_nonzero(examples.event_time_ms > known))
            if new < self._min_new:
                since = f" since {iso(known)}" if known else ""
                delay = format_duration(self._settings.label_delay)
                text = (
                    f"nothing to do: {new:,} labelled transactions{since}, {self._min_new:,} are needed (--min-new); "
                    f"those of the last {delay} do not count yet (FRAUDSTREAM_LABEL_DELAY)"
                )
                return Step("waits", "", [text])
            version, folder = self._place()
            options = recipe.options(
                self._settings,
                folder=folder,
                name=self._name,
                version=version,
                newest_ms=int(examples.event_time_ms.max()),
                source=lineage(self._current, examples),
            )
            trained = train(
                examples, self._settings, options, now_ms=self._now_ms, stage=self._stage
            )
        except TooFewSamplesError as error:
            return Step("waits", "", [f"nothing to do yet: {error}"])
        self._check()
        entry, _ = register(self._settings, str(trained.folder))
        self._sign(entry)
        rows = trained.manifest.trained["rows"]
        lines = [
            f"trained {_named(trained.manifest)} on {rows:,} labelled transactions, "
            f"with the recipe of {self._current.model}"
        ]
        return await self._shadow(trained.manifest, "trained", lines)

    def _place(self) -> tuple[int, Path]:
        """The next version of the registry and of the folders here."""
        version, folder = place(self._settings, self._name)
        known = [
            one.version
            for one in list_registered(self._session, self._settings)
            if one.name == self._name
        ]
        version = max([version, *(one + 1 for one in known)])
        return version, folder.with_name(f"{self._name}-{version}")

    def _sign(self, entry: Entry) -> None:
        """Sign what was trained here, if there is a key."""
        if self._key is not None:
            sign(self._settings, entry.manifest.scoring_hash, self._key, approved=entry)

    def _sign_again(self, manifest: Manifest) -> list[str]:
        """Sign a model of an earlier call, which may have ended before it did so, or had no key.

        Only if it was trained here: whoever can write to the registry must not get a signature by it.
        """
        if self._key is None:
            return []
        try:
            self._sign(artifact_folders(self._settings).by_hash(manifest.scoring_hash))
        except NotFoundError:
            model = _named(manifest)
            return [
                f"{model} was not trained on this machine: --sign has not signed it; "
                f"`fraudstream models sign {model} --key FILE` does"
            ]
        return []

    async def _shadow(self, manifest: Manifest, did: Did, lines: list[str]) -> Step:
        model, model_hash = _named(manifest), manifest.scoring_hash
        # the registry's copy: it may have been signed since
        check_model(self._settings, entry_of(self._settings, self._session, model_hash))
        if self._ask_workers is not None:
            await self._ask_workers(self._settings, model, model_hash)
        note = f"retrained after {self._current.model}"
        await self._send(
            LoadChange(model=model, hash=model_hash),
            ChallengerChange(model=model, hash=model_hash, note=note),
        )
        lines = [
            *lines,
            f"{model} is a shadow now; the next `fraudstream retrain` compares it with {self._current.model}",
        ]
        return Step(did, model, lines)

    async def _send(self, *changes: AnyChange) -> None:
        self._check()
        await send_changes(self._settings, *changes)


def _named(manifest: Manifest) -> str:
    return f"{manifest.name}@{manifest.version}"


async def retrain(settings: Settings, session: Session, **options: Any) -> Step:
    """See `Retraining`; one call at a time does anything.

    Raises:
        BusyError: another call is running.
    """
    with command_lock(session, settings, "retrain") as check:
        history = await read_history(settings)
        return await Retraining(settings, session, history, check=check, **options).step()
