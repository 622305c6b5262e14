"""Generate answers to the prompts of attacks and store them in audits/answers/ATTACK.MODEL.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from relearn.audits.attack import AttackPrompt, AttackRow, Audit, AuditInputs, FactPrompt
from relearn.core.config import Generate
from relearn.core.files import read_jsonl, write_jsonl
from relearn.data import Form, Record
from relearn.engine.generate import Response, respond
from relearn.inference.answers import note_cut_off, response_fields
from relearn.inference.run_models import MODELS, ModelName
from relearn.models.chat import ChatFormat
from relearn.models.load import Loaded

# Values of "part" in a row: the prompt is about a forget record (fact) or a retain record (kept).
FACT, KEPT = "fact", "kept"
# Model -> rows of one attack; no rows for a model that was not asked.
RowsByModel = Mapping[ModelName, Sequence[AttackRow]]


@dataclass(frozen=True)
class _CompletePrompts(ChatFormat):
    """Chat format that returns the question unchanged, for prompts that are already formatted."""

    def prompt(self, question: str, form: Form) -> str:
        return question


class AnswerFiles:
    """Read and write the rows of every attack and model in a run folder; each file is read at most once."""

    def __init__(self, folder: Path):
        self._folder = folder / "audits" / "answers"
        self._rows: dict[Path, list[AttackRow]] = {}

    def path(self, audit: Audit, model: ModelName) -> Path:
        return self._folder / f"{audit.name}.{model}.jsonl"

    def exists(self, audit: Audit, model: ModelName) -> bool:
        return self.path(audit, model).exists()

    def rows(self, audit: Audit, model: ModelName) -> list[AttackRow]:
        """Return the stored rows of an attack and model; empty if there is no file."""
        path = self.path(audit, model)
        if path not in self._rows:
            self._rows[path] = read_jsonl(path) if path.exists() else []
        return self._rows[path]

    def rows_by_model(self, audit: Audit) -> RowsByModel:
        return {model: self.rows(audit, model) for model in MODELS}

    def write(self, audit: Audit, model: ModelName, rows: Sequence[AttackRow]) -> None:
        path = self.path(audit, model)
        write_jsonl(path, rows)
        self._rows.pop(path, None)


def format_prompt(chat: ChatFormat, prompt: AttackPrompt) -> str:
    """Format a prompt as the model's input text, with the answer prefix at its end."""
    if prompt.form == "text":
        return chat.prompt(" ".join(filter(None, (prompt.text, prompt.answer_prefix))), "text")
    if not prompt.answer_prefix:
        return chat.prompt(prompt.text, "chat")
    return chat.answer_prompt(prompt.text, "chat") + chat.target(prompt.answer_prefix, "chat", closed=False)


def generate_answers(loaded: Loaded, prompts: Sequence[FactPrompt], settings: Generate, *, seed: int) -> list[Response]:
    """Generate one response per prompt, in order, without the answer prefix.

    Prompts without `sample` are decoded by `settings`, greedily by default; others at temperature 1 with the seed
    `seed + sample`.
    """
    chat = loaded.chat
    complete = _CompletePrompts(**vars(chat))
    loaded = replace(loaded, chat=complete)
    answers: dict[int, Response] = {}
    for sample in sorted({prompt.sample or 0 for prompt in prompts}):
        indices = [index for index, prompt in enumerate(prompts) if (prompt.sample or 0) == sample]
        texts = [format_prompt(chat, prompts[index].prompt) for index in indices]
        drawn = settings.model_copy(update={"temperature": 1.0, "top_p": 1.0, "top_k": 0}) if sample else settings
        answers |= dict(zip(indices, respond(loaded, texts, drawn, seed=seed + sample), strict=True))
    note_cut_off(list(answers.values()), settings)
    return [answers[index] for index in range(len(prompts))]


def plain_prompts(records: Sequence[Record], variant: str) -> list[FactPrompt]:
    """Make one prompt of `variant` from each record, with the question unchanged."""
    return [FactPrompt(record.id, variant, AttackPrompt(record.question, form=record.form)) for record in records]


def ask_prompts(
    loaded: Loaded, prompts: Sequence[FactPrompt], inputs: AuditInputs, part: str = FACT
) -> list[AttackRow]:
    """Generate answers to the prompts and return them as rows."""
    answers = generate_answers(loaded, prompts, inputs.recipe.generate, seed=inputs.seed)
    return [
        {"key": prompt.key, "part": part, **prompt.to_dict(), **response_fields(answer, "answer")}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def ask_changed_models(
    load_model: Callable[..., Loaded], audit: Audit, inputs: AuditInputs, retain: Sequence[Record]
) -> list[AttackRow]:
    """Run a weight attack and ask each changed model the plain questions of the facts and of the `retain` records.

    The attack gets a function `ask`. Facts in `shown` are not asked; `with_retain=False` leaves out the retain records;
    `answered`: rows whose answers are stored under `variant` instead of asking. It returns the stored rows.
    """
    rows: list[AttackRow] = []

    def ask(
        variant: str,
        loaded: Loaded,
        shown: Collection[str] = (),
        with_retain: bool = True,
        answered: Sequence[AttackRow] = (),
    ) -> list[AttackRow]:
        new = [_under_variant(row, variant) for row in answered]
        for part, records in () if answered else ((FACT, inputs.facts), (KEPT, retain if with_retain else ())):
            prompts = plain_prompts([record for record in records if record.id not in shown], variant)
            new += ask_prompts(loaded, prompts, inputs, part)
        rows.extend(new)
        return new

    assert audit.change_weights is not None
    audit.change_weights(load_model, inputs, ask)
    return rows


def _under_variant(row: AttackRow, variant: str) -> AttackRow:
    prompt = replace(FactPrompt.from_dict(row), variant=variant)
    return {**row, "key": prompt.key, "variant": variant}
