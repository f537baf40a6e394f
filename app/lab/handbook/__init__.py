"""The Fraud Detection Handbook's transactions: one live pass, models and figures; see `run.py`."""
