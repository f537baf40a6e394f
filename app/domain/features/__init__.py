"""Features: each is one object, compiled into a plan.

| file | |
|---|---|
| `feature.py` | what a feature is |
| `row_queries.py` | what is read from the row of a card or terminal |
| `card.py`, `terminal.py` | the features |
| `feature_sets.py` | the sets that models are trained on; finding a feature by its name |
| `catalogue.py` | the features of a deployment, compiled |

A new feature is an entry in `card.py` or `terminal.py`. The reference implementation, a second and slower
evaluation that `verify` compares with, stands apart on purpose.
"""

from app.domain.features.catalogue import Catalogue
from app.domain.features.feature import Column, Feature, window_name

__all__ = ["Catalogue", "Column", "Feature", "window_name"]
