"""Offset (delta) unlearning: a large model whose logits are shifted by what a small one has unlearned.

    logits = l_M + alpha (l_small_unlearned - l_small)

(Huang et al., TMLR 2025, arXiv 2404.11045.) The small pair is one model: with its adapter the unlearned one, with the
adapter off the original. Both models read the same tokens, so they must share their tokenizer.

Offset unlearning (arXiv 2404.11045): a small model's adapter is trained through the logits of the ensemble.

The large model and the original small one are run without gradient, once for every row of the plan before the first
step where the states fit into memory, else with every step. The small original is the small model with its adapter off.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from relearn.core import distributed
from relearn.core.config import Model, Unlearn
from relearn.core.errors import InputError
from relearn.core.files import read_json, remove_tree, replaced_dir, write_json
from relearn.engine.forward import Predicted, TokenRow, predict
from relearn.engine.model_support import evaluating
from relearn.models.load import Loaded, check_adapter, load, load_tokenizer
from relearn.models.lora import add_lora, save_adapter
from relearn.unlearning import train
from relearn.unlearning.inference_time.methods import Offset
from relearn.unlearning.inference_time.wrapper import Wrapped
from relearn.unlearning.method import METHODS
from relearn.unlearning.procedures import Job, procedure
from relearn.unlearning.reference_model import mixed
from relearn.unlearning.step import needed_rows

CACHE_BYTES = 2 << 30
_CACHE_BATCH = 8
_SETTINGS = "offset.json"


class Ensemble(Wrapped):
    """`inner` is the large model, `small` a small one with a PEFT adapter on it, the only part that can be trained.

    With `disable_adapter` it is the large model alone. As states are wide and logits are wider, what is handed on are
    the states of the three passes side by side, with a head that makes the ensemble's logits of them; where a model
    does more to its states than its output layer, it is the logits.
    """

    def __init__(self, large: Any, small: Any, alpha: float):
        super().__init__(large)
        self.small = small
        self.alpha = alpha
        self._fixed: dict[tuple[tuple[int, ...], int], tuple[torch.Tensor, torch.Tensor]] = {}
        self._fixed_heads: tuple[Any, Any] = (None, None)
        large.requires_grad_(False)

    def changed(self, rows: Sequence[TokenRow], layer: int | None) -> Predicted:
        if layer is not None:
            raise NotImplementedError("an ensemble has no layers of its own")
        large, start = self._fixed_passes(rows)
        return self._joined(large, start, predict(self.small, rows))

    def remember(self, rows: Sequence[TokenRow]) -> bool:
        """Run the passes that training does not change once over `rows`, and keep them as states if there is room.

        In a fixed order, so that a resumed training sees the same numbers to the bit. Returns whether they were kept.
        """
        ordered = [row for _, row in sorted({_key(row): row for row in rows}.items())]
        kept, heads = {}, (None, None)
        for at in range(0, len(ordered), _CACHE_BATCH):
            part = ordered[at : at + _CACHE_BATCH]
            large, start = self._fixed_passes(part)
            if large.states is None or start.states is None:
                return False
            heads = (large.head, start.head)
            width = sum(states.shape[1] * states.element_size() for states in (large.states, start.states))
            if sum(row.answer_tokens for row in ordered) * width > CACHE_BYTES:
                return False
            sizes = [row.answer_tokens for row in part]
            pairs = zip(part, large.states.split(sizes), start.states.split(sizes), strict=True)
            kept |= {_key(row): (big.clone(), little.clone()) for row, big, little in pairs}
        self._fixed, self._fixed_heads = kept, heads
        return bool(kept)

    def generate_changed(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, settings: dict[str, Any]
    ) -> torch.Tensor:
        processors = LogitsProcessorList([OffsetProcessor(self.small, self.alpha, attention_mask)])
        # A penalty scales logits, so it must come after the offset; transformers puts its own before ours.
        penalty = settings.pop("repetition_penalty", None) or self.inner.generation_config.repetition_penalty
        if penalty and penalty != 1.0:
            padding = attention_mask.int().argmax(dim=1)
            processors.append(RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=padding))
        # What chooses among the finished scores comes last.
        processors += settings.pop("logits_processor", [])
        return self.inner.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            logits_processor=processors,
            repetition_penalty=1.0,
            **settings,
        )

    def train(self, mode: bool = True) -> Ensemble:
        """Only the small model is ever in training mode."""
        super().train(mode)
        self.inner.eval()
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The trained weights alone, so that a checkpoint holds neither model."""
        trained = {name for name, weight in self.named_parameters() if weight.requires_grad}
        return {name: weight for name, weight in super().state_dict(*args, **kwargs).items() if name in trained}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """What `state_dict` gave; the weights of the two models are not expected to be there."""
        found, trained = super().load_state_dict(state_dict, strict=False), self.state_dict()
        return type(found)([name for name in found.missing_keys if name in trained], found.unexpected_keys)

    def gradient_checkpointing_enable(self, **settings: Any) -> None:
        self.small.gradient_checkpointing_enable(**settings)

    def enable_input_require_grads(self) -> None:
        self.small.enable_input_require_grads()

    @torch.no_grad()
    def _fixed_passes(self, rows: Sequence[TokenRow]) -> tuple[Predicted, Predicted]:
        """The large and the original small model, neither of which training changes."""
        kept = [self._fixed.get(_key(row)) for row in rows]
        if all(pair is not None for pair in kept):
            pairs = [pair for pair in kept if pair is not None]
            large, start = (torch.cat(states) for states in zip(*pairs, strict=True))
            return Predicted(None, large, self._fixed_heads[0]), Predicted(None, start, self._fixed_heads[1])
        with evaluating(self.small), self.small.disable_adapter():
            start = predict(self.small, rows)
        return predict(self.inner, rows), start

    def _joined(self, large: Predicted, start: Predicted, own: Predicted) -> Predicted:
        if large.states is None or start.states is None or own.states is None:
            offset = self.alpha * (own.logits_at() - start.logits_at())
            big = large.logits_at()
            return Predicted(big + _fitted(offset, big.shape[-1]))
        assert large.head is not None and start.head is not None
        states = torch.cat([large.states, start.states, own.states], dim=-1)
        return Predicted(None, states, _joint_head(large.head, start.head, large.states.shape[-1], self.alpha))


