"""Several processes at work on one run: who is who, what only the main one does, what they tell each other.

`accelerate launch` starts the processes and says in the environment how many there are; without it there is one, and
nothing here does anything. What they tell each other goes over a group of its own, on the CPU, that waits for days: the
main process may be at work on something long while the others have nothing to do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from relearn.core.errors import InputError, RelearnError, RunFailedError

PATIENCE = timedelta(days=7)
Given = TypeVar("Given")
Result = TypeVar("Result")
Failure = TypeVar("Failure", bound=RelearnError)

_alone = False
_group: Any = None


def processes() -> int:
    """How many work on this: 1 without a launcher, and inside `on_main`."""
    return 1 if _alone else launched()


def launched() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    return int(os.environ.get("RANK", 0)) if processes() > 1 else 0


def is_main() -> bool:
    """Whether this process is the one that writes, logs and talks."""
    return rank() == 0


def shards_weights() -> bool:
    """Whether the launcher was told to split the model's weights (FSDP) among the processes."""
    return launched() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def join() -> None:
    """Join the other processes and take this process's own device; nothing where there is one, or a second time."""
    global _group
    if processes() == 1 or _group is not None:
        return
    import torch
    from accelerate import PartialState

    if shards_weights() and not torch.cuda.is_available():
        raise everywhere(
            InputError(
                "FSDP needs GPUs: on a CPU accelerate quietly copies the model instead of sharding it",
                way_out="recipes/accelerate/ddp-cpu-2.yaml",
            )
        )
    PartialState(cpu=not torch.cuda.is_available())
    _group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)


def leave() -> None:
    """Part from the others once all is done."""
    global _group
    if _group is not None:
        import torch

        _group = None
        torch.distributed.destroy_process_group()


def gather(value: Given) -> list[Given]:
    """What every process gives, by rank, on every process. Waits for all of them."""
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
    """Wait until every process has come this far."""
    gather(None)


def on_main(work: Callable[[], Result]) -> Result:
    """What `work` returns when the main process does it alone, on every process; an error there is raised on all."""
    if processes() == 1:
        return work()
    if not is_main():
        return _told(gather(None)[0])
    try:
        with _as_if_alone():
            told = (True, work())
    except BaseException as error:
        gather((False, _portable(error)))
        raise
    return _told(gather(told)[0])


def spread(items: Sequence[Given], work: Callable[[Given], Result]) -> list[Result]:
    """`work(item)` for all items, in their order and on every process, each item done by one of them."""
    count = processes()
    found: list[Any] = [None] * len(items)
    for number, part in enumerate(gather([work(item) for item in items[rank() :: count]])):
        found[number::count] = part
    return found


def everywhere(error: Failure) -> Failure:
    """An error that is raised in every process alike, so that the main one alone has to say it."""
    error.shared = True
    return error


@contextmanager
def _as_if_alone() -> Iterator[None]:
    """What the main process does by itself must not wait for the others."""
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


def _told(answer: Any) -> Any:
    done, result = answer
    if not done:
        raise result
    return result


def _portable(error: BaseException) -> RelearnError:
    """The error as the other processes raise it, so that all end the same way."""
    known = isinstance(error, RelearnError)
    return everywhere(error if known else RunFailedError(f"{type(error).__name__} in the main process"))
