"""Who is told of alerts, as a setting writes it: `NAME=SEVERITY:URL`, separated by white space."""

import re
from dataclasses import dataclass, field

#: Messages in a minute that summarise: at its beginning, every 15 seconds, at its end. A limit must be above it.
DIGESTS = 5

_ROUTE = re.compile(r"([A-Za-z0-9_-]{1,40})=(low|medium|high|critical):(\S+)")


@dataclass(frozen=True)
class Route:
    """One receiver of alerts.

    Attributes:
        name: names it in logs, in its consumer group, and in what is remembered of it.
        severity: alerts from this one on.
        url: where they go: http and https are signed webhooks, all others are for `apprise`. A secret.
    """

    name: str
    severity: str
    url: str = field(repr=False)

    @property
    def is_webhook(self) -> bool:
        """Whether it takes signed webhooks."""
        return self.url.lower().startswith(("http://", "https://"))


def parse_routes(text: str) -> tuple[Route, ...]:
    """The routes of a setting.

    Raises:
        ValueError: one is none, or two have one name. URLs are secrets: the text has none.
    """
    routes = []
    for number, part in enumerate(text.split(), 1):
        match = _ROUTE.fullmatch(part)
        if match is None:
            msg = (
                f"route {number} is not NAME=SEVERITY:URL, such as ops=high:https://alerts.example.org/hook; the "
                "severities are low, medium, high and critical"
            )
            raise ValueError(msg)
        routes.append(Route(*match.groups()))
    names = [route.name for route in routes]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        msg = f"two routes have the name {repeated[0]}: give each its own, because its progress is stored under it"
        raise ValueError(msg)
    return tuple(routes)
