"""The lower bounds of pyproject.toml hold: the tests of what relies most on other packages pass with those versions."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUBSET = [
    f"tests/unit/test_{name}.py"
    for name in (
        *("config_load", "data_build", "data_digits", "data_loaders", "data_tables", "data_transforms", "ema"),
        *("engine_build", "inference", "layers", "logger", "losses", "mixing", "optim", "packaging", "predict"),
        *("preprocess", "run_folder", "weights_convert", "weights_labels", "weights_load"),
    )
]


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the oldest versions have wheels for Python 3.11")
def test_the_oldest_versions_pass_the_tests(tmp_path):
    venv.create(tmp_path / "environment", with_pip=True, symlinks=True)
    python = tmp_path / "environment/bin/python"
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    install = ["-m", "pip", "install", "--quiet", "-c", "constraints-oldest.txt", "-e", ".[test]"]
    subprocess.run([python, *install], cwd=ROOT, env=env, timeout=1500, check=True)
    tests = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'tests'}", *SUBSET]
    subprocess.run([python, *tests], cwd=ROOT, env=env, timeout=900, check=True)
