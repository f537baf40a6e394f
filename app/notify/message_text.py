"""What is told of alerts: one alert, or many in one message. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

from app import display
from app.domain.alert_policy import SEVERITIES, rank

#: Alerts that a message about many names: those with the largest amounts.
_NAMED = 5
#: Characters of a card's id that a message to people shows, from its end.
_CARD_SHOWN = 4


class Notice(NamedTuple):
    """One alert that a route is to be told of.

    Attributes:
        alert_id, severity: what is told, and how urgent it is.
        partition, offset: the record on `alerts`.
        alert: the record's value.
        handled_at: of an alert that is open again, when somebody had seen to it, epoch milliseconds; else 0.
        appended_at: when the record was appended, epoch milliseconds: since then the alert waits.
    """

    alert_id: str
    severity: str
    partition: int
    offset: int
    alert: Mapping[str, Any]
    handled_at: int = 0
    appended_at: int = 0

    @property
    def name(self) -> str:
        """What is told once per severity: the alert, and each time that it is open again."""
        return f"{self.alert_id}@{self.handled_at}" if self.handled_at else self.alert_id


@dataclass(frozen=True)
class Message:
    """What a receiver gets.

    Attributes:
        id: equal for repeated sends of the message: `webhook-id`.
        severity: how urgent it is.
        title, body: for people; cards are shortened.
        payload: for programs.
    """

    id: str
    severity: str
    title: str
    body: str
    payload: dict[str, Any]


def about_one(notice: Notice, digits: int, pages: str | None = None) -> Message:
    """The message about an alert.

    Args:
        notice: the alert.
        digits: digits of the currency's minor units.
        pages: address of the web pages, where the alert is opened; None: unknown.
    """
    alert = notice.alert
    money = display.amount(alert["amount_minor"], digits, alert["currency"])
    again = notice.handled_at
    lines = [
        *([f"open again: it was handled at {display.moment(again)[:19]} UTC"] if again else []),
        *(f"rule {rule}" for rule in alert["rules"]),
        *alert["reasons"],
        f"score {alert['score']:.3f} (threshold {alert['threshold']:.3f})",
        f"terminal {alert['terminal_id'] or 'none'}, {display.moment(alert['event_time_ms'])[:19]} UTC",
        f"transaction {alert['transaction_id']}",
        f"fraudstream alerts show {notice.alert_id}",
        *([f"{pages}/review/?alert={notice.alert_id}"] if pages else []),
    ]
    return Message(
        f"{notice.name}-{notice.severity}",
        notice.severity,
        f"{notice.severity} fraud alert{' open again' if again else ''}: {money}, card {_short(alert['card_id'])}",
        "\n".join(map(display.printable, lines)),
        {
            "type": "fraud.alert",
            "timestamp": display.iso(alert["received_at"]),
            "data": {
                **alert,
                "severity": notice.severity,
                **({"handled_at": again} if again else {}),
                **({"url": f"{pages}/review/?alert={notice.alert_id}"} if pages else {}),
            },
        },
    )


def about_many(notices: Sequence[Notice], digits: int, pages: str | None = None) -> Message:
    """The message about many alerts: how many, how urgent, the largest ones.

    Args:
        notices: the alerts, at least one.
        digits: digits of the currency's minor units.
        pages: address of the web pages, where alerts are listed; None: unknown.
    """
    counts = {name: sum(one.severity == name for one in notices) for name in reversed(SEVERITIES)}
    counts = {name: count for name, count in counts.items() if count}
    largest = sorted(notices, key=lambda one: (-one.alert["amount_minor"], one.alert_id))[:_NAMED]
    total = sum(one.alert["amount_minor"] for one in notices)
    currency = largest[0].alert["currency"]
    times = [one.alert["event_time_ms"] for one in notices]
    severity = max(counts, key=rank)
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    lines = [
        f"{len(notices):,} alerts in one message, because there are too many to send one by one: {told}",
        f"{display.amount(total, digits, currency)} in all, "
        f"{display.moment(min(times))[:19]} to {display.moment(max(times))[:19]} UTC; the largest:",
        *(
            f"{display.amount(one.alert['amount_minor'], digits)} card {_short(one.alert['card_id'])} {one.alert_id}"
            for one in largest
        ),
        "fraudstream alerts list --today",
        *([f"{pages}/alerts/"] if pages else []),
    ]
    return Message(
        f"digest-{_digest(notices)}",
        severity,
        f"{len(notices):,} fraud alerts, {told}",
        "\n".join(map(display.printable, lines)),
        {
            "type": "fraud.alerts",
            "timestamp": display.iso(max(one.alert["received_at"] for one in notices)),
            "data": {
                "count": len(notices),
                "by_severity": counts,
                "amount_minor": total,
                "currency": currency,
                "event_time_from_ms": min(times),
                "event_time_to_ms": max(times),
                "largest": [dict(one.alert) for one in largest],
                **({"url": f"{pages}/alerts/"} if pages else {}),
            },
        },
    )


def test_message(route: str) -> Message:
    """What `fraudstream alerts test-notify` sends."""
    text = "this is a test: there is no alert"
    return Message(
        f"test-{route}",
        SEVERITIES[0],
        "fraudstream test message",
        f"{text}; route {route} works",
        {"type": "fraud.test", "timestamp": None, "data": {"route": route, "text": text}},
    )


def _short(card_id: str) -> str:
    return card_id if len(card_id) <= _CARD_SHOWN else f"…{card_id[-_CARD_SHOWN:]}"


def _digest(notices: Sequence[Notice]) -> str:
    """Names a set of alerts: the same set, the same name."""
    hashed = blake2b(digest_size=12)
    for name in sorted(f"{one.name}-{one.severity}" for one in notices):
        hashed.update(name.encode() + b"\n")
    return hashed.hexdigest()
