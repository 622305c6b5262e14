"""Generate answers to many questions in batches, in the order of the questions.

An answer does not depend on the other questions. Models that pass `can_decode` are decoded without padding
(`decoding`). Other models run in left-padded batches sorted by length. Questions are divided among processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from transformers import GenerationConfig, LogitsProcessorList

from relearn.core import distributed
from relearn.core.config import Generate
from relearn.core.console import Ticker, note, quiet
from relearn.data import Form
from relearn.engine.decoding import Decoder, can_decode
from relearn.engine.model_support import bare, changes_frequencies, check_positions, reset_frequencies
from relearn.engine.sampling import ChooserProcessor, TokenChooser, TokenSampler
from relearn.models.chat import opened_thought, turn_ends, without_thoughts
from relearn.models.load import Loaded, own_ends

PADDED_ROWS = 16
# Called with the next tokens of an answer; an exception raised by it stops the generation.
TokenListener = Callable[[Sequence[int]], None]
# Settings of a model's generation config that its answers here do not lack: ends, lengths, sampling, bookkeeping.
_SILENT_SETTINGS = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "max_length", "max_new_tokens", "max_time", "use_cache"),
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h"),
    *(
        "transformers_version",
        "_from_model_config",
        "cache_implementation",
        "cache_config",
        "assistant_confidence_threshold",
    ),
}
_NOTED: WeakSet[Any] = WeakSet()


# Shown in place of an answer.
CUT_OFF = "(cut off in the model's thoughts: raise generate.max_new_tokens, or set model.thinking: off)"


@dataclass(frozen=True)
class Response:
    """Hold an answer without the thoughts before it.

    `cut_off`: the output ended inside the thoughts, so that there is no answer, and `text` is empty. `thought_tokens`:
    number of tokens of the thoughts.
    """

    text: str
    cut_off: bool = False
    thought_tokens: int = 0


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
    """Generate one answer per question, without the prompt and without thoughts; see `respond`."""
    return [
        response.text
        for response in respond(loaded, questions, settings, form=form, seed=seed, tick=tick, on_tokens=on_tokens)
    ]


def respond(
    loaded: Loaded,
    questions: Sequence[str],
    settings: Generate,
    *,
    form: Form = "chat",
    seed: int | Sequence[int] = 0,
    tick: Ticker = quiet,
    on_tokens: TokenListener | None = None,
) -> list[Response]:
    """Generate one response per question, without the prompt; temperature 0 is greedy.

    Random numbers depend on the seed, the prompt and the number of its earlier occurrences with this seed; `seed` is
    one number for all questions, or one per question. The order of the questions and the batches do not change an
    answer. `on_tokens` is allowed for a single question only: it is called with the
    tokens of the output as they are generated, thoughts included, and may get the end-of-turn token. The backend vllm
    never calls it. Raises ValueError for `on_tokens` with several questions, InputError for a prompt that leaves no
    positions for `max_new_tokens`.
    """
    if not questions:
        return []
    if on_tokens is not None and len(questions) != 1:
        raise ValueError("tokens can be received for one question only")
    prompts = [loaded.chat.prompt(question, form) for question in questions]
    ids = loaded.tokenizer(prompts, add_special_tokens=False).input_ids
    check_positions(bare(loaded.model).config, max(map(len, ids)) + settings.max_new_tokens, name=loaded.name)
    _note_settings(loaded.model)
    keys = _keys(prompts, [seed] * len(prompts) if isinstance(seed, int) else seed)
    if settings.backend == "vllm":
        from relearn.engine.vllm_backend import vllm_answers

        stops = stop_ids(loaded)
        answers = distributed.on_main(lambda: vllm_answers(loaded, ids, settings, keys=keys, stops=stops))
    else:
        answers = _shared_out(_Call(loaded, settings, on_tokens), ids, keys=keys, tick=tick)
    if form == "text":
        return [Response(text.strip()) for text in loaded.tokenizer.batch_decode(answers, skip_special_tokens=True)]
    return [
        Response(*without_thoughts(loaded.tokenizer, tokens, opened=opened_thought(prompt)))
        for tokens, prompt in zip(answers, prompts, strict=True)
    ]


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
    lengths = [len(row) + settings.max_new_tokens for row in ids]
    alone = changes_frequencies(loaded.model, max(lengths))
    size = 1 if alone else settings.batch_size or PADDED_ROWS
    for start in range(0, len(ids), size):
        part = ids[start : start + size]
        longest = max(map(len, part))
        padding = [longest - len(row) for row in part]
        pad = loaded.tokenizer.pad_token_id or 0
        batch = [[pad] * more + row for more, row in zip(padding, part, strict=True)]
        mask = [[0] * more + [1] * len(row) for more, row in zip(padding, part, strict=True)]
        processors: list[Any] = []
        if settings.temperature:
            processors.append(ChooserProcessor(sampler, range(start, start + len(part)), padding))
        listener = None if call.on_tokens is None else _ListenerProcessor(call.on_tokens, longest)
        if listener is not None:
            processors.append(listener)
        output = plain_generate(loaded, batch, mask, max_new_tokens=settings.max_new_tokens, processors=processors)
        answers += [_up_to_stop(row, stops) for row in output[:, longest:].tolist()]
        if listener is not None:
            listener.send_rest(answers[-1])
        finished(len(part))
    return answers


def plain_generate(
    loaded: Loaded, ids: Sequence[list[int]], mask: Sequence[list[int]], *, max_new_tokens: int, processors: list[Any]
) -> torch.Tensor:
    """Call transformers' greedy `generate` on left-padded prompts; `processors` may choose other tokens.

    Of the model's own generation settings only its repetition penalty applies. Raises InputError for a prompt that
    leaves no positions for `max_new_tokens`.
    """
    longest = max(map(sum, mask)) + max_new_tokens
    check_positions(bare(loaded.model).config, longest, name=loaded.name)
    reset_frequencies(loaded.model)
    with plain_settings(loaded.model), torch.inference_mode():
        return loaded.model.generate(
            input_ids=torch.tensor(ids, device=loaded.device),
            attention_mask=torch.tensor(mask, device=loaded.device),
            max_new_tokens=max_new_tokens,
            pad_token_id=loaded.tokenizer.pad_token_id or 0,
            eos_token_id=stop_ids(loaded) or None,
            do_sample=False,
            **({"logits_processor": LogitsProcessorList(processors)} if processors else {}),
        )


def _settings_holder(model: Any) -> Any:
    """Return the innermost model, which holds the generation settings."""
    inner = bare(model)
    while getattr(inner, "takes_rows", False):
        inner = bare(inner.inner)
    return inner


@contextmanager
def plain_settings(model: Any) -> Iterator[None]:
    """Replace the model's own generation settings inside the block, so that it decodes greedily; its penalty stays."""
    holder = _settings_holder(model)
    own = getattr(holder, "generation_config", None)
    if own is None:
        yield
        return
    holder.generation_config = GenerationConfig(repetition_penalty=own.repetition_penalty)
    try:
        yield
    finally:
        holder.generation_config = own


