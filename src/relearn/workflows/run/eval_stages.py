"""Run the evaluation stages of a run: before, after, perplexity, scores, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relearn.ability import ability_scores, check_ability, measure_ability
from relearn.core import console, distributed
from relearn.core.config import Generate, Model, Recipe
from relearn.core.files import write_json
from relearn.core.run_dir import CACHE, MODEL_CARD, REPORT_HTML, REPORT_JSON, SCORES, SIDES, SUMMARY, RunFolder
from relearn.data import Record
from relearn.data.validation import DataSet, Places, check_lengths, check_special_tokens
from relearn.engine.model_support import SHORTER_ANSWERS, SHORTER_ROWS, check_positions, position_limit
from relearn.inference.answers import Answers, ask, with_response_logprobs
from relearn.inference.run_models import base_spec
from relearn.metrics.answer_row import AnswerRow
from relearn.metrics.judges import make_judges
from relearn.metrics.llm_judge import check_remote_judge
from relearn.metrics.metric import SplitScores, scores
from relearn.metrics.paired import summarised
from relearn.metrics.retain_reference import load_reference
from relearn.metrics.score import score_parts
from relearn.models.chat import ChatFormat, control_tokens
from relearn.models.load import Loaded, chat_of, check_backend, check_checkpoint, load_config, load_tokenizer
from relearn.report.build import write_report
from relearn.synthesis.generation_cost import WITH_ANSWERS, check_remote, token_counter
from relearn.workflows.run.context import RunContext


def check_asking(recipe: Recipe, data: DataSet) -> None:
    check_backend(recipe.generate, recipe.model)
    check_ability(recipe.metrics.ability)
    if recipe.metrics.base_model:
        check_checkpoint(base_spec(recipe))
    for name, records in data.sets():
        check_texts(recipe, records, data.places.get(name))


def check_texts(recipe: Recipe, records: Sequence[Record], places: Places | None) -> None:
    """Raise InputError for a control token of the model in a text, or for a text that is too long.

    The limits are `unlearn.max_length`, and the positions of the model for a prompt with `generate.max_new_tokens`.
    """
    tokenizer = load_tokenizer(recipe.model)
    chat, count = chat_of(tokenizer, recipe.model), token_counter(tokenizer)
    frame = count(chat.answer_prompt("", "chat") + chat.target("", "chat"))
    check_special_tokens(records, control_tokens(tokenizer), places)
    check_lengths(records, count, recipe.unlearn.max_length - frame, places)
    check_prompts(recipe.model, chat, records, recipe.generate, places or {})


def check_prompts(spec: Model, chat: ChatFormat, records: Sequence[Record], settings: Generate, places: Places) -> None:
    """Raise InputError for a record whose prompt leaves too few positions for its answer or `max_new_tokens`."""
    config = load_config(spec)
    if position_limit(config) is None:
        return
    for record in records:
        prompt = chat.answer_prompt(record.question, record.form)
        answer = len(chat.tokenizer(chat.target(record.answer, record.form)).input_ids)
        # Generic records are learned and never asked.
        room = 0 if record.split == "generic" else settings.max_new_tokens
        tokens = len(chat.tokenizer(prompt, add_special_tokens=False).input_ids) + max(answer, room)
        way_out = SHORTER_ROWS if answer >= room else SHORTER_ANSWERS
        where = places.get(record.id) or record.source
        check_positions(config, tokens, name=spec.name, where=where, way_out=way_out)


def before_outputs(context: RunContext) -> list[str]:
    return _answer_outputs(context, "before")


def before(context: RunContext) -> None:
    """Ask the start model the questions of all splits."""
    _ask_all(context, "before", context.models.start())


def after_outputs(context: RunContext) -> list[str]:
    return _answer_outputs(context, "after")


def after(context: RunContext) -> None:
    """Ask the unlearned model the same questions."""
    _ask_all(context, "after", context.models.unlearned())


def _answer_outputs(context: RunContext, side: str) -> list[str]:
    ability = [f"{side}/ability.json"] if context.recipe.metrics.ability.tasks else []
    return [*(f"{side}/{split.answer_file}" for split in context.splits), *ability]


def _ask_all(context: RunContext, side: str, loaded: Loaded) -> None:
    recipe = context.recipe
    for split in context.splits:
        path = context.folder.answers_path(side, split.name)
        if distributed.on_main(lambda path=path: path.exists() and context.interrupted):
            continue
        records = context.records(split.name)
        # Membership inference compares forget records (members) with holdout records (non-members).
        membership = bool(context.data.holdout) and split.name in ("forget", "holdout")
        with console.stage(f"ask {side}: {split.name.replace('_', ' ')}", len(records)) as tick:
            answers = ask(loaded, records, recipe.generate, seed=recipe.seed, tick=tick, membership=membership)
            answers.write(path)
    ability = recipe.metrics.ability
    if ability.tasks:
        with console.stage(f"general ability {side}", len(ability.tasks)) as tick:
            outcomes = measure_ability(loaded, ability, seed=recipe.seed, tick=tick)
        write_json(context.folder / f"{side}/ability.json", [outcome.to_dict() for outcome in outcomes])


def perplexity_outputs(context: RunContext) -> list[str]:
    paths = [path for paths in context.answer_files() for path in paths]
    return [str(path.relative_to(context.folder.path)) for path in paths]


def perplexity(context: RunContext) -> None:
    """Compute token log-probabilities of all answers under the base model."""
    base = context.models.base()
    with console.stage("perplexity under the base model"):
        for paths in context.answer_files():
            add_perplexity(base, paths)
    context.models.release()


def add_perplexity(base: Loaded, paths: Sequence[Path]) -> None:
    """Compute missing log-probabilities of answers, in files of answers to the same questions."""
    files = {path: Answers.read(path) for path in paths}
    incomplete = {path: answers for path, answers in files.items() if any(map(_lacks_perplexity, answers.rows))}
    for path, answers in zip(incomplete, with_response_logprobs(base, *incomplete.values()), strict=True):
        answers.write(path)


def _lacks_perplexity(row: Mapping[str, Any]) -> bool:
    has_membership = row.get("reference_moments") is not None
    return row["response_logprobs"] is None or (has_membership and row.get("base_logprobs") is None)


def check_scores(recipe: Recipe, data: DataSet) -> None:
    check_remote_judge(recipe.metrics)
    if recipe.metrics.retain_reference:
        load_reference(recipe.metrics.retain_reference)
    if recipe.metrics.entities != "spacy":
        check_remote(recipe.synthesis, len(data.forget), WITH_ANSWERS)


def score_outputs(_: RunContext) -> list[str]:
    return [SUMMARY, SCORES]


def score(context: RunContext) -> None:
    """Score the answers before and after unlearning with all metrics, and the differences between them."""
    settings = context.recipe.metrics
    with console.stage("score the answers"):
        judges = make_judges(settings, context.entity_generator(), context.folder / CACHE)
        by_side = {side: _score_side(context, side, judges) for side in SIDES}
    write_summary(context.folder, summarised(by_side, settings, context.recipe.seed))
    write_json(context.folder / SCORES, {side: scores(parts) for side, parts in by_side.items()})


def write_summary(folder: RunFolder, summary: Mapping[str, Any]) -> None:
    """Write summary.json, with the strength and the worst case of the audit of the folder, if there is one."""
    audit = {"audit": folder.audit_worst_case} if folder.audit_worst_case else {}
    write_json(folder / SUMMARY, {**summary, **audit})


def _score_side(context: RunContext, side: str, judges: Any) -> dict[str, SplitScores]:
    settings, folder = context.recipe.metrics, context.folder
    rows: dict[str, tuple[Any, list[AnswerRow]]] = {
        split.key: (split.scored_as, [AnswerRow.from_dict(row) for row in folder.answers(side, split.name)])
        for split in context.splits
    }
    if "forget_wordings" in rows:
        # A wording that is also a training prompt is not held out.
        trained = {row["prompt"] for row in folder.synthesis_rows}
        scored_as, wordings = rows["forget_wordings"]
        rows["forget_wordings"] = (scored_as, [row for row in wordings if row.question not in trained])
    reference = load_reference(settings.retain_reference) if settings.retain_reference else None
    measured = score_parts(rows, settings, judges=judges, seed=context.recipe.seed, reference=reference)
    return {**measured, **ability_scores(folder / f"{side}/ability.json")}


def report_outputs(_: RunContext) -> list[str]:
    return [REPORT_JSON, REPORT_HTML, MODEL_CARD]


def report(context: RunContext) -> None:
    with console.stage("write the report"):
        write_report(context.folder.path)
