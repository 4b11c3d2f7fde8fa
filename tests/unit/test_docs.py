"""The README and the pages say what is true of the code: their commands are parsed, their blocks of Python are run."""

import argparse
import functools
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image
from torchvision.models.detection.anchor_utils import AnchorGenerator

from swin import create_model
from swin.config import load_config
from swin.config.flags import load_command_line
from swin.config.keys import KEYS
from swin.config.tree import GROUPS
from swin.errors import ConfigError
from swin.models import VARIANTS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)

TRIALS = ("find_lr", "find_batch", "estimate")  # tools that take the trainer's flags beside their own
FLAGS_OF_OTHERS = {"--max-restarts"}  # torchrun's
# What the examples of CONTRIBUTING.md make; test_contributing.py follows them.
EXAMPLES = {"swin_nano", "configs/swin_nano.yaml", "data/npz.py", "tools.count_images", "tools/count_images.py"}
EXAMPLES |= {"MODEL.RELATIVE_BIAS"}
# Files of runs and of users; those of this project are to be found in it.
FILES_OF_RUNS = {
    "metadata.json",
    "config.yaml",
    "environment.json",
    "classes.json",
    "status.json",
    "eval.json",
    "split.json",
    "log.txt",
}
FILES_OF_RUNS |= {
    "throughput.json",
    "data.json",
    "trackers.json",
    "layers.json",
    "metrics.json",
    "report.json",
    "sizes.json",
    "folds.json",
    "preprocessing.json",
    "preprocessor_config.json",
    "config.json",
}
FILES_OF_RUNS |= {"real.json", "test_map.txt"}
FOLDERS = ("swin", "data", "tools", "scripts", "tests", "configs", "docs", ".ci")


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def spans(page: Path) -> list[str]:
    """What stands in backticks, outside of blocks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each shell line, in blocks that are indented or fenced, without comments and optional brackets."""
    fenced = re.findall(r"^```(?:bash|console)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = re.findall(r"^    (\S.*)$", prose(page), re.MULTILINE)
    for line in [*lines, *"".join(fenced).splitlines()]:
        words = shlex.split(line.replace("[", " ").replace("]", " "), comments=True)
        yield [word for word in words if word != "..."]


def stand_in(words: Sequence[str]) -> list[str]:
    """The words with real values in place of CONFIG and of choices such as {a,b}."""
    return ["swin_digits" if word == "CONFIG" else re.sub(r"^\{(\w+),.*\}$", r"\1", word) for word in words]


def read_trainer_flags(words: Sequence[str]) -> None:
    if words[:1] in (["--help"], ["--help-key"]):
        with pytest.raises(SystemExit, match="0"):
            load_command_line(words)
    else:
        load_command_line(stand_in(words))


class ParsedError(Exception):
    """Carries what a tool has parsed out of it, before it acts on that."""


def read_tool_flags(tool: str, words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, *arguments: Any) -> None:
        raise ParsedError(parse(parser, *arguments))

    name = f"tools.{tool}"
    if importlib.util.find_spec(name).submodule_search_locations:
        name += ".__main__"
    if tool in TRIALS:
        importlib.import_module(name).parse(stand_in(words))
        return
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    with pytest.raises(ParsedError) as caught:
        importlib.import_module(name).main(stand_in(words))
    found = caught.value.args[0]
    given = getattr(found, "cfg", None)
    if given or getattr(found, "opts", None):
        for cfg in given if isinstance(given, list) else [given or "swin_digits"]:
            load_config(cfg, getattr(found, "opts", []))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_the_readme_names_every_page():
    text = (ROOT / "README.md").read_text()
    for page in PAGES[1:]:
        assert f"]({page.relative_to(ROOT)})" in text, page


@each_page
def test_commands_are_understood(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in commands(page):
        line = " ".join(words)
        if EXAMPLES.intersection(words):
            continue
        with monkeypatch.context() as patch:
            if words[:2] == ["python", "main.py"] or words[:1] == ["swin-train"]:
                read_trainer_flags(words[1 if words[0] == "swin-train" else 2 :])
            elif words[:1] == ["torchrun"] and "-m" in words:
                module = words.index("-m") + 1
                read_tool_flags(words[module].removeprefix("tools."), words[module + 1 :], patch)
            elif words[:1] == ["torchrun"]:
                read_trainer_flags(words[words.index("main.py") + 1 :])
            elif words[:1] == ["swin-predict"]:
                read_tool_flags("predict", words[1:], patch)
            elif words[:2] == ["python", "-m"] and words[2].startswith("tools."):
                read_tool_flags(words[2].removeprefix("tools."), words[3:], patch)
            elif words[:2] == ["python", "-m"]:
                assert importlib.util.find_spec(words[2]), line
            elif words[:1] == ["bash"]:
                assert (ROOT / words[1]).is_file(), line


@each_page
def test_flags_and_values_in_the_text_are_understood(page, capsys):
    read_trainer_flags(["--help"])
    of_trainer = set(re.findall(r"--[a-z][\w-]+", capsys.readouterr().out))
    of_tools = {
        flag for path in (ROOT / "tools").rglob("*.py") for flag in re.findall(r'"(--[\w-]+)"', path.read_text())
    }
    for span in spans(page):
        words = shlex.split(span) if span.startswith("--") else span.split()
        flags = {word for word in words if word.startswith("--")}
        assert not span.startswith("--") or flags <= of_trainer | of_tools | FLAGS_OF_OTHERS, (
            f"{page.name} names {span}"
        )
        if words[0] in KEYS and len(words) > 1:
            load_config("swin_flowers", words)
        elif span.startswith("--") and len(words) > 1 and "KEY" not in words and flags <= of_trainer:
            read_trainer_flags(["--cfg", "swin_flowers", *words])


def test_bad_flags_keys_and_values_are_noticed():
    """The checks above see through a page's mistakes."""
    with pytest.raises(ConfigError, match="unknown argument --bacth-size"):
        read_trainer_flags(["--cfg", "CONFIG", "--bacth-size", "8"])
    with pytest.raises(ConfigError, match=r"LOSS.CLASS_WEIGHTS"):
        read_trainer_flags(["--cfg", "CONFIG", "--opts", "LOSS.CLASS_WEIGHTS", "balanced"])
    with pytest.raises(ConfigError, match=r"MODEL.ATTENTION"):
        read_trainer_flags(["--cfg", "CONFIG", "--opts", "MODEL.ATTENTION", "fused"])


@each_page
def test_keys_exist(page):
    text = page.read_text()
    if page.stem == "CHANGELOG":  # earlier versions had other keys
        text = text.split("\n## ")[1]
    for name in set(re.findall(r"(?<![\w.<>/])[A-Z][A-Z0-9_]*(?:\.[A-Z][A-Z0-9_]*)+(?![\w(])", text)) - EXAMPLES:
        assert name in KEYS or name in GROUPS, f"{page.name} names the key {name}"


@each_page
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", prose(file), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in slugs, f"{page.name} links to {target}"


@each_page
def test_files_exist(page):
    names = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts}
    names |= {path.name for path in ROOT.iterdir()} | FILES_OF_RUNS
    folders = tuple(f"{folder}/" for folder in FOLDERS)
    if page.stem == "CHANGELOG":
        return  # it names what is gone
    for span in spans(page):
        if span in EXAMPLES or not re.fullmatch(r"[\w.\-/]+", span):
            continue
        if span.startswith(folders):
            assert (ROOT / span).exists() or "/" not in span.rstrip("/"), f"{page.name} names {span}"
        elif re.search(r"\.(py|sh|md|toml|yaml|txt|json)$", span):
            assert span in names, f"{page.name} names {span}"


def test_the_guide_to_the_code_names_every_module():
    text = (ROOT / "docs" / "code.md").read_text()
    for path in [*(ROOT / "swin").rglob("*.py"), *(ROOT / "data").glob("*.py")]:
        assert path.name == "__init__.py" or f"`{path.name}`" in text, f"docs/code.md leaves out {path}"


@pytest.fixture
def stand_ins(tmp_path, monkeypatch) -> dict[str, Any]:
    """A folder with the files that the pages name, a small Swin-T, and the variables that blocks take as given."""
    small = replace(VARIANTS["swin_tiny"], embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
    monkeypatch.setitem(VARIANTS, "swin_tiny", small)
    detector = functools.partial(torchvision.models.detection.MaskRCNN, min_size=64, max_size=96)
    monkeypatch.setattr(torchvision.models.detection, "MaskRCNN", detector)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(create_model("swin_tiny").state_dict(), "swin_tiny_patch4_window7_224.pth")
    Image.new("RGB", (40, 30), "red").save("photo.jpg")
    boxes, masks = torch.tensor([[5.0, 5.0, 40.0, 40.0]]), torch.ones(1, 64, 64, dtype=torch.uint8)
    return {
        "images": torch.rand(2, 3, 64, 64),
        "targets": [{"boxes": boxes, "labels": torch.tensor([1]), "masks": masks}] * 2,
        "anchors": AnchorGenerator(((16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 4),
    }


@pytest.mark.parametrize("page", [page for page in PAGES if "\n```python" in page.read_text()], ids=lambda p: p.stem)
def test_python_blocks_run(page, runner, stand_ins):
    if page.stem == "CONTRIBUTING":
        return  # test_contributing.py follows it
    if page.stem == "export":
        return  # its examples need files of engines, and are run by tests/engines/test_export.py
    checkpoint = Path("output/NAME/TAG/checkpoints/best.pth")
    if str(checkpoint) in page.read_text():
        assert runner("page", "--opts", "TRAIN.EPOCHS", "1") == 0
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes((runner.run_dir("page") / "checkpoints" / "best.pth").read_bytes())
    for code in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
        exec(compile(code, f"a block of {page.name}", "exec"), stand_ins)


def test_the_blocks_give_what_their_comments_say(stand_ins):
    model, images = create_model("swin_tiny", num_classes=10, img_size=224), stand_ins["images"]
    assert model(images).shape == (2, 10)
    assert model.forward_features(images).shape == (2, 2, 2, 64)
    assert [item.shape[1:] for item in model.feature_maps(images)] == [
        (8 * 2**stage, 16 // 2**stage, 16 // 2**stage) for stage in range(4)
    ]


def test_bad_flags_of_a_tool_that_takes_the_trainers_are_noticed(monkeypatch):
    with pytest.raises(ConfigError, match="unknown argument --update"):
        read_tool_flags("estimate", ["--cfg", "CONFIG", "--update", "8"], monkeypatch)
    with pytest.raises(ConfigError, match=r"TRAIN.EPOCHS"):
        read_tool_flags("find_batch", ["--cfg", "CONFIG", "--share", "0.5", "--opts", "TRAIN.EPOCH", "3"], monkeypatch)
