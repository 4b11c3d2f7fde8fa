"""Weights of Swin V2 and Swin-MLP: formats, the windows that files say, and models of other windows."""

import json
import math
import re

import pytest
import torch
from safetensors.torch import save_file

from swin import SwinMLP, SwinTransformer, SwinTransformerV2, create_model, load_weights
from swin.config import config_to_dict, load_config
from swin.create import complete_config
from swin.errors import CheckpointError
from swin.kernels.windows import relative_coordinates
from swin.weights import model_arguments, read_weights
from swin.weights.buffers import read_windows
from swin.weights.formats import FORMATS, detect_format, from_native, to_native
from swin.weights.source import strip_prefixes
from tests.numerics.peers import perturb
from tools.convert_weights import main as convert

SMALL = {"img_size": 48, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 3}
V2 = {**SMALL, "window_size": 6, "pretrained_window_sizes": (4, 3)}
CASES = [
    *((SwinTransformerV2, V2, name) for name in FORMATS),
    *((SwinTransformerV2, {**V2, "qkv_bias": False, "ape": True}, name) for name in ("official", "transformers")),
    (SwinTransformerV2, {**V2, "extra_norm_every": 2}, "mmpretrain"),
    (SwinMLP, {**SMALL, "window_size": 3}, "official"),
]


def make(family=SwinTransformerV2, arguments=V2, seed: int = 0):
    torch.manual_seed(seed)
    model = family(**arguments)
    perturb(model, seed)
    return model.eval()


def windows_of(model) -> list[tuple[int, int]] | None:
    return model.windows() if isinstance(model, SwinTransformerV2) else None


@pytest.mark.parametrize(("family", "arguments", "format_name"), CASES)
def test_round_trips_are_exact(family, arguments, format_name):
    model = make(family, arguments)
    native = model.state_dict()
    theirs = from_native(native, format_name, img_size=(48, 48), windows=windows_of(model))
    stripped = {strip_prefixes(name): value for name, value in theirs.items()}
    assert detect_format(stripped) == format_name
    back = to_native(stripped, format_name)
    assert back.keys() == native.keys()
    assert all(torch.equal(back[name], native[name]) for name in native)
    if format_name in ("official", "torchvision", "mmpretrain") and windows_of(model):
        assert read_weights(theirs).windows == windows_of(model) == [(6, 4), (6, 3)]


@pytest.mark.parametrize(
    ("window", "pretrained", "greatest"),
    [
        *((8, 8, 1.056642), (16, 12, 1.191330), (24, 12, 1.382633)),
        *((12, 6, 1.405744), (14, 12, 1.128686), (7, 6, 1.135331)),
    ],
)
def test_the_pretrained_window_is_read_off_the_greatest_coordinate(window, pretrained, greatest):
    table = relative_coordinates((window, window), (pretrained, pretrained))
    assert float(table.max()) == pytest.approx(greatest, abs=2e-6)
    name = "layers.0.blocks.0.attn.relative_coords_table"
    assert read_windows({name: table.view(1, 2 * window - 1, 2 * window - 1, 2)}) == [(window, pretrained)]


def test_a_window_of_one_token_divides_by_nothing():
    assert relative_coordinates((1, 1), (1, 1)).tolist() == [[0.0, 0.0]]
    assert read_windows({"layers.0.blocks.0.attn.relative_coords_table": torch.zeros(1, 1, 1, 2)}) == [(1, 1)]


def test_masks_of_official_files_are_those_of_clamped_windows():
    model = make(arguments={**V2, "window_size": 12, "pretrained_window_sizes": None})
    assert model.windows() == [(12, 12), (6, 6)]
    assert not [name for name in from_native(model.state_dict(), "official", windows=model.windows()) if "mask" in name]
    wide = make(arguments={**V2, "img_size": 96})
    theirs = from_native(wide.state_dict(), "official", img_size=(96, 96), windows=wide.windows())
    assert theirs["layers.0.blocks.1.attn_mask"].shape == (16, 36, 36)
    assert theirs["layers.0.blocks.1.attn_mask"].min() == -100


