"""General ability, before and after: what unlearning costs elsewhere, on task files at hand and through lm-eval."""

from relearn.ability.local_tasks import Outcome
from relearn.ability.measure import ability_scores, check_ability, measure_ability

__all__ = ["Outcome", "ability_scores", "check_ability", "measure_ability"]
