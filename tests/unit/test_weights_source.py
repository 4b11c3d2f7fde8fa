"""Wrappers, prefixes and formats that weights are found in."""

import argparse
import pickle
import types
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.utils import CheckpointSaver, ModelEmaV3
from yacs.config import CfgNode

from swin import SwinTransformer, load_weights
from swin.errors import CheckpointError
from swin.weights import read_weights
from swin.weights.formats import FORMATS, detect_format, from_native

SMALL = {"img_size": 32, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4, "num_classes": 3}


@pytest.fixture(scope="module")
def native() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return SwinTransformer(**SMALL).state_dict()


def prefixed(prefix: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in weights.items()}


def assert_read(source, native, format_name="official"):
    weights = read_weights(source)
    assert weights.format == format_name
    assert weights.tensors.keys() == native.keys()
    assert all(torch.equal(weights.tensors[name], native[name]) for name in native)
    return weights


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "backbone.", "module._orig_mod.", "model.backbone."])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
@pytest.mark.parametrize("format_name", FORMATS)
def test_every_format_wrapped_and_prefixed(native, format_name, wrapper, prefix):
    weights = prefixed(prefix, from_native(native, format_name))
    assert_read(weights if wrapper is None else {wrapper: weights, "epoch": 3}, native, format_name)


@pytest.mark.parametrize("format_name", FORMATS)
def test_headless_files_are_recognised(native, format_name):
    headless = {name: value for name, value in native.items() if "head" not in name}
    assert_read(from_native(headless, format_name), headless, format_name)


def test_mmpretrains_own_prefixes_under_ddp(native):
    assert_read({"state_dict": prefixed("module.", from_native(native, "mmpretrain"))}, native, "mmpretrain")


def test_tutorial_files_have_official_names_without_masks(native):
    official = from_native(native, "official")
    tutorial = {name: value for name, value in official.items() if "attn_mask" not in name}
    assert len(tutorial) < len(official)
    assert_read(tutorial, native)


def test_a_compiled_part_of_a_model(native):
    names = {name: name.replace("layers.0.", "layers.0._orig_mod.") for name in native}
    assert_read({names[name]: value for name, value in native.items()}, native)


AVERAGED = {
    "ours": lambda plain, ema: {"model": plain, "ema": {"model": ema, "num_updates": torch.tensor(3)}},
    "timm": lambda plain, ema: {"state_dict": plain, "state_dict_ema": ema},
    "torchvision": lambda plain, ema: {
        "model": plain,
        "model_ema": {"n_averaged": torch.tensor(7), **prefixed("module.", ema)},
    },
}


