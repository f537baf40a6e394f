"""Puts the views on the web server of the app. Imported once, by app/main.py."""

from typing import Any

from faust.web.base import BlueprintManager

from app.faust_app import app
from app.web.faust_worker import FaustWorker
from app.web.pages import PAGES, install
from app.web.post_score import ScoreHandler
from tables.cards import cards
from tables.terminals import terminals


def install_pages() -> None:
    """Install the views in place of those that Faust brings."""
    # its index answers at `/` too, and its /table/ shows any row to anybody
    app.web.blueprints = BlueprintManager()
    worker = FaustWorker(app, {"card": cards, "terminal": terminals})

    async def close(_application: Any) -> None:
        worker.close()

    application = app.web.web_app
    table = PAGES
    if app.settings.score:
        table += (ScoreHandler(worker, app.answers).route,)
    install(application, worker, table)
    application.on_cleanup.append(close)


install_pages()