def _note_settings(model: Any) -> None:
    """Print once per model which of its own generation settings change its answers here, and which do not apply."""
    holder = _settings_holder(model)
    own = getattr(holder, "generation_config", None)
    if own is None or holder in _NOTED:
        return
    _NOTED.add(holder)
    names = sorted(name for name, value in own.to_diff_dict().items() if value not in (None, False, [], {}))
    ignored = [name for name in names if name not in {*_SILENT_SETTINGS, "repetition_penalty"}]
    if (own.repetition_penalty or 1.0) != 1.0:
        note(f"the model's own repetition_penalty {own.repetition_penalty:g} applies to its answers")
    if ignored:
        note(f"the model's own generation settings {', '.join(ignored)} do not apply: answers follow `generate`")


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
    if not can_decode(model, longest):
        return None
    own = getattr(bare(model), "generation_config", None)
    return float(getattr(own, "repetition_penalty", None) or 1.0)


def _keys(prompts: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """Return the random seed of each question, as text; a prompt that is repeated with a seed gets other ones."""
    times: Counter[tuple[int, str]] = Counter()
    keys = []
    for seed, prompt in zip(seeds, prompts, strict=True):
        keys.append(f"{seed}/generate/{times[seed, prompt]}/{prompt}")
        times[seed, prompt] += 1
    return keys


def stop_ids(loaded: Loaded) -> list[int]:
    """Return the token ids that end an answer.

    They are the end of turn of the chat template, the tokenizer's eos and added tokens that end a turn, and the ends
    in the model's generation settings.
    """
    ids = {loaded.tokenizer.eos_token_id, *turn_ends(loaded.tokenizer), *own_ends(_settings_holder(loaded.model))}
    ids.update(loaded.tokenizer(loaded.chat.end, add_special_tokens=False).input_ids[-1:])
    return sorted(number for number in ids if number is not None)
