"""Load and run the built-in entailment judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from relearn.core.errors import InputError
from relearn.core.files import file_hash
from relearn.metrics.entailment_builtin.model import POSITIONS, Decider, Encoder, add_adapter, read_base
from relearn.metrics.nli import LABELS, NLIVerdict, PairJudge, verdict_of
from relearn.models.builtin import builtin_path

HERE = Path(__file__).parent
BatchItem = TypeVar("BatchItem", bound=Hashable)
PassInput = TypeVar("PassInput")
PassOutput = TypeVar("PassOutput")
# Pairs in memory at once. Hidden states take 1.5 kB per token.
BLOCK = 256
# Tokens per pass. On a CPU the activations of a layer must fit into the cache; a GPU needs more tokens to be busy.
CPU_TOKENS, GPU_TOKENS = 512, 32768


class BuiltinJudge(PairJudge):
    """Judge pairs with the built-in model in float32; deterministic. Each text is cut to 512 tokens."""

    def __init__(
        self, encoder: Encoder, decider: Decider, tokenizer: Tokenizer, settings: dict, device: str | None = None
    ):
        super().__init__(f"builtin (all-MiniLM-L6-v2 + LoRA, version {settings['version']})", BLOCK)
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._encoder, self._decider = encoder.to(self._device).eval(), decider.to(self._device).eval()
        self._tokens = CPU_TOKENS if self._device.type == "cpu" else GPU_TOKENS
        self.temperature = float(settings["temperature"])
        self._tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()

    def _judge(self, pairs: list[tuple[str, str]]) -> list[NLIVerdict]:
        probabilities = torch.softmax(self.logits(pairs).double() / self.temperature, dim=-1)
        return [verdict_of(row) for row in probabilities.cpu().tolist()]

    @torch.inference_mode()
    def logits(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """Compute the logits before the temperature, (pairs, 3) in the order of LABELS; each text and pair once."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        ids = {text: one.ids for text, one in zip(texts, self._tokenizer.encode_batch(texts), strict=True)}
        self.truncated += sum(any(len(ids[text]) > POSITIONS for text in pair) for pair in pairs)
        # A truncated text keeps its last token, the end token.
        cut = {text: [*own[: POSITIONS - 1], own[-1]] if len(own) > POSITIONS else own for text, own in ids.items()}
        states = self._in_passes(
            texts, lambda text: len(cut[text]), lambda batch: self._read([cut[text] for text in batch])
        )
        logits = self._in_passes(
            list(dict.fromkeys(pairs)),
            lambda pair: len(cut[pair[0]]) + len(cut[pair[1]]),
            lambda batch: self._decide([(states[premise], states[hypothesis]) for premise, hypothesis in batch]),
        )
        return torch.stack([logits[pair] for pair in pairs])

    def _in_passes(
        self,
        items: Sequence[BatchItem],
        length: Callable[[BatchItem], int],
        work: Callable[[list[BatchItem]], Sequence[Tensor]],
    ) -> dict[BatchItem, Tensor]:
        """Run `work` on batches of the items, and return the tensor of each item."""
        passes = list(_passes(items, length, self._tokens))
        results = map_on_threads(work, passes) if self._device.type == "cpu" else map(work, passes)
        return {
            item: row
            for batch, rows in zip(passes, results, strict=True)
            for item, row in zip(batch, rows, strict=True)
        }

    def _read(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        mask = _mask([len(row) for row in rows])
        if mask is None:
            return list(self._encoder(torch.tensor(rows, device=self._device)))
        ids = torch.zeros(mask.shape, dtype=torch.long)
        ids[mask] = torch.tensor([token for row in rows for token in row])
        states = self._encoder(ids.to(self._device), mask.to(self._device))
        return [own[: len(row)] for own, row in zip(states, rows, strict=True)]

    def _decide(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        joined = [torch.cat(sides) for sides in pairs]
        hidden = torch.nn.utils.rnn.pad_sequence(joined, batch_first=True)
        first = torch.tensor([len(premise) for premise, _ in pairs])
        premise = torch.arange(hidden.shape[1]) < first[:, None]
        mask = _mask([len(both) for both in joined])
        on = None if mask is None else mask.to(self._device)
        return list(self._decider(hidden, premise.to(self._device), on))


def _mask(lengths: Sequence[int]) -> Tensor | None:
    """Make the mask (rows, longest), True at tokens; None if all rows have the same length."""
    longest = max(lengths)
    return None if min(lengths) == longest else torch.arange(longest) < torch.tensor(lengths)[:, None]


def _passes(items: Sequence[BatchItem], length: Callable[[BatchItem], int], tokens: int) -> Iterator[list[BatchItem]]:
    """Batch the items by length, shortest first; a batch has one item or at most `tokens` tokens with padding."""
    batch: list[BatchItem] = []
    for item in sorted(items, key=length):
        if batch and (len(batch) + 1) * length(item) > tokens:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def load_builtin(folder: Path = HERE, device: str | None = None) -> BuiltinJudge:
    """Load the built-in judge from the adapter and settings in `folder`; `device` is the GPU by default, if any.

    Raises MissingPartError when all-MiniLM-L6-v2 is not installed, InputError when the adapter's hash does not match.
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
    return BuiltinJudge(encoder, decider, Tokenizer.from_file(str(base / "tokenizer.json")), settings, device)


def map_on_threads(work: Callable[[PassInput], PassOutput], items: Sequence[PassInput]) -> list[PassOutput]:
    """Compute `work(item)` for all items in inference mode, on as many threads as PyTorch may use; keep the order.

    One small matrix product gains little from several cores, so one pass per core is faster. PyTorch releases the
    interpreter lock during matrix products. If there are fewer items than threads, the items run one after the other,
    each on all threads. `work` must not change data that other calls read. Exceptions of `work` are raised here.
    """
    # Inference mode is set per thread, so each call of `work` must enter it.
    work = torch.inference_mode()(work)
    threads = torch.get_num_threads()
    if threads == 1 or len(items) < threads:
        return [work(item) for item in items]
    try:
        with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
            return list(pool.map(work, items))
    finally:
        # Setting the number of threads inside a thread also changes it for the process.
        torch.set_num_threads(threads)
