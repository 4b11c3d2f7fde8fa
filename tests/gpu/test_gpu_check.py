"""scripts/gpu_check.sh with a stand-in for Python: every part runs, and what failed decides the exit status."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = """#!/bin/sh
case "$*" in
    *import*) exit 0 ;;
    -) cat >/dev/null; echo "a GPU"; exit $NO_GPU ;;
esac
echo "ran $*"
case "$*" in *"$FAILING"*) exit 7 ;; esac
"""


def check(tmp_path: Path, *, failing: str = "nothing", no_gpu: int = 0) -> tuple[int, str]:
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "FAILING": failing, "NO_GPU": str(no_gpu)}
    result = subprocess.run(
        ["bash", "scripts/gpu_check.sh", str(tmp_path / "out")],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return result.returncode, result.stdout + result.stderr


def test_all_parts_run_and_are_logged(tmp_path):
    status, output = check(tmp_path)
    assert status == 0, output
    assert "ran -u -m pytest -m gpu" in output
    assert "ran -u -m tools.benchmark train --against timm,torchvision" in (tmp_path / "out/train_gpu.log").read_text()
    assert len(list((tmp_path / "out").glob("*.log"))) == 6


@pytest.mark.parametrize(("failing", "name"), [("benchmark loop", "loop_gpu"), ("not compiled", "tests")])
def test_a_failing_part_does_not_keep_the_others_from_running(tmp_path, failing, name):
    status, output = check(tmp_path, failing=failing)
    assert status == 1
    assert output.count("== FAILED") == 1
    assert f"== FAILED: {name} (exit status 7)" in output
    assert output.count("\nran ") == 6


def test_without_a_gpu_it_says_so_at_once(tmp_path):
    status, output = check(tmp_path, no_gpu=1)
    assert status == 2
    assert "ran " not in output
