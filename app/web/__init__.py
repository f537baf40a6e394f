"""The web pages of a worker: dashboard, cards, terminals, transactions, alerts, review, metrics, health.

They are plain aiohttp handlers (`pages.py` lists them) on Faust's own web server. All that they need from the running
worker is in one protocol (`worker_protocol.py`): `faust_worker.py` implements it with Faust, tests implement it with a
dictionary. Before any page, `access/` decides who may have it.
"""
