"""Ask a model many questions at once: length-sorted left-padded batches, answers in the order asked.

Several processes share the batches out; batches and their seeds are the same for any number of them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from relearn import parallel
from relearn.config import Generate
from relearn.console import Ticker, quiet
from relearn.models.load import Loaded
from relearn.records import Form


@torch.inference_mode()
def generate(
    loaded: Loaded,
    questions: Sequence[str],
    settings: Generate,
    *,
    form: Form = "chat",
    seed: int = 0,
    tick: Ticker = quiet,
) -> list[str]:
    """One answer per question, without the prompt; greedy at temperature 0. Same seed, same answers."""
    prompts = [loaded.chat.prompt(question, form) for question in questions]
    lengths = [len(ids) for ids in loaded.tokenizer(prompts, add_special_tokens=False).input_ids] if prompts else []
    order = sorted(range(len(prompts)), key=lengths.__getitem__)
    batches = [order[start : start + settings.batch_size] for start in range(0, len(order), settings.batch_size)]
    done = 0

    def answer(number: int) -> list[str]:
        nonlocal done
        torch.manual_seed(random.Random(f"{seed}/generate/{number}").getrandbits(63))
        texts = _generate_batch(loaded, [prompts[place] for place in batches[number]], settings)
        done += len(texts)
        tick(min(done * parallel.processes(), len(order)), len(order))
        return texts

    found: dict[int, str] = {}
    for places, texts in zip(batches, parallel.spread(range(len(batches)), answer), strict=True):
        found |= dict(zip(places, texts, strict=True))
    return [found[place] for place in range(len(prompts))]


def _generate_batch(loaded: Loaded, prompts: list[str], settings: Generate) -> list[str]:
    batch = loaded.tokenizer(prompts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
    batch = {name: batch[name].to(loaded.device) for name in ("input_ids", "attention_mask")}
    output = loaded.model.generate(
        **batch,
        max_new_tokens=settings.max_new_tokens,
        pad_token_id=loaded.tokenizer.pad_token_id,
        eos_token_id=stop_ids(loaded),
        **_sampling(settings),
    )
    new = output[:, batch["input_ids"].shape[1] :]
    return [text.strip() for text in loaded.tokenizer.batch_decode(new, skip_special_tokens=True)]


def _sampling(settings: Generate) -> dict[str, Any]:
    if settings.temperature == 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k}


def stop_ids(loaded: Loaded) -> list[int]:
    """The end of a turn as trained, and the tokenizer's own end of text."""
    ids = {loaded.tokenizer.eos_token_id}
    ids.update(loaded.tokenizer(loaded.chat.end, add_special_tokens=False).input_ids[-1:])
    return sorted(number for number in ids if number is not None)
