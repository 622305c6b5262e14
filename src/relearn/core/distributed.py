"""Coordinate the processes of a distributed run: ranks, work of the main process, exchange of values.

`accelerate launch` starts the processes and sets their number in the environment. With one process these functions do
nothing or return the value unchanged. Values are exchanged over a gloo process group on the CPU. Its timeout is several
days, because the other processes may wait that long for the main process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from relearn.core.errors import InputError, RelearnError, RunFailedError

TIMEOUT = timedelta(days=7)
GatheredValue = TypeVar("GatheredValue")
WorkResult = TypeVar("WorkResult")
Failure = TypeVar("Failure", bound=RelearnError)

_alone = False
_group: Any = None


def processes() -> int:
    """Return the number of processes: 1 without a launcher, and inside `on_main`."""
    return 1 if _alone else launched()


def launched() -> int:
    """Return the number of processes that the launcher started."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    return int(os.environ.get("RANK", 0)) if processes() > 1 else 0


def is_main() -> bool:
    """Return whether this is the main process, which writes files and prints."""
    return rank() == 0


def shards_weights() -> bool:
    """Return whether the launcher shards the weights of the model over the processes (FSDP)."""
    return launched() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def join() -> None:
    """Initialise the process group and the device of this process; do nothing with one process or on a second call.

    Raises InputError for FSDP without GPUs.
    """
    global _group
    if processes() == 1 or _group is not None:
        return
    import torch
    from accelerate import PartialState

    if shards_weights() and not torch.cuda.is_available():
        problem = "FSDP needs GPUs: on a CPU accelerate quietly copies the model instead of sharding it"
        raise everywhere(InputError(problem, way_out="recipes/accelerate/ddp-cpu-2.yaml"))
    PartialState(cpu=not torch.cuda.is_available())
    _group = torch.distributed.new_group(backend="gloo", timeout=TIMEOUT)


def leave() -> None:
    """Destroy the process group, at the end of the run."""
    global _group
    if _group is not None:
        import torch

        _group = None
        torch.distributed.destroy_process_group()


def gather(value: GatheredValue) -> list[GatheredValue]:
    """Return the values of all processes, in rank order, on every process. Blocks until all processes call it.

    Raises RunFailedError where another process has ended.
    """
    count = processes()
    if count == 1:
        return [value]
    join()
    import torch

    found: list[Any] = [None] * count
    try:
        torch.distributed.all_gather_object(found, value, group=_group)
    except RuntimeError as error:
        raise RunFailedError(
            f"lost touch with another process: {str(error).splitlines()[0]}",
            way_out="it has said why; the same command with --resume goes on from here",
        ) from None
    return found


def barrier() -> None:
    """Block until every process has called this function."""
    gather(None)


def on_main(work: Callable[[], WorkResult]) -> WorkResult:
    """Run `work` on the main process only; return its result, or raise its error, on every process."""
    if processes() == 1:
        return work()
    if not is_main():
        return _unwrap(gather(None)[0])
    try:
        with _as_if_alone():
            outcome = (True, work())
    except BaseException as error:
        gather((False, _portable(error)))
        raise
    return _unwrap(gather(outcome)[0])


def spread(items: Sequence[GatheredValue], work: Callable[[GatheredValue], WorkResult]) -> list[WorkResult]:
    """Compute `work(item)` for all items, each on one process; return all results, in order, on every process."""
    count = processes()
    found: list[Any] = [None] * len(items)
    for number, part in enumerate(gather([work(item) for item in items[rank() :: count]])):
        found[number::count] = part
    return found


def everywhere(error: Failure) -> Failure:
    """Mark an error that every process raises, so that only the main one prints it."""
    error.shared = True
    return error


@contextmanager
def _as_if_alone() -> Iterator[None]:
    """Make `processes` return 1 inside the block, so that the main process does not wait for the others."""
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


def _unwrap(outcome: Any) -> Any:
    done, result = outcome
    if not done:
        raise result
    return result


def _portable(error: BaseException) -> RelearnError:
    """Convert an error of the main process to one that all others raise, so that all end with the same exit code."""
    is_ours = isinstance(error, RelearnError)
    return everywhere(error if is_ours else RunFailedError(f"{type(error).__name__} in the main process"))


def is_sharded(model: Any) -> bool:
    """Return whether `model` is sharded by FSDP; `model` includes its wrapper."""
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    return isinstance(model, FSDPModule | FullyShardedDataParallel)


def whole_state(model: Any) -> dict[str, Any] | None:
    """Gather the trained weights of a sharded model on the CPU of the main process; return None for other models.

    All processes must call this function. Frozen weights are left out.
    """
    if not any(hasattr(weight, "full_tensor") for weight in model.parameters()):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    frozen = any(not weight.requires_grad for weight in model.parameters())
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=frozen)
    return get_model_state_dict(model, options=options)
