"""What each of Optuna's importance evaluators answers, in words."""

from __future__ import annotations

from collections.abc import Mapping

ANSWERS: Mapping[str, str] = {
    "fANOVA": "share of the variance over all combinations of choices, impossible ones too, as a "
    "random forest fitted to the trials predicts it",
    "PED-ANOVA": "what sets the best tenth of the trials apart from the rest",
}
