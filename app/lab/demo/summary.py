"""What a run measured, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from app.lab.demo.fraud_kinds import FRAUDS
from app.lab.demo.record_account import Account
from app.settings import Settings

#: Suspicious transactions that are told.
_SUSPICIOUS = 5


@dataclass(frozen=True)
class Gentle:
    """The open-loop phase in which latency was measured.

    Attributes:
        transactions: how many were sent.
        rate: how many a second were due.
        p50_ms, p99_ms: from the broker's append to the acknowledged row; None without any.
    """

    transactions: int
    rate: float
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass
class Summary:
    """All that a run tells.

    Attributes:
        run: prefix of transaction ids; None for a file.
        text: what was sent, for people.
        account: what became of each record.
        wave_records: records of the first wave, sent as fast as it goes.
        wave_seconds: from its first record to its last row.
        gentle: the phase in which latency was measured.
        base_url: of the first worker.
        restarts: how often a worker was started again.
        rounded: records of the input with an amount that was rounded.
        labels: how many were sent with the first wave.
        label_features: whether the model takes any feature that labels make.
    """

    run: str | None
    text: str
    account: Account
    wave_records: int
    wave_seconds: float
    gentle: Gentle
    base_url: str = ""
    restarts: int = 0
    rounded: int = 0
    labels: int = 0
    label_features: bool = False

    @property
    def frauds(self) -> dict[str, dict[str, int]]:
        """Caught and missed frauds by kind, and their amounts; empty where nobody knows what was fraud."""
        account = self.account
        return {
            kind: {
                "caught": account.caught[kind],
                "missed": account.missed[kind],
                "caught_minor": account.caught_minor[kind],
                "missed_minor": account.missed_minor[kind],
            }
            for kind in FRAUDS
            if account.caught[kind] or account.missed[kind]
        }

    @property
    def true_positives(self) -> int:
        """Flagged transactions that were fraud."""
        return self.account.caught.total()

    @property
    def unlabelled(self) -> int:
        """Flagged transactions of which nobody knows the truth."""
        return self.account.flagged - self.true_positives - self.account.false_positives

    @property
    def precision(self) -> float | None:
        """Share of frauds among the flagged transactions whose truth is known; None without any."""
        known = self.true_positives + self.account.false_positives
        return self.true_positives / known if known else None

    @property
    def amount_precision(self) -> float | None:
        """The same share of their amounts."""
        caught = self.account.caught_minor.total()
        known = caught + self.account.false_positives_minor
        return caught / known if known else None

    @property
    def events_per_second(self) -> float | None:
        """From Kafka to Cassandra, in the first wave."""
        if not self.wave_records or self.wave_seconds <= 0:
            return None
        return round(self.wave_records / self.wave_seconds, 1)

    @property
    def stored(self) -> int:
        """Rows that Cassandra has acknowledged for this run."""
        account = self.account
        return len(account.scored) + len(account.late) + len(account.conflicting)

    @property
    def suspicious(self) -> list[dict[str, Any]]:
        """The prediction records with the highest scores."""
        return self.account.suspicious(_SUSPICIOUS)

    @property
    def web(self) -> dict[str, str]:
        """Addresses to look at, by what they show; of the most suspicious transaction, if any."""
        found = {"overview": self.base_url + "/"}
        example = next(iter(self.suspicious), None)
        if example is not None:
            for kind in ("card", "terminal", "transaction"):
                if identifier := example.get(f"{kind}_id"):
                    found[kind] = f"{self.base_url}/{kind}s/{quote(identifier, safe='')}/"
        return found | {"metrics": self.base_url + "/metrics"}

    def as_dict(self, settings: Settings, seconds: Mapping[str, float]) -> dict[str, Any]:
        """For JSON.

        Args:
            settings: the deployment.
            seconds: by phase.
        """
        account = self.account
        return {
            "run": self.run,
            "input": self.text,
            "rounded": self.rounded,
            "read": len(account.read),
            **{name: len(positions) for name, positions in account.outcomes.items()},
            "missing": account.missing,
            "repeated": account.repeated,
            "out_of_order": account.out_of_order,
            "flagged": account.flagged,
            "frauds": self.frauds,
            "true_positives": self.true_positives,
            "false_positives": account.false_positives,
            "unlabelled": self.unlabelled,
            "precision": self.precision,
            "amount_precision": self.amount_precision,
            "labels": self.labels,
            "labels_dead": dict(account.labels_dead.most_common()),
            "labels_waiting": account.labels_waiting,
            "dead_reasons": dict(account.reasons.most_common()),
            "rows": self.stored,
            "table": f"{settings.keyspace}.predictions",
            "events_per_second": self.events_per_second,
            "latency_ms": {
                "p50": self.gentle.p50_ms,
                "p99": self.gentle.p99_ms,
                "transactions": self.gentle.transactions,
                "rate": self.gentle.rate,
            },
            "suspicious": [
                {
                    name: prediction.get(name)
                    for name in (
                        "transaction_id",
                        "card_id",
                        "terminal_id",
                        "amount_minor",
                        "event_time_ms",
                        "score",
                        "reasons",
                    )
                }
                for prediction in self.suspicious
            ],
            "web": self.web,
            "worker_restarts": self.restarts,
            "seconds": dict(seconds),
        }
