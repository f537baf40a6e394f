"""What a run found: the table for people, one object for scripts."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app.lab.bench.report import aligned
from app.lab.handbook.evaluation import Lines, mean_of
from app.lab.handbook.live import Pass
from app.lab.handbook.plan import GOALS, WEEK_MS, Figures, Plan

#: The full pipeline is at least so many times as fast as naive Faust.
TIMES_NAIVE = 20.0
_LINES = {
    "logistic, fifteen": "logistic regression, fifteen features",
    "logistic, engineered": "logistic regression, engineered features",
    "champion": "best model, as it scored live",
    "isolation": "isolation forest, no labels",
    "champion, weeks": "best model, retrained weekly, mean of {weeks} weeks",
    "champion, live weeks": "the same through the registry, as it scored live",
}


@dataclass(frozen=True)
class Report:
    """Everything that a run measured.

    Attributes:
        plan: what was run.
        champion: the model in words.
        live: the pass through Kafka, the stages and Cassandra.
        lines: figures of the models.
        differing: rows whose stored features are not those of training, to the bit.
        verified: counts of `fraudstream verify`; None when it was left out.
        naive_rate: transactions a second of naive Faust; None when it was left out.
        seconds: what each part took.
        deciders: for each week the transactions that each model decided; empty if the champion was not retrained.
    """

    plan: Plan
    champion: str
    live: Pass
    lines: Lines
    differing: int
    verified: dict[str, int] | None
    naive_rate: float | None
    seconds: dict[str, float]
    deciders: tuple[dict[str, int], ...] = ()

    @property
    def figures(self) -> dict[str, Figures]:
        """Figures by line of the table."""
        found = {**self.lines.first, "champion, weeks": self.lines.mean}
        if self.lines.live:
            found["champion, live weeks"] = mean_of(list(self.lines.live))
        return found

    @property
    def times_naive(self) -> float | None:
        """How many times as fast as naive Faust the live pass was."""
        return None if self.naive_rate is None else self.live.rate / self.naive_rate

    @property
    def missed(self) -> list[str]:
        """Goals that were not reached; those of models count for the published period alone."""
        found = []
        if self.plan.complete:
            found = [
                self._named(name)
                for name, figures in self.figures.items()
                if not GOALS[name].met(figures)
            ]
        if self.differing:
            found.append(f"{self.differing:,} rows differ from training")
        if self.verified:
            found += [
                f"{self.verified[name]:,} {name}"
                for name in ("pending", "missing", "differing")
                if self.verified[name]
            ]
        if self.times_naive is not None and self.times_naive < TIMES_NAIVE:
            found.append(f"{self.times_naive:.1f} times naive Faust")
        return found

    def as_dict(self) -> dict[str, Any]:
        """A JSON-able object."""
        plan = self.plan
        return {
            "period": [_day(plan.begin_ms), _day(plan.end_ms - 1)],
            "judged_from": _day(plan.judged_from),
            "published_period": plan.complete,
            "champion": self.champion,
            "lines": {
                name: {
                    **figures._asdict(),
                    "published": _dict(GOALS[name].published),
                    "goal": GOALS[name].least._asdict(),
                    "met": GOALS[name].met(figures) if plan.complete else None,
                }
                for name, figures in self.figures.items()
            },
            "weeks": [week._asdict() for week in self.lines.weeks],
            "live_weeks": [
                {**week._asdict(), "decided_by": by}
                for week, by in zip(self.lines.live, self.deciders, strict=True)
            ],
            "retrained": [call.as_dict() for call in self.live.calls],
            "first_week_with_general_features": self.lines.general._asdict(),
            "differing": self.differing,
            "verified": self.verified,
            "live": {
                "events": self.live.events,
                "labels": self.live.labels,
                "seconds": self.live.seconds,
                "events_per_second": self.live.rate,
                "cpu_us_per_event": self.live.cpu_us,
                "naive_events_per_second": self.naive_rate,
                "times_naive": self.times_naive,
            },
            "seconds": self.seconds,
            "missed": self.missed,
        }

    def text(self) -> str:
        """The tables."""
        plan = self.plan
        judged = f"{_day(plan.judged_from)} to {_day(plan.judged_from + WEEK_MS - 1)}"
        cpu = ", ".join(f"{name} {used:,.0f}" for name, used in self.live.cpu_us.items())
        lines = [
            f"{self.live.events:,} transactions of {_day(plan.begin_ms)} to {_day(plan.end_ms - 1)} and "
            f"{self.live.labels:,} labels in one pass: {self.live.seconds:,.0f} s, "
            f"{self.live.rate:,.0f} per second",
            f"CPU microseconds per transaction with its label: {cpu}",
            f"Champion: {self.champion}; it scored the whole pass. Its test set begins one label delay after its "
            "training data",
            "",
            *aligned(
                [
                    [judged, "published", "measured", "goal", ""],
                    *(self._row(name) for name in _LINES if name in self.figures),
                ]
            ),
            "AUC ROC / average precision / card precision@100, excluding cards already known to be compromised",
            "",
            *aligned(
                [
                    ["Best model's features", judged],
                    ["all", _told(self.lines.weeks[0])],
                    [
                        "without those shaped by the simulator's frauds",
                        _told(self.lines.general),
                    ],
                ]
            ),
            *self._weekly(),
            "",
            f"Stream features equal training features: {self.differing:,} of {self.live.events:,} rows differ",
        ]
        if self.verified is not None:
            counts = ", ".join(f"{name} {count:,}" for name, count in self.verified.items())
            lines.append(f"Verified: {counts}")
        if self.times_naive is not None:
            lines.append(
                f"Naive Faust, one worker, included logistic regression, no labels: {self.naive_rate:,.0f} per second; "
                f"the pass above was {self.times_naive:.1f} times as fast (goal: {TIMES_NAIVE:g})"
            )
        spent = ", ".join(f"{name} {seconds:.0f}" for name, seconds in self.seconds.items())
        return "\n".join([*lines, "", f"Seconds: {spent}, total {sum(self.seconds.values()):.0f}"])

    def _weekly(self) -> list[str]:
        """What retraining through the registry did, and the figures of each week."""
        if not self.lines.live:
            return []
        weeks = [
            [
                _day(self.plan.judged_from + number * WEEK_MS),
                ", ".join(f"{model} {count:,}" for model, count in by.items()),
                _told(figures),
            ]
            for number, (figures, by) in enumerate(zip(self.lines.live, self.deciders, strict=True))
        ]
        calls = [
            [_day(call.at_ms), call.did, call.model, f"learned to {call.learned_to[:10]}" if call.model else ""]
            for call in self.live.calls
        ]  # fmt: skip
        return [
            "",
            *aligned([["Week from", "transactions decided by", "as it scored live"], *weeks]),
            "",
            *aligned([["fraudstream retrain --promote", "did", "model", ""], *calls]),
        ]

    def _named(self, name: str) -> str:
        return _LINES[name].format(weeks=self.plan.weeks)

    def _row(self, name: str) -> list[str]:
        goal, found = GOALS[name], self.figures[name]
        asked = "equal" if goal.equal else f"at least {_told(goal.least)}"
        verdict = ("met" if goal.met(found) else "MISSED") if self.plan.complete else ""
        published = _told(goal.published) if goal.published else "-"
        return [self._named(name), published, _told(found), asked, verdict]


def _told(figures: Figures) -> str:
    # five digits: rounded to four, 0.75995 would seem to reach 0.760
    return " / ".join(
        "-" if each is None else f"{each:.5f}".rstrip("0").ljust(5, "0") for each in figures
    )


def _dict(figures: Figures | None) -> dict[str, float | None] | None:
    return None if figures is None else figures._asdict()


def _day(epoch_ms: int) -> str:
    return f"{datetime.fromtimestamp(epoch_ms / 1000, UTC):%Y-%m-%d}"
