"""The models that come with the package, and the pickles that they were before they were converted."""

from pathlib import Path
from typing import NamedTuple

SHIPPED = Path(__file__).parent / "artifacts"


class Former(NamedTuple):
    """A shipped model as an earlier release had it. Its scores were the same, bit for bit.

    Attributes:
        folder: of the converted model, below `SHIPPED`.
        format: of the former manifest; all else that the hash covers is as it is now.
        sha256: of the former model.joblib.
    """

    folder: str
    format: int
    sha256: str


#: States, predictions and registries of earlier releases name these by their hash. Nothing is unpickled for them.
FORMER = (
    Former("default", 1, "03ac983c486bbdcde258e3fa6f261cbde3b7474aa0b8ecb6cc5e0f512ebf09ff"),
    Former("default-2", 2, "d958f692496f9f405c37510ec421f57da58d304db7dc456d246de57c9543f4c0"),
    Former("engineered", 2, "3dba6e99e7ebc5a3413a0573dd603cc3233f99b5b2ba881f326089256ec5af0d"),
)
