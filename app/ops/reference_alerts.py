"""The reference implementation of alerts: what a prediction record, the rules in force and a policy require.

Written apart from app/domain/alert_policy.py on purpose: a field or a severity that goes wrong there is found here.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from app.domain.rules.ruleset import RuleSet
from app.domain.transaction import hash_id

_LEVELS = ("low", "medium", "high", "critical")
#: Fields of an alert that repeat those of its prediction.
REPEATED = (
    "transaction_id", "card_id", "terminal_id", "amount_minor", "event_time_ms", "score", "threshold",
    "anomaly_score", "action", "flags", "model_version", "source_topic", "source_partition", "source_offset",
    "received_at", "scored_by",
)  # fmt: skip


class ExpectedAlert(NamedTuple):
    """A prediction that is an alert under some policy.

    Attributes:
        causes: every one that there is.
        rules: names of those that call for an alert.
        reasons: theirs, then the model's.
    """

    causes: tuple[str, ...]
    rules: tuple[str, ...]
    reasons: tuple[str, ...]


class AlertPolicyAt(NamedTuple):
    """Which of these are alerts, and how urgent: the field `policy` of an alert.

    Attributes:
        causes: those that make one.
        window_ms: length of a window.
        losses_minor: expected loss from which an alert is medium, high, critical.
    """

    causes: tuple[str, ...]
    window_ms: int
    losses_minor: tuple[float, ...]

    @classmethod
    def read(cls, said: Any) -> "AlertPolicyAt | None":
        """The policy that an alert names; None where it names none that can be read."""
        try:
            return cls(tuple(said["causes"]), int(said["window_ms"]), tuple(said["losses_minor"]))
        except (KeyError, TypeError, ValueError):
            return None

    def kept(self, causes: Sequence[str]) -> tuple[str, ...]:
        """The causes that make an alert here; empty: it is none."""
        return tuple(cause for cause in causes if cause in self.causes)

    def severity(self, score: float, minor: int, causes: Sequence[str]) -> str:
        """How urgent an alert with these causes is."""
        loss = minor if "rule" in causes else score * minor
        level = 0
        for limit in self.losses_minor:
            if loss >= limit:
                level += 1
        return _LEVELS[level]

    def opened_at(self, card_id: str, event_time_ms: int) -> int:
        """When the window of a card's transaction begins, epoch milliseconds: windows begin at the card's hash."""
        length = self.window_ms // 1000
        begin = int.from_bytes(hash_id(card_id), "big") % length
        return ((event_time_ms // 1000 - begin) // length * length + begin) * 1000


def alert_id(card_id: str, opened_at: int) -> str:
    """The id of an alert."""
    moment = datetime.fromtimestamp(opened_at // 1000, UTC)
    return f"{moment.strftime('%Y%m%dT%H%M%S')}-{hash_id(card_id).hex()}"


def flagged(fields: Mapping[str, Any], rules: RuleSet) -> ExpectedAlert | None:
    """Whether a prediction record can be an alert; None: it is none under any policy.

    Args:
        fields: the record.
        rules: those in force when it was made.

    Raises:
        KeyError: it names a rule that is not among them.
    """
    titles = {f"{rule.name}@{rule.version}": rule for rule in rules.rules}
    names, reasons, actions = [], [], set()
    for title in fields.get("rules") or ():
        listed, _, subject = title.partition("-list:")
        if subject:
            actions.add("decline" if listed == "block" else "allow")
            if listed == "block":
                names.append(title)
                reasons.append(f"the {subject} is on the block list")
            continue
        rule = titles[title]
        actions.add(rule.action)
        if rule.action in ("decline", "review"):
            names.append(rule.name)
            reasons.append(rule.reason or f"rule {rule.name}: {rule.expression}")
    if "allow" in actions and "decline" not in actions:
        return None
    found = {
        "model": fields["is_fraud"],
        "rule": bool(names),
        "anomaly": "anomaly" in fields["flags"],
    }
    causes = tuple(cause for cause, there in found.items() if there)
    if not causes:
        return None
    return ExpectedAlert(causes, tuple(names), (*reasons, *fields["reasons"]))