def _key(row: TokenRow) -> tuple[tuple[int, ...], int]:
    return row.ids, row.answer_start


def _joint_head(
    large_head: Any, small_head: Any, large_width: int, alpha: float
) -> Callable[[torch.Tensor], torch.Tensor]:
    """States of the three passes side by side, (c, H_large + 2 H_small), to the ensemble's logits (c, V)."""

    def head(states: torch.Tensor) -> torch.Tensor:
        start, own = states[:, large_width:].chunk(2, dim=-1)
        # Nothing is learned through the large model, so its half of the gradient is not worked out.
        big, start = states[:, :large_width].detach(), start.detach()
        # The small output layer is linear: one product with the difference stands for the difference of two.
        moved = torch.nn.functional.linear((own - start).to(small_head.weight.dtype), small_head.weight)
        logits = large_head(big.to(large_head.weight.dtype)).float()
        return logits + _fitted(alpha * moved.float(), logits.shape[-1])

    return head


def _fitted(offset: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Output layers of one model family are padded to different sizes; tokens that one side lacks are not shifted."""
    missing = vocabulary - offset.shape[-1]
    return torch.nn.functional.pad(offset, (0, missing)) if missing > 0 else offset[..., :vocabulary]


class OffsetProcessor(LogitsProcessor):
    """Adds alpha (l_small_unlearned - l_small) to the logits of each step; made anew for every call of `generate`.

    Keeps the key-value caches of both passes of the small model. `attention_mask` is that of the left-padded prompts.
    """

    def __init__(self, small: Any, alpha: float, attention_mask: torch.Tensor):
        self._small = small
        self._alpha = alpha
        self._mask = attention_mask
        self._caches: dict[str, Any] = {}
        self._seen = 0
        accepted = inspect.signature(small.get_base_model().forward).parameters
        self._last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    @torch.no_grad()
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        grown = input_ids.shape[1] - self._mask.shape[1]
        self._mask = torch.nn.functional.pad(self._mask, (0, grown), value=1)
        own = self._step("unlearned", input_ids)
        with self._small.disable_adapter():
            start = self._step("start", input_ids)
        self._seen = input_ids.shape[1]
        offset = self._alpha * (own - start)
        return scores + _fitted(offset, scores.shape[-1]).to(scores.dtype)

    def _step(self, name: str, input_ids: torch.Tensor) -> torch.Tensor:
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        output = self._small(
            input_ids=input_ids[:, self._seen :],
            attention_mask=self._mask,
            position_ids=positions[:, self._seen :],
            past_key_values=self._caches.get(name),
            use_cache=True,
            **self._last_only,
        )
        self._caches[name] = output.past_key_values
        return output.logits[:, -1].float()


def small_spec(large: Model, name: str) -> Model:
    """The small model of that name, loaded like the large one."""
    return large.model_copy(update={"name": name, "revision": None, "adapter": None})


def check_tokenizers(large: Any, small: Any, name: str) -> None:
    """Raise InputError unless both give every token the same number."""
    ours, theirs = large.get_vocab(), small.get_vocab()
    if ours == theirs:
        return
    differing = sum(theirs.get(token) != number for token, number in ours.items())
    differing += sum(token not in ours for token in theirs)
    raise InputError(
        f"the small model {name!r} has another tokenizer: {differing} tokens differ",
        where="unlearn.options.small",
        way_out="take a smaller model of the same family",
    )


def save_offset(folder: Path, ensemble: Ensemble, small: str, **about: Any) -> None:
    """Write the small model's adapter and offset.json with its name and alpha."""
    save_adapter(ensemble.small, folder)
    write_json(folder / _SETTINGS, {"small": small, "alpha": ensemble.alpha, **about})


def load_offset(start: Loaded, spec: Model, folder: Path) -> Loaded:
    """The start model, of `spec`, with the small pair in `folder` beside it."""
    from peft import PeftModel

    kept = read_json(folder / _SETTINGS)
    check_adapter(folder)
    small = load(small_spec(spec, kept["small"]))
    check_tokenizers(start.tokenizer, small.tokenizer, kept["small"])
    adapted = PeftModel.from_pretrained(small.model, str(folder), use_safetensors=True)
    return replace(start, model=Ensemble(start.model, adapted, kept["alpha"]).eval())


RESULT = "offset"


def _check(model: Model, settings: Unlearn) -> None:
    name = _small_name(settings)
    if settings.full:
        raise InputError("offset trains an adapter of the small model", where="unlearn.full", way_out="leave it out")
    if distributed.shards_weights():
        raise InputError("offset runs three models that FSDP cannot split", way_out="use DDP, recipes/accelerate/")
    check_tokenizers(load_tokenizer(model), load_tokenizer(small_spec(model, name)), name)


@procedure("offset", result=RESULT, check=_check)
def offset(job: Job) -> None:
    """Train the small model and write offset/: its adapter, and offset.json."""
    _check(job.model, job.settings)
    chosen = _chosen(job.settings)
    name = _small_name(job.settings)
    small = load(small_spec(job.model, name))
    adapted = add_lora(small.model, job.settings.lora, seed=job.seed)
    ensemble = Ensemble(job.loaded.model, adapted, chosen.alpha)
    options = {**METHODS.get(job.settings.method).defaults, **job.settings.options}
    settings = job.settings.model_copy(
        update={"method": options["objective"], "options": dict(options["objective_options"])}
    )
    inner = replace(job, settings=settings)
    # In the precision of the pass with the adapter, or their difference would be rounding.
    with mixed(job.loaded.device, settings.precision == "bfloat16"):
        ensemble.remember(_rows(inner, chosen))
    train.trained(inner, model=ensemble, name=RESULT)
    with replaced_dir(job.folder / RESULT) as target:
        save_offset(target, ensemble, name, objective=options["objective"])
    remove_tree(job.folder / train.CHECKPOINTS)


def _chosen(settings: Unlearn) -> Offset:
    chosen = METHODS.get(settings.method).objective(settings.options)
    assert isinstance(chosen, Offset)
    return chosen


def _small_name(settings: Unlearn) -> str:
    name = _chosen(settings).small
    if not name:
        raise InputError(
            "offset needs a small model with the tokenizer of the large one",
            where="unlearn.options.small",
            way_out="give a built-in name, a folder, or a name on the hub",
        )
    return name


def _rows(job: Job, chosen: Offset) -> list[Any]:
    """The rows of all streams of the plan that the objective needs."""
    method = METHODS.get(job.settings.method)
    batches = train.unlearn_batches(job.loaded.chat, method, job.material, job.settings, job.seed)
    return needed_rows(batches, chosen)
