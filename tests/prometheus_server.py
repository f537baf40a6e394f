"""A real Prometheus with the exported rules; on request with shorter durations, for a test that cannot wait hours."""

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

import yaml

from app.cli.worker import free_port
from app.monitoring import export
from tests.own_process import stop

_OPENER = build_opener(ProxyHandler({}))
#: How often it scrapes and evaluates rules, seconds.
INTERVAL_SECONDS = 1
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_WINDOW, _OFFSET = re.compile(r"(?<=\[)\w+(?=\])"), re.compile(r"(?<=offset )\w+")
#: By how much all durations of a rule are divided, by the longest of them: a minute becomes 10 s, 5 minutes 5 s,
#: an hour 30 s, a day 20 s.
_DIVISORS = ((60, 6), (1_800, 60), (3_600, 120), (7 * 86_400, 4_320))
#: A rate over fewer scrapes would depend on single ones.
_SCRAPES = 4


def shorten(rules: str) -> str:
    """The same rules with shorter durations: windows, offsets and `for`. Nothing else is changed.

    Rules that wait an hour cannot have the divisor of those that wait a minute, so each rule has its own.
    """
    document = yaml.safe_load(rules)
    for group in document["groups"]:
        for rule in group["rules"]:
            windows, offsets = _WINDOW.findall(rule["expr"]), _OFFSET.findall(rule["expr"])
            longest = max(map(_seconds, [*windows, *offsets, rule.get("for", "0s")]))
            divisor = next(each for most, each in _DIVISORS if longest <= most)

            def short(found: str, divisor: int = divisor) -> str:
                return f"{_seconds(found) * 1_000 // divisor}ms"

            for one in windows:
                assert _seconds(one) / divisor >= _SCRAPES * INTERVAL_SECONDS, rule
            for pattern in (_WINDOW, _OFFSET):
                rule["expr"] = pattern.sub(lambda one: short(one[0]), rule["expr"])  # noqa: B023
            if "for" in rule:
                rule["for"] = short(rule["for"])
    return yaml.safe_dump(document, width=1_000)


def _seconds(duration: str) -> int:
    return int(duration[:-1]) * _SECONDS[duration[-1]]


class Prometheus:
    """A server of its own, in a folder of its own.

    Args:
        folder: for rules, data and log.
        targets: addresses of workers.
        change: changes the exported rules.
    """

    def __init__(
        self, folder: Path, targets: Sequence[str], change: Callable[[str], str] = str
    ) -> None:
        export(folder)
        rules, config = folder / "rules.yml", folder / "prometheus.yml"
        rules.write_text(change(rules.read_text()))
        words = config.read_text().replace('"127.0.0.1:6066"', json.dumps(list(targets))[1:-1])
        config.write_text(words.replace("15s", f"{INTERVAL_SECONDS}s"))
        self.port = free_port("127.0.0.1")
        self._log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{self.port}"],
            stdout=self._log, stderr=self._log,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def get(self, path: str, **arguments: str) -> Any:
        """The data of an answer; None while it does not answer."""
        try:
            url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urlencode(arguments)}"
            with _OPENER.open(url, timeout=20) as reply:
                return json.loads(reply.read())["data"]
        except OSError:
            return None

    def query(self, expression: str) -> list[Any]:
        """The series of an expression now."""
        found = self.get("query", query=expression) or {"result": []}
        return list(found["result"])

    def alerts(self) -> list[dict[str, str]]:
        """Labels of the alerts that fire now."""
        data = self.get("alerts") or {"alerts": []}
        return [one["labels"] for one in data["alerts"] if one["state"] == "firing"]

    def firing(self) -> set[str]:
        """Names of the alerts that fire now."""
        return {one["alertname"] for one in self.alerts()}

    def fired(self) -> set[str]:
        """Names of the alerts that have fired since it started."""
        found = self.query(
            'count by (alertname) (count_over_time(ALERTS{alertstate="firing"}[1d]))'
        )
        return {one["metric"]["alertname"] for one in found}

    def broken_rules(self) -> list[Any]:
        """Rules that could not be evaluated."""
        groups = self.get("rules")["groups"]
        return [rule for group in groups for rule in group["rules"] if rule["health"] == "err"]

    def stop(self) -> None:
        """End it."""
        stop(self.process)
        self._log.close()
