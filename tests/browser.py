"""A headless Chromium that tests steer: its own profile, port and process; spoken to by its DevTools protocol."""

import asyncio
import base64
import gzip
import hashlib
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

#: axe-core 4.14.1: finds what keeps people with disabilities from using a page (tests/samples/axe).
_AXE = Path(__file__).parent / "samples" / "axe" / "axe.min.js.gz"
_AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
#: Without `preload`, axe fetches nothing, which the pages would refuse.
_AUDIT = """
axe.run({resultTypes: ["violations"], preload: false}).then((found) => found.violations
  .filter((one) => ["serious", "critical"].includes(one.impact))
  .map((one) => one.id + ": " + one.nodes.map((node) => node.html.slice(0, 200)).join(" | ")))
"""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
#: Guards against hangs only: a busy machine is slow.
_SECONDS = 60.0


class Browser:
    """One page.

    Attributes:
        faults: what the console said of errors, and what scripts threw.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.faults: list[str] = []
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said["method"] == "Page.loadEventFired":
                self._loaded.set()
            elif said["method"] == "Runtime.exceptionThrown":
                self.faults.append(json.dumps(said["params"]["exceptionDetails"])[:500])
            elif said["method"] == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
                self.faults.append(json.dumps(said["params"]["entry"])[:500])

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        said = await asyncio.wait_for(answer, _SECONDS)
        assert "error" not in said, said
        result: dict[str, Any] = said["result"]
        return result

    async def open(self, url: Any) -> None:
        """Go to a page, until it is loaded."""
        self._loaded.clear()
        await self.call("Page.navigate", url=str(url))
        await asyncio.wait_for(self._loaded.wait(), _SECONDS)

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        said = await self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait for an expression to be true; pages on the way may have none yet."""
        async with asyncio.timeout(_SECONDS):
            while not await self.run(  # noqa: ASYNC110 -- the page is another process
                f"(() => {{ try {{ return !!({condition}) }} catch {{ return false }} }})()"
            ):
                await asyncio.sleep(0.05)

    async def violations(self) -> list[str]:
        """What axe-core calls serious or critical in the page as it looks now; only what is visible counts."""
        if await self.run("typeof axe") == "undefined":
            await self.run(await asyncio.to_thread(_axe))
        found: list[str] = await self.run(_AUDIT)
        return found

    async def click(self, selector: str) -> None:
        """Click on an element, once it is there."""
        await self.until(f"document.querySelector({json.dumps(selector)})")
        await self.run(f"document.querySelector({json.dumps(selector)}).click()")

    async def press(self, key: str) -> None:
        """A key, as a person presses it: once the page is there with its scripts, which listen to keys."""
        await self.until("document.readyState === 'complete'")
        for kind in ("keyDown", "keyUp"):
            written = "\r" if key == "Enter" else key
            text: dict[str, Any] = {}
            if kind == "keyDown" and len(written) == 1:
                text = {"text": written}
            if key == "Enter":
                text["windowsVirtualKeyCode"] = 13
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, **text)

    async def look(self, width: int, *, dark: bool = False) -> None:
        """The page at a width, dark or light."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def shoot(self, file: Path) -> None:
        """A picture of the whole page."""
        said = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        await asyncio.to_thread(file.write_bytes, base64.b64decode(said["data"]))

    async def close(self) -> None:
        """The end."""
        self._reading.cancel()
        await self._socket.close()


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Browser]:
    """A browser with one empty page.

    Args:
        folder: for its profile.
    """
    assert CHROMIUM
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={folder}", "--remote-debugging-port=0", "about:blank",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as session:
            async with asyncio.timeout(_SECONDS):
                pages: list[dict[str, Any]] = []
                while not pages:
                    await asyncio.sleep(0.1)
                    pages = await _pages(session, folder / "DevToolsActivePort")
            async with session.ws_connect(
                pages[0]["webSocketDebuggerUrl"], max_msg_size=0
            ) as socket:
                page = Browser(socket)
                for domain in ("Page", "Runtime", "Log"):
                    await page.call(f"{domain}.enable")
                yield page
                await page.close()
    finally:
        process.kill()
        await process.wait()


def _axe() -> str:
    script = gzip.decompress(_AXE.read_bytes())
    assert hashlib.sha256(script).hexdigest() == _AXE_SHA256
    return script.decode()


async def _pages(session: aiohttp.ClientSession, file: Path) -> list[dict[str, Any]]:
    said = await asyncio.to_thread(_read, file)
    if not said:
        return []
    port = said.split()[0]
    try:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as reply:
            return [one for one in await reply.json() if one["type"] == "page"]
    except aiohttp.ClientError:
        return []


def _read(file: Path) -> str:
    return file.read_text().strip() if file.exists() else ""
