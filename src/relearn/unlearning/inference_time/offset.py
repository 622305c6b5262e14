"""Implement offset (delta) unlearning: add a small model's change of logits to a large model (arXiv 2404.11045).

    logits = l_M + alpha (l_small_unlearned - l_small)

The adapter of a small model is trained through the logits of the ensemble; the large model M does not change. The small
model is unlearned with its adapter, and original with the adapter off. Both models must have the same tokenizer. M and
the original small model are run without gradient. If their states fit into memory, they are run once for every row of
the plan before the first step, else in every step.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from relearn.core import distributed
from relearn.core.config import Model, Unlearn
from relearn.core.errors import InputError
from relearn.core.files import read_json, remove_tree, replaced_dir, write_json
from relearn.engine.forward import Head, Predicted, TokenRow, predict
from relearn.engine.model_support import bare, evaluating
from relearn.models.load import Loaded, load, load_tokenizer
from relearn.models.lora import add_lora, attach_adapter, save_adapter
from relearn.unlearning import train
from relearn.unlearning.data.streams import StreamSource
from relearn.unlearning.inference_time.wrapper import ModelWrapper
from relearn.unlearning.method import METHODS, Batch, LossTerms, Method, Objective, method
from relearn.unlearning.options import not_negative
from relearn.unlearning.procedures import Job, procedure
from relearn.unlearning.reference_model import mixed
from relearn.unlearning.step import needed_rows

RESULT = "offset"
CACHE_BYTES = 2 << 30
_CACHE_BATCH = 8
_SETTINGS = "offset.json"


@method(
    "offset",
    family="inference-time",
    paper="Huang et al. 2025, arXiv 2404.11045",
    data="original",
    procedure="offset",
    defaults=dict(objective="grad_diff", objective_options={}, alpha=1.0, small=None),
)
@dataclass(frozen=True)
class Offset(Objective):
    """Compute the loss of another method, `objective` with `objective_options`, on the logits of the ensemble.

    `small` is the small model: a built-in name, a folder or a name on the hub. alpha: 1 (0.5 to 2).
    """

    objective: str
    objective_options: Mapping[str, Any]
    alpha: float
    small: str | None

    def __post_init__(self) -> None:
        if self.method.procedure != "train":
            raise ValueError(
                f"objective {self.objective!r} is no loss to train with: take grad_diff, npo_gdr or another"
            )
        if self.inner.layer is not None:
            raise ValueError(
                f"objective {self.objective!r} needs the states of a layer, and an ensemble has only logits"
            )
        not_negative(alpha=self.alpha)

    @property
    def method(self) -> Method:
        return METHODS.get(self.objective)

    @cached_property
    def inner(self) -> Objective:
        return self.method.objective(self.objective_options)

    @property
    def source(self) -> StreamSource:
        return self.method.data

    @property
    def needs(self) -> frozenset[str]:
        return self.inner.needs

    @property
    def initial_state(self) -> dict[str, float]:
        return self.inner.initial_state

    def next_state(self, state: Mapping[str, float], terms: Mapping[str, float]) -> dict[str, float]:
        return self.inner.next_state(state, terms)

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, LossTerms]:
        return self.inner(batch)


class Ensemble(ModelWrapper):
    """Combine a large model, `inner`, with a small model whose PEFT adapter has the only trainable weights.

    With `disable_adapter` it gives the predictions of the large model. Predictions contain the joined states of the
    three passes, and a head that computes the ensemble's logits from them, because logits take more memory. They
    contain logits if one of the models does not compute its logits with its output layer alone.
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
        """Run the large and the original small model once over `rows`, and keep their states.

        Returns False, and keeps nothing, when the states need more than `CACHE_BYTES` or a model has no separate
        output layer. The order of the rows is fixed, so that a resumed training gets bit-identical numbers.
        """
        ordered = [row for _, row in sorted({_key(row): row for row in rows}.items())]
        states_of, heads = {}, (None, None)
        for at in range(0, len(ordered), _CACHE_BATCH):
            batch = ordered[at : at + _CACHE_BATCH]
            large, start = self._fixed_passes(batch)
            if large.states is None or start.states is None:
                return False
            heads = (large.head, start.head)
            width = sum(states.shape[1] * states.element_size() for states in (large.states, start.states))
            if sum(row.answer_tokens for row in ordered) * width > CACHE_BYTES:
                return False
            sizes = [row.answer_tokens for row in batch]
            pairs = zip(batch, large.states.split(sizes), start.states.split(sizes), strict=True)
            states_of |= {_key(row): (of_large.clone(), of_small.clone()) for row, of_large, of_small in pairs}
        self._fixed, self._fixed_heads = states_of, heads
        return bool(states_of)

    def generate_changed(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, settings: dict[str, Any]
    ) -> torch.Tensor:
        processors = LogitsProcessorList([OffsetProcessor(self.small, self.alpha, attention_mask)])
        # The repetition penalty scales logits, so it must follow the offset; transformers would apply it before.
        penalty = settings.pop("repetition_penalty", None) or self.inner.generation_config.repetition_penalty
        if penalty and penalty != 1.0:
            padding = attention_mask.int().argmax(dim=1)
            processors.append(RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=padding))
        # The caller's processors get the final scores, so they come last.
        processors += settings.pop("logits_processor", [])
        return self.inner.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            logits_processor=processors,
            repetition_penalty=1.0,
            **settings,
        )

    def train(self, mode: bool = True) -> Ensemble:
        """Set training mode for the small model; the large model stays in evaluation mode."""
        super().train(mode)
        self.inner.eval()
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return only the trained weights, so that a checkpoint contains neither model."""
        trained = {name for name, weight in self.named_parameters() if weight.requires_grad}
        return {name: weight for name, weight in super().state_dict(*args, **kwargs).items() if name in trained}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load the trained weights that `state_dict` returns; other weights do not count as missing."""
        keys, trained = super().load_state_dict(state_dict, strict=False), self.state_dict()
        return type(keys)([name for name in keys.missing_keys if name in trained], keys.unexpected_keys)

    def gradient_checkpointing_enable(self, **settings: Any) -> None:
        self.small.gradient_checkpointing_enable(**settings)

    def enable_input_require_grads(self) -> None:
        self.small.enable_input_require_grads()

    @torch.no_grad()
    def _fixed_passes(self, rows: Sequence[TokenRow]) -> tuple[Predicted, Predicted]:
        """Return the predictions of the large and the original small model, from the kept states where they exist."""
        pairs = [pair for row in rows if (pair := self._fixed.get(_key(row))) is not None]
        if len(pairs) == len(rows):
            large, start = (torch.cat(states) for states in zip(*pairs, strict=True))
            return Predicted(None, large, self._fixed_heads[0]), Predicted(None, start, self._fixed_heads[1])
        with evaluating(self.small), self.small.disable_adapter():
            start = predict(self.small, rows)
        return predict(self.inner, rows), start

    def _joined(self, large: Predicted, start: Predicted, unlearned: Predicted) -> Predicted:
        if large.states is None or start.states is None or unlearned.states is None:
            offset = self.alpha * (unlearned.logits_at() - start.logits_at())
            large_logits = large.logits_at()
            return Predicted(large_logits + _fitted(offset, large_logits.shape[-1]))
        assert large.head is not None and start.head is not None
        states = torch.cat([large.states, start.states, unlearned.states], dim=-1)
        head = _joint_head(large.head, start.head, large_width=large.states.shape[-1], alpha=self.alpha)
        return Predicted(None, states, head)


