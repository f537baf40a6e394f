"""Pictures of the pages for README and docs, from real servers, a real worker and headless Chromium.

    python -m tests.screenshots

Simulates payments of three weeks, up to last midnight; the labels of the last week are not known yet. Then an
analyst works: finds an alert, looks at its transaction and its card, decides alerts in the review queue, and sees the
precision of that week. Each picture contains times of day, so a new one replaces the old one only if enough pixels
differ.
"""

import asyncio
import io
import json
import sys
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import numpy as np
from PIL import Image

from app.lab.worker_processes import WorkerProcess
from tests.browser import CHROMIUM, Browser, browser
from tests.deployment import Deployment
from tests.figures.servers import Servers, own_servers
from tests.fleet import Fleet
from tests.worker_settings import environ_of

OUT = Path(__file__).parents[1] / "docs" / "images"
WIDTH, HEIGHT = 1_280, 800
COLOURS = 255
#: A picture with fewer pixels that differ, in percent, is left as it is.
_SAME_PERCENT = 3.0
#: Days of payments, and those whose labels are not known yet: the review queue has the alerts of a week.
_DAYS, _UNKNOWN = 21, 7
#: Alerts that the analyst decides.
_DECIDED = 40
_CARDS, _TERMINALS = 600, 300


@dataclass
class Analyst:
    """An analyst at the pages of a worker.

    Attributes:
        worker: whose pages.
        page: their browser.
        period: the days whose labels are not known.
        frauds: ids of the transactions that are fraud, whatever their labels.
        taken: names of the pictures, and whether they are new.
    """

    worker: WorkerProcess
    page: Browser
    period: dict[str, str]
    frauds: frozenset[str]
    taken: dict[str, bool] = field(default_factory=dict)

    async def open(self, path: str, **parameters: str) -> None:
        """Go to a page."""
        asked = f"?{urlencode(parameters)}" if parameters else ""
        await self.page.open(f"{self.worker.url}{path}{asked}")

    async def json(self, path: str, **parameters: str) -> Any:
        """What a page says, for programs."""
        async with (
            aiohttp.ClientSession() as client,
            client.get(f"{self.worker.url}{path}", params=parameters) as reply,
        ):
            assert reply.status == 200, (path, await reply.text())
            return await reply.json()

    async def shoot(self, name: str) -> None:
        """A picture of the upper part of the page."""
        await asyncio.sleep(0.5)  # fonts and charts
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT, "scale": 1}
        said = await self.page.call("Page.captureScreenshot", clip=clip)
        self.taken[name] = await asyncio.to_thread(
            keep, b64decode(said["data"]), OUT / f"{name}.png"
        )


def keep(raw: bytes, file: Path) -> bool:
    """Keep a picture with few colours, unless the one that is there is nearly the same; whether it was kept."""
    image = Image.open(io.BytesIO(raw)).convert("RGB")
    if file.exists():
        before = Image.open(file).convert("RGB")
        if before.size == image.size:
            apart = np.abs(np.asarray(before, np.int16) - np.asarray(image, np.int16)).max(axis=2)
            if 100 * (apart > 64).mean() < _SAME_PERCENT:
                return False
    file.parent.mkdir(exist_ok=True)
    image.quantize(COLOURS, Image.Quantize.FASTOCTREE).save(file, optimize=True)
    return True


async def look_around(analyst: Analyst) -> None:
    """An alert arrives, and its transaction and card are looked at."""
    await analyst.page.look(WIDTH)
    await analyst.page.call("Emulation.setScrollbarsHidden", hidden=True)
    await analyst.open("/alerts/", **analyst.period)
    await analyst.shoot("alerts")
    found = await analyst.json("/alerts.json", **analyst.period, limit="500")
    alert = _telling(found["alerts"])
    transaction = max(alert["transactions"], key=lambda row: row["score"])
    await analyst.open(f"/transactions/{quote(transaction['transaction_id'])}/")
    await analyst.shoot("transaction")
    await analyst.open(f"/cards/{quote(alert['card_id'])}/")
    await analyst.shoot("card")


