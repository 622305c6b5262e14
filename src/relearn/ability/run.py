"""The ability tasks of a recipe or a command, files and lm-eval's together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from relearn import parallel
from relearn.ability import harness, local
from relearn.ability.outcome import Outcome
from relearn.config import Ability
from relearn.console import Ticker, quiet
from relearn.errors import InputError
from relearn.metrics.split_scores import SplitScores
from relearn.models.load import Loaded
from relearn.rundir import read_json


def check_ability(settings: Ability) -> None:
    """Read every file and look up every name, before anything is spent. Raises InputError, MissingPartError."""
    names = Counter(Path(task).stem if local.is_file(task) else task for task in settings.tasks)
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice:
        raise InputError(f"two tasks are called {twice!r}", where="metrics.ability", way_out="rename one of the files")
    for task in filter(local.is_file, settings.tasks):
        local.read_task(task, settings.limit)
    if others := _others(settings):
        harness.check_tasks(others)


def measure_ability(loaded: Loaded, settings: Ability, *, seed: int = 0, tick: Ticker = quiet) -> list[Outcome]:
    """What the model in memory scores on every task; files are shared by all processes, lm-eval is the main one's."""
    outcomes = []
    for task in filter(local.is_file, settings.tasks):
        outcomes += local.run_task(loaded, local.read_task(task, settings.limit), settings, seed=seed, tick=tick)
    if others := _others(settings):
        outcomes += parallel.on_main(lambda: harness.run_tasks(loaded, others, settings, seed=seed)) or []
    return outcomes


def ability_scores(path: Path) -> dict[str, SplitScores]:
    """What `measure_ability` gave, from the file it was written to, as the part "ability"; empty without a file."""
    if not path.exists():
        return {}
    outcomes = [Outcome.from_dict(values) for values in read_json(path)]
    return {"ability": SplitScores({outcome.name: outcome.measurement for outcome in outcomes}, {}, "retain")}


def _others(settings: Ability) -> list[str]:
    return [task for task in settings.tasks if not local.is_file(task)]
