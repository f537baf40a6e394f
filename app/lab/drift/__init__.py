"""Seeded faults for the detectors of drift: what breaks in feeds, and whether each is named.

| file | |
|---|---|
| `faults.py` | the faults: what they do to a record or a label |
| `feed.py` | a simulated stream through the code of both stages |
| `inject.py` | trains on the stream's beginning, then runs each fault |
"""
