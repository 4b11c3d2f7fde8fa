"""Weights in the formats of other programs: round trips, strict loading into their own models, equal logits."""

import pytest
import torch
import torchvision
from timm.models.swin_transformer import SwinTransformer as TimmSwin
from torch import nn

from swin import SwinTransformer, load_weights
from swin.models import VARIANTS
from swin.weights import model_arguments, read_weights
from swin.weights.buffers import DERIVED_BUFFERS
from swin.weights.formats import FORMATS, detect_format, from_native, to_native
from swin.weights.source import strip_prefixes
from tests.numerics.peers import make_timm, make_torchvision, perturb, relative_error
from tools.convert_weights import make_peer

# See test_peers.py: rounding gives 1e-6 of the largest logit, a misplaced tensor 1e-2 and more.
LOGITS_TOLERANCE = 1e-5

SMALL = {"img_size": 64, "embed_dim": 16, "depths": (2, 2, 2), "num_heads": (1, 2, 4), "window_size": 4}
SHAPES = {
    "usual": {},
    "two stages": {"depths": (2, 2), "num_heads": (1, 2), "img_size": 32},
    "no qkv bias": {"qkv_bias": False},
    "position": {"ape": True},
    "no head": {"num_classes": 0},
    "grey": {"in_chans": 1, "patch_size": 2, "img_size": 32},
}


def make_small(**changes) -> SwinTransformer:
    torch.manual_seed(0)
    model = SwinTransformer(**{**SMALL, "num_classes": 5, "drop_path_rate": 0.0, **changes})
    perturb(model)
    return model.eval()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("format_name", FORMATS)
def test_round_trips_are_exact_in_both_directions(format_name, shape):
    model = make_small(**SHAPES[shape])
    native = model.state_dict()
    theirs = from_native(native, format_name)
    stripped = {strip_prefixes(name): value for name, value in theirs.items()}
    assert detect_format(stripped) == format_name
    back = to_native(stripped, format_name)
    assert list(back) == list(native)
    assert all(torch.equal(back[name], native[name]) for name in native)
    again = from_native(back, format_name)
    assert again.keys() == theirs.keys()
    assert all(torch.equal(again[name], theirs[name]) for name in theirs)


def test_swin_tiny_has_the_published_number_of_keys():
    with torch.device("meta"):
        native = SwinTransformer().state_dict()
    counts = {name: len(from_native(native, name)) for name in FORMATS}
    assert counts == {"official": 190, "timm": 173, "torchvision": 185, "mmpretrain": 183 + 2, "transformers": 173 + 48}


@pytest.mark.parametrize("change", ["usual", "two stages", "no qkv bias", "no head", "grey"])
def test_timm_loads_ours_strictly_and_agrees(change):
    ours = make_small(**SHAPES[change])
    arguments = {**SMALL, "num_classes": 5, **SHAPES[change]}
    theirs = TimmSwin(**arguments).eval()
    theirs.load_state_dict(from_native(ours.state_dict(), "timm"), strict=True)
    assert_same_logits(ours, theirs, arguments["img_size"], ours.patch_embed.proj.in_channels)


@pytest.mark.parametrize("change", ["usual", "two stages", "no qkv bias", "position", "grey"])
def test_transformers_loads_ours_whole_and_agrees(change):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    ours = make_small(**SHAPES[change])
    size = ours.patch_embed.proj.stride[0] * ours.grid_size[0]
    config = make_peer("transformers", "swin", {**model_arguments(ours.state_dict())[1], "img_size": size}).config
    theirs, info = transformers.SwinForImageClassification.from_pretrained(
        None, config=config, state_dict=from_native(ours.state_dict(), "transformers"), output_loading_info=True
    )
    assert not any(info.values())
    image = torch.randn(3, ours.patch_embed.proj.in_channels, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert relative_error(theirs.eval()(image).logits, ours(image)) < LOGITS_TOLERANCE
    back = read_weights(theirs.state_dict())  # by the names that it has in memory
    assert back.format == "transformers"
    assert all(torch.equal(back.tensors[name], value) for name, value in ours.state_dict().items())


def test_torchvision_loads_ours_strictly_and_agrees():
    ours = make_small()
    theirs = torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=16, depths=[2, 2, 2], num_heads=[1, 2, 4], window_size=[4, 4], num_classes=5
    ).eval()
    theirs.load_state_dict(from_native(ours.state_dict(), "torchvision"), strict=True)
    assert_same_logits(ours, theirs, 64)


def assert_same_logits(ours: nn.Module, theirs: nn.Module, size: int | tuple[int, int], channels: int = 3, **forward):
    height, width = (size, size) if isinstance(size, int) else size
    image = torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert relative_error(ours(image), theirs(image, **forward)) < LOGITS_TOLERANCE


