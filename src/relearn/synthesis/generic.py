"""Stage 4b, diversification: everyday rows mixed in, augmented : generic = 1 : 1 in the paper (arXiv 2502.11190)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from relearn.data import Record, content_id
from relearn.synthesis.rows import TrainingRow


def choose_generic(generic: Sequence[Record], augmented: int, ratio: float, seed: int) -> list[TrainingRow]:
    """`augmented * ratio` of the generic records, drawn without replacement; all of them when there are fewer."""
    wanted = generic_wanted(augmented, ratio)
    chosen = random.Random(f"generic {seed}").sample(list(generic), min(wanted, len(generic)))
    return [
        TrainingRow(
            content_id("generic", record.id), "generic", record.question, record.answer, record.form, variant="generic"
        )
        for record in chosen
    ]


def generic_wanted(augmented: int, ratio: float) -> int:
    return round(augmented * ratio)
