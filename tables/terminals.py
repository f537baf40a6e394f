"""The recent transactions of each terminal. Written by agents/scoring only."""

from app.faust_app import app
from tables import block_table

terminals = block_table(app, "terminals", app.fraud_topics.terminals_changelog.name)
