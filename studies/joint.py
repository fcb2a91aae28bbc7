"""The base of this product's samplers: all parameters of a trial are proposed together."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from studies.space import Survey


class JointSampler(BaseSampler):
    """Proposes in `sample_relative` alone, among what a survey says is possible."""

    def __init__(self, survey: Survey) -> None:
        """Take the possible configurations."""
        self._survey = survey

    @property
    def _distributions(self) -> dict[str, BaseDistribution]:
        searched = self._survey.space.searched
        return {name: CategoricalDistribution(choices) for name, choices in searched.items()}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return all searched axes."""
        return self._distributions

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Refuse: a parameter drawn on its own could be impossible together with the others."""
        raise RuntimeError(f"parameter {param_name} is not an axis of this study")
