"""What a start imports: a mistake is told at once, and what takes seconds to import is imported where it is used."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

SLOW = {
    "timm",
    "torchvision",
    "torch._dynamo",
    "sklearn",
    "scipy",
    "pandas",
    "matplotlib",
    "wandb",
    "mlflow",
    "tensorboard",
}
COMMANDS = "import main, tools.evaluate, tools.predict, tools.report.__main__"
TRANSFORM = """
import numpy, torch
from data.transforms import TrainTransform
transform = TrainTransform(img_size=48, channels=3, mean=[0.5] * 3, auto_augment=None, color_jitter=0.0, vflip=1.0)
transform(numpy.zeros((50, 60, 3), numpy.uint8))
"""


def start(*arguments: str) -> tuple[int, str, set[str]]:
    """Run Python; returns the exit status, standard error without the times of imports, and the imported modules."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    lines = done.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    return done.returncode, "\n".join(line for line in lines if not line.startswith("import time:")), imported


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--help"], 0, ""),
        (["--cfg", "nothing.yaml"], 2, "error: nothing.yaml does not exist: expected a YAML file"),
        (["--cgf", "swin_digits"], 2, "error: the following arguments are required: --cfg; see python main.py --help."),
    ],
)
def test_help_and_mistakes_do_not_wait_for_pytorch(arguments, status, message):
    found = start("main.py", *arguments)
    assert found[:2] == (status, message)
    assert "swin.config" in found[2]
    assert not found[2] & (SLOW | {"torch"})


@pytest.mark.parametrize("script", [COMMANDS, TRANSFORM], ids=["commands", "transform without a policy"])
def test_what_is_slow_to_import_waits_until_it_is_used(script):
    status, message, imported = start("-c", script)
    assert (status, message) == (0, "")
    assert "torch" in imported
    assert not imported & SLOW
