"""Questions of attacks to models, answers to the run folder: audits/answers/ATTACK.MODEL.jsonl, asked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from relearn.audits.attack import Ask, Audit, Material
from relearn.core.config import Generate
from relearn.core.files import read_jsonl, write_jsonl
from relearn.data import Form, Record
from relearn.engine.generate import generate
from relearn.inference.run_models import ModelName
from relearn.models.chat import ChatFormat
from relearn.models.load import Loaded

KEPT = "kept"
FACT = "fact"


@dataclass(frozen=True)
class _AsGiven(ChatFormat):
    """Prompts that are complete already."""

    def prompt(self, question: str, form: Form) -> str:
        return question


def prompt_text(chat: ChatFormat, ask: Ask) -> str:
    """What the model is to go on with: the prompt in the model's own form, then the beginning of the answer."""
    if ask.form == "text":
        return chat.prompt(" ".join(filter(None, (ask.prompt, ask.given))), "text")
    return chat.prompt(ask.prompt, "chat") + (chat.glue + ask.given if ask.given else "")


def answers(loaded: Loaded, asks: Sequence[Ask], settings: Generate, seed: int) -> list[str]:
    """One answer for each, in order, without the words it was made to begin with."""
    chat = loaded.chat
    as_given = replace(
        loaded, chat=_AsGiven(chat.tokenizer, chat.use_template, chat.system_prompt, chat.glue, chat.end)
    )
    found: dict[int, str] = {}
    for sample in sorted({ask.sample or 0 for ask in asks}):
        places = [place for place, ask in enumerate(asks) if (ask.sample or 0) == sample]
        drawn = settings if not sample else settings.model_copy(update={"temperature": 1.0, "top_p": 1.0, "top_k": 0})
        texts = generate(as_given, [prompt_text(chat, asks[place]) for place in places], drawn, seed=seed + sample)
        found |= dict(zip(places, texts, strict=True))
    return [found[place] for place in range(len(asks))]


def plain_asks(records: Sequence[Record], variant: str) -> list[Ask]:
    return [Ask(record.id, record.question, variant, form=record.form) for record in records]


class AnswerFiles:
    """The answers of every attack and model in a folder."""

    def __init__(self, folder: Path):
        self._folder = folder / "audits" / "answers"

    def path(self, audit: Audit, model: ModelName) -> Path:
        return self._folder / f"{audit.name}.{model}.jsonl"

    def missing(self, audit: Audit, model: ModelName, keys: Sequence[str] | None = None) -> bool:
        """Whether the answers are not there, or, with `keys`, are answers to other questions."""
        path = self.path(audit, model)
        return not path.exists() or (keys is not None and [row["key"] for row in read_jsonl(path)] != list(keys))

    def read(self, audit: Audit, model: ModelName) -> list[dict[str, Any]]:
        path = self.path(audit, model)
        return read_jsonl(path) if path.exists() else []

    def write(self, audit: Audit, model: ModelName, rows: Sequence[dict[str, Any]]) -> None:
        write_jsonl(self.path(audit, model), rows)


def ask_questions(loaded: Loaded, audit: Audit, asks: Sequence[Ask], material: Material) -> list[dict[str, Any]]:
    texts = answers(loaded, asks, material.recipe.generate, material.seed)
    return [_row(ask, text, FACT, ()) for ask, text in zip(asks, texts, strict=True)]


def ask_changed(fresh: Any, audit: Audit, material: Material, kept: Sequence[Record]) -> list[dict[str, Any]]:
    """The plain questions to every model that the attack makes of a fresh one, and those on a sample of kept facts."""
    rows: list[dict[str, Any]] = []

    def again(variant: str, loaded: Loaded, shown: Sequence[str] = ()) -> None:
        for part, records in ((FACT, material.facts), (KEPT, kept)):
            asks = plain_asks([record for record in records if record.id not in shown], variant)
            texts = answers(loaded, asks, material.recipe.generate, material.seed)
            rows.extend(_row(ask, text, part, shown) for ask, text in zip(asks, texts, strict=True))

    assert audit.changes is not None
    audit.changes(fresh, material, again)
    return rows


def ask_of(row: dict[str, Any]) -> Ask:
    return Ask(
        **{name: row[name] for name in Ask.__dataclass_fields__ if name != "wanted"}, wanted=tuple(row["wanted"])
    )


def _row(ask: Ask, answer: str, part: str, shown: Sequence[str]) -> dict[str, Any]:
    return {"key": ask.key, "part": part, **asdict(ask), "answer": answer}
