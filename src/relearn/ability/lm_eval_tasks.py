"""Tasks of lm-eval (EleutherAI's evaluation harness) on the model in memory; the package is loaded only when asked for.

Tasks are named as lm-eval names them (mmlu, gsm8k, wmdp_bio, ...), or are its task files (.yaml). Data of named tasks
come from the hub, or from its cache where HF_HUB_OFFLINE is set; nothing of the user's is sent anywhere.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from relearn.ability.local_tasks import Outcome
from relearn.core.config import Ability
from relearn.core.errors import InputError, MissingPartError, RunFailedError
from relearn.core.registry import suggest
from relearn.models.load import Loaded
from relearn.models.sharding import is_sharded

BOOTSTRAP = 1000
_TASK_FILES = (".yaml", ".yml")


def is_task_file(task: str) -> bool:
    return Path(task).suffix.lower() in _TASK_FILES


def check_tasks(tasks: Sequence[str]) -> None:
    """Raises MissingPartError without lm-eval, InputError for a task it does not know or a file that is not there."""
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingPartError(
            f"the task {tasks[0]!r} is one of lm-eval, which is not installed",
            where="metrics.ability",
            way_out="pip install 'relearn-llm[lm-eval]', or give a file of rows (.jsonl, .json, .csv, .parquet)",
        )
    named = [task for task in tasks if not is_task_file(task)]
    for task in tasks:
        if task not in named and not Path(task).is_file():
            raise InputError("no such task file", where=task)
    if named:
        known = set(_tasks(by_name=True).all_tasks)
        for task in named:
            if task not in known:
                raise InputError(
                    f"lm-eval has no task {task!r}", where="metrics.ability", way_out=suggest(task, sorted(known))
                )


@cache
def _tasks(by_name: bool) -> Any:
    """lm-eval's index of tasks; with `by_name` its own are in it, thousands of files that take seconds to read."""
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    return TaskManager(include_defaults=by_name)


def run_tasks(loaded: Loaded, tasks: Sequence[str], settings: Ability, *, seed: int = 0) -> list[Outcome]:
    """The outcomes of lm-eval's tasks: of every task or group that was asked for, one for each of its measures."""
    if getattr(loaded.model, "takes_rows", False) or is_sharded(loaded.model):
        raise InputError(
            "lm-eval cannot ask a model that is changed at inference time, or one in shards",
            where="metrics.ability",
            way_out="give files of rows (.jsonl, .json, .csv, .parquet), which relearn runs itself",
        )
    from datasets.exceptions import DatasetsError
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=settings.batch_size)
    try:
        found = simple_evaluate(
            model,
            tasks=list(tasks),
            num_fewshot=settings.shots,
            limit=settings.limit,
            bootstrap_iters=BOOTSTRAP,
            task_manager=_tasks(by_name=not all(map(is_task_file, tasks))),
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except (OSError, ValueError, TypeError, KeyError, ImportError, DatasetsError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"lm-eval could not run {', '.join(tasks)}: {first_line}",
            where="metrics.ability",
            way_out="data of named tasks come from the hub; offline give files of rows or a task file of your own",
        ) from None
    if found is None:
        raise RunFailedError("lm-eval gave no results", where="metrics.ability")
    return read_results(found, f"lm-eval {metadata.version('lm-eval')}")


def read_results(found: Mapping[str, Any], by: str) -> list[Outcome]:
    """The outcomes in what `simple_evaluate` returns; the tasks within a group stand for it only in its own number."""
    inside = {child for children in (found.get("group_subtasks") or {}).values() for child in children}
    return [
        outcome
        for task, measures in {**found["results"], **(found.get("groups") or {})}.items()
        if task not in inside
        for outcome in _outcomes(task, measures, found, by)
    ]


def _outcomes(task: str, measures: Mapping[str, Any], found: Mapping[str, Any], by: str) -> list[Outcome]:
    samples = (found.get("samples") or {}).get(task, [])
    count = ((found.get("n-samples") or {}).get(task) or {}).get("effective") or measures.get("sample_len")
    shots = (found.get("n-shot") or {}).get(task)
    outcomes = []
    for key, value in measures.items():
        measure, _, kept = key.partition(",")
        if not kept or measure.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = measures.get(f"{measure}_stderr,{kept}")
        items = _items(samples, measure, kept)
        name = f"{task}/{measure}" if kept == "none" else f"{task}/{measure} ({kept})"
        outcomes.append(
            Outcome(
                name,
                float(value),
                float(stderr) if isinstance(stderr, int | float) else None,
                int(count or len(items)),
                items,
                by,
                "" if shots is None else f"{shots} shots",
            )
        )
    return outcomes


def _items(samples: Sequence[Mapping[str, Any]], measure: str, kept: str) -> dict[str, float | None]:
    """Each question's value, where the measure is a mean over questions."""
    return {
        str(sample["doc_id"]): float(sample[measure])
        for sample in samples
        if sample.get("filter", "none") == kept and isinstance(sample.get(measure), int | float)
    }
