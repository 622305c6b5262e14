"""Define the strengths of an audit: fixed lists of attacks and of their settings (`relearn audit --strength`).

    quick      two completion cuts, two paraphrases, one relearning training; for the end of every run
    standard   all attacks that ask prompts, 16 samples, relearning in five folds, white-box measures
    full       every attack, 64 samples, relearning at the run's own learning rate and of all weights

A verdict holds for the strength that was tried, so reports name it.
"""

from __future__ import annotations

from dataclasses import dataclass

from relearn.core.errors import InputError
from relearn.core.registry import suggest

FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Relearning:
    """Fine-tune on all facts except those of one fold, and ask these after each number of `steps`.

    `rate`: learning rate; None for that of the unlearning. `folds`: how many of the FOLDS folds are held out in turn.
    `full`: train all weights instead of a LoRA adapter.
    """

    rate: float | None
    steps: tuple[int, ...]
    folds: int
    full: bool = False


@dataclass(frozen=True, kw_only=True)
class Strength:
    """Set the attacks of an audit and how hard each of them tries.

    `attacks`: names; None for every registered attack. `completion_shares`, `completion_words`: how much of the true
    answer `completion` gives, as shares and as numbers of words. `paraphrases`: number of paraphrases per question;
    None for all. `samples`: answers per question in attacks that sample. `relearning`: trainings on facts.
    `benign_relearning`: also train on retain records about the same subjects, and on unrelated text.
    """

    name: str
    attacks: tuple[str, ...] | None
    completion_shares: tuple[float, ...]
    completion_words: tuple[int, ...]
    paraphrases: int | None
    samples: int
    relearning: tuple[Relearning, ...]
    benign_relearning: bool


QUICK = Strength(
    name="quick",
    attacks=("plain", "completion", "paraphrase", "relearning"),
    completion_shares=(0.25, 0.5),
    completion_words=(),
    paraphrases=2,
    samples=1,
    relearning=(Relearning(rate=1e-3, steps=(10,), folds=1),),
    benign_relearning=False,
)
STANDARD = Strength(
    name="standard",
    attacks=(
        *("plain", "paraphrase", "completion", "every_cut", "prefix", "hints", "fewshot", "roleplay", "jailbreak"),
        *("language", "encoding", "conversation", "sampling", "reverse", "relearning", "adapters", "checkpoints"),
        *("topk", "membership", "extraction", "choice", "probe"),
    ),
    completion_shares=(0.25, 0.5, 0.75),
    completion_words=(2,),
    paraphrases=None,
    samples=16,
    relearning=(Relearning(rate=2e-4, steps=(5, 10, 20, 50), folds=5), Relearning(rate=1e-3, steps=(5, 10), folds=5)),
    benign_relearning=True,
)
FULL = Strength(
    name="full",
    attacks=None,
    completion_shares=(0.1, 0.25, 0.5, 0.75),
    completion_words=(2,),
    paraphrases=None,
    samples=64,
    relearning=(
        *STANDARD.relearning,
        Relearning(rate=None, steps=(5, 10, 20, 50, 100, 200), folds=5),
        Relearning(rate=2e-5, steps=(10, 50), folds=2, full=True),
    ),
    benign_relearning=True,
)
STRENGTHS = {strength.name: strength for strength in (QUICK, STANDARD, FULL)}


def find_strength(name: str) -> Strength:
    """Return a strength by name. Raises InputError for an unknown name."""
    if name not in STRENGTHS:
        way_out = suggest(name, list(STRENGTHS))
        raise InputError(f"unknown strength {name!r}", where="--strength", way_out=way_out)
    return STRENGTHS[name]


def by_folds(count: int, folds: int) -> list[list[int]]:
    """Split the numbers 0 to `count` - 1 into `folds` folds, so that neighbours are in different folds."""
    return [list(range(first, count, folds)) for first in range(min(folds, count))]
