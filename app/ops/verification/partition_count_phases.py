"""The log of a deployment in phases: one for each number of partitions that it had; see `fraudstream repartition`."""

from dataclasses import dataclass

from app.ops.earlier_generations import earlier_of, topics_of
from app.ops.verification.topic_log import Log, Offsets
from app.settings import Settings
from app.topics import Topics, TopicSpec

#: Past every offset.
_ALL_DONE = 1 << 62


@dataclass(frozen=True)
class Phase:
    """What was processed with one number of partitions.

    Attributes:
        partitions: how many.
        enriched: the topic of that name.
        begins, ends: of `transactions`, by partition: its first offset, and the one after its last. `ends` is None for
            the present phase.
        control_end: the offset on `control` from which changes belong to later phases; None: there is no later phase.
        done: of `enriched`, by partition, the offset after the last message whose effects are durable.
        kept: of `enriched`, see `Log.first_kept`.
        there: whether its `enriched` still exists.
        labels_end: of `labels`, by partition, the offset from which they belong to later phases.
    """

    partitions: int
    enriched: TopicSpec
    begins: Offsets
    ends: Offsets | None
    control_end: int | None
    done: Offsets
    kept: Offsets
    there: bool = True
    labels_end: tuple[int, ...] = ()


async def phases_of(settings: Settings, log: Log, done: Offsets) -> list[Phase]:
    """The phases of a deployment, the first one first; most have one.

    Args:
        settings: the deployment's.
        log: its topics.
        done: of the present `enriched`, see `Phase.done`.

    Raises:
        UnavailableError: Kafka does not answer.
    """
    begins = [0] * settings.partitions
    found = []
    for one in await earlier_of(settings, log):
        enriched = topics_of(settings, one.generation, one.partitions).enriched
        there = await log.exists(enriched)
        kept = await log.first_kept(enriched) if there else [one.at_ms] * one.partitions
        every = [_ALL_DONE] * one.partitions
        found.append(
            Phase(
                one.partitions,
                enriched,
                begins,
                one.transactions,
                one.control[0],
                every,
                kept,
                there,
                tuple(one.labels),
            )
        )
        begins = [*one.transactions, *[0] * (settings.partitions - one.partitions)]
    enriched = Topics(settings).enriched
    kept = await log.first_kept(enriched)
    found.append(Phase(settings.partitions, enriched, begins, None, None, done, kept))
    return found
