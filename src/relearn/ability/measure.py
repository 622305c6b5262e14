"""The ability tasks of a recipe or a command, files and lm-eval's together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from relearn.ability import lm_eval_tasks, local_tasks
from relearn.ability.local_tasks import Outcome
from relearn.core import distributed
from relearn.core.config import Ability
from relearn.core.console import Ticker, quiet
from relearn.core.errors import InputError
from relearn.core.files import read_json
from relearn.metrics.metric import SplitScores
from relearn.models.load import Loaded


def check_ability(settings: Ability) -> None:
    """Read every file and look up every name, before anything is spent. Raises InputError, MissingPartError."""
    names = Counter(Path(task).stem if local_tasks.is_file(task) else task for task in settings.tasks)
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice:
        raise InputError(f"two tasks are called {twice!r}", where="metrics.ability", way_out="rename one of the files")
    for task in filter(local_tasks.is_file, settings.tasks):
        local_tasks.read_task(task, settings.limit)
    if others := _others(settings):
        lm_eval_tasks.check_tasks(others)


def measure_ability(loaded: Loaded, settings: Ability, *, seed: int = 0, tick: Ticker = quiet) -> list[Outcome]:
    """What the model in memory scores on every task; files are shared by all processes, lm-eval is the main one's."""
    outcomes = []
    for task in filter(local_tasks.is_file, settings.tasks):
        outcomes += local_tasks.run_task(
            loaded, local_tasks.read_task(task, settings.limit), settings, seed=seed, tick=tick
        )
    if others := _others(settings):
        outcomes += distributed.on_main(lambda: lm_eval_tasks.run_tasks(loaded, others, settings, seed=seed)) or []
    return outcomes


def ability_scores(path: Path) -> dict[str, SplitScores]:
    """What `measure_ability` gave, from the file it was written to, as the part "ability"; empty without a file."""
    if not path.exists():
        return {}
    outcomes = [Outcome.from_dict(values) for values in read_json(path)]
    return {"ability": SplitScores({outcome.name: outcome.measurement for outcome in outcomes}, {}, "retain")}


def _others(settings: Ability) -> list[str]:
    return [task for task in settings.tasks if not local_tasks.is_file(task)]
