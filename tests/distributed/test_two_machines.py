"""Two machines, as two network namespaces with a cable between them, of which one is cut off for a while."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import ROOT

NAMES, CABLES = ("swin-test-a", "swin-test-b"), ("swin-a", "swin-b")
ADDRESSES, PORT = ("10.203.77.1", "10.203.77.2"), 29517


def ip(*arguments, check=True):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=check)


@pytest.fixture
def machines():
    """Two namespaces that reach nothing but each other."""
    if shutil.which("ip") is None:
        pytest.skip("needs the command ip (iproute2)")
    with ExitStack() as stack:
        for name in NAMES:
            made = ip("netns", "add", name, check=False)
            if made.returncode:
                pytest.skip(f"may not make network namespaces: {made.stderr}")
            stack.callback(ip, "netns", "delete", name)
        ip("link", "add", CABLES[0], "netns", NAMES[0], "type", "veth", "peer", CABLES[1], "netns", NAMES[1])
        for name, cable, address in zip(NAMES, CABLES, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield


def launch(runner, number, tag, *options):
    """Start the script on one of the machines."""
    command = ["ip", "netns", "exec", NAMES[number], "bash", str(ROOT / "scripts" / "train_two_nodes.sh")]
    variables = {"MASTER": ADDRESSES[0], "PORT": str(PORT), "NODE_RANK": str(number), "LOCAL_ADDR": ADDRESSES[number]}
    variables |= {"GPUS": "1", "GLOO_SOCKET_IFNAME": CABLES[number], "OMP_NUM_THREADS": "1"}
    variables["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (runner.folder / f"machine{number}.log").open("w") as log:
        return subprocess.Popen(
            [*command, str(runner.data), *runner.arguments(tag, *options)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
        )


@pytest.mark.slow
@pytest.mark.parametrize("cut_sec", [25, 75])  # torch's store gives up after 60 unless told otherwise
def test_a_machine_that_was_cut_off_comes_back_and_the_run_ends_equal(runner, machines, assert_equal_state, cut_sec):
    options = ["--batch-size", "4", "--opts", "TRAIN.EPOCHS", "60", "SAVE_FREQ", "1", "DIST_TIMEOUT", "8"]
    status, output = runner.finish(runner.start("undisturbed", *options, processes=2))
    assert status == 0, output
    agents = [launch(runner, number, "cut", *options) for number in range(2)]
    try:
        log = runner.run_dir("cut") / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while not (log.exists() and log.read_text().count("\n") > 50):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        ip("-n", NAMES[1], "link", "set", CABLES[1], "down")
        time.sleep(cut_sec)
        ip("-n", NAMES[1], "link", "set", CABLES[1], "up")
        for agent in agents:
            agent.wait(timeout=300)
    finally:
        for agent in agents:
            agent.send_signal(signal.SIGTERM)
            agent.wait()
        for number in range(2):
            print(f"--- machine {number}")
            print((runner.folder / f"machine{number}.log").read_text())
    assert [agent.returncode for agent in agents] == [0, 0]
    logs = [(runner.folder / f"machine{number}.log").read_text() for number in range(2)]
    assert all("until the time-out in update" in log for log in logs)
    assert logs[0].count("resuming from") == 1  # neither of the three restarts is lost to the other's
    assert_equal_state(runner.checkpoint("cut"), runner.checkpoint("undisturbed"))
