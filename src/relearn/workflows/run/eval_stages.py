"""The stages that ask, score and report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from relearn.ability import ability_scores, measure_ability
from relearn.core import console, distributed
from relearn.core.run_dir import read_jsonl, write_json
from relearn.inference.answers import Answers, ask, with_response_logprobs
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.judges import make_judges
from relearn.metrics.metric import SplitScores, scores
from relearn.metrics.paired import summarised
from relearn.metrics.retain_reference import load_reference
from relearn.metrics.score import score_parts
from relearn.models.load import Loaded
from relearn.report.build import write_report
from relearn.workflows.run.state import Stage, State


def before(state: State) -> Stage:
    return _asking(state, "before", state.models.start)


def after(state: State) -> Stage:
    return _asking(state, "after", state.models.unlearned)


def _asking(state: State, when: str, model: Callable[[], Loaded]) -> Stage:
    names = [name for name, _, _ in state.parts]
    tasks = state.recipe.metrics.ability

    def work() -> None:
        loaded = model()
        for name in names:
            path = state.folder / f"{when}/{name}.jsonl"
            if distributed.on_main(lambda path=path: path.exists() and state.interrupted):
                continue
            records = state.records(name)
            # What tells members from others is looked at where there are both.
            attacked = bool(state.data.holdout) and name in ("forget", "holdout")
            with console.stage(f"ask {when}: {name.replace('_', ' ')}", len(records)) as tick:
                ask(
                    loaded, records, state.recipe.generate, seed=state.recipe.seed, tick=tick, membership=attacked
                ).write(path)

        if tasks.tasks:
            with console.stage(f"general ability {when}", len(tasks.tasks)) as tick:
                outcomes = measure_ability(loaded, tasks, seed=state.recipe.seed, tick=tick)
            write_json(state.folder / f"{when}/ability.json", [outcome.to_dict() for outcome in outcomes])

    files = [f"{when}/{name}.jsonl" for name in names]
    return Stage([*files, f"{when}/ability.json"] if tasks.tasks else files, work)


def perplexity(state: State) -> Stage:
    def work() -> None:
        base = state.models.base()
        with console.stage("perplexity under the base model"):
            for paths in state.answer_files_by_part():
                add_perplexity(base, paths)
        state.models.release()

    files = [path for paths in state.answer_files_by_part() for path in paths]
    return Stage([str(path.relative_to(state.folder.path)) for path in files], work)


def add_perplexity(base: Loaded, paths: Sequence[Path]) -> None:
    """Fill the log-probabilities of the responses in files of answers to the same questions, where any is missing."""
    files = {path: Answers.read(path) for path in paths}
    lacking = {path: answers for path, answers in files.items() if any(map(_lacks_perplexity, answers.rows))}
    for path, answers in zip(lacking, with_response_logprobs(base, *lacking.values()), strict=True):
        answers.write(path)


def _lacks_perplexity(row: Mapping[str, Any]) -> bool:
    attacked = row.get("reference_moments") is not None
    return row["response_logprobs"] is None or (attacked and row.get("base_logprobs") is None)


def score(state: State) -> Stage:
    def work() -> None:
        with console.stage("score the answers"):
            judges = make_judges(state.recipe.metrics, state.entity_completer(), state.folder / "cache.sqlite")
            measured = {when: _scored(state, when, judges) for when in ("before", "after")}
        write_json(state.folder / "summary.json", summarised(measured, state.recipe.metrics, state.recipe.seed))
        write_json(state.folder / "scores.json", {when: scores(parts) for when, parts in measured.items()})

    return Stage(["summary.json", "scores.json"], work)


def _scored(state: State, when: str, judges: Any) -> dict[str, SplitScores]:
    settings = state.recipe.metrics
    parts: dict[str, tuple[Any, list[AnswerRow]]] = {
        title: (split, [AnswerRow.from_dict(row) for row in read_jsonl(state.folder / f"{when}/{name}.jsonl")])
        for name, split, title in state.parts
    }
    _leave_out_trained(state, parts)
    reference = load_reference(settings.retain_reference) if settings.retain_reference else None
    found = score_parts(parts, settings, judges=judges, seed=state.recipe.seed, reference=reference)
    return {**found, **ability_scores(state.folder / f"{when}/ability.json")}


def _leave_out_trained(state: State, parts: dict[str, tuple[Any, list[AnswerRow]]]) -> None:
    """A wording that training happened to show as well is no other wording."""
    written = state.folder / "synthesis.jsonl"
    if "forget_wordings" in parts and written.exists():
        trained = {row["prompt"] for row in read_jsonl(written)}
        split, rows = parts["forget_wordings"]
        parts["forget_wordings"] = (split, [row for row in rows if row.question not in trained])


def report(state: State) -> Stage:
    def work() -> None:
        with console.stage("write the report"):
            write_report(state.folder.path)

    return Stage(["report.json", "report.html", "model_card.md"], work)
