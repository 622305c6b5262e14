"""Generate answers to the prompts of attacks and store them in audits/answers/ATTACK.MODEL.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from relearn.audits.attack import AnswerFunction, AttackPrompt, AttackRow, Audit, AuditInputs, FactPrompt
from relearn.core.config import Generate
from relearn.core.files import read_jsonl, write_jsonl
from relearn.data import Form, Record
from relearn.engine.generate import Response, respond
from relearn.inference.answers import note_cut_off, response_fields
from relearn.inference.run_models import MODELS, ModelName
from relearn.models.chat import ChatFormat, History
from relearn.models.load import Loaded

# Values of "part" in a row: the prompt is about a forget record (fact) or a retain record (kept).
FACT, KEPT = "fact", "kept"
REPLY_TOKENS = 64
# Model -> rows of one attack; no rows for a model that was not asked.
RowsByModel = Mapping[ModelName, Sequence[AttackRow]]


@dataclass(frozen=True)
class _CompletePrompts(ChatFormat):
    """Chat format that returns the question unchanged, for prompts that are already formatted."""

    def prompt(self, question: str, form: Form, history: History = ()) -> str:
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


def format_prompt(chat: ChatFormat, prompt: AttackPrompt, history: History = ()) -> str:
    """Format a prompt as the model's input text, with the answer prefix at its end, after the turns in `history`."""
    if prompt.form == "text":
        return chat.prompt(" ".join(filter(None, (prompt.text, prompt.answer_prefix))), "text")
    if not prompt.answer_prefix:
        return chat.prompt(prompt.text, "chat", history)
    return chat.answer_prompt(prompt.text, "chat", history) + chat.target(prompt.answer_prefix, "chat", closed=False)


def generate_answers(loaded: Loaded, prompts: Sequence[FactPrompt], settings: Generate, *, seed: int) -> list[Response]:
    """Generate one response per prompt, in order, without the answer prefix.

    Prompts without `sample` are decoded by `settings`, greedily by default; others at temperature 1 with the seed
    `seed + sample`. All samples of a prompt are decoded together, so that the prompt is computed once. In a
    conversation the model's replies to the earlier turns, of at most REPLY_TOKENS, come first in the response.
    """
    histories = _histories(loaded, prompts, settings, seed)
    texts = [format_prompt(loaded.chat, one.prompt, history) for one, history in zip(prompts, histories, strict=True)]
    answers = _respond(loaded, texts, prompts, settings, seed=seed)
    note_cut_off(answers, settings)
    return [
        replace(answer, text="\n\n".join(filter(None, (*_own_replies(one.prompt, history), answer.text))))
        for one, history, answer in zip(prompts, histories, answers, strict=True)
    ]


def _histories(
    loaded: Loaded, prompts: Sequence[FactPrompt], settings: Generate, seed: int
) -> list[list[tuple[str, str]]]:
    """Hold the conversation before each prompt, turn by turn over all prompts; return its messages and replies."""
    short = settings.model_copy(update={"max_new_tokens": min(settings.max_new_tokens, REPLY_TOKENS)})
    histories: list[list[tuple[str, str]]] = [[] for _ in prompts]
    for turn in range(max((len(one.prompt.turns) for one in prompts), default=0)):
        turns = {number: one.prompt.turns[turn] for number, one in enumerate(prompts) if turn < len(one.prompt.turns)}
        unanswered = [number for number, (_, reply) in turns.items() if reply is None]
        texts = [loaded.chat.prompt(turns[number][0], "chat", histories[number]) for number in unanswered]
        responses = _respond(loaded, texts, [prompts[number] for number in unanswered], short, seed=seed)
        replies = dict(zip(unanswered, responses, strict=True))
        for number, (message, reply) in turns.items():
            histories[number].append((message, replies[number].text if reply is None else reply))
    return histories


def _own_replies(prompt: AttackPrompt, history: History) -> list[str]:
    """Return the replies of the conversation that the model generated."""
    return [text for (_, given), (_, text) in zip(prompt.turns, history, strict=True) if given is None]


def _respond(
    loaded: Loaded, texts: Sequence[str], prompts: Sequence[FactPrompt], settings: Generate, *, seed: int
) -> list[Response]:
    """Generate one response per formatted text, with the sample number of its prompt."""
    complete = replace(loaded, chat=_CompletePrompts(**vars(loaded.chat)))
    answers: dict[int, Response] = {}
    for is_sampled in (False, True):
        numbers = [number for number, prompt in enumerate(prompts) if bool(prompt.sample) == is_sampled]
        drawn = settings.model_copy(update={"temperature": 1.0, "top_p": 1.0, "top_k": 0}) if is_sampled else settings
        seeds = [seed + (prompts[number].sample or 0) for number in numbers]
        own = respond(complete, [texts[number] for number in numbers], drawn, seed=seeds)
        answers |= dict(zip(numbers, own, strict=True))
    return [answers[number] for number in range(len(prompts))]


def plain_prompts(records: Sequence[Record], variant: str) -> list[FactPrompt]:
    """Make one prompt of `variant` from each record, with the question unchanged."""
    return [FactPrompt(record.id, variant, AttackPrompt(record.question, form=record.form)) for record in records]


def ask_prompts(
    loaded: Loaded,
    prompts: Sequence[FactPrompt],
    inputs: AuditInputs,
    part: str = FACT,
    *,
    answer: AnswerFunction | None = None,
) -> list[AttackRow]:
    """Generate answers to the prompts and return them as rows; `answer` generates them in another way."""
    if answer is not None:
        answers = answer(loaded, prompts, inputs)
    else:
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