def test_a_file_that_says_its_windows_gives_them_to_a_model_of_others():
    source = make(arguments={**SMALL, "window_size": 4, "img_size": 32})
    official = from_native(source.state_dict(), "official", windows=source.windows())
    model = make(arguments={**SMALL, "window_size": 6}, seed=1)
    report = load_weights(model, official)
    assert model.pretrained_window_sizes == [4, 4]
    assert all(block.attn.pretrained_window_size == 4 for stage in model.layers for block in stage.blocks)
    assert "windows in which the weights learned, as their file says: [4, 4]" in str(report)
    assert report.resized == report.dropped == report.initialised == []
    same = make(arguments={**SMALL, "window_size": 4, "img_size": 32}, seed=1)
    load_weights(same, official)
    assert same.pretrained_window_sizes is None, "nothing differs"


def test_windows_that_were_given_and_differ_from_the_files_are_an_error():
    source = make(arguments={**SMALL, "window_size": 4, "img_size": 32})
    official = from_native(source.state_dict(), "official", windows=source.windows())
    model = make(arguments={**V2, "pretrained_window_sizes": (5, 5)}, seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"learned in windows of \[4, 4\], and pretrained_window_sizes are \[5, 5\]"
    ):
        load_weights(model, official)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_file_without_windows_is_loaded_with_a_note_and_asked_for_them_where_a_model_is_made_of_it(tmp_path):
    source = make()
    timm = from_native(source.state_dict(), "timm")
    report = load_weights(make(arguments={**SMALL, "window_size": 6}, seed=1), timm)
    assert "does not say in which windows its weights learned; taken as these: [6, 6]" in str(report)
    weights = read_weights(timm)
    with pytest.raises(CheckpointError, match="shapes do not say its windows"):
        model_arguments(weights.tensors, weights.windows)
    assert model_arguments(weights.tensors, source.windows())[1]["window_size"] == 6


@pytest.mark.parametrize(("family", "arguments"), [(SwinTransformerV2, V2), (SwinMLP, {**SMALL, "window_size": 6})])
def test_arguments_are_read_off_weights(family, arguments):
    source = make(family, {**arguments, "in_chans": 1, "patch_size": 4})
    _, found = model_arguments(source.state_dict(), windows_of(source))
    assert {key: found[key] for key in arguments} == arguments
    assert (found["in_chans"], found["patch_size"], found["mlp_ratio"], found["ape"]) == (1, 4, 4.0, False)
    rebuilt = family(**found)
    load_weights(rebuilt, source.state_dict(), strict=True)
    assert windows_of(rebuilt) == windows_of(source)


def test_a_file_of_another_family_is_refused_and_named():
    mlp = make(SwinMLP, {**SMALL, "window_size": 3})
    with pytest.raises(CheckpointError, match="another architecture"):
        load_weights(SwinTransformer(**SMALL, window_size=3), mlp.state_dict())
    with torch.device("meta"):
        state = create_model("swin_mlp_tiny_c24").state_dict()
    state = {name: torch.zeros(value.shape) for name, value in state.items()}
    with pytest.raises(
        CheckpointError, match=r"The file is a swin_mlp_tiny_c24: --opts MODEL.VARIANT swin_mlp_tiny_c24"
    ):
        load_weights(SwinTransformer(**SMALL, window_size=3), state)


def test_a_config_takes_the_windows_of_the_file_that_it_starts_from(tmp_path):
    source = make(arguments={**SMALL, "window_size": 4, "img_size": 32})
    torch.save({"model": from_native(source.state_dict(), "official", windows=source.windows())}, tmp_path / "w.pth")
    options = [
        "MODEL.TYPE",
        "swinv2",
        "MODEL.SWINV2.EMBED_DIM",
        8,
        "MODEL.SWINV2.DEPTHS",
        "[2, 2]",
        "DATA.IMG_SIZE",
        48,
    ]
    options += ["MODEL.SWINV2.NUM_HEADS", "[1, 2]", "MODEL.SWINV2.WINDOW_SIZE", 6]
    options += ["MODEL.PRETRAINED", str(tmp_path / "w.pth")]
    cfg = complete_config(load_config(opts=options))
    assert cfg.MODEL.SWINV2.PRETRAINED_WINDOW_SIZES == [4, 4]
    assert cfg.layers["MODEL.SWINV2.PRETRAINED_WINDOW_SIZES"] == (str(tmp_path / "w.pth"), [0, 0, 0, 0])
    assert cfg.layers["MODEL.SWINV2.EMBED_DIM"].where == "--opts", "the other keys keep where they come from"
    same = complete_config(load_config(opts=[*options, "MODEL.SWINV2.WINDOW_SIZE", 4, "DATA.IMG_SIZE", 32]))
    assert same.MODEL.SWINV2.PRETRAINED_WINDOW_SIZES == [0, 0, 0, 0]
    torch.save({"model": source.state_dict(), "config": config_to_dict(cfg)}, tmp_path / "own.pth")
    assert read_weights(tmp_path / "own.pth").windows == [(6, 4), (6, 4)], "a checkpoint's config says them"


