"""The pages as a browser sees them: headless Chromium, where one is installed."""

import asyncio
import shutil

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from app.web.views import install
from tests.web_worker import HOUR, DictWorker

pytestmark = pytest.mark.integration
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "<script>document.title='owned'</script>"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
async def test_pages_are_rendered_and_ids_stay_text(tmp_path):
    worker = DictWorker()
    worker.add(HOSTILE, [0, HOUR], minor=1250)
    app = web.Application()
    install(app, worker)
    async with TestServer(app) as server:
        index = await _dom(server.make_url("/"), tmp_path)
        card = await _dom(server.make_url("/cards/").with_query(id=HOSTILE), tmp_path)
        nobody = await _dom(server.make_url("/cards/nobody/"), tmp_path)

    assert "default@1" in index
    assert "12.50" in card
    assert "&lt;script&gt;" in card
    assert "<title>owned</title>" not in card
    assert "nobody" in nobody


async def _dom(url, folder):
    """The document after scripts had their chance."""
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={folder}", "--dump-dom", str(url),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    return out.decode()
