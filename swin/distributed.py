"""Processes, devices and the few collectives that the project uses."""

import os
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from swin.errors import ConfigError, ProcessGroupError, SwinError

T = TypeVar("T")

_LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_GATHERED_BYTES = 1 << 26  # what `gather_rows` sends at once


@dataclass(frozen=True)
class Distributed:
    """Where this process stands: `local_` is what is on this machine.

    Attributes:
        store: Where the processes leave each other small things; None for a single process.
        timeout_sec: How long a process waits for the others.
    """

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    local_world_size: int = 1
    store: dist.Store | None = None
    timeout_sec: float = 0.0

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and the console."""
        return self.rank == 0

    def on_all(self, what: str, function: Callable[[], T]) -> T:
        """Call a function on every process, and return its result here; if it fails on one, all raise that error.

        For what may take a process long: unlike a collective this says who did not come within the time-out. `what` the
        function makes is a noun, which may be used once in a run.

        Raises:
            SwinError: What the first of the processes that failed has raised.
            ProcessGroupError: A process did not come in time.
        """
        result, failure = _attempt(function)
        if self.store is not None:
            _meet(dist.PrefixStore(what, self.store), self.rank, self.world_size, what, self.timeout_sec)
        _raise_first(gather(failure))
        return cast(T, result)


def select_device(device: str = "auto", *, local_rank: int = 0, world_size: int = 1) -> torch.device:
    """Choose the device of a process.

    Args:
        device: `auto` (CUDA where present, else MPS for a single process, else CPU) or a name that torch accepts.
        local_rank: Number of this process on its machine; picks the CUDA device unless the name holds an index.
        world_size: Number of all processes; more than one cannot use MPS.

    Raises:
        ConfigError: The name is unknown or the device is absent.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        device = "cuda" if cuda else "mps" if mps and world_size == 1 else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = torch.device("meta")
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"The device {device!r} is not supported: use auto, cpu, cuda, cuda:N or mps.")
    if chosen.type == "mps" and (not mps or world_size > 1):
        reason = "works with one process only" if mps else "is not available on this machine"
        raise ConfigError(f"The device mps {reason}: use --device cpu or auto.")
    if chosen.type == "cuda":
        if not cuda:
            raise ConfigError("The device cuda was asked for, but torch finds no CUDA GPU: use --device cpu or auto.")
        chosen = torch.device("cuda", chosen.index if chosen.index is not None and world_size == 1 else local_rank)
        if chosen.index >= torch.cuda.device_count():
            raise ConfigError(
                f"GPU {chosen.index} was asked for, but torch finds {torch.cuda.device_count()} on this machine: "
                "start at most that many processes (torchrun --nproc-per-node), or check CUDA_VISIBLE_DEVICES."
            )
    return chosen


def setup_distributed(device: str = "auto", timeout_sec: float = 1800) -> Distributed:
    """Choose the device as `select_device` does, and join the other processes, if any.

    Without a launcher's variables this is a single process. Under torchrun the processes talk over NCCL on CUDA and
    gloo on CPU, and one that waits for the others gives up after `timeout_sec`.

    Raises:
        ConfigError: The device is absent, or only some of the launcher's variables are set.
        ProcessGroupError: Another process did not come in time.
    """
    is_launched = bool({"RANK", "LOCAL_RANK"} & os.environ.keys())
    missing = [name for name in _LAUNCHER_VARIABLES if name not in os.environ]
    if is_launched and missing:
        raise ConfigError(
            f"RANK or LOCAL_RANK is set, but {', '.join(missing)} not: start through torchrun, which sets all of "
            f"{', '.join(_LAUNCHER_VARIABLES)}, or unset them to run a single process."
        )
    numbers = [os.environ[name] for name in _LAUNCHER_VARIABLES[:3]] if is_launched else [0, 1, 0]
    rank, world_size, local_rank = map(int, numbers)
    chosen = select_device(device, local_rank=local_rank, world_size=world_size)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world_size == 1:
        return Distributed(rank, world_size, local_rank, chosen)
    timeout = timedelta(seconds=timeout_sec)
    is_host = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # else torchrun has a store
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = dist.TCPStore(*address, is_master=is_host, timeout=timeout, wait_for_workers=False)
    except dist.DistNetworkError:
        if is_host:
            raise
        raise _absent(rank, [0], "start", timeout_sec) from None
    # torchrun keeps one store for all its restarts: without a new name, processes may read the addresses of dead ones.
    own_store = dist.PrefixStore(_meet(store, rank, world_size, "start", timeout_sec), store)
    backend, device_id = ("nccl", chosen) if chosen.type == "cuda" else ("gloo", None)
    dist.init_process_group(
        backend, store=own_store, rank=rank, world_size=world_size, timeout=timeout, device_id=device_id
    )
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return Distributed(rank, world_size, local_rank, chosen, local_world_size, own_store, timeout_sec)


