"""Weights by name: from a cache of the hub as it lies on disk, without a network; else one message says what to do."""

import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import save_file

from swin import SwinTransformer, create_model, load_weights
from swin.errors import CheckpointError, ConfigError
from swin.weights.files import find_weight_file
from tools import predict

SMALL = {"img_size": 32, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4, "num_classes": 3}
COMMIT, OLDER = "a" * 40, "b" * 40


def put(cache: Path, repo: str, name: str, state: dict[str, torch.Tensor], commit: str = COMMIT) -> Path:
    """Lay out a file as the hub's cache has it; COMMIT is what `main` stands for, OLDER the tag v1."""
    root = cache / f"models--{repo.replace('/', '--')}"
    file = root / "snapshots" / commit / name
    for folder in (root / "refs", file.parent):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "refs" / ("main" if commit == COMMIT else "v1")).write_text(commit)
    save_file(state, file) if name.endswith(".safetensors") else torch.save(state, file)
    return file


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return SwinTransformer(**SMALL).state_dict()


def test_a_name_stands_for_the_file_in_the_cache(cache, state):
    repo = "timm/swin_small.ms_in1k"
    torch_file = put(cache, repo, "pytorch_model.bin", state)
    assert find_weight_file(f"hf-hub:{repo}") == torch_file
    main = put(cache, repo, "model.safetensors", state)
    older = put(cache, repo, "model.safetensors", state, OLDER)
    other = put(cache, repo, "other/last.pth", state)
    for name, file in {
        f"hf-hub:{repo}": main,
        f"hf_hub:{repo}": main,
        repo: main,
        f"hf-hub:{repo}@v1": older,
        f"{repo}@{OLDER}": older,
        f"hf-hub:{repo}:pytorch_model.bin": torch_file,
        f"hf-hub:{repo}@main:other/last.pth": other,
    }.items():
        assert find_weight_file(name) == file, name
        assert find_weight_file(Path(name)) == file, name


def test_a_file_of_that_path_wins(cache, state, tmp_path):
    (tmp_path / "timm").mkdir()
    torch.save(state, tmp_path / "timm" / "swin.pth")
    assert find_weight_file("timm/swin.pth") == Path("timm/swin.pth")


def test_every_reader_of_weights_takes_a_name(cache, state, runner, tmp_path, shapes):
    put(cache, "someone/small", "model.safetensors", state)
    model = SwinTransformer(**SMALL)
    load_weights(model, "hf-hub:someone/small", strict=True)
    assert torch.equal(model.state_dict()["head.weight"], state["head.weight"])
    image = next((shapes / "val").rglob("*.png"))
    assert predict.main(["--checkpoint", "hf-hub:someone/small", "--input", str(image), "--device", "cpu"]) == 0
    assert image.name in runner.text()
    put(cache, "someone/tiny", "model.safetensors", create_model("swin_tiny").state_dict())
    assert create_model("swin_tiny", pretrained="hf-hub:someone/tiny")
    # The runner's own config, and its weights.
    assert runner("first", "--opts", "TRAIN.EPOCHS", "1") == 0
    put(cache, "someone/own", "model.pth", runner.checkpoint("first"))
    name = "hf-hub:someone/own:model.pth"
    assert runner("tuned", "--dry-run", "--pretrained", name) == 0
    assert f"starting from {name} (--pretrained): written by this program, names of format official" in runner.text()
    assert runner("judged", "--eval", "--resume", name) == 0


@pytest.mark.parametrize("name", ["hf-hub:someone/absent", "timm/swin_absent.ms_in1k"])
def test_what_cannot_be_had_says_which_file_to_get_where(cache, runner, name):
    assert runner("run", "--pretrained", name) == 2
    text = runner.text()
    repo = name.removeprefix("hf-hub:")
    assert f"{name} cannot be had from the hub (" in text
    assert (
        f"download model.safetensors or pytorch_model.bin from https://huggingface.co/{repo} and give the file" in text
    )
    assert "--pretrained FILE" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("name", ["hf-hub:swin", "hf-hub:", "hf-hub:a/b/c", "hf-hub:a/b@", "hf-hub:a/b:"])
def test_what_is_no_name_is_refused(cache, name):
    with pytest.raises(CheckpointError, match=r"expected hf-hub:OWNER/NAME\[@REVISION\]\[:FILE\]"):
        find_weight_file(name)


def test_names_that_the_hub_refuses_are_one_message(cache):
    for name in ("hf-hub:a--b/c", "hf-hub:a/b:../../c", "hf-hub:a/..", "hf-hub:-a/b"):
        with pytest.raises(CheckpointError, match="cannot be had from the hub"):
            find_weight_file(name)


@pytest.mark.parametrize(
    ("error", "looked_up"),
    [
        (LocalEntryNotFoundError("no network."), ["model.safetensors"]),  # which takes half a minute to find out
        (EntryNotFoundError("no file of this name."), ["model.safetensors", "pytorch_model.bin"]),
    ],
)
def test_another_file_is_looked_up_only_where_there_is_a_network(cache, monkeypatch, error, looked_up):
    asked = []

    def download(repo, file, *, revision, local_files_only):
        asked.append((file, local_files_only))
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(CheckpointError, match=rf"from the hub \({str(error)[:-1]}\)"):
        find_weight_file("hf-hub:someone/small")
    assert asked == [("model.safetensors", True), ("pytorch_model.bin", True), *((file, False) for file in looked_up)]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r'pip install "swin-trainer\[hub\]", or download model.safetensors'):
        find_weight_file("hf-hub:someone/small")
