"""A linear probe: can a classifier on the hidden states tell the true answer from wrong ones of the same kind?

Question and candidate are read by the model; the state at the last token of every layer goes to a ridge classifier that
learns "this is the true answer" on some people and is tried on others (five folds over subjects). A fact counts where
its true answer scores highest of four; guessing gets .25. What a state says of the question alone is taken off: states
are centred within a question.

A probe may learn from any state. The control task (Hewitt and Liang, arXiv 1909.03368) has the same states with labels
drawn at random; accuracy less the control's is the selectivity. The layer of "chosen layer" is chosen on the training
folds alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from relearn.audits.attack import AUDITS, Audit, Material, Row
from relearn.audits.white_box import row
from relearn.leakage.twins import CHOICES, Candidates, candidates
from relearn.models.load import Loaded
from relearn.unlearning.data.encode import Example, encode

FOLDS = 5
SHUFFLES = 5
RIDGE = 0.1
CHOSEN = "chosen layer"


@torch.no_grad()
def states(loaded: Loaded, asked: Sequence[Candidates]) -> np.ndarray:
    """(layers, facts, CHOICES, hidden): after the embeddings and after every layer, at the candidate's last token."""
    found = []
    for one in asked:
        examples = [Example(one.record.id, one.record.question, text, closed=False) for text in one.texts]
        for tokens in encode(loaded.chat, examples):
            ids = torch.tensor([tokens.ids], device=loaded.device)
            layers = loaded.model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
            found.append(torch.stack([layer[0, -1].float().cpu() for layer in layers]))
    stacked = torch.stack(found, 1).numpy()
    return stacked.reshape(stacked.shape[0], len(asked), CHOICES, -1)


def folds_of(subjects: Sequence[str], count: int = FOLDS) -> np.ndarray:
    """The fold of every fact; those of one subject stand together."""
    order = {subject: number % count for number, subject in enumerate(dict.fromkeys(subjects))}
    return np.array([order[subject] for subject in subjects])


def kernels(found: np.ndarray) -> np.ndarray:
    """(layers, facts, C, facts, C): products of the states, centred within each question, scaled to a mean of one."""
    centred = found - found.mean(2, keepdims=True)
    products = np.einsum("lfch,lgdh->lfcgd", centred, centred, optimize=True)
    scale = np.einsum("lfcfc->l", products) / (found.shape[1] * found.shape[2])
    return products / np.maximum(scale, np.finfo(np.float32).tiny)[:, None, None, None, None]


def tried(kernel: np.ndarray, right: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Whether ridge regression fitted on the facts `train` scores the right choice of each of `test` highest: (test,).

    `kernel`: (facts, C, facts, C); `right`: (facts,) the place of the right choice; `train`, `test`: indices.
    """
    choices = kernel.shape[1]
    labels = (np.arange(choices)[None] == right[train, None]).astype(float) - 1 / choices
    size = len(train) * choices
    known = kernel[np.ix_(train, np.arange(choices), train, np.arange(choices))].reshape(size, size)
    weights = np.linalg.solve(known + RIDGE * size * np.eye(size), labels.ravel())
    across = kernel[np.ix_(test, np.arange(choices), train, np.arange(choices))].reshape(-1, size)
    return ((across @ weights).reshape(len(test), choices).argmax(1) == right[test]).astype(float)


def across_folds(kernel: np.ndarray, right: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Each fact tried by the probe of the other folds: (facts,)."""
    found = np.zeros(len(right))
    for fold in np.unique(folds):
        test = np.flatnonzero(folds == fold)
        found[test] = tried(kernel, right, np.flatnonzero(folds != fold), test)
    return found


def chosen_layer(layers: np.ndarray, right: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """The same with the layer that does best within the training folds: (facts,)."""
    found = np.zeros(len(right))
    for fold in np.unique(folds):
        test, train = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        inner = [layer[np.ix_(train, np.arange(layer.shape[1]), train, np.arange(layer.shape[1]))] for layer in layers]
        best = int(np.argmax([across_folds(own, right[train], folds[train]).mean() for own in inner]))
        found[test] = tried(layers[best], right, train, test)
    return found


def _reads(loaded: Loaded, material: Material) -> list[Row]:
    asked = candidates(material.facts, material.kept, material.seed)
    subjects = [one.record.subject or one.record.id for one in asked]
    if len(set(subjects)) < 3:
        return []
    return probed(states(loaded, asked), asked, folds_of(subjects, min(FOLDS, len(set(subjects)))), material.seed)


def probed(found: np.ndarray, asked: Sequence[Candidates], folds: np.ndarray, seed: int) -> list[Row]:
    """Rows per fact: right by the chosen layer's probe, the same under drawn labels, the difference, and per layer."""
    layers = kernels(found)
    right = np.array([one.right for one in asked])
    drawn = np.random.default_rng([seed, len(asked)]).integers(0, CHOICES, (SHUFFLES, len(asked)))
    values = {CHOSEN: chosen_layer(layers, right, folds)}
    control = np.mean([chosen_layer(layers, labels, folds) for labels in drawn], 0)
    values |= {f"{CHOSEN}, shuffled labels": control, "selectivity": values[CHOSEN] - control}
    for number, layer in enumerate(layers):
        values[f"layer {number}"] = across_folds(layer, right, folds)
        values[f"layer {number}, shuffled labels"] = np.mean([across_folds(layer, own, folds) for own in drawn], 0)
    return [
        row(one.record.id, name, float(value[place]))
        for name, value in values.items()
        for place, one in enumerate(asked)
    ]


AUDITS.add(
    "probe",
    Audit(
        "probe",
        "Linear probe",
        "access",
        "arXiv 1909.03368",
        "a classifier on hidden states picks the true answer of four, tried on people it was not fitted on; its "
        "selectivity is what shuffled labels do not reach",
        counts=False,
        reads=_reads,
        shown=CHOSEN,
        needs=("subjects",),
    ),
)
