"""Changes of models, thresholds, challengers, rules and lists, while everything else happens."""

import asyncio
import json
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import numpy as np
from aiokafka.errors import KafkaError

from app.cassandra.model_registry import register
from app.cassandra.session import connected
from app.domain.changes import (
    AnyChange,
    ChallengerChange,
    ListChange,
    LoadChange,
    ModelChange,
    RuleChange,
    ThresholdChange,
)
from app.errors import UnavailableError
from app.kafka.change_history import read_history, send_changes
from app.settings import Settings
from models.artifact import load_artifact, read_manifest, save_artifact
from models.artifact_folders import SHIPPED, Entry

#: What is changed, in turn; in which order, the seed says.
KINDS = ("promote", "rollback", "threshold", "shadow", "canary", "stop", "rule", "list")
#: Copies of shipped models under other names: from which one, and with which threshold.
_COPIES = {"keen": ("engineered", 0.1), "calm": ("default", 0.6)}
#: Gives no transaction a score: an earlier model decides, and the guard takes it back where it watches.
_BROKEN = "broken"
#: 0 flags everything: where the guard watches, it restores what was before.
_THRESHOLDS = (None, 0.0, 0.2, 0.5, 0.9)
_RULES: tuple[tuple[str, str, Any], ...] = (
    ("large", "amount > 400 and score < 0.9", "review"),
    ("large", "amount > 300", "decline"),
    ("often", "card_count_1d >= 5", "tag"),
    ("shop", "startswith(terminal_id, 'T0001')", "allow"),
    ("large", "", "review"),
    ("often", "", "review"),
)
_POLL_SECONDS = 0.1
_AGAIN_SECONDS = 1.0


class Changes(threading.Thread):
    """Writes changes at even distances, measured by the records that were sent, whatever Kafka goes through.

    Args:
        settings: the deployment.
        seed: draws them.
        count: how many.
        progress: which share of the records was sent.
        say: told of each change.

    Attributes:
        made: changes by kind.
        error: why no more are made.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        seed: int,
        count: int,
        progress: Callable[[], float],
        say: Callable[[str, str], None],
    ) -> None:
        super().__init__(name="changes", daemon=True)
        self.made: Counter[str] = Counter()
        self.error: BaseException | None = None
        self._settings = settings
        self._rng = random.Random(f"changes {seed}")
        kinds = self._rng.sample(KINDS, len(KINDS))
        self._kinds = list(islice(cycle(kinds), count))
        self._progress = progress
        self._say = say
        self._models: list[tuple[str, str]] = []
        self._over = False

    def prepare(self) -> None:
        """Register the models; the tables are there."""
        entries = [
            Entry(SHIPPED / name, read_manifest(SHIPPED / name))
            for name in ("engineered", "default")
        ]
        for name, (shipped, threshold) in _COPIES.items():
            folder = self._settings.home / "copies" / name
            shutil.copytree(SHIPPED / shipped, folder)
            manifest = json.loads((folder / "manifest.json").read_text())
            manifest |= {"name": name, "threshold": threshold}
            (folder / "manifest.json").write_text(json.dumps(manifest))
            entries.append(Entry(folder, read_manifest(folder)))
        entries.append(self._broken())
        with connected(self._settings) as session:
            for entry in entries:
                register(session, self._settings, entry, "crash test")
        self._models = [(entry.model, entry.manifest.scoring_hash) for entry in entries]

    def _broken(self) -> Entry:
        shipped = SHIPPED / "default"
        manifest = read_manifest(shipped)
        held = load_artifact(shipped, manifest)
        held.model[-1].coef_[:] = np.nan
        folder = self._settings.home / "copies" / _BROKEN
        ours = {"format", "sha256", "libraries", "signature"}
        described = manifest.model_dump(exclude=ours) | {"name": _BROKEN}
        save_artifact(folder, held.model, isolation=held.anomaly, **described)
        return Entry(folder, read_manifest(folder))

    def run(self) -> None:
        """Make all of them; see `error` afterwards."""
        try:
            self._until(lambda: asyncio.run(read_history(self._settings)).decides() is not None)
            for number, kind in enumerate(self._kinds, 1):
                self._until(lambda due=number: self._progress() >= due / (len(self._kinds) + 1))  # type: ignore[misc]
                if self._over:
                    return
                self._until(lambda kind=kind: self._make(kind))  # type: ignore[misc]
        except Exception as error:
            self.error = error

    def give_up(self) -> None:
        """Make no more."""
        self._over = True

    def figures(self) -> str:
        """What was changed, and what of it had an effect, for people."""
        history = asyncio.run(read_history(self._settings))
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.made.items()))
        guard = sum(one.change.by == "guard" for one in history.changes)
        return f"{self.made.total()}: {kinds}; {guard} by the guard; {len(history.ignored())} of all without effect"

    def _until(self, done: Callable[[], bool]) -> None:
        """Try until it is so; Kafka may be away."""
        while not self._over:
            try:
                if done():
                    return
            except (UnavailableError, KafkaError):  # it may be away, or end a connection
                time.sleep(_AGAIN_SECONDS)
            time.sleep(_POLL_SECONDS)

    def _make(self, kind: str) -> bool:
        change = self._drawn(kind)
        if change is not None:
            # if it is unknown whether it was written, it is drawn again: what the log has is what counts
            asyncio.run(send_changes(self._settings, *change))
            self.made[kind] += 1
            self._say("change", kind)
        return True

    def _drawn(self, kind: str) -> tuple[AnyChange, ...] | None:
        rng = self._rng
        name, model_hash = rng.choice(self._models)
        threshold = rng.choice(_THRESHOLDS)
        unguarded = rng.random() < 0.5
        match kind:
            case "promote":
                change = ModelChange(
                    model=name, hash=model_hash, threshold=threshold, unguarded=unguarded
                )
                load = LoadChange(model=name, hash=model_hash)
                return (load, change) if rng.random() < 0.5 else (change,)
            case "rollback":
                history = asyncio.run(read_history(self._settings))
                before = history.before()
                return None if before is None else (history.rollback_to(before),)
            case "threshold":
                return (ThresholdChange(threshold=threshold, unguarded=unguarded),)
            case "shadow":
                return (ChallengerChange(model=name, hash=model_hash, share=0.0),)
            case "canary":
                share = rng.choice((0.1, 0.3, 1.0))
                return (
                    ChallengerChange(model=name, hash=model_hash, share=share, threshold=threshold),
                )
            case "stop":
                beside = asyncio.run(read_history(self._settings)).in_force().challengers
                if not beside:
                    return None
                one = rng.choice(beside)
                return (ChallengerChange(model=one.model, hash=one.hash, share=None),)
            case "rule":
                rule, expression, action = rng.choice(_RULES)
                return (RuleChange(name=rule, expression=expression, action=action),)
        subject, ids = rng.choice(
            (
                ("card", [f"C{n:05d}" for n in range(50)]),
                ("terminal", [f"T{n:05d}" for n in range(9)]),
            )
        )
        listed = tuple(rng.sample(ids, 3))
        return (
            ListChange(
                name=rng.choice(("block", "allow")),
                subject=subject,
                ids=listed,
                remove=rng.random() < 0.3,
            ),
        )