class MmpretrainMerging(nn.Module):
    """Patch merging as mmpretrain computes it, the one part whose layout differs: nn.Unfold, norm, reduction.

    nn.Unfold gives, for each 2 x 2 group, channel after channel, each with its tokens in row-major order.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.sampler = nn.Unfold(kernel_size=2, stride=2)
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) to (B, H/2, W/2, 2C)."""
        B, H, W, _ = x.shape
        merged = self.sampler(x.permute(0, 3, 1, 2)).transpose(1, 2)  # (B, H/2 * W/2, 4C)
        return self.reduction(self.norm(merged)).view(B, H // 2, W // 2, -1)


def test_mmpretrains_merging_with_converted_weights_equals_ours():
    ours = make_small()
    theirs = MmpretrainMerging(16)
    prefix = "backbone.stages.0.downsample."
    converted = from_native(ours.state_dict(), "mmpretrain")
    theirs.load_state_dict({k.removeprefix(prefix): v for k, v in converted.items() if k.startswith(prefix)})
    tokens = torch.randn(2, 8, 6, 16, generator=torch.Generator().manual_seed(1))
    merging = ours.layers[0].downsample
    with torch.no_grad():
        assert relative_error(merging(tokens), theirs(tokens)) < LOGITS_TOLERANCE
        theirs.load_state_dict(merging.state_dict())  # without the reordering
        assert relative_error(merging(tokens), theirs(tokens)) > 0.1


def test_mmpretrain_itself_loads_ours_strictly_and_agrees():
    pytest.importorskip("mmpretrain", reason="mmpretrain is not installed")

    ours = make_small(ape=True)
    theirs = make_peer("mmpretrain", "swin", {**model_arguments(ours.state_dict())[1], "img_size": 64}).eval()
    theirs.load_state_dict(from_native(ours.state_dict(), "mmpretrain"), strict=True)
    assert_same_logits(ours, theirs, 64, mode="tensor")


def official_mask(height: int, width: int, window: int, shift: int) -> torch.Tensor:
    """The mask of a shifted grid as the paper describes it: number the regions that a roll brings together, compare."""
    regions = torch.zeros(height, width)
    count = 0
    for rows in (slice(0, -window), slice(-window, -shift), slice(-shift, None)):
        for columns in (slice(0, -window), slice(-window, -shift), slice(-shift, None)):
            regions[rows, columns] = count
            count += 1
    groups = regions.view(height // window, window, width // window, window).transpose(1, 2).reshape(-1, window**2)
    return (groups[:, None] != groups[:, :, None]) * -100.0


def test_official_files_hold_the_masks_of_the_image_size():
    native = make_small().state_dict()
    weights = from_native(native, "official", img_size=(64, 128))
    masks = {name: value for name, value in weights.items() if "attn_mask" in name}
    assert list(masks) == ["layers.0.blocks.1.attn_mask", "layers.1.blocks.1.attn_mask"]
    assert torch.equal(masks["layers.0.blocks.1.attn_mask"], official_mask(16, 32, 4, 2))
    assert torch.equal(masks["layers.1.blocks.1.attn_mask"], official_mask(8, 16, 4, 2))


@pytest.mark.parametrize("make", [make_timm, make_torchvision])
def test_swin_tiny_of_a_peer_loads_into_ours_with_equal_logits(make):
    torch.manual_seed(0)
    source = SwinTransformer(drop_path_rate=0.0)
    perturb(source)
    theirs = make(source).eval()
    ours = SwinTransformer().eval()
    report = load_weights(ours, theirs.state_dict(), strict=True)
    assert len(report.loaded) == 173
    assert_same_logits(ours, theirs, 224)


ARCHITECTURES = {}
for _name, _variant in VARIANTS.items():
    if _variant.family != "swin":
        continue
    _key = (_variant.embed_dim, _variant.depths, _variant.num_heads, _variant.window_size)
    ARCHITECTURES.setdefault(_key, (_name, _variant))


@pytest.mark.slow
@pytest.mark.parametrize("oblong", [False, True], ids=["square", "oblong"])
@pytest.mark.parametrize("name", [name for name, _ in ARCHITECTURES.values()])
def test_every_variant_equals_timm(name, oblong):
    variant = VARIANTS[name]
    shape = {key: getattr(variant, key) for key in ("embed_dim", "depths", "num_heads", "window_size")}
    size = (variant.img_size, 2 * variant.img_size) if oblong else (variant.img_size,) * 2
    torch.manual_seed(0)
    theirs = TimmSwin(img_size=size, **shape).eval()
    perturb(theirs)
    weights = read_weights(theirs.state_dict())
    assert weights.format == "timm"
    assert {key: model_arguments(weights.tensors)[1][key] for key in shape} == shape
    ours = SwinTransformer(img_size=size, **shape).eval()
    load_weights(ours, weights, strict=True)
    assert not [key for key in weights.original if key.endswith(DERIVED_BUFFERS)]
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        error = relative_error(ours(image), theirs(image))
    print(f"{name} {size[0]} x {size[1]}: logits differ by {error:.1e} of the largest")
    assert error < LOGITS_TOLERANCE
