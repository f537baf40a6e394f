"""Puts the views on the web server of the app. Imported once, by app/main.py."""

from faust.web.base import BlueprintManager

from app.faust_app import app
from app.web.views import install
from app.web.worker import FaustWorker
from models.holder import registry_of
from tables.cards import cards
from tables.terminals import terminals

# Faust's own views stay out: its index answers at `/` too, and /table/ shows any row to anybody
app.web.blueprints = BlueprintManager()
manifest = registry_of(app.settings).find(app.settings.model).manifest
install(
    app.web.web_app,
    FaustWorker(
        app,
        {"card": cards, "terminal": terminals},
        (f"{manifest.name}@{manifest.version}", manifest.model_hash),
    ),
)
