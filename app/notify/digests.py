"""What a route is still to be told, and when: one by one while there are few, else in digests. Pure: time is given.

With a limit, at most that many messages are sent in any minute, however many alerts there are: some about one alert,
and a digest every `DIGEST_SECONDS`. Without one, every alert is a message of its own.
"""

from collections import deque
from collections.abc import Sequence
from itertools import islice

from app.domain.alert_policy import rank
from app.notify.message_text import Notice
from app.notify_routes import DIGESTS

#: Messages that people get at most in a minute.
PEOPLE_PER_MINUTE = 10
MINUTE_SECONDS = 60.0
DIGEST_SECONDS = 15.0
#: Messages without a limit that are sent at the same time.
AT_ONCE = 16
#: With more alerts than this pending none are read: their log is the better place to wait in.
MOST = 100_000


class Pending:
    """The alerts of one route that nobody was told of yet.

    Args:
        per_minute: messages that the route gets at most in a minute, more than `DIGESTS`; None: no limit.

    Attributes:
        notices: by name, in the order in which they came; of several the most severe.
    """

    def __init__(self, per_minute: int | None) -> None:
        self.notices: dict[str, Notice] = {}
        self._single = None if per_minute is None else per_minute - DIGESTS
        self._sent: deque[float] = deque()
        self._digest_at = float("-inf")
        self._digest: list[
            Notice
        ] = []  # what the next one is about: the same however often it is tried
        self._storm = False

    @property
    def full(self) -> bool:
        """Whether no more should be read for now."""
        return len(self.notices) >= MOST

    def add(self, notice: Notice) -> None:
        """Take an alert. One that is pending already keeps its place, and becomes as severe as this one."""
        known = self.notices.get(notice.name)
        if known is None:
            self.notices[notice.name] = notice
        elif rank(notice.severity) > rank(known.severity):
            # the place of the first one: it must not be committed before it is told
            self.notices[notice.name] = known._replace(severity=notice.severity, alert=notice.alert)

    def due(self, now: float) -> list[list[Notice]]:
        """What the next messages are about, one alert each, or many in one; nothing for now if empty.

        Args:
            now: seconds that never go back.
        """
        if self._single is None:
            return [[notice] for notice in islice(self.notices.values(), AT_ONCE)]
        while self._sent and self._sent[0] <= now - MINUTE_SECONDS:
            self._sent.popleft()
        if not self.notices:
            self._storm = False
            return []
        if not self._storm and len(self._sent) < self._single:
            return [[next(iter(self.notices.values()))]]
        if not self._storm:
            self._storm = True  # what comes within the next seconds goes along
            self._digest_at = max(self._digest_at, now)
        if now < self._digest_at + DIGEST_SECONDS:
            return []
        self._digest = self._digest or list(self.notices.values())
        return [self._digest]

    def wait_seconds(self, now: float) -> float | None:
        """Until a message is due; None: until an alert comes."""
        if not self.notices:
            return None
        return max(0.0, self._digest_at + DIGEST_SECONDS - now) if self._storm else 0.0

    def done(self, told: Sequence[Notice], now: float) -> None:
        """Alerts were told in one message, or never will be."""
        self._digest = []
        for notice in told:
            known = self.notices.get(notice.name)
            if known is not None and known.severity == notice.severity:
                del self.notices[notice.name]
        if self._storm:
            self._digest_at = now
        elif self._single is not None:
            self._sent.append(now)

    def later(self, refused: Sequence[Notice]) -> None:
        """A message was not taken: others are tried before it is tried again."""
        if len(refused) < len(self.notices):
            for notice in refused:
                if notice.name in self.notices:
                    self.notices[notice.name] = self.notices.pop(notice.name)

    def clear(self) -> None:
        """Forget everything: the partitions are another process's now, or are read again."""
        self.notices.clear()
        self._digest = []
        self._storm = False

    def first_offsets(self) -> dict[int, int]:
        """By partition, the first record that nobody was told of."""
        found: dict[int, int] = {}
        for notice in self.notices.values():
            found[notice.partition] = min(notice.offset, found.get(notice.partition, notice.offset))
        return found
