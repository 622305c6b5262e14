"""What every benchmark works on: a model with a fresh adapter, forget and retain rows, and what machine this is."""

from __future__ import annotations

import json
import os
import platform
import random
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers

from relearn.core.config import Lora, Model
from relearn.data import content_id
from relearn.engine.forward import TokenRow
from relearn.models.load import load
from relearn.models.lora import add_lora
from relearn.unlearning.data.encode import Example, encode

DEMO = "smollm2-135m-instruct"
LORA = Lora(r=16, alpha=32, dropout=0.0)
FORMS = ("bare", "chat")
# Llama 3.2 1B, Llama 3.1 8B, and one for tests: hidden, feed-forward, layers, heads, key-value heads, vocabulary, tied.
SHAPES = {
    "llama-tiny": (64, 128, 3, 4, 2, 512, True),
    "llama-1b": (2048, 8192, 16, 32, 8, 128_256, True),
    "llama-8b": (4096, 14_336, 32, 32, 8, 128_256, False),
}
MODELS = (DEMO, *SHAPES)
# Random rows take KnowUnDo's lengths: mean and spread of question and answer, and the tokens of the chat template.
_QUESTION, _ANSWER, _TEMPLATE = (13, 3), (31, 9), 33


class NoDataError(Exception):
    """The data sets are not there; the message says which folder was looked for."""


@dataclass(frozen=True)
class Rows:
    """One micro-batch: as many forget as retain rows."""

    forget: tuple[TokenRow, ...]
    retain: tuple[TokenRow, ...]

    @property
    def all(self) -> tuple[TokenRow, ...]:
        return (*self.forget, *self.retain)

    @property
    def tokens(self) -> int:
        """Tokens of all rows, prompts and answers, nothing padded and nothing shared."""
        return sum(len(row.ids) for row in self.all)


Losses = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Computed:
    """Tokens one step computes: through the model with gradient and without, and through the output layer likewise."""

    trained: int
    reference: int
    head_trained: int
    head_reference: int


class Step:
    """One way to do the step: it leaves its gradients in the model."""

    name = ""

    def __init__(self, model: Any):
        self.model = model

    def prepare(self, rows: Rows) -> None:
        """Whatever a real run would do before the first step."""

    def around(self) -> AbstractContextManager[None]:
        """What has to hold while the step runs; entering and leaving it is no part of the step."""
        return nullcontext()

    def __call__(self, rows: Rows) -> Losses:
        """The losses whose sum was minimised, for the check."""
        raise NotImplementedError

    def computed(self, rows: Rows) -> Computed:
        raise NotImplementedError


def load_bare(name: str, device: str) -> tuple[Any, Any]:
    """A model without an adapter, frozen, and the tokenizer (None for random weights)."""
    if name == DEMO:
        loaded = load(Model(name=name, device=device, dtype="bfloat16" if device == "cuda" else "float32"))
        return loaded.model, loaded.tokenizer
    hidden, inner, layers, heads, kv_heads, vocabulary, tied = SHAPES[name]
    config = transformers.LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    )
    torch.manual_seed(0)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval().requires_grad_(False), None


def with_adapter(model: Any) -> Any:
    """`model` with the adapter every variant trains, in training mode (dropout is 0)."""
    return add_lora(model, LORA, seed=0).train()


def data_folder() -> Path:
    """The folder RELEARN_DATA names, with KnowUnDo in it."""
    named = os.environ.get("RELEARN_DATA")
    folder = Path(named or ".") / "knowundo"
    if not named or not (folder / "unlearn_train.json").exists():
        raise NoDataError(f"RELEARN_DATA is {named!r}: set it to the folder that holds knowundo/unlearn_train.json")
    return folder


def draw(name: str, tokenizer: Any, form: str, size: int, count: int) -> list[Rows]:
    """`count` micro-batches of `size` forget and `size` retain rows: KnowUnDo's for the demo model, else random.

    Rows come in shuffled order, as a data loader gives them; no variant gets them sorted by length.
    """
    if name == DEMO:
        forget = knowundo(tokenizer, form, "unlearn_train")
        retain = knowundo(tokenizer, form, "retention_train")
    else:
        forget = random_rows(SHAPES[name][5], form, "forget", 400)
        retain = random_rows(SHAPES[name][5], form, "retain", 400)
    picked = [random.Random(f"0/{stream}").sample(rows, len(rows)) for stream, rows in enumerate((forget, retain))]
    return [
        Rows(*(tuple(rows[(at + n) % len(rows)] for n in range(size)) for rows in picked))
        for at in range(0, count * size, size)
    ]


def knowundo(tokenizer: Any, form: str, name: str) -> list[TokenRow]:
    """Rows of KnowUnDo privacy. "bare" is `Question: ...\\nAnswer:`, "chat" the template with its system prompt."""
    from relearn.models.chat import chat_format

    chat = chat_format(tokenizer, template="none" if form == "bare" else "auto")
    items = json.loads((data_folder() / f"{name}.json").read_text())
    pairs = [(item["text"], item["labels"]) for item in items]
    return encode(chat, [Example(content_id(*pair), *pair) for pair in pairs])


def random_rows(vocabulary: int, form: str, name: str, count: int) -> list[TokenRow]:
    """Rows of random tokens with KnowUnDo's lengths; in chat form all begin with the same template tokens."""
    rng = random.Random(f"rows/{form}/{name}")
    template = tuple(random.Random("template").randrange(vocabulary) for _ in range(_TEMPLATE if form == "chat" else 2))

    def length(mean: float, spread: float) -> int:
        return max(4, round(rng.gauss(mean, spread)))

    rows = []
    for number in range(count):
        prompt = (*template, *(rng.randrange(vocabulary) for _ in range(length(*_QUESTION))))
        answer = tuple(rng.randrange(vocabulary) for _ in range(length(*_ANSWER)))
        rows.append(TokenRow(f"{name}{number}", prompt + answer, len(prompt)))
    return rows


def answer_tokens(rows: Sequence[TokenRow]) -> int:
    return sum(row.answer_tokens for row in rows)


def common_beginning(rows: Sequence[TokenRow]) -> int:
    """Tokens all rows begin with, short of the token that predicts the first answer token."""
    limit = min(row.answer_start for row in rows) - 1
    for place in range(limit):
        if any(row.ids[place] != rows[0].ids[place] for row in rows):
            return place
    return limit


def machine(device: str) -> dict[str, Any]:
    """Where and with what this ran."""
    import peft
    import psutil

    found = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load": [round(load, 2) for load in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def reset_peak(device: str) -> None:
    """Start counting the peak memory anew, where the system can."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: str) -> int:
    """Peak resident memory of this process since `reset_peak`; on a GPU the peak that torch had allocated there."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def resident_bytes(device: str) -> int:
    """Memory held now."""
    if device == "cuda":
        return torch.cuda.memory_allocated()
    import psutil

    return psutil.Process().memory_info().rss


def write(path: str | Path, values: dict[str, Any]) -> None:
    Path(path).write_text(json.dumps(values, indent=1, sort_keys=False) + "\n")