def test_the_command_converts_between_programs_and_asks_for_a_variant(tmp_path, capsys):
    torch.manual_seed(0)
    model = create_model("swinv2_tiny", embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), num_classes=3)
    perturb(model)
    official = from_native(model.state_dict(), "official", windows=model.windows())
    torch.save({"model": official}, tmp_path / "official.pth")
    source = tmp_path / "official.pth"
    for target, more in (("torchvision", []), ("timm", []), ("transformers", ["--variant", "swinv2_tiny"])):
        output = tmp_path / f"{target}.safetensors"
        assert convert(["--input", str(source), "--to", target, "--output", str(output), *more]) == 0
        assert "largest logit difference on a 256 x 256 image" in capsys.readouterr().out
        source = output
    assert convert(["--input", str(source), "--to", "official", "--output", str(tmp_path / "out.pth")]) == 2
    assert "shapes do not say its windows" in capsys.readouterr().err
    back = [
        "--input",
        str(source),
        "--to",
        "official",
        "--output",
        str(tmp_path / "out.pth"),
        "--variant",
        "swinv2_tiny",
    ]
    assert convert(back) == 0
    again = torch.load(tmp_path / "out.pth")["model"]
    assert again.keys() == official.keys()
    assert all(torch.equal(again[name], value) for name, value in official.items())


def test_no_other_program_has_a_swin_mlp(tmp_path, capsys):
    torch.save(make(SwinMLP, {**SMALL, "window_size": 3}).state_dict(), tmp_path / "in.pth")
    assert convert(["--input", str(tmp_path / "in.pth"), "--to", "timm", "--output", str(tmp_path / "out.pth")]) == 2
    assert "timm has no Swin-MLP" in capsys.readouterr().err


CLAIMS = {
    "model_type": "swinv2",
    "image_size": 48,
    "window_size": 6,
    "pretrained_window_sizes": [4, 3],
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [1, 2],
}


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({}, ""),
        ({"pretrained_window_sizes": None}, ""),
        ({"num_heads": [2, 2]}, "says num_heads [2, 2], but its weights have [1, 2]"),
        ({"model_type": "swin"}, "says that its model is a swin, but its weights are of a swinv2"),
        ({"window_size": "6"}, "does not say the windows or the image size of its Swin V2 in numbers"),
        ({"pretrained_window_sizes": [4]}, "does not say the windows or the image size of its Swin V2 in numbers"),
        ({"image_size": None}, "does not say the windows or the image size of its Swin V2 in numbers"),
        ({"image_size": 0}, "does not say the windows or the image size of its Swin V2 in numbers"),
        ({"pretrained_window_sizes": 4}, "does not say the windows or the image size of its Swin V2 in numbers"),
    ],
)
def test_a_folder_of_transformers_says_the_windows(tmp_path, claims, message):
    model = make()
    save_file(from_native(model.state_dict(), "transformers"), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**CLAIMS, **claims}))
    if message:
        with pytest.raises(CheckpointError, match=re.escape(message)):
            read_weights(tmp_path)
        return
    weights = read_weights(tmp_path)
    assert weights.windows == ([(6, 6), (6, 6)] if claims else [(6, 4), (6, 3)])
    rebuilt = SwinTransformerV2(**model_arguments(weights.tensors, weights.windows)[1]).eval()
    load_weights(rebuilt, weights, strict=True)
    if not claims:
        images = torch.randn(1, 3, 48, 48)
        assert torch.equal(rebuilt(images), model(images))


def test_damaged_tables_of_coordinates_are_no_windows():
    model = make()
    theirs = from_native(model.state_dict(), "official", windows=model.windows())
    for value in (torch.zeros(3), torch.full((1, 4, 4, 2), 1.0), torch.full((1, 11, 11, 2), math.nan)):
        broken = {name: value if name.endswith("coords_table") else each for name, each in theirs.items()}
        assert read_weights(broken).windows is None
