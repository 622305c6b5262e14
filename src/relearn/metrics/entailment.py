"""Load an entailment judge (natural language inference): the built-in one, or a sequence-classification model.

The paper (arXiv 2502.11190) uses deberta-v3-base-tasksource-nli.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relearn.core.errors import InputError, loading
from relearn.metrics.nli import LABELS, NLIVerdict, PairJudge, verdict_of

BUILTIN = "builtin"


def load_entailment(
    name: str = BUILTIN, revision: str | None = None, *, batch_size: int = 32, device: str | None = None
) -> PairJudge:
    """Load an entailment judge: `builtin`, or a folder or hub name of a model with the three labels in its config.

        judge = load_entailment()
        judge([("She lives in Oslo.", "She lives in Norway.")])  # [{"entailment": p, "neutral": p, "contradiction": p}]

    device: by default the GPU when there is one. batch_size: pairs per pass; the built-in judge counts tokens instead.
    Raises MissingPartError when the built-in judge's base model is not installed, InputError for a model that cannot be
    loaded.
    """
    if name == BUILTIN:
        from relearn.metrics.entailment_builtin.judge import load_builtin

        return load_builtin(device=device)
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    way_out = "a folder or a hub name of a sequence-classification model saved as safetensors"
    with loading(f"the entailment model {name!r}", where="metrics.entailment", way_out=way_out):
        origin: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(name, **origin)
        model = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, **origin
        )
    return TransformersJudge(name, tokenizer, model, batch_size, device)


class TransformersJudge(PairJudge):
    """Judge pairs with a sequence-classification model in float32; deterministic."""

    def __init__(self, name: str, tokenizer, model, batch_size: int = 32, device: str | None = None):
        import torch

        super().__init__(name, batch_size)
        self._columns = _label_columns(model.config.id2label, name)
        self._tokenizer = tokenizer
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model = model.to(self._device).eval()
        longest = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
        self._limit = int(min(longest, tokenizer.model_max_length))

    def _judge(self, pairs: list[tuple[str, str]]) -> list[NLIVerdict]:
        import torch

        premises, hypotheses = [list(side) for side in zip(*pairs, strict=True)]
        self.truncated += sum(len(ids) > self._limit for ids in self._tokenizer(premises, hypotheses)["input_ids"])
        inputs = self._tokenizer(
            premises, hypotheses, padding=True, truncation=True, max_length=self._limit, return_tensors="pt"
        ).to(self._device)
        with torch.inference_mode():
            logits = self._model(**inputs).logits[:, self._columns].double()
        return [verdict_of(row) for row in torch.softmax(logits, dim=-1).cpu().tolist()]


def _label_columns(id2label: Mapping[int, str], name: str) -> list[int]:
    """Find the columns of entailment, neutral and contradiction among the model's outputs."""
    columns = {str(label).strip().lower(): int(index) for index, label in id2label.items()}
    if not set(LABELS) <= set(columns):
        raise InputError(
            f"{name!r} names its labels {sorted(columns)}, not entailment, neutral and contradiction",
            where="metrics.entailment",
            way_out="a model for natural language inference, or set id2label in its config.json",
        )
    return [columns[label] for label in LABELS]
