"""Run the forward passes of a small model in parallel on a CPU, one thread per pass.

One small matrix product gains little from several cores. Running one pass per core is faster. PyTorch releases the
Python interpreter lock during matrix products, so threads can run in parallel and share the weights.
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
    """Compute `work(item)` for all items in inference mode, on as many threads as PyTorch may use; keep the order.

    If there are fewer items than threads, the items run one after the other, each on all threads. `work` must not
    change data that other calls read. Exceptions of `work` are raised here.
    """
    # Inference mode is set per thread, so each call of `work` must enter it.
    work = torch.inference_mode()(work)
    threads = torch.get_num_threads()
    if threads == 1 or len(items) < threads:
        return [work(item) for item in items]
    try:
        with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
            return list(pool.map(work, items))
    finally:
        # Setting the number of threads inside a thread also changes it for the process.
        torch.set_num_threads(threads)
