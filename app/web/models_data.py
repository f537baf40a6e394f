"""What pages and metrics ask of a running app about models: what decides, drift, gates, lineage."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from app.cassandra.gate_results import recent
from app.cassandra.session import shared_session
from app.errors import FraudstreamError, NotAnsweringError
from app.faust_app import FraudApp
from app.kafka.change_history import ChangeHistory, read_history
from app.metrics.counters import label_counts
from app.metrics.drift_sample import recent_sample
from app.quality.drift_live import live_drift, live_labels
from app.web.cached_answers import CachedAnswer
from app.web.model_facts import gate_facts, history_facts, lineage_facts
from models.training_distribution import Distribution, read_distribution

#: Comparing the newest predictions with training takes a thread of the worker some 80 ms.
_DRIFT_SECONDS = 30.0
#: The topic of changes is read by a consumer of its own.
_MODELS_SECONDS, _KAFKA_SECONDS = 10.0, 15.0


class ModelReader:
    """Belongs to one event loop.

    Args:
        app: the running app.
        look_up: asks Cassandra in a thread.
    """

    def __init__(self, app: FraudApp, look_up: Callable[..., Awaitable[Any]]) -> None:
        self._app, self._look_up = app, look_up
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="drift")
        self._drift = CachedAnswer(self._measure, self._executor, _DRIFT_SECONDS, time.monotonic)
        self._distributions: dict[str, Distribution | None] = {}
        self._read_at = float("-inf")
        self._reading: asyncio.Task[dict[str, Any]] | None = None

    async def drift(self) -> dict[str, Any]:
        """The newest predictions of this worker against training, by model; worked out twice a minute at most."""
        models: dict[str, Any] = (await self._drift.get())["models"]
        return models

    def _measure(self) -> Mapping[str, Any]:
        app = self._app
        unit = 10**app.settings.minor_unit_digits
        labels = None
        if app.pipelines[app.fraud_topics.labels.name].partitions:  # else others read them
            labels = live_labels(label_counts, time.time_ns() // 1_000_000)
        rows = recent_sample.rows().values()
        return {"models": live_drift(rows, self._distribution, unit, labels)}

    def _distribution(self, version: str) -> Distribution | None:
        model: Any = self._app.models.named(version)
        if model is None or not hasattr(model, "manifest"):
            return None
        if model.hash not in self._distributions:
            self._distributions[model.hash] = read_distribution(model.manifest)
        return self._distributions[model.hash]

    async def try_model(self, model_hash: str) -> dict[str, Any]:
        """Load a registered model: `loads`, None if this worker cannot say now, and the `reason` if it does not."""
        error = await self._app.models.try_now(model_hash)
        if error is None:
            return {"loads": True, "reason": ""}
        # a server that does not answer now says nothing about the model
        loads = None if isinstance(error, NotAnsweringError) else False
        reason = str(error) if isinstance(error, FraudstreamError) else repr(error)
        return {"loads": loads, "reason": reason}

    def deciding(self) -> dict[str, dict[str, Any]]:
        """By partition that is here: `model`, `threshold` and `challengers` in force."""
        app = self._app
        found = {}
        for partition in sorted(app.pipelines[app.fraud_topics.enriched.name].partitions):
            in_force = app.in_force.get(partition)
            if in_force is None or not in_force.model:
                continue
            model, threshold = app.models.get(in_force.model), in_force.threshold
            if threshold is None and model is not None:
                threshold = model.threshold
            found[str(partition)] = {
                "model": in_force.model[:16] if model is None else model.version,
                "threshold": threshold,
                "challengers": [one.model for one in in_force.challengers],
            }
        return found

    async def models(self) -> dict[str, Any]:
        """See `app.web.model_facts`; read anew every ten seconds at most."""
        if self._reading is None or time.monotonic() - self._read_at >= _MODELS_SECONDS:
            self._read_at = time.monotonic()
            self._reading = asyncio.create_task(self._read())
        return {**await asyncio.shield(self._reading)}

    async def _read(self) -> dict[str, Any]:
        found: dict[str, Any] = {"changes_fault": None, "gates_fault": None, "gates": []}
        try:
            async with asyncio.timeout(_KAFKA_SECONDS):
                history = await read_history(self._app.settings)
        except (FraudstreamError, TimeoutError) as error:
            history = ChangeHistory([])
            found["changes_fault"] = str(error) or "Kafka does not answer"
        found |= history_facts(history)
        decides = found["decides"]
        named = [*([] if decides is None else [decides]), *found["challengers"]]
        loaded: list[Any] = [self._app.models.named(one["model"]) for one in named]
        found["lineage"] = lineage_facts(
            [one.manifest for one in loaded if hasattr(one, "manifest")]
        )
        try:
            found["gates"] = gate_facts(await self._look_up(self._gates, named))
        except FraudstreamError as error:
            found["gates_fault"] = str(error)
        return found

    def _gates(self, named: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        settings = self._app.settings
        return recent(shared_session(settings), settings, [one["hash"] for one in named])

    def close(self) -> None:
        """Nobody waits any more."""
        self._drift.close()
        if self._reading is not None:
            self._reading.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)
