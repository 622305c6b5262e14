"""Measure general ability before and after unlearning: on local task files and through lm-eval."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from relearn.ability import lm_eval_tasks, local_tasks
from relearn.ability.local_tasks import TaskScore
from relearn.core import distributed
from relearn.core.config import Ability
from relearn.core.console import Ticker, quiet
from relearn.core.errors import InputError
from relearn.core.files import read_json
from relearn.metrics.metric import SplitScores
from relearn.models.load import Loaded

__all__ = ["TaskScore", "ability_scores", "check_ability", "measure_ability"]


def check_ability(settings: Ability) -> None:
    """Check all task files and task names before a model is loaded.

    Raises InputError for a wrong file, an unknown or a repeated task, MissingPartError if lm-eval is not installed.
    """
    names = Counter(Path(task).stem if local_tasks.is_file(task) else task for task in settings.tasks)
    repeated = next((name for name, count in names.items() if count > 1), None)
    if repeated:
        where, way_out = "metrics.ability", "rename one of the files"
        raise InputError(f"two tasks are called {repeated!r}", where=where, way_out=way_out)
    files, lm_eval_names = _split_tasks(settings)
    for task in files:
        local_tasks.read_task(task, settings.limit)
    if lm_eval_names:
        lm_eval_tasks.check_tasks(lm_eval_names)


def measure_ability(loaded: Loaded, settings: Ability, *, seed: int = 0, tick: Ticker = quiet) -> list[TaskScore]:
    """Score the loaded model on every task; all processes share the task files, only the main one runs lm-eval."""
    files, lm_eval_names = _split_tasks(settings)
    scores = []
    for path in files:
        task = local_tasks.read_task(path, settings.limit)
        scores += local_tasks.run_task(loaded, task, settings, seed=seed, tick=tick)
    if lm_eval_names:
        run = lm_eval_tasks.run_tasks
        scores += distributed.on_main(lambda: run(loaded, lm_eval_names, settings, seed=seed)) or []
    return scores


def ability_scores(path: Path) -> dict[str, SplitScores]:
    """Read saved scores of `measure_ability` as the part "ability" of a summary; {} if there is no file."""
    if not path.exists():
        return {}
    scores = [TaskScore(**values) for values in read_json(path)]
    return {"ability": SplitScores({score.name: score.measurement for score in scores}, {}, "retain")}


def _split_tasks(settings: Ability) -> tuple[list[str], list[str]]:
    """Split the tasks into local task files and names of lm-eval tasks."""
    files = [task for task in settings.tasks if local_tasks.is_file(task)]
    return files, [task for task in settings.tasks if not local_tasks.is_file(task)]
