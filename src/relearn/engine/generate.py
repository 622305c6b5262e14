"""Ask a model many questions at once: answers in the order asked, each independent of what else is asked.

Models that can be (`decoding`) are decoded without padding, finished rows making room for the next question; the others
get length-sorted left-padded batches. Several processes share the questions out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from relearn.core import distributed
from relearn.core.config import Generate
from relearn.core.console import Ticker, quiet
from relearn.data import Form
from relearn.engine.decoding import Decoder, can_decode
from relearn.engine.model_support import bare
from relearn.engine.sampling import Choice, ChoiceProcessor, Chooser
from relearn.models.load import Loaded

PADDED_ROWS = 16
# Told the next tokens of an answer; what it raises ends the answering.
Heard = Callable[[Sequence[int]], None]
# What a model's own generation settings may hold and decoding of ours heeds; with anything else it is not used.
_HEEDED = {
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "max_length",
    "max_new_tokens",
    "use_cache",
    "transformers_version",
    "_from_model_config",
}


def generate(
    loaded: Loaded,
    questions: Sequence[str],
    settings: Generate,
    *,
    form: Form = "chat",
    seed: int = 0,
    tick: Ticker = quiet,
    heard: Heard | None = None,
) -> list[str]:
    """One answer per question, without the prompt; greedy at temperature 0. Same seed, same answers.

    What is drawn belongs to the seed and the question (asked twice, to the first and the second time): neither the
    order nor the batch changes it. `heard`, for one question alone, is told the tokens of its answer as they come, the
    one that ends the turn perhaps among them; vllm tells nothing before the end.
    """
    if not questions:
        return []
    if heard is not None and len(questions) != 1:
        raise ValueError("one question at a time can be listened to")
    prompts = [loaded.chat.prompt(question, form) for question in questions]
    ids = loaded.tokenizer(prompts, add_special_tokens=False).input_ids
    if settings.backend == "vllm":
        from relearn.engine.vllm_backend import answers_of_vllm

        said = distributed.on_main(
            lambda: answers_of_vllm(loaded, ids, settings, _keys(prompts, seed), stop_ids(loaded))
        )
    else:
        said = _shared_out(loaded, ids, settings, _keys(prompts, seed), tick, heard)
    return [text.strip() for text in loaded.tokenizer.batch_decode(said, skip_special_tokens=True)]


def _shared_out(
    loaded: Loaded, ids: Sequence[list[int]], settings: Generate, keys: Sequence[str], tick: Ticker, heard: Heard | None
) -> list[list[int]]:
    """The tokens of every answer; each process answers every n-th question by length."""
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    count = distributed.processes()
    done = 0

    def finished(more: int) -> None:
        nonlocal done
        done += more
        tick(min(done * count, len(order)), len(order))

    def answer(share: list[int]) -> list[list[int]]:
        penalty = _penalty(loaded.model, max(map(len, ids)) + settings.max_new_tokens)
        way = _padded if penalty is None else _decoded
        choice = Choice(settings, [keys[number] for number in share], penalty or 1.0)
        return way(loaded, [ids[number] for number in share], settings, choice, finished, heard)

    shares = [order[start::count] for start in range(count)]
    found: dict[int, list[int]] = {}
    for share, said in zip(shares, distributed.spread(shares, answer), strict=True):
        found |= dict(zip(share, said, strict=True))
    return [found[number] for number in range(len(ids))]


def _decoded(
    loaded: Loaded, ids: list[list[int]], settings: Generate, choice: Choice, finished: Any, heard: Heard | None
) -> list[Any]:
    choose = choice if heard is None else _aloud(choice, heard)
    return Decoder(
        loaded.model,
        ids,
        choose,
        stops=stop_ids(loaded),
        max_new_tokens=settings.max_new_tokens,
        rows=settings.batch_size,
        finished=finished,
    ).answers()


def _aloud(choice: Chooser, heard: Heard) -> Chooser:
    """The same choice, of one row, told to `heard`."""

    def choose(scores: torch.Tensor, questions: Sequence[int], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        chosen = choice(scores, questions, tokens)
        heard(chosen.tolist())
        return chosen

    return choose


@torch.inference_mode()
def _padded(
    loaded: Loaded, ids: list[list[int]], settings: Generate, choice: Choice, finished: Any, heard: Heard | None
) -> list[Any]:
    """Through the model's own `generate`, `ids` being sorted by length."""
    said: list[list[int]] = []
    stops = stop_ids(loaded)
    size = settings.batch_size or PADDED_ROWS
    for start in range(0, len(ids), size):
        part = ids[start : start + size]
        longest = max(map(len, part))
        padding = [longest - len(row) for row in part]
        pad = loaded.tokenizer.pad_token_id
        batch = [[pad] * more + row for more, row in zip(padding, part, strict=True)]
        mask = [[0] * more + [1] * len(row) for more, row in zip(padding, part, strict=True)]
        drawn = ChoiceProcessor(choice, range(start, start + len(part)), padding)
        listening = None if heard is None else _Listening(heard, longest)
        processors = [*([drawn] if settings.temperature else []), *([listening] if listening else [])]
        output = loaded.model.generate(
            input_ids=torch.tensor(batch, device=loaded.device),
            attention_mask=torch.tensor(mask, device=loaded.device),
            max_new_tokens=settings.max_new_tokens,
            pad_token_id=pad,
            eos_token_id=stops,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            **({"logits_processor": LogitsProcessorList(processors)} if processors else {}),
        )
        said += [_up_to_stop(row, stops) for row in output[:, longest:].tolist()]
        if listening is not None:
            listening.rest(said[-1])
        finished(len(part))
    return said


class _Listening:
    """Stands among the processors of `generate` of transformers, changes nothing, and tells what was said so far."""

    def __init__(self, heard: Heard, start: int):
        self._heard = heard
        self._start = start
        self._told = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # Of a search over several beams nothing is certain before its end; the listener may still want it ended.
        new = input_ids[0, self._start + self._told :].tolist() if len(input_ids) == 1 else []
        self._told += len(new)
        self._heard(new)
        return scores

    def rest(self, said: Sequence[int]) -> None:
        self._heard(list(said[self._told :]))


def _up_to_stop(tokens: list[int], stops: Sequence[int]) -> list[int]:
    return tokens[: next((place for place, token in enumerate(tokens) if token in stops), len(tokens))]


def _penalty(model: Any, longest: int = 0) -> float | None:
    """The repetition penalty of a model that is decoded here; None for one that goes through its own `generate`.

    `longest`: tokens of the longest prompt and answer.
    """
    own = getattr(bare(model), "generation_config", None) or GenerationConfig()
    asked = {name for name, value in own.to_diff_dict().items() if value not in (None, False)}
    if asked - _HEEDED or not can_decode(model, longest):
        return None
    return float(own.repetition_penalty or 1.0)


def _keys(prompts: Sequence[str], seed: int) -> list[str]:
    """What the random numbers of each question are made of; a prompt that comes again gets others."""
    times: Counter[str] = Counter()
    keys = []
    for prompt in prompts:
        keys.append(f"{seed}/generate/{times[prompt]}/{prompt}")
        times[prompt] += 1
    return keys


def stop_ids(loaded: Loaded) -> list[int]:
    """The end of a turn as trained, and the tokenizer's own end of text."""
    ids = {loaded.tokenizer.eos_token_id}
    ids.update(loaded.tokenizer(loaded.chat.end, add_special_tokens=False).input_ids[-1:])
    return sorted(number for number in ids if number is not None)
