"""A small model's passes on all cores of a CPU at once.

Several cores on one small multiplication wait for each other more than they work; given a pass each they do not. Torch
lets go of the interpreter while it multiplies, so threads are enough and the weights are there once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

Given = TypeVar("Given")
Result = TypeVar("Result")


def one_each(work: Callable[[Given], Result], items: Sequence[Given]) -> list[Result]:
    """`work(item)` of all items, in their order, as many at a time as torch has threads, without gradients.

    One after the other, each on all cores, where there are fewer items than cores. `work` must change nothing that
    another call reads. What it raises is raised here.
    """
    # Every thread has a mode of its own, so each call enters it.
    alone = torch.inference_mode()(work)
    cores = torch.get_num_threads()
    if cores == 1 or len(items) < cores:
        return [alone(item) for item in items]
    try:
        with ThreadPoolExecutor(cores, initializer=partial(torch.set_num_threads, 1)) as pool:
            return list(pool.map(alone, items))
    finally:
        # The setting of one thread is in part that of the process.
        torch.set_num_threads(cores)