@pytest.mark.parametrize("kind", AVERAGED)
def test_averaged_weights_are_taken_unless_refused(native, kind):
    content = AVERAGED[kind](native, {name: value + 1 for name, value in native.items()})
    averaged, plain = read_weights(content), read_weights(content, prefer_ema=False)
    assert averaged.is_averaged
    assert not plain.is_averaged
    for name, value in native.items():
        assert torch.equal(averaged.tensors[name], value + 1)
        assert torch.equal(plain.tensors[name], value)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_files_of_both_kinds_of_torch_save(native, tmp_path, legacy):
    torch.save({"model": native}, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    assert_read(tmp_path / "w.pth", native)


def test_safetensors_files(native, tmp_path):
    save_file(from_native(native, "timm"), tmp_path / "w.safetensors")
    assert_read(str(tmp_path / "w.safetensors"), native, "timm")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_official_training_checkpoints_with_their_yacs_node(native, tmp_path, legacy):
    config = CfgNode({"MODEL": {"NAME": "swin", "SWIN": {"DEPTHS": [2, 2]}}, "AUG": {"RATIO": (0.75, 1.0)}})
    config.freeze()
    content = {
        "model": from_native(native, "official"),
        "optimizer": {"state": {}, "param_groups": []},
        "lr_scheduler": {"t_in_epochs": False},
        "max_accuracy": 81.2,
        "scaler": {},
        "epoch": 299,
        "config": config,
    }
    torch.save(content, tmp_path / "ckpt.pth", _use_new_zipfile_serialization=not legacy)
    assert_read(tmp_path / "ckpt.pth", native)


def test_any_other_pickled_object_is_refused(native, tmp_path):
    torch.save({"model": native, "args": types.SimpleNamespace(lr=1)}, tmp_path / "args.pth")
    with pytest.raises(CheckpointError, match=r"args.pth holds a Python object \(types.SimpleNamespace\)"):
        read_weights(tmp_path / "args.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"model": argparse.Namespace()}))
    with pytest.raises(CheckpointError, match=r"plain\.pkl"):
        read_weights(tmp_path / "plain.pkl")


def test_class_names_of_a_file(native):
    classes = ["a", "b", "c"]
    described = {"state_dict": native, "meta": {"dataset_meta": {"classes": ("a", "b", "c")}}}
    assert read_weights({"model": native, "classes": classes}).classes == classes
    assert read_weights(described).classes == classes
    assert read_weights(native).classes is None
    with pytest.raises(CheckpointError, match="3 rows, but it names 2 classes"):
        read_weights({"model": native, "classes": ["a", "b"]})


def test_what_is_not_a_swin_transformer_is_refused(native):
    with pytest.raises(CheckpointError, match=r"first names are conv1\.weight"):
        read_weights({"conv1.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_weights({"epoch": 3})
    with pytest.raises(CheckpointError, match=r"twice, the second time as module\.head\.bias"):
        read_weights({**native, "module.head.bias": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        read_weights({**native, "norm.bias": torch.full((16,), torch.nan)})


def test_the_format_can_be_overridden(native):
    assert read_weights(native, source_format="official").format == "official"
    with pytest.raises(CheckpointError, match="there is no weight format 'keras'; choose from official"):
        read_weights(native, source_format="keras")
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_weights(SwinTransformer(**SMALL), from_native(native, "torchvision"), source_format="timm")


@pytest.mark.parametrize(
    ("names", "format_name"),
    [
        (["layers.0.blocks.0.attn.qkv.weight", "layers.0.downsample.norm.weight", "head.weight"], "official"),
        (["layers.0.blocks.0.attn.qkv.weight", "layers.1.downsample.norm.weight"], "timm"),
        (["layers.0.blocks.0.attn.qkv.weight", "head.fc.weight"], "timm"),
        (["features.1.0.attn.qkv.weight"], "torchvision"),
        (["stages.0.blocks.0.attn.w_msa.qkv.weight"], "mmpretrain"),
        (["features.0.0.weight", "features.3.conv.weight"], None),  # another torchvision model
        (["blocks.0.attn.qkv.weight", "head.weight"], None),  # a ViT
    ],
)
def test_formats_are_told_apart(names, format_name):
    assert detect_format(names) == format_name


def test_a_checkpoint_of_timms_training_script(native, tmp_path):
    """As its train.py writes it: with the command line's argparse.Namespace beside the weights and their average."""
    model = timm.models.SwinTransformer(**{**SMALL, "num_classes": 3})
    model.load_state_dict(from_native(native, "timm"))
    arguments = argparse.Namespace(model="swin_tiny", opt="muon", lr=None, aug_splits=0, mean=(0.5, 0.5, 0.5))
    saver = CheckpointSaver(
        model,
        torch.optim.AdamW(model.parameters()),
        args=arguments,
        model_ema=ModelEmaV3(model),
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    )
    saver.save_checkpoint(3, metric=0.5)
    weights = read_weights(tmp_path / "last.pth.tar")
    assert (weights.format, weights.program, weights.is_averaged) == ("timm", "timm's train.py", True)
    assert all(torch.equal(weights.tensors[name], value) for name, value in native.items())


@pytest.mark.parametrize("payload", [argparse.Namespace(run=print), argparse.Namespace(where=Path("/tmp"))])
def test_what_could_run_code_in_a_namespace_is_refused(native, tmp_path, payload):
    torch.save({"state_dict": native, "args": payload}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="could run code"):
        read_weights(tmp_path / "file.pth")


def test_it_is_said_which_program_wrote_a_file(native):
    node = OrderedDict()  # what a yacs node is read as
    for content, program in [
        ({"model": native, "config": {}, "classes": ["a", "b", "c"]}, "this program"),
        ({"model": native, "config": node}, "the official repository"),
        ({"state_dict": native, "arch": "swin", "epoch": 3}, "timm's train.py"),
        ({"state_dict": from_native(native, "mmpretrain"), "meta": {}}, "mmpretrain"),
        (from_native(native, "transformers"), "transformers"),
        (native, None),
    ]:
        assert read_weights(content).program == program
