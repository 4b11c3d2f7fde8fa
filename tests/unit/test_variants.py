"""The table of variants: names, numbers, and models made from it."""

import pytest
import timm
import torch

from swin.create import create_model
from swin.errors import ConfigError
from swin.models import VARIANTS, count_flops, count_parameters, list_models
from swin.models.flops import count_module_flops
from swin.variants import find_variant

# Published: millions of parameters, and multiply-adds in 1e9 as the official repository and as mmpretrain count them.
PUBLISHED = {
    "swin_tiny": (28.29, 4.5, 4.36),
    "swin_small": (49.61, 8.7, 8.52),
    "swin_base": (87.77, 15.4, 15.14),
    "swin_base_384": (87.90, 47.1, 44.49),
    "swin_large": (196.53, 34.5, 34.04),
    "swin_large_384": (196.74, 103.9, 100.04),
    "swin_tiny_c24_256": (28.3, 5.9, None),
    "swin_large_384_cub200": (195.51, None, 100.04),
}
# Of the other lines as well, without mmpretrain's count; parameters to the unit, by arithmetic from the shapes.
PUBLISHED_V2 = {
    "swinv2_tiny": (28_347_154, 5.9),
    "swinv2_tiny_w16": (28_347_154, 6.6),
    "swinv2_small": (49_728_418, 11.5),
    "swinv2_small_w16": (49_728_418, 12.6),
    "swinv2_base": (87_918_816, 20.3),
    "swinv2_base_w16": (87_918_816, 21.8),
    "swinv2_base_22kto1k": (87_918_816, 21.8),
    "swinv2_base_384_22kto1k": (87_918_816, 54.7),
    "swinv2_large_22kto1k": (196_739_932, 47.5),
    "swinv2_large_384_22kto1k": (196_739_932, 115.4),
    "swin_mlp_tiny_c24": (20_386_632, 4.0),
    "swin_mlp_tiny_c12": (21_152_072, 4.0),
    "swin_mlp_tiny_c6": (22_682_952, 4.0),
    "swin_mlp_base": (60_659_416, 10.4),
}
# Drop path, top-1, top-5.
RESULTS = {
    "swin_tiny": (0.2, 81.2, 95.5),
    "swin_small": (0.3, 83.2, 96.2),
    "swin_base": (0.5, 83.5, 96.5),
    "swin_base_384": (0.5, 84.5, 97.0),
    "swin_tiny_22k": (0.1, None, None),
    "swin_base_22k": (0.2, None, None),
    "swin_tiny_22kto1k": (0.1, 80.9, 96.0),
    "swin_small_22kto1k": (0.2, 83.2, 97.0),
    "swin_base_22kto1k": (0.2, 85.2, 97.5),
    "swin_large_22kto1k": (0.2, 86.3, 97.9),
    "swin_base_384_22kto1k": (0.2, 86.4, 98.0),
    "swin_large_384_22kto1k": (0.2, 87.3, 98.2),
    "swin_tiny_c24_256": (0.2, 81.6, 95.7),
    "swin_large_384_cub200": (0.2, 91.87, None),
    "swinv2_tiny": (0.2, 81.8, 95.9),
    "swinv2_small_w16": (0.3, 84.1, 96.8),
    "swinv2_base": (0.5, 84.2, 96.9),
    "swinv2_base_22kto1k": (0.2, 86.2, 97.9),
    "swinv2_large_384_22kto1k": (0.2, 87.6, 98.3),
    "swin_mlp_tiny_c6": (0.2, 79.7, 94.9),
    "swin_mlp_base": (0.5, 81.3, 95.3),
}


def without_memory(name, **changes):
    with torch.device("meta"):
        return create_model(name, **changes)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name.removesuffix("_22kto1k") in PUBLISHED])
def test_counted_costs_are_the_published_ones(name):
    millions, gflops, mmpretrain = PUBLISHED[name.removesuffix("_22kto1k")]
    model = without_memory(name)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.01)
    if gflops:
        # Published with one decimal, by a count that rounds the padding and the last norm in other ways.
        assert count_flops(model, *model.img_size) / 1e9 == pytest.approx(gflops, rel=0.01)
    if mmpretrain:
        assert count_module_flops(model, *model.img_size) / 1e9 == pytest.approx(mmpretrain, abs=0.005)


