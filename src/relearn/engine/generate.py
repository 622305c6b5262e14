"""Generate answers to many questions in batches, in the order of the questions.

An answer does not depend on the other questions. Models that pass `can_decode` are decoded without padding
(`decoding`). Other models run in left-padded batches sorted by length. Questions are divided among processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from relearn.core import distributed
from relearn.core.config import Generate
from relearn.core.console import Ticker, quiet
from relearn.data import Form
from relearn.engine.decoding import Decoder, can_decode
from relearn.engine.model_support import bare
from relearn.engine.sampling import ChooserProcessor, TokenChooser, TokenSampler
from relearn.models.load import Loaded

PADDED_ROWS = 16
# Called with the next tokens of an answer; an exception raised by it stops the generation.
TokenListener = Callable[[Sequence[int]], None]
# Settings of a generation config that `decoding` supports; a model with other settings uses transformers' `generate`.
_LENGTH_SETTINGS = {"bos_token_id", "eos_token_id", "pad_token_id", "max_length", "max_new_tokens"}
_SAMPLING_SETTINGS = {"do_sample", "temperature", "top_k", "top_p", "repetition_penalty"}
_OTHER_SETTINGS = {"use_cache", "transformers_version", "_from_model_config"}


def generate(
    loaded: Loaded,
    questions: Sequence[str],
    settings: Generate,
    *,
    form: Form = "chat",
    seed: int = 0,
    tick: Ticker = quiet,
    on_tokens: TokenListener | None = None,
) -> list[str]:
    """Generate one answer per question, without the prompt; temperature 0 is greedy.

    Random numbers depend on the seed, the prompt and the number of its earlier occurrences. The order of the questions
    and the batches do not change an answer. `on_tokens` is allowed for a single question only: it is called with the
    tokens of the answer as they are generated, and may get the end-of-turn token. The backend vllm never calls it.
    Raises ValueError for `on_tokens` with several questions.
    """
    if not questions:
        return []
    if on_tokens is not None and len(questions) != 1:
        raise ValueError("tokens can be received for one question only")
    prompts = [loaded.chat.prompt(question, form) for question in questions]
    ids = loaded.tokenizer(prompts, add_special_tokens=False).input_ids
    keys = _keys(prompts, seed)
    if settings.backend == "vllm":
        from relearn.engine.vllm_backend import vllm_answers

        stops = stop_ids(loaded)
        answers = distributed.on_main(lambda: vllm_answers(loaded, ids, settings, keys=keys, stops=stops))
    else:
        answers = _shared_out(_Call(loaded, settings, on_tokens), ids, keys=keys, tick=tick)
    return [text.strip() for text in loaded.tokenizer.batch_decode(answers, skip_special_tokens=True)]


@dataclass(frozen=True)
class _Call:
    """Store the arguments that all questions of one call of `generate` share."""

    loaded: Loaded
    settings: Generate
    on_tokens: TokenListener | None


def _shared_out(call: _Call, ids: Sequence[list[int]], *, keys: Sequence[str], tick: Ticker) -> list[list[int]]:
    """Generate the tokens of every answer; process n of N takes every Nth question, sorted by length."""
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    count = distributed.processes()
    done = 0

    def finished(more: int) -> None:
        nonlocal done
        done += more
        tick(min(done * count, len(order)), len(order))

    def answer(share: list[int]) -> list[list[int]]:
        penalty = _penalty(call.loaded.model, max(map(len, ids)) + call.settings.max_new_tokens)
        run = _padded if penalty is None else _decoded
        sampler = TokenSampler(call.settings, [keys[number] for number in share], penalty or 1.0)
        return run(call, [ids[number] for number in share], sampler, finished)

    shares = [order[start::count] for start in range(count)]
    by_question: dict[int, list[int]] = {}
    for share, answers in zip(shares, distributed.spread(shares, answer), strict=True):
        by_question |= dict(zip(share, answers, strict=True))
    return [by_question[number] for number in range(len(ids))]


def _decoded(
    call: _Call, ids: list[list[int]], sampler: TokenSampler, finished: Callable[[int], None]
) -> list[list[int]]:
    """Generate with the packed decoder."""
    return Decoder(
        call.loaded.model,
        ids,
        sampler if call.on_tokens is None else _with_listener(sampler, call.on_tokens),
        stops=stop_ids(call.loaded),
        max_new_tokens=call.settings.max_new_tokens,
        rows=call.settings.batch_size,
        finished=finished,
    ).answers()


def _with_listener(chooser: TokenChooser, on_tokens: TokenListener) -> TokenChooser:
    """Return a token chooser that also calls `on_tokens` with every chosen token."""

    def choose(logits: torch.Tensor, questions: Sequence[int], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        chosen = chooser(logits, questions, tokens)
        on_tokens(chosen.tolist())
        return chosen

    return choose


@torch.inference_mode()
def _padded(
    call: _Call, ids: list[list[int]], sampler: TokenSampler, finished: Callable[[int], None]
) -> list[list[int]]:
    """Generate with transformers' `generate` in left-padded batches; `ids` must be sorted by length."""
    loaded, settings = call.loaded, call.settings
    answers: list[list[int]] = []
    stops = stop_ids(loaded)
    size = settings.batch_size or PADDED_ROWS
    for start in range(0, len(ids), size):
        part = ids[start : start + size]
        longest = max(map(len, part))
        padding = [longest - len(row) for row in part]
        pad = loaded.tokenizer.pad_token_id
        batch = [[pad] * more + row for more, row in zip(padding, part, strict=True)]
        mask = [[0] * more + [1] * len(row) for more, row in zip(padding, part, strict=True)]
        processors: list[Any] = []
        if settings.temperature:
            processors.append(ChooserProcessor(sampler, range(start, start + len(part)), padding))
        listener = None if call.on_tokens is None else _ListenerProcessor(call.on_tokens, longest)
        if listener is not None:
            processors.append(listener)
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
        answers += [_up_to_stop(row, stops) for row in output[:, longest:].tolist()]
        if listener is not None:
            listener.send_rest(answers[-1])
        finished(len(part))
    return answers


