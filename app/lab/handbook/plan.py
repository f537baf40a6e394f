"""What is run: periods, the champion's recipe, and the figures to reach."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from app.errors import UsageError
from models.evaluation_sets import DAY_MS
from models.splits import Periods

WEEK_MS = 7 * DAY_MS
#: So long before each week of `--weekly` its model is trained: labels of that time compare it with the current one.
LEAD_MS = 3 * DAY_MS
#: What the features in the stream must hold for every line of the table.
FEATURE_SETS = ("handbook", "engineered", "label_free")
#: The champion's feature set.
ENGINEERED = "engineered"


def _day(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


#: The period of the figures, epoch milliseconds: 2018-04-01 to 2018-09-04, of which the last four weeks judge.
BEGIN_MS, END_MS, WEEKS = _day("2018-04-01"), _day("2018-09-05"), 4


class Figures(NamedTuple):
    """AUC ROC, average precision, card precision@100; None where a figure is not asked for."""

    auc: float | None = None
    average_precision: float | None = None
    card_precision_at_100: float | None = None


@dataclass(frozen=True)
class Goal:
    """What a line of the table must reach.

    Attributes:
        published: the best that others have published; None where nobody has.
        least: figures of at least that; or, if `equal`, those to three decimals.
        equal: see `least`.
    """

    published: Figures | None
    least: Figures
    equal: bool = False

    def met(self, found: Figures) -> bool:
        """Whether figures reach it."""
        pairs = [
            (have, want)
            for have, want in zip(found, self.least, strict=True)
            if want is not None and have is not None
        ]
        if self.equal:
            return all(f"{have:.3f}" == f"{want:.3f}" for have, want in pairs)
        return all(have >= want for have, want in pairs)


_REPRODUCED = Figures(0.871, 0.606, 0.291)
#: By line of the table, as `evaluation.py` calls them: published figures of the Handbook's chapters on its simulated
#: data, and what is promised here.
GOALS: Mapping[str, Goal] = {
    "logistic, fifteen": Goal(_REPRODUCED, _REPRODUCED, equal=True),
    "logistic, engineered": Goal(None, Figures(None, 0.72)),
    "champion": Goal(Figures(0.871, 0.658, 0.291), Figures(0.880, 0.760, 0.300)),
    "champion, weeks": Goal(Figures(0.879, 0.687, 0.305), Figures(0.880, 0.750, 0.308)),
    "champion, live weeks": Goal(Figures(0.879, 0.687, 0.305), Figures(None, 0.760)),
    "isolation": Goal(Figures(None, 0.180), Figures(None, 0.20)),
}


@dataclass(frozen=True)
class Recipe:
    """How the champion is trained; what is here was chosen on weeks of July (docs/models.md).

    Attributes:
        kind: one of `models.training_candidates.KINDS`.
        fixed: parameters that are given by scikit-learn's names; the others are chosen on the last week of training.
        train_days: length of the training period; None: all that there is.
        seed: for kinds that draw.
    """

    kind: str = "blend"
    fixed: Mapping[str, float] = field(default_factory=lambda: {"forest__max_depth": 12})
    train_days: int | None = 70
    seed: int = 1


@dataclass(frozen=True)
class Plan:
    """One run.

    Attributes:
        path: the Handbook's transactions.
        begin_ms, end_ms: the period, epoch milliseconds; the end is the first moment outside.
        weeks: so many weeks at its end judge, the first of them in detail.
        rows: only the newest so many transactions of the period; None: all.
        recipe: of the champion.
        delay_ms: how long a label takes to count.
        weekly: whether the champion is retrained for each later week, through the registry, while the pass goes on.
    """

    path: Path
    begin_ms: int = BEGIN_MS
    end_ms: int = END_MS
    weeks: int = WEEKS
    rows: int | None = None
    recipe: Recipe = Recipe()
    delay_ms: int = WEEK_MS
    weekly: bool = False

    @property
    def complete(self) -> bool:
        """Whether the published figures are about this run."""
        period = (self.begin_ms, self.end_ms, self.weeks)
        return period == (BEGIN_MS, END_MS, WEEKS) and self.rows is None

    @property
    def judged_from(self) -> int:
        """The first moment of the first week that judges."""
        return self.end_ms - self.weeks * WEEK_MS

    @property
    def stops(self) -> tuple[int, ...]:
        """When `fraudstream retrain` is called, epoch milliseconds: to train, and to promote as a later week begins."""
        if not self.weekly:
            return ()
        begins = [self.judged_from + week * WEEK_MS for week in range(1, self.weeks)]
        return tuple(moment for begin in begins for moment in (begin - LEAD_MS, begin))

    def a_week(self) -> Periods:
        """The Handbook's own case: learn from the week that ends the delay before the one that judges."""
        known = self.judged_from - self.delay_ms
        return Periods(
            known - WEEK_MS, known, self.judged_from, self.judged_from + WEEK_MS, self.delay_ms
        )

    def champions(self, first_ms: int) -> Periods:
        """The champion's: as long as the recipe says.

        Args:
            first_ms: event time of the first transaction.

        Raises:
            UsageError: the period is too short for a week of training, the delay and the weeks that judge.
        """
        week = self.a_week()
        if first_ms // DAY_MS * DAY_MS > week.train_from:  # its day has begun before it
            msg = (
                f"{self.path} contains too little before the test weeks: "
                "give a longer period, more rows or fewer weeks"
            )
            raise UsageError(msg)
        days = self.recipe.train_days
        begin = first_ms if days is None else max(first_ms, week.train_to - days * DAY_MS)
        return Periods(begin, week.train_to, week.test_from, week.test_to, self.delay_ms)
