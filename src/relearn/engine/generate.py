"""Generate the answers to many questions at once, in the order of the questions.

An answer does not depend on the other questions. Models that pass `can_decode` are decoded without padding
(`decoding`); the others run in length-sorted, left-padded batches. Several processes share the questions.
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
# Receives the next tokens of an answer; an exception from it stops the generation.
TokenListener = Callable[[Sequence[int]], None]
# Settings of a model's generation config that `decoding` follows; a model with others runs its own `generate`.
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
    """Generate one answer per question, without the prompt; greedy at temperature 0.

    Random numbers depend on the seed, the question and how often it came before; neither order nor batch changes an
    answer. `on_tokens`, for a single question, receives the tokens of its answer as they come, perhaps with the end of
    turn; the backend vllm sends none. Raises ValueError for `on_tokens` with several questions.
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
    """What all questions of one call of `generate` share."""

    loaded: Loaded
    settings: Generate
    on_tokens: TokenListener | None


def _shared_out(call: _Call, ids: Sequence[list[int]], *, keys: Sequence[str], tick: Ticker) -> list[list[int]]:
    """Generate the tokens of every answer; process n of N takes every Nth question by length."""
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
    """Pass on every token that is chosen."""

    def choose(logits: torch.Tensor, questions: Sequence[int], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        chosen = chooser(logits, questions, tokens)
        on_tokens(chosen.tolist())
        return chosen

    return choose


@torch.inference_mode()
def _padded(
    call: _Call, ids: list[list[int]], sampler: TokenSampler, finished: Callable[[int], None]
) -> list[list[int]]:
    """Generate with the model's own `generate`; `ids` are sorted by length."""
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
    """A logits processor for transformers' `generate` that changes nothing and passes on new tokens."""

    def __init__(self, on_tokens: TokenListener, start: int):
        self._on_tokens = on_tokens
        self._start = start
        self._sent = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # Beam search may still discard any token before it ends; the listener is called to be able to stop it.
        new = input_ids[0, self._start + self._sent :].tolist() if len(input_ids) == 1 else []
        self._sent += len(new)
        self._on_tokens(new)
        return scores

    def send_rest(self, answer: Sequence[int]) -> None:
        self._on_tokens(list(answer[self._sent :]))


def _up_to_stop(tokens: list[int], stops: Sequence[int]) -> list[int]:
    return tokens[: next((at for at, token in enumerate(tokens) if token in stops), len(tokens))]


def _penalty(model: Any, longest: int = 0) -> float | None:
    """Return the repetition penalty of a model that `decoding` can run; None for one that needs its own `generate`.

    `longest`: tokens of the longest prompt with its answer.
    """
    own = getattr(bare(model), "generation_config", None) or GenerationConfig()
    names = {name for name, value in own.to_diff_dict().items() if value not in (None, False)}
    if names - _LENGTH_SETTINGS - _SAMPLING_SETTINGS - _OTHER_SETTINGS or not can_decode(model, longest):
        return None
    return float(own.repetition_penalty or 1.0)


def _keys(prompts: Sequence[str], seed: int) -> list[str]:
    """Name the random stream of each question; a prompt that is repeated gets another one."""
    times: Counter[str] = Counter()
    keys = []
    for prompt in prompts:
        keys.append(f"{seed}/generate/{times[prompt]}/{prompt}")
        times[prompt] += 1
    return keys


def stop_ids(loaded: Loaded) -> list[int]:
    """Return the tokens that end an answer: the chat format's end of turn and the tokenizer's end of text."""
    ids = {loaded.tokenizer.eos_token_id}
    ids.update(loaded.tokenizer(loaded.chat.end, add_special_tokens=False).input_ids[-1:])
    return sorted(number for number in ids if number is not None)
