"""The transactions of the Fraud Detection Handbook, where somebody has them: see `app.lab.handbook.data`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from app.lab.handbook.data import locate

PATH = locate()


@dataclass(frozen=True)
class Handbook:
    """Columns as `compute_features` takes them, in the file's order."""

    transaction_id: np.ndarray
    card_id: np.ndarray
    terminal_id: np.ndarray
    amount_minor: np.ndarray
    event_time_ms: np.ndarray
    is_fraud: np.ndarray

    def take(self, rows: np.ndarray) -> "Handbook":
        """Some rows."""
        return Handbook(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.event_time_ms)


def read() -> Handbook:
    """All of them."""
    assert PATH is not None
    table = pyarrow.csv.read_csv(
        Path(PATH),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={
                "TRANSACTION_ID": pa.string(),
                "CUSTOMER_ID": pa.string(),
                "TERMINAL_ID": pa.string(),
                "TX_AMOUNT": pa.float64(),
                "TX_DATETIME": pa.timestamp("ms"),
                "TX_FRAUD": pa.int64(),
            }
        ),
    )
    # some are written like 85.64999999999999
    minor = np.rint(table["TX_AMOUNT"].to_numpy() * 100).astype(np.int64)
    return Handbook(
        np.array(table["TRANSACTION_ID"].to_pylist()),
        np.array(table["CUSTOMER_ID"].to_pylist()),
        np.array(table["TERMINAL_ID"].to_pylist()),
        minor,
        pc.cast(table["TX_DATETIME"], pa.int64()).to_numpy(),
        table["TX_FRAUD"].to_numpy() == 1,
    )
