"""CONTRIBUTING.md is followed to the letter, in a copy of the repository: its blocks are written, its commands run."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import CLASSES, draw

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()

# Runs command lines in one process, then what a test adds; prints each one's exit status and output.
RUN = """
import contextlib, importlib, io, json, runpy, sys
commands, check = json.loads(sys.argv[1])
results = []
for words in commands:
    target = words[words.index(">") + 1] if ">" in words else None
    words = words[: words.index(">")] if target else words
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            if words[1] == "main.py":
                status = importlib.import_module("main").main(words[2:])
            elif words[2].startswith("tools."):
                status = importlib.import_module(words[2]).main(words[3:])
            else:
                status = int(bool(runpy.run_module(words[2], run_name="__main__") is None))
        except SystemExit as end:
            status = end.code
    if target:
        open(target, "w").write(output.getvalue())
    results.append((status, output.getvalue()))
exec(check)
print(json.dumps(results))
"""


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def apply_diff(file: Path, diff: str) -> None:
    """Put the lines marked by + where the page shows them, after or between lines that the file has once."""
    lines = diff.splitlines()
    before = "".join(f"{line[1:]}\n" for line in lines if line[0] != "+")
    after = "".join(f"{line[1:]}\n" for line in lines if line[0] != "-")
    text = file.read_text()
    assert text.count(before) == 1, f"{file} does not have once:\n{before}"
    file.write_text(text.replace(before, after))


def follow(text: str, repository: Path) -> None:
    """Write the blocks of a section to the files that are named before them."""
    path = None
    for name, language, code in re.findall(
        r"`((?:swin|data|tools|configs)/[\w/.]+\.\w+)`|^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE
    ):
        if name:
            path = repository / name
        elif language == "diff":
            apply_diff(path, code)
        else:
            assert not path.exists(), f"{path} is there already; choose another example"
            path.write_text(code)


def run(text: str, repository: Path, folder: Path, check: str = "", extra: tuple[str, ...] = ()) -> list[Any]:
    """Run a section's commands on the images in `folder`, and then `extra` ones."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [*re.findall(r"^    (python .*)$", prose, re.MULTILINE), *extra]
    commands = [[str(folder) if word == "FOLDER" else word for word in shlex.split(line)] for line in lines]
    arguments = json.dumps([commands, check])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, arguments],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
    results = json.loads(child.stdout.splitlines()[-1])
    for line, (status, output) in zip(lines[: len(lines) - len(extra)], results, strict=False):
        assert status == 0, f"{line}\n{output}"
    return results


@pytest.fixture
def repository(tmp_path) -> Path:
    root = tmp_path / "repository"
    for folder in ("swin", "data", "tools", "configs", "docs"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "results"))
    shutil.copy(ROOT / "main.py", root)
    return root


@pytest.fixture
def folder(tmp_path) -> Path:
    """Class folders with two images of each class, to train and to validate on."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in CLASSES:
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for index in range(2):
                draw(name, random).save(tmp_path / "images" / split / name / f"{index}.png")
    return tmp_path / "images"


def test_a_model_variant(repository, folder):
    text = section("A model variant")
    follow(text, repository)
    check = """
from swin import create_model, list_models
from swin.config import load_config
from swin.create import build_model
assert "swin_nano" in list_models("swin_n*")
shapes = [{name: item.shape for name, item in model.state_dict().items()} for model in
          (create_model("swin_nano"), build_model(load_config("swin_nano"), 1000))]
assert shapes[0] == shapes[1]
"""
    table, dry_run = run(text, repository, folder, check)
    assert "| swin_nano | 224 | 7 |" in table[1]
    assert "| swin_nano.yaml |" in table[1]
    assert "dry run: one update, loss" in dry_run[1]


def test_a_data_source(repository, tmp_path):
    random, archives = np.random.default_rng(0), tmp_path / "archives"
    archives.mkdir()
    for split in ("train", "val"):
        images = np.stack([np.asarray(draw(name, random)) for name in CLASSES])
        np.savez(archives / f"{split}.npz", images=images, labels=np.arange(3), classes=np.array(CLASSES))
    text = section("A data source")
    follow(text, repository)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "val.npz").write_bytes(b"PK nonsense")
    (broken / "train.npz").write_bytes(b"PK nonsense")
    *_, refused = run(
        text, repository, archives, extra=(f"python main.py --cfg swin_flowers --data-path {broken} --dry-run",)
    )
    assert refused[0] == 2
    assert "Expected images, labels and classes" in refused[1]


def test_a_config_key(repository, folder):
    text = section("A config key")
    follow(text, repository)
    check = """
from swin.config import load_config
from swin.create import build_model
counts = [sum("bias_table" in name for name in build_model(load_config("swin_digits", opts), 10).state_dict())
          for opts in ([], ["MODEL.RELATIVE_BIAS", "False"])]
assert counts == [4, 0], counts
"""
    _, described, _, refused = run(
        text,
        repository,
        folder,
        check,
        extra=("python main.py --cfg swin_flowers --opts MODEL.RELATIV_BIAS False",),
    )
    assert described[1].startswith("MODEL.RELATIVE_BIAS\n    default: True\n    allowed: True or False\n")
    assert "| `MODEL.RELATIVE_BIAS` | `True` |" in (repository / "docs" / "config.md").read_text()
    assert refused[0] == 2
    assert "did you mean MODEL.RELATIVE_BIAS" in refused[1]


def test_a_tool(repository, folder):
    text = section("A tool")
    follow(text, repository)
    counted, refused = run(text, repository, folder, extra=("python -m tools.count_images --data-path NOWHERE",))
    assert counted[1] == "circle: 2\ncross: 2\nstripes: 2\n"
    assert refused[0] == 2
    assert refused[1].startswith("error: ")
    assert refused[1].count("\n") == 1
