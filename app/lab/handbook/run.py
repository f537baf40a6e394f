"""One run: train, score live, read back, compare, judge, verify."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
from joblib import cpu_count

from app.errors import VerificationError
from app.lab.bench import backlog
from app.lab.bench.deployment import deployment
from app.lab.bench.peer_process import Peer
from app.lab.bench.run import naive
from app.lab.handbook import data, evaluation, live, rows
from app.lab.handbook.plan import ENGINEERED, WEEK_MS, Plan
from app.lab.handbook.report import Report
from app.ops.train import TrainedModel, TrainingOptions, train_on
from app.ops.train_from_files import LabelledTransactions
from app.ops.training_features import compute_features
from app.ops.verification.totals import PLACES
from app.ops.verify import verify
from app.settings import Settings
from models.artifact import load_artifact
from models.training_examples import Examples

#: Shows one piece of work: text and length in, what to tell the progress to out.
Stage = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
_NAIVE_EVENTS = 2_000
_MODEL = "handbook-champion"


class Run:
    """Runs a plan.

    Args:
        plan: what is run.
        say: told each step in one line.
        stage: shows how far a long one is.
        now_ms: the time, for the champion's manifest.
    """

    def __init__(
        self, plan: Plan, *, say: Callable[[str], None], stage: Stage, now_ms: int
    ) -> None:
        self._plan = plan
        self._say = say
        self._stage = stage
        self._now_ms = now_ms
        self._seconds: dict[str, float] = {}

    def measure(self, *, verified: bool, beside_naive: bool) -> Report:
        """Everything, on servers and in a folder that are gone afterwards.

        Args:
            verified: end with `fraudstream verify`.
            beside_naive: measure naive Faust on the same servers, too.

        Raises:
            FraudstreamError: the file, a server or the worker failed, or rows are missing; the text says which.
        """
        plan = self._plan
        settings = live.own_settings(Path(), plan)  # nothing is written with these
        with self._part("reading", plan.path.stat().st_size) as tell:
            skip, columns = data.read_span(
                plan.path, settings, plan.begin_ms, plan.end_ms, plan.rows, tell
            )
        count = len(columns)
        plan.champions(int(columns.event_time_ms[0]))  # refused now, not minutes later
        with live.own_home(count) as home:
            settings = live.own_settings(home, plan)
            with self._part("features", count) as tell:
                computed = compute_features(columns, settings, tell, cores=cpu_count())
            # all of training but its forests leaves a core to their start
            with live.own_servers(home, self._say) as servers:
                champion = self._train(home, settings, columns, computed)
                model = champion.manifest
                settings = live.own_settings(home, plan, **servers(), model=str(champion.folder))
                with self._part("live", count) as tell:
                    passed = live.score(
                        settings, plan.path, skip, count, tell, stops=plan.stops, say=self._say
                    )
                self._say(f"{passed.rate:,.0f} transactions per second")
                with self._part("read back", count) as tell:
                    named = {f"{model.name}@{model.version}": model.model_hash}
                    named |= {one.model: one.hash for one in passed.calls if one.did == "promoted"}
                    ids = columns.transaction_id.tolist()
                    stored = rows.read_stored(settings, ids, list(named.values()), tell)
                    differing = rows.differing(stored.features, computed)
                del computed
                self._say(f"{differing:,} rows differ from training")
                with self._part("evaluating", 0):
                    decided = deciders(plan, columns.event_time_ms, stored.models, list(named))
                    lines = evaluation.judge(
                        settings,
                        plan,
                        _examples(columns, stored.features),
                        scores=stored.scores,
                        anomalies=stored.anomalies,
                        champion=load_artifact(champion.folder, model).model,
                        cores=cpu_count(),
                        tell=self._say,
                    )
                naive_rate = self._naive(settings) if beside_naive else None
                counts = self._verify(settings) if verified else None
        parameters = evaluation.parameters(plan.recipe, model.trained["parameters"])
        return Report(
            plan, parameters, passed, lines, differing, counts, naive_rate, self._seconds,
            tuple(decided) if plan.weekly else (),
        )  # fmt: skip

    def _train(
        self, home: Path, settings: Settings, columns: LabelledTransactions, computed: np.ndarray
    ) -> TrainedModel:
        plan = self._plan
        options = TrainingOptions(
            folder=home / "models" / _MODEL,
            name=_MODEL,
            kind=plan.recipe.kind,
            seed=plan.recipe.seed,
            features=ENGINEERED,
            periods=plan.champions(int(columns.event_time_ms[0])),
            anomaly=True,
            source={"file": plan.path.name},
            fixed=plan.recipe.fixed,
            importance=False,  # nobody reads it here, and it took two thirds of the training's time
        )
        with self._part("training", 0):
            return train_on(_examples(columns, computed), settings, options, now_ms=self._now_ms)

    def _naive(self, settings: Settings) -> float:
        design = naive(_NAIVE_EVENTS)
        # its model is the quick one that is shipped: the champion would make it slower
        with (
            self._part("naive Faust", 0),
            deployment(settings, "handbook_naive", features="basic", model="default") as own,
        ):
            backlog.fill(own, design.events, 1)
            with Peer(own, design.command, design.events) as peer:
                peer.await_begin()
                return peer.await_end().rate

    def _verify(self, settings: Settings) -> dict[str, int]:
        with self._part("verify", 0):
            report = asyncio.run(
                verify(settings, timeout_seconds=30, examples=3, progress=lambda *_: None)
            )
        if not report.identity:
            msg = f"read is not {' + '.join(PLACES)}"
            raise VerificationError(msg)
        return dict(report.counts)

    @contextmanager
    def _part(self, text: str, length: int) -> Iterator[Callable[[int], None]]:
        self._say(text)
        began = time.monotonic()
        with self._stage(text, length) as tell:
            yield tell
        self._seconds[text] = round(time.monotonic() - began, 1)


def deciders(
    plan: Plan, event_time_ms: np.ndarray, models: np.ndarray, names: Sequence[str]
) -> list[dict[str, int]]:
    """How many transactions of each week that judges were decided by which model.

    Args:
        plan: the weeks.
        event_time_ms: (n,) epoch milliseconds.
        models: (n,) places among the names.
        names: of models.
    """
    found = []
    for week in range(plan.weeks):
        begin = plan.judged_from + week * WEEK_MS
        inside = (event_time_ms >= begin) & (event_time_ms < begin + WEEK_MS)
        counts = np.bincount(models[inside], minlength=len(names)).tolist()
        found.append({name: count for name, count in zip(names, counts, strict=True) if count})
    return found


def _examples(columns: LabelledTransactions, features: np.ndarray) -> Examples:
    return Examples(features, columns.is_fraud, columns.event_time_ms, columns.card_id)
