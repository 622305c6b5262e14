"""Run tasks of lm-eval (EleutherAI's evaluation harness) on the loaded model; the package is imported only when used.

A task is a name of lm-eval (mmlu, gsm8k, wmdp_bio, ...) or an lm-eval task file (.yaml). Data of named tasks are loaded
from the Hugging Face hub, or from its cache with HF_HUB_OFFLINE. No user data are sent.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from relearn.ability.local_tasks import TaskScore
from relearn.core.config import Ability
from relearn.core.distributed import is_sharded
from relearn.core.errors import InputError, MissingPartError, RunFailedError
from relearn.core.registry import suggest
from relearn.core.run_dir import TASK_FILES
from relearn.engine.generate import plain_settings
from relearn.models.load import Loaded

BOOTSTRAP = 1000


def is_task_file(task: str) -> bool:
    return Path(task).suffix.lower() in TASK_FILES


def check_tasks(tasks: Sequence[str]) -> None:
    """Check lm-eval tasks. Raises MissingPartError without lm-eval, InputError for an unknown task or missing file."""
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingPartError(
            f"the task {tasks[0]!r} is one of lm-eval, which is not installed",
            where="metrics.ability",
            way_out="pip install 'relearn-llm[lm-eval]', or give a file of rows (.jsonl, .json, .csv, .tsv, .parquet)",
        )
    named = [task for task in tasks if not is_task_file(task)]
    for task in tasks:
        if task not in named and not Path(task).is_file():
            raise InputError("no such task file", where=task)
    if named:
        available = set(_task_manager(by_name=True).all_tasks)
        for task in named:
            if task not in available:
                way_out = suggest(task, sorted(available))
                raise InputError(f"lm-eval has no task {task!r}", where="metrics.ability", way_out=way_out)


@cache
def _task_manager(by_name: bool) -> Any:
    """Load lm-eval's index of tasks; `by_name` adds its built-in tasks, thousands of files that are slow to read."""
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    return TaskManager(include_defaults=by_name)


def run_tasks(loaded: Loaded, tasks: Sequence[str], settings: Ability, *, seed: int = 0) -> list[TaskScore]:
    """Run lm-eval's tasks and return one score per measure of every task or group named in `tasks`.

    Raises InputError if lm-eval cannot run the model or the tasks, RunFailedError if it returns no results.
    """
    if getattr(loaded.model, "takes_rows", False) or is_sharded(loaded.model):
        raise InputError(
            "lm-eval cannot ask a model that is changed at inference time, or one in shards",
            where="metrics.ability",
            way_out="give files of rows (.jsonl, .json, .csv, .tsv, .parquet), which relearn runs itself",
        )
    from datasets.exceptions import DatasetsError
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=settings.batch_size)
    try:
        with plain_settings(loaded.model):
            results = simple_evaluate(
                model,
                tasks=list(tasks),
                num_fewshot=settings.shots,
                limit=settings.limit,
                bootstrap_iters=BOOTSTRAP,
                task_manager=_task_manager(by_name=not all(map(is_task_file, tasks))),
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
    if results is None:
        raise RunFailedError("lm-eval gave no results", where="metrics.ability")
    return read_results(results, f"lm-eval {metadata.version('lm-eval')}")


def read_results(results: Mapping[str, Any], by: str) -> list[TaskScore]:
    """Convert the results of `simple_evaluate` to scores; for a group only its own number is kept, not its tasks."""
    in_groups = {child for children in (results.get("group_subtasks") or {}).values() for child in children}
    return [
        score
        for task, measures in {**results["results"], **(results.get("groups") or {})}.items()
        if task not in in_groups
        for score in _task_scores(task, measures, results, by)
    ]


def _task_scores(task: str, measures: Mapping[str, Any], results: Mapping[str, Any], by: str) -> list[TaskScore]:
    samples = (results.get("samples") or {}).get(task, [])
    count = ((results.get("n-samples") or {}).get(task) or {}).get("effective") or measures.get("sample_len")
    shots = (results.get("n-shot") or {}).get(task)
    scores = []
    for key, value in measures.items():
        measure, _, answer_filter = key.partition(",")
        if not answer_filter or measure.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = measures.get(f"{measure}_stderr,{answer_filter}")
        items = _item_values(samples, measure, answer_filter)
        score = TaskScore(
            name=f"{task}/{measure}" if answer_filter == "none" else f"{task}/{measure} ({answer_filter})",
            value=float(value),
            stderr=float(stderr) if isinstance(stderr, int | float) else None,
            n=int(count or len(items)),
            items=items,
            by=by,
            note="" if shots is None else f"{shots} shots",
        )
        scores.append(score)
    return scores


def _item_values(samples: Sequence[Mapping[str, Any]], measure: str, answer_filter: str) -> dict[str, float | None]:
    """Return the value of each question, by its id, if the measure is a mean over questions."""
    return {
        str(sample["doc_id"]): float(sample[measure])
        for sample in samples
        if sample.get("filter", "none") == answer_filter and isinstance(sample.get(measure), int | float)
    }
