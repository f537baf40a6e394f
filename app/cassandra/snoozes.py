"""Cards, terminals and rules whose alerts nobody is told of for a while: the table `alert_snoozes`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cassandra.cluster import Session

from app.cassandra.prediction_rows import epoch_ms, moment_of
from app.cassandra.session import explained, prepared
from app.settings import Settings

#: What alerts can be snoozed by.
KINDS = ("card", "terminal", "rule")


@dataclass(frozen=True)
class Snooze:
    """Nobody is told of the alerts of a card, terminal or rule until a moment (epoch milliseconds)."""

    kind: str
    id: str
    until_ms: int
    by: str = ""
    note: str = ""


@dataclass(frozen=True)
class Snoozes:
    """The snoozes that are in force.

    Attributes:
        until_ms: by kind and id.
    """

    until_ms: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def until(self, alert: Mapping[str, Any], now_ms: int) -> int | None:
        """Until when nobody is told of an alert; None: people are.

        An alert of several rules, or of a rule and the model, is told while one of its causes is not snoozed.
        """
        whole = [("card", alert["card_id"]), ("terminal", alert["terminal_id"])]
        found = [self.until_ms.get(name, 0) for name in whole if name[1] is not None]
        if alert["rules"] and list(alert["causes"]) == ["rule"]:
            found.append(min(self.until_ms.get(("rule", rule), 0) for rule in alert["rules"]))
        latest = max(found, default=0)
        return latest if latest > now_ms else None


def snooze(session: Session, settings: Settings, wanted: Snooze, *, now_ms: int) -> None:
    """Tell nobody of a card's, terminal's or rule's alerts until a moment; one in the past ends an earlier snooze.

    Raises:
        UnavailableError, SchemaError: as `app.cassandra.alert_queries.read_alerts`.
    """
    seconds = max(1, (wanted.until_ms - now_ms) // 1000)
    with explained(settings):
        session.execute(
            f"INSERT INTO {settings.keyspace}.alert_snoozes (kind, id, until, snoozed_at, snoozed_by, note) "  # noqa: S608
            f"VALUES (%s, %s, %s, %s, %s, %s) USING TTL {seconds}",
            (
                wanted.kind,
                wanted.id,
                moment_of(wanted.until_ms),
                moment_of(now_ms),
                wanted.by,
                wanted.note,
            ),
        )


def list_snoozes(session: Session, settings: Settings, now_ms: int) -> list[Snooze]:
    """The snoozes that are in force, by kind and id.

    Raises:
        UnavailableError, SchemaError: as `app.cassandra.alert_queries.read_alerts`.
    """
    with explained(settings):
        names = ", ".join(f"'{kind}'" for kind in KINDS)
        text = f"SELECT * FROM {settings.keyspace}.alert_snoozes WHERE kind IN ({names})"  # noqa: S608
        found = [
            Snooze(
                row["kind"], row["id"], epoch_ms(row["until"]) or 0, row["snoozed_by"], row["note"]
            )
            for row in session.execute(prepared(session, text))
        ]
    found.sort(key=lambda one: (KINDS.index(one.kind), one.id))
    return [one for one in found if one.until_ms > now_ms]


def read_snoozes(session: Session, settings: Settings, now_ms: int) -> Snoozes:
    """The same, to ask about alerts."""
    found = list_snoozes(session, settings, now_ms)
    return Snoozes({(one.kind, one.id): one.until_ms for one in found})
