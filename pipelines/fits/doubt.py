"""Which stored fits are valid but doubtful, by their scores. Nothing is stored for it: the score and its rule say it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spin.fitting.verdicts import DOUBTFUL, VERDICTS, is_doubtful
from store.fits.records import Source

if TYPE_CHECKING:
    from jaxtyping import Bool

    from store.fits.records import Fits

EXPECTED_ERROR = "expected-error-mm"
"""What a fingerprint's score rule begins with where scores are expected errors in mm."""


def in_mm(score_rule: str) -> bool:
    """Whether scores of this rule are expected errors. Others, in px² for example, tell of no doubt."""
    return score_rule.partition(":")[0] == EXPECTED_ERROR


def doubtful_fits(fits: Fits, score_rule: str) -> Bool[np.ndarray, " n"]:
    """Return which fits are valid, with a high expected error."""
    if not in_mm(score_rule):
        return np.zeros(len(fits), bool)
    doubtful: np.ndarray = (fits.source != Source.NONE) & is_doubtful(fits.verdict, fits.score)
    return doubtful


def status_in_words(fits: Fits, score_rule: str) -> list[str]:
    """Return each fit's verdict in words, DOUBTFUL for valid ones that are doubtful."""
    doubtful = doubtful_fits(fits, score_rule).tolist()
    return [DOUBTFUL if doubt else VERDICTS[verdict] for verdict, doubt in zip(fits.verdict.tolist(), doubtful)]