async def decide(analyst: Analyst) -> None:
    """Alerts are decided, one by one, until the page of quality counts their labels."""
    page = analyst.page
    await analyst.open("/quality/", **analyst.period)
    await page.until("document.querySelector('main table')")  # once it has been measured
    await analyst.shoot("quality-before")
    await analyst.open("/review/")
    await page.press("b")
    labels = 0
    for number in range(_DECIDED):
        await page.until("document.querySelector('.verdict a')")
        if not number:
            await analyst.shoot("review")
        name = await page.run("document.querySelector('[name=alert]').value")
        ids = await page.run(
            "[...document.querySelectorAll('.actions ~ .table')[0].querySelectorAll('td:last-child')]"
            ".map((cell) => cell.innerText)"
        )
        labels += len(ids)
        await page.press("f" if analyst.frauds & set(ids) else "g")
        await page.until(f"document.querySelector('[name=alert]')?.value !== {json.dumps(name)}")
    async with asyncio.timeout(300):  # the page is computed at most once per minute
        while await _judged(analyst) < labels:  # noqa: ASYNC110 -- the worker is another process
            await asyncio.sleep(1)
    await analyst.open("/quality/", **analyst.period)
    await analyst.shoot("quality")


async def _judged(analyst: Analyst) -> int:
    """The number of labelled transactions of the period."""
    found = await analyst.json("/quality.json", **analyst.period)
    judged: int = found["total"]["labelled"]
    return judged


def _telling(alerts: list[dict[str, Any]]) -> dict[str, Any]:
    """One with reasons and a few transactions, the same in every run."""
    good = [one for one in alerts if 2 <= len(one["transactions"]) <= 5]
    return max(good or alerts, key=lambda one: (one["amount_minor"], one["alert_id"]))


def fill(deployment: Deployment, folder: Path, end: date) -> frozenset[str]:
    """Payments, and labels of the older ones; returns the ids of frauds."""
    file, first, second = (folder / name for name in ("all.jsonl", "first.jsonl", "second.jsonl"))
    _run(
        deployment, "simulate", "--out", str(file), "--start", f"{end - timedelta(days=_DAYS)}",
        "--days", f"{_DAYS}", "--seed", "7", "--cards", str(_CARDS), "--terminals", str(_TERMINALS), "--run", "tx",
    )  # fmt: skip
    lines = file.read_text().splitlines()
    payments = [json.loads(line) for line in lines]
    unlabelled = f"{end - timedelta(days=_UNKNOWN)}"
    known = sum(payment["event_time"] < unlabelled for payment in payments)
    first.write_text("\n".join(lines[:known]) + "\n")
    second.write_text("\n".join(lines[known:]) + "\n")
    _run(deployment, "produce", str(first), "--with-labels", "is_fraud", "--label-after", "1d")
    deployment.drain()
    _run(deployment, "produce", str(second))
    deployment.drain()
    return frozenset(one["transaction_id"] for one in payments if one["is_fraud"])


def _run(deployment: Deployment, *arguments: str) -> None:
    done = deployment.run(*arguments)
    assert not done.returncode, done.stderr


def _steps(servers: Servers) -> Iterator[str]:
    with (
        servers.deployment("screenshots") as (deployment, folder),
        Fleet(environ_of(deployment.settings), folder / "fleet") as fleet,
    ):
        fleet.start("a")
        fleet.await_ready()
        end = datetime.now(UTC).date()
        frauds = fill(deployment, folder, end)
        period = {"from": f"{end - timedelta(days=_UNKNOWN)}", "to": f"{end}"}

        async def look() -> dict[str, bool]:
            async with browser(folder / "profile") as page:
                analyst = Analyst(fleet["a"], page, period, frauds)
                await look_around(analyst)
                await decide(analyst)
                assert page.faults == [], page.faults
                return analyst.taken

        for name, new in asyncio.run(look()).items():
            size = (OUT / f"{name}.png").stat().st_size / 1024
            yield f"docs/images/{name}.png  {size:.0f} KiB{'' if new else '  (as it was)'}"


def main() -> int:
    """The command; returns the exit code."""
    if CHROMIUM is None:
        print("screenshots need chromium on PATH", file=sys.stderr)
        return 3
    with own_servers("screenshots") as servers:
        for line in _steps(servers):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
