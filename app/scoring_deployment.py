"""Which deployment scored a transaction: several may share a topic `predictions`, one after the other.

A changed `FRAUDSTREAM_APP_ID` scores everything once more, into the same topic. Each deployment goes by its own
predictions. Those of release 0.1.0 name nobody, and count as anybody's.
"""

from collections.abc import Mapping
from typing import Any

#: The field of a prediction record that names the deployment.
SCORED_BY = "scored_by"


def is_anothers(prediction: Mapping[str, Any], deployment: str | None) -> bool:
    """Whether a prediction record names another deployment than this one; None: everybody's are ours."""
    return deployment is not None and prediction.get(SCORED_BY, deployment) != deployment
