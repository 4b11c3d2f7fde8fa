"""The command that converts weight files."""

import re

import pytest
import torch

from swin import SwinTransformer
from swin.weights import read_weights
from swin.weights.formats import FORMATS
from tests.numerics.peers import perturb
from tools.convert_weights import main

SMALL = {"img_size": 32, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4, "num_classes": 3}


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(0)
    model = SwinTransformer(**SMALL)
    perturb(model)
    torch.save({"model": model.state_dict(), "classes": ["a", "b", "c"]}, tmp_path / "in.pth")
    return tmp_path / "in.pth"


def run(source, target, output, *more: str) -> int:
    return main(["--input", str(source), "--to", target, "--output", str(output), *more])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_through_all_formats_and_back(file, tmp_path, capsys, suffix):
    source = file
    for target in (*FORMATS, "official"):
        output = tmp_path / f"{target}{suffix}"
        assert run(source, target, output) == 0
        text = capsys.readouterr().out
        assert f"-> {output} ({target})" in text
        difference, largest = re.search(r": (\S+) \(largest logit (\S+)\)", text).groups()
        assert float(difference) <= 1e-5 * float(largest)
        assert read_weights(output).format == target
        source = output
    before, after = read_weights(file).tensors, read_weights(source).tensors
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_class_names_stay_where_the_format_has_a_place_for_them(file, tmp_path):
    for target in ("official", "mmpretrain"):
        assert run(file, target, tmp_path / "out.pth") == 0
        assert read_weights(tmp_path / "out.pth").classes == ["a", "b", "c"]


def test_masks_follow_the_image_size(file, tmp_path, capsys):
    assert run(file, "official", tmp_path / "out.pth", "--img-size", "64", "96") == 0
    assert "64 x 96 image" in capsys.readouterr().out
    masks = torch.load(tmp_path / "out.pth")["model"]["layers.0.blocks.1.attn_mask"]
    assert masks.shape == (4 * 6, 16, 16)


@pytest.mark.parametrize(
    ("changes", "target", "message"),
    [
        ({"ape": True}, "timm", "absolute position embedding, which timm's model lacks"),
        ({"in_chans": 1}, "torchvision", "torchvision's model cannot hold"),
        ({"qkv_bias": False}, "torchvision", "torchvision's model cannot hold"),
        ({"patch_norm": False}, "timm", "timm's model cannot hold"),
    ],
)
def test_what_a_program_lacks_is_one_message_and_no_file(tmp_path, capsys, changes, target, message):
    torch.save(SwinTransformer(**{**SMALL, **changes}).state_dict(), tmp_path / "in.pth")
    assert run(tmp_path / "in.pth", target, tmp_path / "out.pth") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]


@pytest.mark.parametrize(
    ("output", "more", "message"),
    [
        ("out.bin", (), "neither .pth nor .safetensors"),
        ("nowhere/out.pth", (), "cannot be written"),
        ("out.pth", ("--img-size", "40"), "does not fill windows"),
        ("out.pth", ("--img-size", "1", "2", "3"), "a side, or height and width"),
        ("out.pth", ("--from", "timm"), "in.pth"),
    ],
)
def test_wrong_arguments_are_one_message(file, tmp_path, capsys, output, more, message):
    assert run(file, "official", tmp_path / output, *more) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]
