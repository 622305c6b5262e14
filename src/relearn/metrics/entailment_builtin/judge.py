"""Load the built-in entailment judge, and ask it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from relearn.errors import InputError
from relearn.metrics.entailment_builtin.model import POSITIONS, Decider, Encoder, add_adapter, read_base
from relearn.metrics.verdicts import LABELS, PairJudge, Verdict, verdict_of
from relearn.models.packages import builtin_path
from relearn.rundir import file_hash

HERE = Path(__file__).parent


class BuiltinJudge(PairJudge):
    """float32, on the GPU when there is one; repeatable, nothing is drawn. Each text may have 512 tokens."""

    def __init__(self, encoder: Encoder, decider: Decider, tokenizer: Tokenizer, settings: dict, batch_size: int = 32):
        super().__init__(f"builtin (all-MiniLM-L6-v2 + LoRA, version {settings['version']})", batch_size)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._encoder, self._decider = encoder.to(self._device).eval(), decider.to(self._device).eval()
        self.temperature = float(settings["temperature"])
        self._tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()

    def _judge(self, pairs: list[tuple[str, str]]) -> list[Verdict]:
        probabilities = torch.softmax(self.logits(pairs).double() / self.temperature, dim=-1)
        return [verdict_of(row) for row in probabilities.cpu().tolist()]

    @torch.inference_mode()
    def logits(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """(pairs, 3) before the temperature, in the order of LABELS; one batch."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        found = self._tokenizer.encode_batch(texts)
        ids = {text: one.ids for text, one in zip(texts, found, strict=True)}
        self.truncated += sum(any(len(ids[text]) > POSITIONS for text in pair) for pair in pairs)
        # The last token of every text is the end mark, which a text cut short keeps.
        cut = [
            [*ids[text][: POSITIONS - 1], ids[text][-1]] if len(ids[text]) > POSITIONS else ids[text] for text in texts
        ]
        padded, mask = self._padded(cut)
        states = dict(zip(texts, zip(self._encoder(padded, mask), map(len, cut), strict=True), strict=True))
        return self._decide([(states[premise], states[hypothesis]) for premise, hypothesis in pairs])

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        padded = torch.zeros(mask.shape, dtype=torch.long)
        padded[mask] = torch.tensor([token for row in rows for token in row])
        return padded.to(self._device), mask.to(self._device)

    def _decide(self, pairs: list[tuple[tuple[Tensor, int], tuple[Tensor, int]]]) -> Tensor:
        joined = [torch.cat([premise[:p], hypothesis[:h]]) for (premise, p), (hypothesis, h) in pairs]
        hidden = torch.nn.utils.rnn.pad_sequence(joined, batch_first=True)
        first = torch.tensor([p for (_, p), _ in pairs], device=self._device)
        whole = torch.tensor([len(both) for both in joined], device=self._device)
        at = torch.arange(hidden.shape[1], device=self._device)
        mask = None if bool((whole == whole[0]).all()) else at < whole[:, None]
        return self._decider(hidden, at < first[:, None], mask)


def load_builtin(batch_size: int = 32, folder: Path = HERE) -> BuiltinJudge:
    """The judge whose adapter and settings lie in `folder`.

    Raises `MissingPartError` when all-MiniLM-L6-v2 is not installed, `InputError` when weights are not what they should
    be.
    """
    settings = json.loads((folder / "adapter.json").read_text(encoding="utf-8"))
    assert tuple(settings["labels"]) == LABELS
    adapter = folder / "adapter.safetensors"
    if file_hash(adapter) != settings["sha256"]:
        raise InputError(
            "the adapter of the built-in entailment judge is damaged",
            where=str(adapter),
            way_out="install relearn again",
        )
    base = builtin_path(settings["base"])
    encoder, decider = read_base(load_file(base / "model.safetensors"), settings["inner"])
    add_adapter(decider, load_file(adapter))
    return BuiltinJudge(encoder, decider, Tokenizer.from_file(str(base / "tokenizer.json")), settings, batch_size)
