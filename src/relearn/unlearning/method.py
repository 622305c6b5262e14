"""Register unlearning methods: loss functions with their paper, options, training data and procedure.

    @method("my_loss", paper="...", data="original", defaults=dict(beta=0.1, retain_nll=1.0))
    def my_loss(forget: AnswerLogits, forget_reference_nll: Tensor, *, beta: Positive) -> Tensor: ...

Parameters before the `*` are inputs, named like the fields of `Batch`; only the forward passes they need are run. An
input with a default may be missing from a micro-batch. Parameters after the `*` are options; their annotations define
the allowed values (`options.py`). The loss returns a scalar, logged under the function's name, or the scalar and the
named terms to log. The scalar is this micro-batch's share of the optimiser step (`AnswerLogits.mean`, `.mean_rows`).

Some options need no code in the loss, only an entry in `defaults`: `forget_weight` multiplies the loss, `retain_nll`
and `retain_kl` add the retain terms (`retain.py`). `check_method.py` tests a method on a synthetic batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar, get_type_hints

import torch

from relearn.core.errors import InputError
from relearn.core.registry import Registry, suggest
from relearn.unlearning.data.streams import ALTERNATE_SOURCES, SYNTHESISED_SOURCES, StreamSource
from relearn.unlearning.options import check_option, positive
from relearn.unlearning.retain import RETAIN_DEFAULTS, LossTerms, RetainLoss, RetainWeights, retain_terms
from relearn.unlearning.token_loss import AnswerLogits

__all__ = ["METHODS", "AnswerLogits", "Batch", "LossTerms", "Method", "Objective", "method"]

LogRow = Callable[..., None]  # Writes one row of a training log, given as keyword arguments
# model -> named values, among them "score" (higher is better)
Evaluate = Callable[[Any], Mapping[str, float]]
InputKind = Literal["logits", "reference", "reference_nll", "states", "states_reference"]
STREAMS = ("forget", "rejected", "mismatched", "original", "retain")


class LossInput(NamedTuple):
    """Describe an input of a loss: the stream whose rows it is computed from, and its kind."""

    stream: str
    kind: InputKind


INPUTS = {stream: LossInput(stream, "logits") for stream in STREAMS} | {
    "forget_reference": LossInput("forget", "reference"),
    "retain_reference": LossInput("retain", "reference"),
    "forget_reference_nll": LossInput("forget", "reference_nll"),
    "rejected_reference_nll": LossInput("rejected", "reference_nll"),
    "original_reference_nll": LossInput("original", "reference_nll"),
    "forget_states": LossInput("forget", "states"),
    "retain_states": LossInput("retain", "states"),
    "retain_states_reference": LossInput("retain", "states_reference"),
}


@dataclass(frozen=True)
class Batch:
    """Hold the inputs of a loss on one micro-batch; inputs that the objective does not need are None.

    `forget`: rows of the method's data (`Method.data`). `rejected`: one row for each forget row in the same order, with
    the answer that is not preferred. `mismatched`: the forget questions with answers of other records. `original`: the
    forget questions with the original answers; None if no row of the micro-batch has one. `retain`: retain rows.
    `*_reference`: the start model's predictions on the same rows, without gradient. `*_reference_nll`: its summed NLL
    of each row, (rows,) float32. `*_states`: states after the decoder layer `Objective.layer` at the positions that
    predict answer tokens, (A, width). `state`: the numbers that an objective carries from step to step.
    """

    forget: AnswerLogits
    retain: AnswerLogits | None = None
    retain_reference: AnswerLogits | None = None
    rejected: AnswerLogits | None = None
    mismatched: AnswerLogits | None = None
    original: AnswerLogits | None = None
    forget_reference: AnswerLogits | None = None
    forget_reference_nll: torch.Tensor | None = None
    rejected_reference_nll: torch.Tensor | None = None
    original_reference_nll: torch.Tensor | None = None
    forget_states: torch.Tensor | None = None
    retain_states: torch.Tensor | None = None
    retain_states_reference: torch.Tensor | None = None
    state: Mapping[str, float] = field(default_factory=dict)


class Objective:
    """Compute the loss that a training minimises, and its named loss terms to log, for a method with fixed options.

    A decorated loss function becomes a `LossObjective`. Methods made of other methods are subclasses.
    """

    @property
    def needs(self) -> frozenset[str]:
        """Return the names of the `Batch` fields that the loss is computed from."""
        raise NotImplementedError

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, LossTerms]:
        raise NotImplementedError

    @property
    def layer(self) -> int | None:
        """Return the number of the decoder layer whose states the loss takes, or None."""
        return None

    @property
    def source(self) -> StreamSource | None:
        """Return the source of the training data if it depends on an option, else None."""
        return None

    @property
    def initial_state(self) -> dict[str, float]:
        """Return the numbers to carry from step to step, as they are before the first step; checkpoints save them."""
        return {}

    def next_state(self, state: Mapping[str, float], terms: Mapping[str, float]) -> dict[str, float]:
        """Compute the carried numbers after an optimiser step; `terms` are sums over its micro-batches."""
        return dict(state)

    def needed_streams(self, kind: InputKind) -> list[str]:
        """List the streams for which the loss takes this kind of input."""
        return [stream for stream in STREAMS if any(INPUTS[name] == (stream, kind) for name in self.needs)]


class CarriedState(NamedTuple):
    """Hold the functions that compute the numbers carried from step to step; both get the options as keywords.

    `first(**options)` gives the numbers before the first step, `following(state, terms, **options)` those after a step.
    """

    first: Callable[..., dict[str, float]]
    following: Callable[..., dict[str, float]]


@dataclass(frozen=True)
class LossFunction:
    """Describe a decorated loss function.

    `inputs` maps an input to True if it is required. `options` maps an option to its annotation. `enabled_by` maps an
    input to an option; if the option is 0, the input is left out and its forward passes are not run.
    """

    function: Callable[..., Any]
    inputs: Mapping[str, bool]
    options: Mapping[str, Any]
    enabled_by: Mapping[str, str]
    state: CarriedState | None = None

    @classmethod
    def read(
        cls, function: Callable[..., Any], enabled_by: Mapping[str, str], state: CarriedState | None
    ) -> LossFunction:
        """Read inputs and options from the signature. Raises TypeError for an unknown or missing parameter."""
        inputs, options, hints = {}, {}, get_type_hints(function, include_extras=True)
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY:
                options[parameter.name] = hints.get(parameter.name)
            else:
                inputs[parameter.name] = parameter.default is parameter.empty
        known = [*INPUTS, "state", "retain_loss"]
        for name in inputs:
            if name not in known:
                way_out = f"{suggest(name, known)}; options come after a *"
                raise TypeError(f"{function.__name__} takes {name!r}, which is no input of a loss: {way_out}")
        if "forget" not in inputs:
            raise TypeError(f"{function.__name__} does not take `forget`, which every loss is computed from")
        if _takes_states(inputs) and "layer" not in options:
            raise TypeError(f"{function.__name__} takes states and needs an option `layer`")
        return cls(function, inputs, options, enabled_by, state)

    def objective(self, **options: Any) -> LossObjective:
        """Build the objective with these options. Raises ValueError for a value that is not allowed."""
        weights = None
        if "retain_nll" in options and "retain_nll" not in self.options:
            weights = RetainWeights(**{name: options[name] for name in RETAIN_DEFAULTS})
        if "forget_weight" in options:
            positive(forget_weight=options["forget_weight"])
        for name, annotation in self.options.items():
            check_option(name, options[name], annotation)
        return LossObjective(self, options, weights)


def _takes_states(names: Iterable[str]) -> bool:
    return any(name in INPUTS and INPUTS[name].kind in ("states", "states_reference") for name in names)


@dataclass(frozen=True)
class LossObjective(Objective):
    """Compute a loss function with its options, times `forget_weight` and plus the retain terms if it has these."""

    loss: LossFunction
    options: Mapping[str, Any]
    weights: RetainWeights | None = None

    @property
    def needs(self) -> frozenset[str]:
        switched_off = {name for name, option in self.loss.enabled_by.items() if not self.options[option]}
        own = frozenset(name for name in self.loss.inputs if name in INPUTS) - switched_off
        return own | self.weights.needs if self.weights else own

    @property
    def layer(self) -> int | None:
        return self.options["layer"] if _takes_states(self.needs) else None

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, LossTerms]:
        retain_loss: RetainLoss = 0.0, {}
        if self.weights:
            retain_loss = retain_terms(self.weights, batch.retain, batch.retain_reference)
        result = self.loss.function(**self._inputs(batch, retain_loss), **self._own_options())
        loss, terms = result if isinstance(result, tuple) else (result, {self.loss.function.__name__: result})
        if "forget_weight" in self.options and "forget_weight" not in self.loss.options:
            loss = self.options["forget_weight"] * loss
        if "retain_loss" in self.loss.inputs:
            return loss, terms
        return loss + retain_loss[0], terms | retain_loss[1]

    def _inputs(self, batch: Batch, retain_loss: RetainLoss) -> dict[str, Any]:
        needs = self.needs | {"state"}
        values = {name: getattr(batch, name) for name in self.loss.inputs if name in needs}
        values |= {"retain_loss": retain_loss} if "retain_loss" in self.loss.inputs else {}
        for name, required in self.loss.inputs.items():
            if required and values.get(name) is None:
                raise ValueError(f"{self.loss.function.__name__} takes {name}, which this batch does not have")
        return {name: value for name, value in values.items() if value is not None}

    def _own_options(self) -> dict[str, Any]:
        return {name: self.options[name] for name in self.loss.options}

    @property
    def initial_state(self) -> dict[str, float]:
        return self.loss.state.first(**self._own_options()) if self.loss.state else {}

    def next_state(self, state: Mapping[str, float], terms: Mapping[str, float]) -> dict[str, float]:
        return self.loss.state.following(state, terms, **self._own_options()) if self.loss.state else dict(state)


@dataclass(frozen=True, kw_only=True)
class Method:
    """Describe a registered unlearning method, as `relearn list methods` shows it.

    `build` makes the objective from the options. `data` is the source of the forget rows (`data/streams.py`).
    `procedure` is the name of the procedure that runs the method: "train" is one training with the objective, others
    are registered with `procedures.procedure`.
    """

    name: str
    family: str
    paper: str
    build: Callable[..., Objective]
    defaults: Mapping[str, Any]
    data: StreamSource = "synthesised"
    procedure: str = "train"

    def objective(self, options: Mapping[str, Any]) -> Objective:
        """Build the objective. Raises InputError for an unknown option or a value that is not allowed."""
        for key in options:
            if key not in self.defaults:
                raise InputError(
                    f"{self.name} has no option {key!r}",
                    where="unlearn.options",
                    way_out=suggest(key, list(self.defaults)) if self.defaults else "it has none",
                )
        try:
            return self.build(**{**self.defaults, **options})
        except (ValueError, TypeError) as error:
            raise InputError(str(error), where="unlearn.options") from None

    def source(self, options: Mapping[str, Any]) -> StreamSource:
        """Return the source of the forget rows: `data`, unless it depends on an option (offset)."""
        return self.objective(options).source or self.data

    def needs_synthesis(self, options: Mapping[str, Any]) -> bool:
        """Return True if vague answers must be generated before the training."""
        return self.source(options) in SYNTHESISED_SOURCES

    def needs_alternates(self, options: Mapping[str, Any]) -> bool:
        """Return True if alternate answers must be generated before the training."""
        return self.source(options) in ALTERNATE_SOURCES


METHODS: Registry[Method] = Registry(
    "method",
    "relearn.unlearning.losses",
    "relearn.unlearning.weight_arithmetic",
    "relearn.unlearning.inference_time.eco_train",
    "relearn.unlearning.inference_time.offset",
)
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def method(
    name: str,
    *,
    paper: str,
    defaults: Mapping[str, Any] | None = None,
    family: str = "custom",
    data: StreamSource = "synthesised",
    procedure: str = "train",
    enabled_by: Mapping[str, str] | None = None,
    state: CarriedState | None = None,
) -> Callable[[Decorated], Decorated]:
    """Register an unlearning method: a loss function, or a subclass of `Objective` whose fields are its options.

    `defaults` are the options with their default values (the parameters may also have defaults). `enabled_by` maps an
    input to the option that switches it off at 0. `state` is for a loss that carries numbers from step to step. One
    function may be registered under several names with different defaults. Raises TypeError when the signature and
    the defaults do not match.
    """

    def register(target: Decorated) -> Decorated:
        build: Callable[..., Objective] = target
        options = dict(defaults or {})
        if not isinstance(build, type):
            loss = LossFunction.read(build, enabled_by or {}, state)
            options = _complete_options(build, loss, options)
            build = loss.objective
        entry = {"name": name, "family": family, "paper": paper, "build": build, "defaults": options}
        METHODS.add(name, Method(**entry, data=data, procedure=procedure))
        return target

    return register


def _complete_options(function: Callable[..., Any], loss: LossFunction, options: dict[str, Any]) -> dict[str, Any]:
    """Add the defaults of parameters and retain terms. Raises TypeError when options and parameters do not match."""
    parameters = inspect.signature(function).parameters
    own = {key: parameters[key].default for key in loss.options if key not in options}
    complete = {key: value for key, value in own.items() if value is not inspect.Parameter.empty} | options
    for key in [*loss.options, *loss.enabled_by.values()]:
        if key not in complete:
            raise TypeError(f"{function.__name__} takes the option {key!r}, which has no default: add it to `defaults`")
    outside = [key for key in complete if key not in loss.options]
    for key in outside:
        if key not in ("forget_weight", *RETAIN_DEFAULTS):
            raise TypeError(f"`defaults` has {key!r}, which {function.__name__} does not take: add it after the *")
    if not RETAIN_DEFAULTS.keys() & outside:
        return complete
    retain = {key: complete.pop(key, default) for key, default in RETAIN_DEFAULTS.items()}
    return complete | retain
