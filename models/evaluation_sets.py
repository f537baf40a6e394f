"""Which transactions a model is judged by, and how sure its figures are: pure, over arrays.

As the Fraud Detection Handbook judges (Le Borgne et al. 2022, chapter 5): a card that is known to be
defrauded is blocked, and finding its frauds once more is no merit.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

DAY_MS = 86_400_000
#: Frauds that became known so long before the first day of the test block their cards.
KNOWN_MS = 7 * DAY_MS
RESAMPLES = 200

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def on_known_cards(
    card: np.ndarray, event_time_ms: np.ndarray, fraud: Bools, judged: Bools, delay_ms: int
) -> Bools:
    """Transactions to be judged whose card is known to be defrauded on their (UTC) day.

    Known are the frauds of the week that ends the delay before the first day, and those that became
    known since, day by day behind the delay:

        ---- week ----|-------- delay --------|- first day -|- second day -|
          known                               |
          known, and one day more                           |

    Args:
        card: (n,) identifiers, of all transactions.
        event_time_ms: (n,) epoch milliseconds.
        fraud: (n,) labels.
        judged: (n,) those to be judged; at least one.
        delay_ms: how long a label takes to come.

    Returns:
        (number of judged,) bool.
    """
    _, cards = np.unique(card, return_inverse=True)
    day_start = event_time_ms[judged] // DAY_MS * DAY_MS
    since = day_start.min() - delay_ms - KNOWN_MS
    counted = fraud & (event_time_ms >= since)
    first_fraud = np.full(cards.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(first_fraud, cards[counted], event_time_ms[counted])
    known: Bools = first_fraud[cards[judged]] < day_start - delay_ms
    return known


class Ranking(NamedTuple):
    """Scored transactions, prepared for figures with any weights of cards.

    Attributes:
        cards: number of cards.
        order_cards, order_fraud: of the transactions, highest score first.
        groups: where each run of equal scores begins among them.
        days: for each day the cards by their highest score, and whether they are defrauded that day.
    """

    cards: int
    order_cards: np.ndarray
    order_fraud: Bools
    groups: np.ndarray
    days: tuple[tuple[np.ndarray, Bools], ...]


def rank(scores: Floats, fraud: Bools, card: np.ndarray, event_time_ms: np.ndarray) -> Ranking:
    """Sort once; all arrays are (n,), n at least 1."""
    _, cards = np.unique(card, return_inverse=True)
    order = np.argsort(-scores, kind="stable")
    changes = np.flatnonzero(np.diff(scores[order])) + 1
    days = []
    day = event_time_ms // DAY_MS
    for today in np.unique(day):
        rows = np.flatnonzero(day == today)
        highest = np.full(cards.max() + 1, -np.inf)
        np.maximum.at(highest, cards[rows], scores[rows])
        defrauded = np.zeros(len(highest), dtype=bool)
        defrauded[cards[rows[fraud[rows]]]] = True
        seen = np.unique(cards[rows])
        # a stable sort: equal scores rank by card, the same every time
        ranked = seen[np.argsort(-highest[seen], kind="stable")]
        days.append((ranked, defrauded[ranked]))
    groups = np.concatenate([[0], changes])
    return Ranking(int(cards.max()) + 1, cards[order], fraud[order], groups, tuple(days))


def card_precision(ranking: Ranking, top: int = 100, weights: np.ndarray | None = None) -> float:
    """Card precision@k: the share of true ones among the `top` cards a day that investigators can check.

    Each day the cards are ranked by their highest score; one that was found is blocked, and not counted
    on later days. Fewer than `top` cards may be defrauded a day: 1 is out of reach then.

    Args:
        ranking: from `rank`.
        top: cards a day.
        weights: (cards,) how often each card counts; None: once.

    Returns:
        The mean over days.
    """
    counts = np.ones(ranking.cards, dtype=np.int64) if weights is None else weights.copy()
    shares = []
    for cards, defrauded in ranking.days:
        wanted = counts[cards]
        before = np.cumsum(wanted) - wanted
        caught = np.clip(top - before, 0, wanted) * defrauded
        counts[cards[caught > 0]] = 0
        shares.append(caught.sum() / top)
    return float(np.mean(shares))


def intervals(ranking: Ranking, *, seed: int, level: float = 0.95) -> dict[str, list[float]]:
    """Where the figures lie when other cards of the same kind are drawn: percentiles of resamples.

    Cards are drawn, not transactions: those of one card stand and fall together. Draws without frauds
    (or with nothing else) have no AUC and are passed over; with too few cards there is nothing left.

    Returns:
        `auc`, `average_precision` and `card_precision_at_100`, each [low, high].
    """
    rng = np.random.default_rng(seed)
    drawn: list[tuple[float, float, float]] = []
    for _ in range(RESAMPLES):
        picks = rng.integers(0, ranking.cards, ranking.cards)
        weights = np.bincount(picks, minlength=ranking.cards)
        figures = auc_and_precision(ranking, weights)
        if figures is not None:
            drawn.append((*figures, card_precision(ranking, weights=weights)))
    if len(drawn) < RESAMPLES // 2:
        return {}
    ends = np.quantile(np.array(drawn), [(1 - level) / 2, (1 + level) / 2], axis=0).T.tolist()
    names = ("auc", "average_precision", "card_precision_at_100")
    return dict(zip(names, ends, strict=True))


def auc_and_precision(ranking: Ranking, weights: np.ndarray) -> tuple[float, float] | None:
    """AUC ROC and average precision where each card counts so often; None without both classes."""
    counts = weights[ranking.order_cards]
    frauds = np.add.reduceat(counts * ranking.order_fraud, ranking.groups)
    others = np.add.reduceat(counts, ranking.groups) - frauds
    found, wrong = np.cumsum(frauds), np.cumsum(others)
    if not found[-1] or not wrong[-1]:
        return None
    # frauds that rank before each other transaction, those with its own score by half
    auc = float((others * (found - frauds / 2)).sum() / (found[-1] * wrong[-1]))
    called = found + wrong
    precision = np.divide(found, called, out=np.zeros(len(called)), where=called > 0)
    return auc, float((frauds * precision).sum() / found[-1])
