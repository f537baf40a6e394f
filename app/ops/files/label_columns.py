"""Label columns. They must not reach the stream: a model could learn from them."""

from app.ops.files.suffixes import LABEL_FIELDS

#: How well-known public data sets call their labels, without case, spaces and punctuation. In turn: our own files,
#: PaySim, IEEE-CIS, Sparkov and TabFormer (isfraud, isflaggedfraud), ULB's credit cards (class), the Fraud
#: Detection Handbook, BAF (fraudbool), and common spellings.
_KNOWN = frozenset({
    "isfraud", "fraudkind", "isflaggedfraud", "class", "txfraud", "txfraudscenario", "fraudbool", "fraud",
    "fraudflag", "fraudind", "fraudlabel", "fraudreported", "fraudscenario", "fraudtype", "fraudulent",
    "isfraudulent", "fraudlabels",
})  # fmt: skip
#: Columns that say 0 or 1 (or yes and no), the usual ones first: where nobody names the column of labels.
USUAL_LABELS = ("is_fraud", "TX_FRAUD", "isFraud", "Is Fraud?", "Class")


def is_answer(name: str) -> bool:
    """Whether a column with that name is a label."""
    return _plain(name) in _KNOWN


def usual_label(columns: tuple[str, ...]) -> str | None:
    """The label column, by its name; None if there is none."""
    return next((name for name in USUAL_LABELS if name in columns), None)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


assert all(map(is_answer, (*LABEL_FIELDS, *USUAL_LABELS)))
