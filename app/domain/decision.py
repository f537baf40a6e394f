"""What was decided about a transaction, in words for people, and by what: the model or rules. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from app.domain.rules.policy import APPROVE, DECLINE, REVIEW

_WORDS = {DECLINE: "declined", REVIEW: "sent to review", APPROVE: "approved"}
#: Between the name of a list and what it lists, in the title of an entry that fired: `block-list:card`.
_LIST = "-list:"


class Decision(NamedTuple):
    """A decision as people read it.

    Attributes:
        action: `decline`, `review` or `approve`.
        word: the same for people: `declined`, `sent to review`, `approved`.
        by: what decided, such as `rule large@1`; empty where nothing objected.
    """

    action: str
    word: str
    by: str

    @property
    def text(self) -> str:
        """Such as `declined by rule large@1`."""
        return f"{self.word} by {self.by}" if self.by else self.word


def decision_of(row: Mapping[str, Any]) -> Decision:
    """The decision about a scored transaction.

    Where rules decided, all that fired are named, since a row does not say which of them are mere tags.

    Args:
        row: its prediction or alert: `is_fraud`, the model's decision, with `action` and `rules`. Rows of releases
            without rules lack these two: the model alone decided.
    """
    flagged, fired = row["is_fraud"], row.get("rules") or ()
    action = row.get("action") or (REVIEW if flagged else APPROVE)
    if action == REVIEW and flagged:
        by = "the model"
    elif action == APPROVE and not flagged:
        by = ""
    else:  # declined, sent to review, or allowed although the model had flagged it
        by = ", ".join(map(_named, fired)) or "a rule"
    return Decision(action, _WORDS.get(action, action), by)


def _named(title: str) -> str:
    name, _, subject = title.partition(_LIST)
    return f"the {name} list ({subject})" if subject else f"rule {title}"