@pytest.mark.parametrize("name", PUBLISHED_V2)
def test_costs_of_the_other_lines_are_the_published_ones(name):
    parameters, gflops = PUBLISHED_V2[name]
    model = without_memory(name)
    assert count_parameters(model) == parameters
    assert count_flops(model, *model.img_size) / 1e9 == pytest.approx(gflops, rel=0.01)


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_the_published_ones(name):
    variant = VARIANTS[name]
    assert (variant.drop_path_rate, variant.top1, variant.top5) == RESULTS[name]


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in timm.list_pretrained("swin*_*")
        if not any(other in name for other in ("_s3_", "_cr_", "swiftnet"))
    ],
)
def test_timms_names_give_timms_shapes(name):
    """Names of timm's weight files: as many parameters, tensor by tensor."""
    model = without_memory(name)
    with torch.device("meta"):
        peer = timm.create_model(name, pretrained=False)
    # Each program has one downsampling a stage, at its end or at its start.
    assert sorted(p.numel() for p in model.parameters()) == sorted(p.numel() for p in peer.parameters())
    assert peer.patch_embed.img_size == model.img_size


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("swin_tiny_patch4_window7_224", "swin_tiny"),
        ("swin_base_patch4_window12_384_22kto1k_finetune", "swin_base_384_22kto1k"),
        ("swin_base_patch4_window12_384_22kto1k", "swin_base_384_22kto1k"),
        ("swin_base_patch4_window12_384", "swin_base_384"),
        ("swin_tiny_c24_patch4_window8_256", "swin_tiny_c24_256"),
        ("swin_large_patch4_window12_384.ms_in22k", "swin_large_384_22k"),
        ("swin_base_patch4_window7_224.ms_in22k_ft_in1k", "swin_base_22kto1k"),
        ("swin_small_patch4_window7_224.ms_in1k", "swin_small"),
        ("swinv2_tiny_window8_256.ms_in1k", "swinv2_tiny"),
        ("swinv2_base_window12to24_192to384.ms_in22k_ft_in1k", "swinv2_base_384_22kto1k"),
        ("swinv2_large_patch4_window12to16_192to256_22kto1k_ft", "swinv2_large_22kto1k"),
        ("swinv2_base_patch4_window12to24_192to384_22kto1k", "swinv2_base_384_22kto1k"),
        ("swin_mlp_base_patch4_window7_224", "swin_mlp_base"),
    ],
)
def test_other_spellings(spelling, name):
    assert find_variant(spelling) is VARIANTS[name]


def test_list_models_knows_both_styles():
    assert set(list_models("swin_tiny_c24*")) == {"swin_tiny_c24_256", "swin_tiny_c24_patch4_window8_256"}
    assert set(VARIANTS) < set(list_models())
    assert all(find_variant(name) for name in list_models())
    assert list_models("vit*") == []


def test_arguments_take_the_place_of_the_variants():
    model = without_memory("swin_tiny", num_classes=7, img_size=(64, 96), in_chans=4, drop_path_rate=0.35)
    assert (model.num_classes, model.img_size, model.patch_embed.proj.in_channels) == (7, (64, 96), 4)
    assert model.layers[3].blocks[1].drop_path.p == pytest.approx(0.35)
    assert without_memory("swin_base_22k").num_classes == 21841


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("swin_tinny", {}, "no model 'swin_tinny'; did you mean 'swin_tiny'"),
        ("swin_base_patch4_window7_225", {}, "did you mean 'swin_base_patch4_window7_224'"),
        ("swin_tiny", {"image_size": 224}, "no argument 'image_size'; did you mean 'img_size'"),
        ("swin_tiny", {"drop_path": 0.1}, "did you mean 'drop_path_rate'"),
        ("swin_tiny", {"num_heads": (5, 6, 12, 24)}, "5 heads do not divide"),
    ],
)
def test_mistakes_are_named(name, arguments, words):
    with pytest.raises(ConfigError, match=words):
        without_memory(name, **arguments)


def test_how_images_are_prepared_follows_the_size():
    assert without_memory("swin_base_384").eval_transform_args == {"crop": False, "channels": 3}
    assert without_memory("swin_tiny_c24_256").eval_transform_args["crop"] is True
    assert len(without_memory("swin_tiny", in_chans=1).eval_transform_args["mean"]) == 1
