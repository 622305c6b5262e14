"""Fit a linear probe: a ridge classifier that picks the true answer among false ones from hidden states.

The input of the classifier is the state at the last token of question and choice, centred within the question. It is
trained to score the true answer on some subjects and tested on the others (five folds over subjects). A fact is correct
if its true answer has the highest score of four; guessing scores .25.

A probe can fit labels that the states do not encode. The control task (Hewitt and Liang, arXiv 1909.03368) fits it to
shuffled labels; selectivity is the accuracy minus that of the control task. "chosen layer": the layer with the best
accuracy within the training folds.

Shapes: L layers with the embeddings, F facts, C = CHOICES, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from relearn.audits.attack import AttackRow, AuditInputs, attack, measurement_row
from relearn.leakage.twins import CHOICES, AnswerChoices, answer_choices
from relearn.models.load import Loaded
from relearn.unlearning.data.encode import Example, encode

FOLDS = 5
SHUFFLES = 5
RIDGE = 0.1
CHOSEN = "chosen layer"


@attack(
    "probe",
    label="Linear probe",
    family="access",
    source="arXiv 1909.03368",
    description="a classifier on hidden states picks the true answer of four, tried on people it was not fitted on; "
    "its selectivity is what shuffled labels do not reach",
    headline=CHOSEN,
    needs=("subjects",),
)
def probe(loaded: Loaded, inputs: AuditInputs) -> list[AttackRow]:
    questions = answer_choices(inputs.facts, inputs.retain, inputs.seed)
    subjects = [question.record.subject or question.record.id for question in questions]
    if len(set(subjects)) < 3:
        return []
    folds = assign_folds(subjects, min(FOLDS, len(set(subjects))))
    return probe_rows(last_token_states(loaded, questions), questions, folds, inputs.seed)


@torch.no_grad()
def last_token_states(loaded: Loaded, questions: Sequence[AnswerChoices]) -> np.ndarray:
    """Compute hidden states (L, F, C, H) after the embeddings and every layer, at the last token of each choice."""
    states = []
    for question in questions:
        record = question.record
        examples = [Example(record.id, record.question, text, closed=False) for text in question.texts]
        for tokens in encode(loaded.chat, examples):
            ids = torch.tensor([tokens.ids], device=loaded.device)
            layers = loaded.model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
            states.append(torch.stack([layer[0, -1].float().cpu() for layer in layers]))
    stacked = torch.stack(states, 1).numpy()
    return stacked.reshape(stacked.shape[0], len(questions), CHOICES, -1)


def assign_folds(subjects: Sequence[str], count: int = FOLDS) -> np.ndarray:
    """Assign every fact to a fold (F,); all facts of one subject get the same fold."""
    order = {subject: number % count for number, subject in enumerate(dict.fromkeys(subjects))}
    return np.array([order[subject] for subject in subjects])


def kernels(states: np.ndarray) -> np.ndarray:
    """Compute linear kernels (L, F, C, F, C) of states centred within each question, scaled to a mean diagonal of 1."""
    centred = states - states.mean(2, keepdims=True)
    products = np.einsum("lfch,lgdh->lfcgd", centred, centred, optimize=True)
    scale = np.einsum("lfcfc->l", products) / (states.shape[1] * states.shape[2])
    return products / np.maximum(scale, np.finfo(np.float32).tiny)[:, None, None, None, None]


def probe_accuracy(kernel: np.ndarray, right: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Fit kernel ridge regression on the facts `train` and test it on the facts `test`.

    `kernel`: (F, C, F, C); `right`: (F,) index of the right choice; `train`, `test`: indices of facts. Returns 1 for
    each test fact whose right choice has the highest score, else 0.
    """
    choices = kernel.shape[1]
    labels = (np.arange(choices)[None] == right[train, None]).astype(float) - 1 / choices
    size = len(train) * choices
    within = kernel[np.ix_(train, np.arange(choices), train, np.arange(choices))].reshape(size, size)
    weights = np.linalg.solve(within + RIDGE * size * np.eye(size), labels.ravel())
    across = kernel[np.ix_(test, np.arange(choices), train, np.arange(choices))].reshape(-1, size)
    return ((across @ weights).reshape(len(test), choices).argmax(1) == right[test]).astype(float)


def cross_validated(kernel: np.ndarray, right: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Test each fact with the probe fitted on the other folds; return 1 or 0 per fact (F,)."""
    hits = np.zeros(len(right))
    for fold in np.unique(folds):
        test = np.flatnonzero(folds == fold)
        hits[test] = probe_accuracy(kernel, right, np.flatnonzero(folds != fold), test)
    return hits


def chosen_layer(layers: np.ndarray, right: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Test each fact with the layer that has the best accuracy within the training folds; return 1 or 0 (F,)."""
    hits = np.zeros(len(right))
    for fold in np.unique(folds):
        test, train = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        inner = [layer[np.ix_(train, np.arange(layer.shape[1]), train, np.arange(layer.shape[1]))] for layer in layers]
        best = int(np.argmax([cross_validated(own, right[train], folds[train]).mean() for own in inner]))
        hits[test] = probe_accuracy(layers[best], right, train, test)
    return hits


def probe_rows(states: np.ndarray, questions: Sequence[AnswerChoices], folds: np.ndarray, seed: int) -> list[AttackRow]:
    """Make rows per fact: chosen layer, shuffled labels, selectivity, then accuracy and shuffled labels per layer."""
    layers = kernels(states)
    right = np.array([question.right for question in questions])
    shuffled = np.random.default_rng([seed, len(questions)]).integers(0, CHOICES, (SHUFFLES, len(questions)))
    values = {CHOSEN: chosen_layer(layers, right, folds)}
    control = np.mean([chosen_layer(layers, labels, folds) for labels in shuffled], 0)
    values |= {f"{CHOSEN}, shuffled labels": control, "selectivity": values[CHOSEN] - control}
    for number, layer in enumerate(layers):
        values[f"layer {number}"] = cross_validated(layer, right, folds)
        controls = [cross_validated(layer, labels, folds) for labels in shuffled]
        values[f"layer {number}, shuffled labels"] = np.mean(controls, 0)
    return [
        measurement_row(question.record.id, name, float(value))
        for name, per_fact in values.items()
        for question, value in zip(questions, per_fact, strict=True)
    ]