def _key(row: TokenRow) -> tuple[tuple[int, ...], int]:
    return row.ids, row.answer_start


def _joint_head(large_head: Any, small_head: Any, *, large_width: int, alpha: float) -> Head:
    """Make a head that maps the joined states (c, H_large + 2 H_small) to the ensemble's logits (c, V)."""

    def head(states: torch.Tensor) -> torch.Tensor:
        start, unlearned = states[:, large_width:].chunk(2, dim=-1)
        # No gradient is needed through the two models that do not change.
        large, start = states[:, :large_width].detach(), start.detach()
        # The small output layer is linear, so one product with the difference gives the difference of the logits.
        offset = torch.nn.functional.linear((unlearned - start).to(small_head.weight.dtype), small_head.weight)
        logits = large_head(large.to(large_head.weight.dtype)).float()
        return logits + _fitted(alpha * offset.float(), logits.shape[-1])

    return head


def _fitted(offset: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Cut or pad the offset to the vocabulary size of the large model.

    Models of one family pad their output layers to different sizes.
    """
    missing = vocabulary - offset.shape[-1]
    return torch.nn.functional.pad(offset, (0, missing)) if missing > 0 else offset[..., :vocabulary]


class NextLogits:
    """Compute the next logits of a second model in every step of one call of `generate`, with its own KV cache.

    `attention_mask` (rows, tokens) is the mask of the left-padded prompts.
    """

    def __init__(self, model: Any, attention_mask: torch.Tensor):
        self._model = model
        self._mask = attention_mask
        self._cache: Any = None
        self._seen = 0
        accepted = inspect.signature(bare(model).forward).parameters
        self._last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    @torch.no_grad()
    def __call__(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the logits (rows, V), float32, that follow `input_ids` (rows, tokens)."""
        new_tokens = input_ids.shape[1] - self._mask.shape[1]
        self._mask = torch.nn.functional.pad(self._mask, (0, new_tokens), value=1)
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        output = self._model(
            input_ids=input_ids[:, self._seen :],
            attention_mask=self._mask,
            position_ids=positions[:, self._seen :],
            past_key_values=self._cache,
            use_cache=True,
            **self._last_only,
        )
        self._cache, self._seen = output.past_key_values, input_ids.shape[1]
        return output.logits[:, -1].float()


class OffsetProcessor(LogitsProcessor):
    """Add alpha (l_small_unlearned - l_small) to the logits at each token of one call of `generate`."""

    def __init__(self, small: Any, alpha: float, attention_mask: torch.Tensor):
        self._small = small
        self._alpha = alpha
        self._unlearned, self._start = NextLogits(small, attention_mask), NextLogits(small, attention_mask)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        unlearned = self._unlearned(input_ids)
        with self._small.disable_adapter():
            start = self._start(input_ids)
        offset = self._alpha * (unlearned - start)
        return scores + _fitted(offset, scores.shape[-1]).to(scores.dtype)


def small_spec(large: Model, name: str) -> Model:
    """Make the `model` settings of the small model from those of the large one: same device and number format."""
    return large.model_copy(update={"name": name, "revision": None, "adapter": None})


def check_tokenizers(large: Any, small: Any, name: str) -> None:
    """Raise InputError unless both tokenizers give every token the same id."""
    large_ids, small_ids = large.get_vocab(), small.get_vocab()
    if large_ids == small_ids:
        return
    differing = sum(small_ids.get(token) != number for token, number in large_ids.items())
    differing += sum(token not in large_ids for token in small_ids)
    raise InputError(
        f"the small model {name!r} has another tokenizer: {differing} tokens differ",
        where="unlearn.options.small",
        way_out="take a smaller model of the same family",
    )


def save_offset(folder: Path, ensemble: Ensemble, small: str, **about: Any) -> None:
    """Write the small model's adapter, and offset.json with its name, alpha and the entries of `about`."""
    save_adapter(ensemble.small, folder)
    write_json(folder / _SETTINGS, {"small": small, "alpha": ensemble.alpha, **about})


def load_offset(start: Loaded, spec: Model, folder: Path) -> Loaded:
    """Load the ensemble of the start model, which was loaded from `spec`, and the small model saved in `folder`."""
    saved = read_json(folder / _SETTINGS)
    small = load(small_spec(spec, saved["small"]))
    check_tokenizers(start.tokenizer, small.tokenizer, saved["small"])
    adapted = attach_adapter(small.model, folder)
    return replace(start, model=Ensemble(start.model, adapted, saved["alpha"]).eval())


def _check(model: Model, settings: Unlearn) -> None:
    name = _small_name(settings)
    if settings.full:
        raise InputError("offset trains an adapter of the small model", where="unlearn.full", way_out="leave it out")
    if distributed.shards_weights():
        raise InputError("offset runs three models that FSDP cannot split", way_out="use DDP, recipes/accelerate/")
    check_tokenizers(load_tokenizer(model), load_tokenizer(small_spec(model, name)), name)


@procedure("offset", result=RESULT, check=_check)
def offset(job: Job) -> None:
    """Run offset unlearning: train the small model's adapter, and write offset/ (the adapter, offset.json)."""
    _check(job.model, job.settings)
    chosen, name = _offset(job.settings), _small_name(job.settings)
    small = load(small_spec(job.model, name))
    adapted = add_lora(small.model, job.settings.lora, seed=job.seed)
    ensemble = Ensemble(job.loaded.model, adapted, chosen.alpha)
    changes = {"method": chosen.objective, "options": dict(chosen.objective_options)}
    training = replace(job, settings=job.settings.model_copy(update=changes))
    # Use the precision of the pass with the adapter; with another one the difference would contain rounding errors.
    with mixed(job.loaded.device, training.settings.precision == "bfloat16"):
        ensemble.remember(_rows(training, chosen))
    train.trained(training, model=ensemble, name=RESULT)
    with replaced_dir(job.folder / RESULT) as target:
        save_offset(target, ensemble, name, objective=chosen.objective)
    remove_tree(job.folder / train.CHECKPOINTS)


def _offset(settings: Unlearn) -> Offset:
    objective = METHODS.get(settings.method).objective(settings.options)
    assert isinstance(objective, Offset)
    return objective


def _small_name(settings: Unlearn) -> str:
    name = _offset(settings).small
    if not name:
        raise InputError(
            "offset needs a small model with the tokenizer of the large one",
            where="unlearn.options.small",
            way_out="give a built-in name, a folder, or a name on the hub",
        )
    return name


def _rows(job: Job, objective: Offset) -> list[TokenRow]:
    """List the rows of the plan in the streams that the objective needs."""
    method = METHODS.get(job.settings.method)
    batches = train.unlearn_batches(job.loaded.chat, method, job.data, settings=job.settings, seed=job.seed)
    return needed_rows(batches, objective, "logits")
