"""CPU of a worker per transaction with challengers and with rules: the real stages over a simulated backlog.

No server takes part. What is compared is measured in turn, and the least of the repetitions counts: what else runs on
the machine can only add to it.
"""

import json
import shutil
import statistics
import time
from collections.abc import Iterator
from typing import Any

from app.cassandra.prediction_rows import RowPacker
from app.domain.challengers import Challenger
from app.domain.changes_in_force import InForce
from app.domain.rules import RuleSet
from app.lab.bench import stages
from app.lab.bench.stage_store import MemoryRows, Record, build_changelog, build_outputs
from app.settings import Settings
from app.stages.card_stage import CardsHandler
from app.stages.deployed_features import catalogue_of
from app.stages.reserved_rows import in_force_row
from app.stages.scoring_stage import ScoringHandler
from app.topics import Topics
from models.artifact_folders import SHIPPED, artifact_folders
from models.model_loader import Model, ModelHolder
from tests.deployment import Deployment
from tests.figures.servers import Servers

EVENTS, REPEATS, RULES = 20_000, 7, 200
#: Transactions per micro-batch: of a backlog, and at about 1,000 transactions per second.
BLOCKS = (500, 20)
#: Copies of the included one.
LOGISTIC = ("one", "two", "three")
_BLEND = (
    "--cards",
    "200",
    "--terminals",
    "400",
    "--days",
    "40",
    "--name",
    "blend",
    "--kind",
    "blend",
)
_END_MS = 1_790_000_000_000


def measure(servers: Servers, part: float) -> Iterator[str]:
    """A line for each size of micro-batches and each variant."""
    settings = Settings(_env_file=None, home=servers.home / "challengers")  # type: ignore[call-arg]
    for name in LOGISTIC:
        folder = settings.home / "models" / name
        shutil.copytree(SHIPPED / "engineered", folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | {"name": name}))
    done = Deployment(settings).run("train", *_BLEND, timeout=900)
    assert done.returncode == 0, done.stderr
    bench = _Bench(settings, int(EVENTS * part))
    for block in BLOCKS:
        runs: dict[str, list[float]] = {name: [] for name in bench.variants}
        for _ in range(REPEATS):
            for name, found in runs.items():
                found.append(bench.once(name, block) / bench.events * 1e6)
        alone = min(runs["alone"])
        for name, found in runs.items():
            yield (
                f"{name}, micro-batches of {block}: {min(found):.1f} us of CPU per transaction "
                f"(median {statistics.median(found):.1f}), {100 * (min(found) / alone - 1):+.1f} %"
            )


class _Bench:
    def __init__(self, settings: Settings, events: int) -> None:
        self.events = events
        self._settings, self._topics = settings, Topics(settings)
        self._catalogue = catalogue_of(settings)
        self._records = stages._backlog(settings, events, seed=1)  # noqa: SLF001
        holder = ModelHolder(
            artifact_folders(settings), self._catalogue, settings.minor_unit_digits
        )
        champion = holder.named(settings.model)
        beside = {name: holder.named(name) for name in (*LOGISTIC, "blend")}
        self._models: dict[str, Model] = {one.hash: one for one in (champion, *beside.values())}
        challengers = {name: Challenger(one.version, one.hash) for name, one in beside.items()}
        begins = InForce(0, champion.hash)
        self.variants = {
            "alone": begins,
            "three logistic challengers": _replaced(
                begins, [challengers[name] for name in LOGISTIC]
            ),
            "one blend as a challenger": _replaced(begins, [challengers["blend"]]),
            f"{RULES} rules": InForce(0, champion.hash, rules=_rules(self._catalogue.names)),
        }

    def once(self, name: str, block: int) -> float:
        """Seconds of CPU of everything that a worker does but network and event loop."""
        began = time.thread_time()
        topics, settings = self._topics, self._settings
        cards = _run(
            CardsHandler.of(settings, topics, self._catalogue, lambda _: 0),
            MemoryRows(),
            self._records,
            block,
        )
        values = stages._values(cards.outputs, topics.enriched.name)  # noqa: SLF001
        messages = [Record(offset, _END_MS, None, value) for offset, value in enumerate(values)]
        state = MemoryRows()
        state.put([[in_force_row(self.variants[name], -1)]])
        handler = ScoringHandler.of(
            settings,
            topics,
            self._catalogue,
            model=self._models.__getitem__,
            clock_ms=lambda: _END_MS,
        )
        scoring = _run(handler, state, messages, 1)
        predictions = stages._values(scoring.outputs, topics.predictions.name)  # noqa: SLF001
        build_outputs([*cards.outputs, *scoring.outputs], settings.max_message_bytes)
        build_changelog([*cards.groups, *scoring.groups], settings.max_message_bytes)
        RowPacker(settings.currency, settings.minor_unit_digits).pack_many(predictions)
        assert len(predictions) == self.events
        assert (b"shadow_scores" in predictions[0]) == bool(self.variants[name].challengers)
        return time.thread_time() - began


def _run(handler: Any, state: MemoryRows, records: list[Record], block: int) -> Any:
    return stages._run(handler, state, records, block)  # noqa: SLF001


def _replaced(begins: InForce, challengers: list[Challenger]) -> InForce:
    return InForce(begins.first, begins.model, challengers=tuple(challengers))


def _rules(names: tuple[str, ...]) -> RuleSet:
    """Two comparisons each; about one in five of them fires for a transaction of 100 units."""
    rules = RuleSet()
    for number in range(RULES):
        amount = 10 * (number % 50)
        feature = names[number % len(names)]
        rules = rules.with_rule(
            f"rule-{number}", f"amount > {amount} and {feature} >= {number % 7}", "tag", "", ()
        )
    return rules
