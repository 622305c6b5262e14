"""Test the loss of an unlearning method on a small synthetic optimiser step.

`check_method(name)` returns one line for each problem, with a way to fix it. An empty list means that no problem was
found. The step has three forget rows and three retain rows in float64. The checks cut it into micro-batches, reorder
its rows, and pass it as logits or as states with a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch

from relearn.core.errors import InputError
from relearn.unlearning import token_loss
from relearn.unlearning.method import INPUTS, METHODS, Batch, LossTerms, Objective
from relearn.unlearning.token_loss import AnswerLogits

VOCABULARY, WIDTH = 11, 13  # WIDTH > VOCABULARY, so that some state gives any vector of logits
# Number of answer tokens of every row. Each forget row has one rejected, one original and two mismatched rows.
LENGTHS = {
    "forget": (3, 1, 4),
    "rejected": (2, 4, 1),
    "original": (1, 2, 3),
    "mismatched": (2, 3, 1, 2, 2, 1),
    "retain": (4, 2, 1),
}
MISMATCHED = 2
ALL_ROWS = (0, 1, 2)
CHUNK = 3
InputForm = Literal["logits", "head"]
Result = tuple[torch.Tensor, LossTerms]
MEANS = "`forget.mean(values)` for values of tokens or `forget.mean_rows(values)` for values of rows"


@dataclass(frozen=True)
class Step:
    """Hold a synthetic optimiser step.

    `trained`: states (A, WIDTH) by input name, with gradient. `fixed`: the start model's states (A, WIDTH) or NLL
    (rows,) by input name, without gradient. `targets`: token ids (A,) by stream. `weight`: the output layer
    (WIDTH, VOCABULARY). `state`: the numbers that the objective carries from step to step.
    """

    trained: Mapping[str, torch.Tensor]
    fixed: Mapping[str, torch.Tensor]
    targets: Mapping[str, torch.Tensor]
    weight: torch.Tensor
    state: Mapping[str, float]

    def batch(
        self,
        forget: Sequence[int] = ALL_ROWS,
        retain: Sequence[int] = ALL_ROWS,
        *,
        form: InputForm = "head",
        trained: Mapping[str, torch.Tensor] | None = None,
        shift: float = 0.0,
        times: int = 1,
    ) -> Batch:
        """Make a micro-batch of the rows with these indices.

        The token and row counts of the step are multiplied by `times`. `shift` is added to all logits.
        """
        mismatched = [MISMATCHED * row + number for row in forget for number in range(MISMATCHED)]
        rows = {**dict.fromkeys(LENGTHS, forget), "mismatched": mismatched, "retain": retain}
        values: dict[str, Any] = {"state": self.state}
        for name, value in {**self.fixed, **(trained or self.trained)}.items():
            stream, kind = INPUTS[name]
            if kind == "reference_nll":
                values[name] = value[list(rows[stream])]
                continue
            states = value[self._tokens(stream, rows[stream])]
            if kind not in ("states", "states_reference"):
                states = self._answers(stream, rows[stream], states, form=form, shift=shift, times=times)
            values[name] = states
        return Batch(**values)

    def _tokens(self, stream: str, rows: Sequence[int]) -> torch.Tensor:
        tokens = torch.arange(sum(LENGTHS[stream])).split(LENGTHS[stream])
        return torch.cat([tokens[row] for row in rows])

    def _answers(
        self, stream: str, rows: Sequence[int], states: torch.Tensor, *, form: InputForm, shift: float, times: int
    ) -> AnswerLogits:
        lengths = torch.tensor([LENGTHS[stream][row] for row in rows])
        row = torch.arange(len(rows)).repeat_interleave(lengths)
        targets = self.targets[stream][self._tokens(stream, rows)]
        sizes = (row, len(rows), times * sum(LENGTHS[stream]), times * len(LENGTHS[stream]))
        if form == "logits":
            return AnswerLogits(states @ self.weight + shift, targets, *sizes)
        return AnswerLogits(None, targets, *sizes, states=states, head=lambda chunk: chunk @ self.weight + shift)


def draw(objective: Objective, seed: int = 0) -> Step:
    """Draw a random step in float64 with the forget rows and the inputs that `objective` needs."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    trained, fixed = {}, {}
    for name in sorted(objective.needs | {"forget"}):
        stream, kind = INPUTS[name]
        lengths = LENGTHS[stream]
        if kind == "reference_nll":
            fixed[name] = numbers(len(lengths)).abs() + 2
        elif kind in ("reference", "states_reference"):
            fixed[name] = numbers(sum(lengths), WIDTH)
        else:
            trained[name] = numbers(sum(lengths), WIDTH).requires_grad_()
    targets = {
        name: torch.randint(0, VOCABULARY, (sum(lengths),), generator=generator) for name, lengths in LENGTHS.items()
    }
    weight = numbers(WIDTH, VOCABULARY) / WIDTH**0.5
    return Step(trained, fixed, targets, weight, objective.initial_state)


