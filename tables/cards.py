"""The recent transactions of each card. Written by agents/cards only."""

from app.faust_app import app
from tables import block_table

cards = block_table(app, "cards", app.fraud_topics.cards_changelog.name)
