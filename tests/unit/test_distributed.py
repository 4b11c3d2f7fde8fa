"""Process set-up and collectives, with real processes where they matter."""

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from swin.distributed import (
    all_reduce_sum,
    explain_timeout,
    from_main,
    gather,
    is_collective_error,
    select_device,
    setup_distributed,
    shutdown,
)
from swin.errors import ConfigError

ROOT = Path(__file__).parents[2]
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def no_launcher(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def run_processes(world_size, body):
    """Run `body` in processes joined over gloo; it sees `d` and the module's functions. Return their outputs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = (
        "import os, time, torch\nfrom swin.distributed import *\nd = setup_distributed('cpu', timeout_sec=5)\n"
        + textwrap.dedent(body)
    )
    processes = []
    for rank in range(world_size):
        values = (rank, world_size, rank, "127.0.0.1", port)
        env = {**os.environ, **{name: str(value) for name, value in zip(VARIABLES, values, strict=True)}}
        command = [sys.executable, "-c", script]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, env={**env, "OMP_NUM_THREADS": "1"}, cwd=ROOT, **pipes))
    try:
        outputs = [process.communicate(timeout=90) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [out.strip() or error for out, error in outputs]


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_sum_and_wait_for_each_other(world_size):
    body = """
        total = all_reduce_sum(torch.tensor([1, 10 * d.rank]))
        gather(None)
        shutdown()
        print(d.rank, d.world_size, d.local_rank, d.device, d.is_main, total.tolist())
    """
    tens = 10 * sum(range(world_size))
    expected = [f"{rank} {world_size} {rank} cpu {rank == 0} [{world_size}, {tens}]" for rank in range(world_size)]
    assert run_processes(world_size, body) == expected


CAUGHT = """
    all_reduce_sum(torch.ones(1))
    try:
        {action}
    except Exception as error:
        print(is_collective_error(error), explain_timeout(error, d.rank, 7))
    os._exit(0)
"""


def test_a_time_out_names_rank_and_step():
    action = "time.sleep(8) if d.rank else all_reduce_sum(torch.ones(1))"
    message = run_processes(2, CAUGHT.format(action=action))[0]
    assert message.startswith("True Rank 0 waited for the other processes until the time-out in update 7.")
    assert message.endswith("raise DIST_TIMEOUT. (Timed out waiting 5000ms for recv operation to complete)")


def test_a_process_that_ended_is_told_from_a_slow_one():
    message = run_processes(2, CAUGHT.format(action="os._exit(0) if d.rank else gather(None)"))[0]
    assert message.startswith("True Rank 0 lost the connection to another process in update 7.")


def test_other_errors_are_no_collective_errors():
    assert not is_collective_error(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert is_collective_error(torch.distributed.DistBackendError("NCCL watchdog timeout"))
    assert "until the time-out" in explain_timeout(torch.distributed.DistBackendError("NCCL watchdog timeout"), 0, 1)


def test_one_process_needs_no_launcher(no_launcher):
    alone = setup_distributed("cpu")
    assert (alone.rank, alone.world_size, alone.device, alone.is_main) == (0, 1, torch.device("cpu"), True)
    tensor = torch.tensor([3.0])
    assert all_reduce_sum(tensor) is tensor
    assert (gather(3), from_main(lambda: 4)) == ([3], 4)
    shutdown()


def test_half_a_launcher_is_an_error(no_launcher):
    no_launcher.setenv("RANK", "0")
    no_launcher.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"LOCAL_RANK, MASTER_ADDR, MASTER_PORT not.*torchrun"):
        setup_distributed("cpu")


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert select_device("auto", local_rank=1, world_size=2) == torch.device("cuda", 1)
    assert select_device("cuda:1") == torch.device("cuda", 1)
    assert select_device("cuda:0", local_rank=1, world_size=2) == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match=r"GPU 2 was asked for, but torch finds 2"):
        select_device("cuda", local_rank=2, world_size=3)


def test_mps_is_for_one_process(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert select_device("auto") == torch.device("mps")
    assert select_device("auto", world_size=2) == torch.device("cpu")
    with pytest.raises(ConfigError, match="one process only"):
        select_device("mps", world_size=2)


@pytest.mark.parametrize(
    ("name", "words"),
    [("gpu", "'gpu' is not supported"), ("meta", "not supported"), ("cuda", "no CUDA"), ("mps", "not av")],
)
def test_absent_devices(monkeypatch, name, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=words):
        select_device(name)


def test_the_main_process_decides_for_all_and_fails_for_all():
    body = """
        from swin.errors import ConfigError
        def refuse():
            raise ConfigError(f"refused by {d.rank}")
        print(from_main(lambda: d.rank), gather(d.rank), end=" ")
        try:
            from_main(refuse)
        except ConfigError as error:
            print(error, error.is_shared)
        shutdown()
    """
    assert run_processes(2, body) == ["0 [0, 1] refused by 0 True"] * 2


def test_the_main_process_collects_rows_of_all_in_parts():
    body = """
        import swin.distributed
        swin.distributed._GATHERED_BYTES = 40  # two rows of five float32 at once
        counts = [5, 0, 3]
        rows = torch.arange(counts[d.rank] * 5).view(-1, 5).float() + 100 * d.rank
        found = gather_rows(rows), gather_rows(torch.full((d.rank,), d.rank)), gather_rows(rows.half())
        shutdown()
        if d.rank:
            print(found)
        else:
            ends = [part[-1, -1].item() if len(part) else None for part in found[0]]
            print([len(part) for part in found[0]], ends, found[1], found[2][2].dtype)
    """
    first = "[5, 0, 3] [24.0, None, 214.0] [tensor([], dtype=torch.int64), tensor([1]), tensor([2, 2])] torch.float16"
    assert run_processes(3, body) == [first, "(None, None, None)", "(None, None, None)"]
