"""Run a small model's forward passes on a CPU in parallel, one thread per pass.

Several cores on one small matrix product mostly wait for each other; with a pass each they do not. Torch releases the
interpreter lock while it multiplies, so threads suffice and share the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

PassInput = TypeVar("PassInput")
PassOutput = TypeVar("PassOutput")


def map_on_threads(work: Callable[[PassInput], PassOutput], items: Sequence[PassInput]) -> list[PassOutput]:
    """Compute `work(item)` for all items, in order, in inference mode, on as many threads as torch may use.

    Fewer items than threads run one after the other, each on all threads. `work` must not change what other calls read;
    what it raises is raised here.
    """
    # Inference mode is per thread, so each call enters it.
    work = torch.inference_mode()(work)
    threads = torch.get_num_threads()
    if threads == 1 or len(items) < threads:
        return [work(item) for item in items]
    try:
        with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
            return list(pool.map(work, items))
    finally:
        # Setting it in one thread changes it for the process too.
        torch.set_num_threads(threads)
