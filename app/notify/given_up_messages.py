"""Which messages are given up: those that a receiver refuses while it accepts others. Pure.

One message may be what makes a receiver answer 400, or 500. It must not stop its route. But a receiver that refuses
every message is in trouble itself, or has another secret than we: then nothing is given up, however it answers.
"""

#: A message is given up at so many refusals, if the receiver accepted another message between each two of them, and
#: after so many seconds: if the receiver says that the message is wrong, and if it does not say why.
_FINAL, _UNCLEAR = (2, 0.0), (10, 600.0)


class Refusals:
    """The refused messages of one route."""

    def __init__(self) -> None:
        self._accepted = 0
        #: by message id: seconds of the first refusal, refusals that count, messages accepted by the last of them
        self._known: dict[str, tuple[float, int, int]] = {}

    def accepted(self, message_id: str) -> None:
        """A message was accepted."""
        self._accepted += 1
        self._known.pop(message_id, None)

    def refused(self, message_id: str, now: float, *, final: bool) -> bool:
        """A message was refused; whether it is given up.

        Args:
            message_id: which.
            now: seconds that never go back.
            final: whether the receiver says that the message is wrong.
        """
        first, count, seen = self._known.get(message_id, (now, 0, -1))
        if self._accepted > seen:
            count, seen = count + 1, self._accepted
        self._known[message_id] = first, count, seen
        most, seconds = _FINAL if final else _UNCLEAR
        if count < most or now - first < seconds:
            return False
        del self._known[message_id]
        return True

    def clear(self) -> None:
        """The messages are another process's now."""
        self._known.clear()