class _ListenerProcessor:
    """Call `on_tokens` with new tokens, as a logits processor of transformers' `generate` that changes no logits."""

    def __init__(self, on_tokens: TokenListener, start: int):
        self._on_tokens = on_tokens
        self._start = start
        self._sent = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # With several rows (beam search), tokens may still be discarded. The listener then gets an empty list, so that
        # it can still stop the generation by an exception.
        new = input_ids[0, self._start + self._sent :].tolist() if len(input_ids) == 1 else []
        self._sent += len(new)
        self._on_tokens(new)
        return scores

    def send_rest(self, answer: Sequence[int]) -> None:
        self._on_tokens(list(answer[self._sent :]))


def _up_to_stop(tokens: list[int], stops: Sequence[int]) -> list[int]:
    return tokens[: next((at for at, token in enumerate(tokens) if token in stops), len(tokens))]


def _penalty(model: Any, longest: int = 0) -> float | None:
    """Return the repetition penalty for `decoding`; return None if the model needs transformers' `generate`.

    `longest`: largest number of tokens of a prompt with its answer.
    """
    own = getattr(bare(model), "generation_config", None) or GenerationConfig()
    names = {name for name, value in own.to_diff_dict().items() if value not in (None, False)}
    if names - _LENGTH_SETTINGS - _SAMPLING_SETTINGS - _OTHER_SETTINGS or not can_decode(model, longest):
        return None
    return float(own.repetition_penalty or 1.0)


def _keys(prompts: Sequence[str], seed: int) -> list[str]:
    """Return the random seed of each question, as text; repeated prompts get different seeds."""
    times: Counter[str] = Counter()
    keys = []
    for prompt in prompts:
        keys.append(f"{seed}/generate/{times[prompt]}/{prompt}")
        times[prompt] += 1
    return keys


def stop_ids(loaded: Loaded) -> list[int]:
    """Return the token ids that end an answer: end-of-turn token of the chat format, eos token of the tokenizer."""
    ids = {loaded.tokenizer.eos_token_id}
    ids.update(loaded.tokenizer(loaded.chat.end, add_special_tokens=False).input_ids[-1:])
    return sorted(number for number in ids if number is not None)
