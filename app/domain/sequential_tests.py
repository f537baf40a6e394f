"""Sequential tests: of counts that are examined again and again while they grow.

A test for a fixed number of observations would fail sooner or later if it were repeated with each new one. These are
likelihood ratios whose expectation never rises while nothing is wrong. So they ever exceed 1 / alpha with a probability
of at most alpha (Ville's inequality), and may be examined at any time. Both return the logarithm of the ratio.
"""

from collections.abc import Iterable
from math import lgamma, log, pi


def share_exceeds(hits: float, others: float, most: float) -> float:
    """How clearly a share is larger than allowed; 0 if it is not.

    The numerator is the likelihood of the counts, averaged over all shares with Jeffreys' prior (Krichevsky and
    Trofimov, The Performance of Universal Encoding, 1981; Robbins, Statistical Methods Related to the Law of the
    Iterated Logarithm, 1970). The denominator is their largest likelihood under an allowed share, so the bound holds
    for each of these (Wasserman, Ramdas and Balakrishnan, Universal Inference, 2020).

    Args:
        hits: number of observations that count towards the share.
        others: number of the other observations.
        most: largest allowed share.
    """
    every = hits + others
    if hits <= most * every:  # also if any share is allowed
        return 0.0
    averaged = lgamma(hits + 0.5) + lgamma(others + 0.5) - lgamma(every + 1) - log(pi)
    return max(0.0, averaged - hits * log(most) - others * log(1 - most))


def nearly_all_hit(observed: Iterable[bool], most: float, share: float = 0.9) -> float:
    """How clearly nearly all observations are hits, at the observation where that was clearest; 0 if it never was.

    Wald, Sequential Tests of Statistical Hypotheses, 1945.

    Args:
        observed: the observations in their order.
        most: largest allowed share of hits, below `share`.
        share: what it is compared with.
    """
    hit, other = log(share / most), log((1 - share) / (1 - most))
    ratio = clearest = 0.0
    for one in observed:
        ratio += hit if one else other
        clearest = max(clearest, ratio)
    return clearest