def gradients(step: Step, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Compute the gradient of the loss with respect to each trained input, by name; zeros where there is none."""
    inputs = list(step.trained.values())
    values = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
    return dict(zip(step.trained, values, strict=True))


def check_method(name: str, options: Mapping[str, Any] | None = None, *, tolerance: float = 1e-6) -> list[str]:
    """Test a registered method, and return one line for each problem; an empty list when there is none.

    Two losses count as equal up to the relative difference `tolerance`. Raises InputError for an unknown name.
    """
    method = METHODS.get(name)
    try:
        objective = method.objective(options or {})
    except InputError as error:
        return [f"its options are refused ({_first_line(error)}): give defaults that are allowed"]
    checker = _Checker(objective, draw(objective), tolerance)
    for form in ("logits", "head"):
        if problem := checker.value(form):
            return [problem]
    checks = (checker.reach, checker.in_place, checker.order, checker.sizes, checker.forms, checker.shift)
    return [problem for check in checks if (problem := _guarded(check))]


def _guarded(check: Callable[[], str]) -> str:
    try:
        return check()
    except Exception as error:
        return f"it raises {type(error).__name__} on a part of the rows ({_first_line(error)}): any number may come"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


@dataclass(frozen=True)
class _Checker:
    """Run the checks of one objective; each returns the text of a problem, or "" when there is none."""

    objective: Objective
    step: Step
    tolerance: float

    def value(self, form: InputForm) -> str:
        """Check that the loss and its terms are finite scalar tensors, and that the loss has a gradient."""
        try:
            loss, terms = self.objective(self.step.batch(form=form))
        except Exception as error:
            problem = f"{type(error).__name__} ({_first_line(error)})"
            if form == "head":
                return (
                    f"it raises {problem} when a batch holds states and a head instead of logits: "
                    "take `forget.token_nll()` or `forget.token_loss(function)`, which work with both"
                )
            return f"it raises {problem} on a small batch"
        if problem := _wrong_number("the loss", loss):
            return problem
        if not loss.requires_grad:
            return "the loss has no gradient: compute it without .detach(), .item() and torch.no_grad()"
        return next((problem for key, term in terms.items() if (problem := _wrong_number(f"term {key!r}", term))), "")

    def reach(self) -> str:
        """Check that the gradient is not zero for any stream that the loss takes."""
        loss, _ = self.objective(self.step.batch(form="logits"))
        reached = {INPUTS[name].stream for name, values in gradients(self.step, loss).items() if values.abs().sum() > 0}
        missing = sorted({INPUTS[name].stream for name in self.step.trained} - reached)
        return f"no gradient reaches `{missing[0]}`: use it in the loss, or do not take it" if missing else ""

    def in_place(self) -> str:
        """Check that the loss does not change its inputs in place."""
        batch = self.step.batch(form="logits")
        before = {name: value.detach().clone() for name, value in _tensors(batch)}
        self.objective(batch)
        changed = [name for name, value in _tensors(batch) if not torch.equal(value.detach(), before[name])]
        if not changed:
            return ""
        return f"it changes `{changed[0]}` in place: write `x - y`, not `x.sub_(y)` or `x -= y`"

    def order(self) -> str:
        """Check that the loss does not depend on the order of the rows."""
        one, other = self.objective(self.step.batch()), self.objective(self.step.batch((2, 0, 1), (1, 2, 0)))
        if self._same(one, other):
            return ""
        return "the loss depends on the order of the rows: use neither the position of a row nor random numbers"

    def sizes(self) -> str:
        """Check that the losses of micro-batches add up to the loss of the step, and that this is a mean."""
        whole = self.objective(self.step.batch())
        one, other = self.objective(self.step.batch((0, 1), (0,))), self.objective(self.step.batch((2,), (1, 2)))
        twice, twice_terms = self.objective(self.step.batch(times=2))
        terms = {name: one[1][name] + other[1][name] for name in whole[1]}
        adds_up = self._same(whole, (one[0] + other[0], terms))
        is_mean = self._same(whole, (2 * twice, {name: 2 * term for name, term in twice_terms.items()}))
        if adds_up and is_mean:
            return ""
        if adds_up:
            return f"the loss is a sum, not a mean over the optimiser step: take {MEANS}"
        if is_mean:
            return "micro-batches do not add up to the step: the value of a token or row must not depend on other rows"
        return f"micro-batches do not add up: the loss is a mean over the micro-batch, or has a constant; take {MEANS}"

    def forms(self) -> str:
        """Check that logits, and states with a head in small chunks, give the same loss."""
        by_logits = self.objective(self.step.batch(form="logits"))
        with _chunks_of(CHUNK):
            by_head = self.objective(self.step.batch(form="head"))
        if self._same(by_logits, by_head):
            return ""
        return "logits come in chunks of tokens: a function given to `token_loss` must treat every token on its own"

    def shift(self) -> str:
        """Check that the loss does not change when a constant is added to all logits (the probs stay the same)."""
        if self._same(self.objective(self.step.batch()), self.objective(self.step.batch(shift=7.0))):
            return ""
        return "the loss changes when a constant is added to all logits: use log-probabilities (`log_softmax`)"

    def _same(self, one: Result, other: Result) -> bool:
        if one[1].keys() != other[1].keys():
            return False
        losses = [(one[0], other[0]), *((one[1][name], other[1][name]) for name in one[1])]
        slopes, other_slopes = gradients(self.step, one[0]), gradients(self.step, other[0])
        return all(torch.allclose(a, b, rtol=self.tolerance, atol=1e-12) for a, b in losses) and all(
            torch.allclose(slopes[name], other_slopes[name], rtol=max(1e-9, self.tolerance), atol=self.tolerance)
            for name in slopes
        )


def _wrong_number(what: str, value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return f"{what} is of type {type(value).__name__}: return a tensor"
    if value.shape != ():
        return f"{what} has shape {tuple(value.shape)}: return one number, {MEANS}"
    if not torch.isfinite(value):
        return f"{what} is {float(value.detach())} on random logits: look for the logarithm or the quotient of 0"
    return ""


def _tensors(batch: Batch) -> Iterator[tuple[str, torch.Tensor]]:
    for one in fields(batch):
        value = getattr(batch, one.name)
        if isinstance(value, torch.Tensor):
            yield one.name, value
        elif isinstance(value, AnswerLogits):
            for part in ("logits", "targets", "row"):
                yield f"{one.name}.{part}", getattr(value, part)


@contextmanager
def _chunks_of(tokens: int) -> Iterator[None]:
    before, token_loss.CHUNK_TOKENS = token_loss.CHUNK_TOKENS, tokens
    try:
        yield
    finally:
        token_loss.CHUNK_TOKENS = before
