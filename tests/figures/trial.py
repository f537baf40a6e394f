"""`fraudstream rules test` over a million stored predictions, a third of them with a label."""

import asyncio
import json
import random
import resource
import time
from collections.abc import Iterator

import orjson

from app.cassandra.label_rows import LABELS, pack_labels
from app.durations import DAY_MS
from app.settings import Settings
from app.stages.deployed_features import catalogue_of
from app.wire.label_records import LabelRecord
from tests.builders import T0
from tests.figures.filling import fill
from tests.figures.servers import Servers
from tests.prediction_builder import prediction

#: All within the 30 days that the command looks back.
ROWS, DAYS, CARDS, LABELLED = 1_000_000, 29, 50_000, 3
#: One of an amount alone, one of three features.
RULES = ("amount >= 900", "amount >= 150 and amount_over_card_median >= 4 and card_count_1d >= 3")


def measure(servers: Servers, part: float) -> Iterator[str]:
    """A line per rule."""
    rows, end_ms = int(ROWS * part), time.time_ns() // 1_000_000
    with servers.deployment("trial") as (deployment, _):
        began = time.monotonic()
        asyncio.run(_fill(deployment.settings, rows, end_ms))
        yield f"  ({rows:,} rows written in {time.monotonic() - began:.0f} s)"
        for rule in RULES:
            before, began = _used(), time.monotonic()
            done = deployment.run("rules", "test", rule, "--from", "30d", "--json", timeout=1_200)
            took, cpu = time.monotonic() - began, _used() - before
            assert done.returncode == 0, done.stderr
            found = json.loads(done.stdout)
            assert (found["read"], found["labelled"] > 0) == (rows, True)
            yield (
                f"rules test {rule!r} over {rows:,} rows: {took:.1f} s, {found['fired']:,} match; "
                f"{cpu * 1e6 / rows:.1f} us of CPU per row"
            )


def _used() -> float:
    """Seconds of CPU of commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def _fill(settings: Settings, rows: int, end_ms: int) -> None:
    names, rng = catalogue_of(settings).names, random.Random(1)

    def made(numbers: range) -> tuple[list[bytes], list[bytes]]:
        values, labels = [], []
        for n in numbers:
            at = end_ms - T0 - (rows - n) * (DAYS * DAY_MS // rows)
            card, minor = f"card-{rng.randrange(CARDS)}", rng.randrange(100_000)
            features = {name: rng.random() * 10 for name in names} | {"amount": minor / 100}
            fields = prediction(
                n, card=card, at=at, terminal_id=f"terminal-{n % 2_000}", score=rng.random(), amount_minor=minor,
                features=features, source_offset=n, scored_by=settings.deployment,
            )  # fmt: skip
            values.append(orjson.dumps(fields))
            if n % LABELLED == 0:
                when, name = T0 + at, fields["transaction_id"]
                labels.append(LabelRecord(n, when, name, n % 100 == 0, when, card, None, when, b""))
        return values, list(pack_labels("labels", 0, labels))

    await fill(settings, rows, LABELS, made)
