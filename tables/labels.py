"""Labels that wait for their transactions. Written by agents/labels only."""

from app.faust_app import app
from tables import block_table

labels = block_table(app, "labels", app.fraud_topics.labels_changelog.name)
