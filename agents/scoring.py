"""enriched -> predictions: terminal features, then the score of the current model."""

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any

from faust.types import TP
from mode.supervisors import CrashingSupervisor

from app.blocks.faust.pipeline import Pipeline
from app.cassandra.fetched_models import holder_of
from app.cassandra.model_registry import find_registered, register
from app.cassandra.session import shared_session
from app.domain.guard_limits import GuardLimits
from app.errors import FraudstreamError, NotFoundError, UsageError
from app.faust_app import app, batch_bytes, source, waiting_bytes
from app.stages.guard_counts import TalliesByChange
from app.stages.guard_proposals import Guard
from app.stages.loaded_models import ModelSupply, StartingModel
from app.stages.partition_start import bind_model, check_state, check_topics_known
from app.stages.reserved_rows import PINS_KEY, ModelOffsets
from app.stages.scoring_stage import ScoringHandler
from app.stages.state_settings import terminal_settings
from app.stages.tracing import traced_scoring
from models.artifact_folders import is_path
from models.signing import SignatureError
from tables.terminals import terminals as table

#: A name of its own, because the logs of Faust's services are silenced.
logger = logging.getLogger("fraudstream")

settings, topics = app.settings, app.fraud_topics
holder = holder_of(settings, app.catalogue)
models = app.models = ModelSupply(holder.by_hash, holder.forget)
enriched = source(app, topics.enriched.name)


def registered() -> str:
    """The hash of the registered model that `FRAUDSTREAM_MODEL` names."""
    if is_path(settings.model):
        raise NotFoundError
    return find_registered(shared_session(settings), settings, settings.model).hash


def local() -> str:
    """The hash of the model in this deployment's folders that `FRAUDSTREAM_MODEL` names."""
    return holder.named(settings.model).manifest.scoring_hash


def publish(model_hash: str) -> str:
    """Register the model that this deployment starts with; returns its name and version."""
    entry = holder.entry(model_hash)
    try:
        register(shared_session(settings), settings, entry, "FRAUDSTREAM_MODEL")
    except UsageError as error:  # its name and version are another's
        logger.warning(
            "other workers may not find the model that this deployment starts with: %s", error
        )
    return entry.model


starting = app.starting_model = StartingModel(registered, local, publish)
with suppress(NotFoundError, SignatureError):  # it may be registered, and signed there
    local()  # one that does not fit is refused before anything is joined


async def check_and_bind(partition: int, start: int) -> None:
    """Check the state; in a new deployment, record the model that it starts with.

    The models for the next records are loaded now; if one cannot be loaded, the start is refused.
    """
    tp = TP(topics.enriched.name, partition)
    await check_topics_known(
        table, partition, app.topic_ids, app.recreated, changelog=topics.terminals_changelog.name
    )
    shape = terminal_settings(settings)
    end = await check_state(app.consumer, table, tp, start, shape, settings.model)
    in_force = await bind_model(table, partition, end, starting.hash, settings.threshold)
    pins = ModelOffsets.read(table.reader(partition).get(PINS_KEY))
    for model_hash in (*pins.models_of(start, min(end, in_force.first)), *in_force.models):
        await models.try_once(model_hash)
    for one in in_force.challengers:
        await models.try_challenger(one.hash)
    handler.in_force[partition] = in_force
    decides = in_force.model, in_force.threshold
    if decides not in comparing:  # one question for all partitions
        comparing[decides] = asyncio.create_task(compare_with_settings(*decides))


#: The models and thresholds that were compared with the settings already.
comparing: dict[tuple[str, float | None], asyncio.Task[None]] = {}


async def compare_with_settings(model: str, threshold: float | None) -> None:
    """Log if the settings differ from the current model. A separate task: the start must not wait for the registry."""
    try:
        begins_with = await starting.hash()
    except FraudstreamError as error:
        logger.info("the model that FRAUDSTREAM_MODEL names is unknown: %s", error)
        del comparing[model, threshold]  # the next start asks again
        return
    if (model, threshold) != (begins_with, settings.threshold):
        logger.warning(
            "the current model is %s, with %s; FRAUDSTREAM_MODEL=%s and FRAUDSTREAM_THRESHOLD only apply to a new "
            "deployment; to change it, use `fraudstream models promote` and `threshold`",
            model[:16], "its own threshold" if threshold is None else f"threshold {threshold:g}", settings.model,
        )  # fmt: skip


limits = GuardLimits(microseconds=settings.guard_scoring_time)
tallies = TalliesByChange(limits, settings.guard_time)
handler = ScoringHandler.of(
    settings,
    topics,
    app.catalogue,
    model=models.get,
    challenger=models.challenger,
    clock_ms=lambda: time.time_ns() // 1_000_000,
    tallies=tallies,
)
app.in_force = handler.in_force


def name_of(model_hash: str) -> str:
    """Name and version of a loaded model; of any other, its hash."""
    model = models.loaded(model_hash)
    return model_hash[:16] if model is None else model.version


guard = Guard(tallies, limits, settings.guard_time, name_of, models.refusal)
pipeline = Pipeline(
    app,
    enriched,
    traced_scoring(app.spans, topics, handler),
    table=table,
    depth=settings.blocks_in_flight,
    block_records=settings.block_records,
    batch_bytes=batch_bytes(settings),
    waiting_bytes=waiting_bytes(settings),
    on_start=check_and_bind,
    obtain=models.obtain,
)


@app.agent(enriched, name="scoring", supervisor_strategy=CrashingSupervisor)
async def scoring(stream: Any) -> None:
    """One block of enriched messages at a time."""
    async for event in stream.noack().events():
        await pipeline.process(event)