def _meet(store: dist.Store, rank: int, world_size: int, what: str, timeout_sec: float) -> str:
    """Wait for all processes on a store in which an earlier attempt may have left anything.

    The main process calls a meeting under a new name, the others answer each with a name of its own, and the meeting
    begins when the main process has repeated their answers. No word of an earlier attempt can take part in that.

    Returns:
        The meeting's name, which no other has.
    """
    own, others, deadline = uuid.uuid4().hex, range(1, world_size), time.monotonic() + timeout_sec
    if rank == 0:
        store.set("called", own)
    while True:
        called = _peek(store, "called")
        if rank:
            store.set(f"answer/{rank}", called + own)
        if rank and called + own in _peek(store, "begun"):
            return called
        is_late, missing = time.monotonic() > deadline, [0]
        if rank == 0 or is_late:
            answers = [_peek(store, f"answer/{other}") for other in others]
            missing = [other for other, answer in zip(others, answers, strict=True) if not answer.startswith(called)]
        if rank == 0 and not missing:
            store.set("begun", " ".join(answers))
            return called
        if is_late:
            raise _absent(rank, missing if called and missing else [0], what, timeout_sec)
        time.sleep(0.05)


def _peek(store: dist.Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""


def _absent(rank: int, missing: list[int], what: str, timeout_sec: float) -> ProcessGroupError:
    return ProcessGroupError(
        f"Rank {rank} waited for the other processes until the time-out before training began. Not there after "
        f"{timeout_sec:g} s ({what}): rank {', '.join(map(str, missing))}. Its own output says more; if it was only "
        "slow, raise DIST_TIMEOUT."
    )


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes in place, and return it; with one process it is returned as it is."""
    if _is_joined():
        dist.all_reduce(tensor)
    return tensor


def gather(value: Any) -> list[Any]:
    """Collect a value of each process, in the order of their ranks, on all of them; for what is small and picklable."""
    if not _is_joined():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def gather_rows(rows: Tensor) -> list[Tensor] | None:
    """Collect tensors (n, ...) of each process, alike but for n, in the main one, in the order of their ranks.

    Sent in parts, so that the device holds little more than its own rows.

    Returns:
        Tensors on the CPU; None in the other processes.
    """
    if not _is_joined():
        return [rows.cpu()]
    counts, world_size, is_main = gather(len(rows)), dist.get_world_size(), dist.get_rank() == 0
    room = max(1, _GATHERED_BYTES // rows.new_empty(1, *rows.shape[1:]).nbytes)
    parts: list[list[Tensor]] = [[] for _ in counts]
    for start in range(0, max(counts), room):
        sent = rows.new_zeros(min(room, max(counts) - start), *rows.shape[1:])
        own = rows[start : start + room]
        sent[: len(own)] = own
        received = [torch.empty_like(sent) for _ in range(world_size)] if is_main else None
        dist.gather(sent, received)
        for rank, part in enumerate(received or ()):
            parts[rank].append(part[: max(0, min(room, counts[rank] - start))].cpu())
    return [torch.cat(part) for part in parts] if is_main else None


def from_main(function: Callable[[], T]) -> T:
    """Call a function in the main process alone, and return its result, or raise its SwinError, on all of them."""
    is_main = not _is_joined() or dist.get_rank() == 0
    result, failure = gather(_attempt(function) if is_main else None)[0]
    _raise_first([failure])
    return cast(T, result)


def _attempt(function: Callable[[], T]) -> tuple[T | None, SwinError | None]:
    try:
        return function(), None
    except SwinError as error:
        return None, error


def _raise_first(failures: list[SwinError | None]) -> None:
    for first in filter(None, failures):
        first.is_shared = True
        raise first


def shutdown() -> None:
    """Leave the other processes; harmless when there are none."""
    if _is_joined():
        dist.destroy_process_group()


def is_collective_error(error: BaseException) -> bool:
    """Whether an error came from talking to the other processes: NCCL has a class for these, gloo has not."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def explain_timeout(error: BaseException, rank: int, step: int | None) -> str:
    """Say which process gave up in which update, None before the first, for an error with `is_collective_error`."""
    # Without gloo's source locations before the fact and its advice after it.
    detail = re.sub(r"\[/[^\]]*\]\s*| This is typically.*", "", " ".join(str(error).split()))
    cause = "lost the connection to another process"
    advice = "The first error is in the output of the rank that ended first."
    if "timed out" in detail.lower() or "timeout" in detail.lower():
        cause = "waited for the other processes until the time-out"
        advice = "A rank that does not report this is the one that was slow or stuck; "
        advice += "if it was only slow, raise DIST_TIMEOUT."
    where = "before training began" if step is None else f"in update {step}"
    return f"Rank {rank} {cause} {where}. {advice} ({detail})"


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()
