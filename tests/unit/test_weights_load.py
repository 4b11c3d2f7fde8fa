"""Weights given to a model that is not quite theirs, and the report of it."""

import pytest
import torch

from swin import SwinTransformer, create_model, load_weights
from swin.errors import CheckpointError
from swin.weights import model_arguments, read_weights

SMALL = {"img_size": 32, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4, "num_classes": 3}


def make(classes: list[str] | None = None, seed: int = 0, **changes) -> SwinTransformer:
    torch.manual_seed(seed)
    model = SwinTransformer(**{**SMALL, **({"num_classes": len(classes)} if classes else {}), **changes})
    model.classes = classes
    return model


def content(model: SwinTransformer) -> dict:
    return {"model": model.state_dict(), **({"classes": model.classes} if model.classes else {})}


def test_the_same_model_takes_everything_and_gives_the_same_logits():
    source, model = make(["a", "b", "c"]), make(seed=1)
    report = load_weights(model, content(source))
    assert set(report.loaded) == set(model.state_dict())
    assert report.resized == report.dropped == report.initialised == []
    assert model.classes == ["a", "b", "c"]
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(source.eval()(image), model.eval()(image))
    assert (
        str(report)
        == f"names of format official: {len(report.loaded)} tensors loaded, 0 resized, 0 dropped, 0 initialised anew"
    )


def test_every_tensor_of_the_model_is_in_one_list_and_the_report_tells_what_was_done():
    source = make(["a", "b", "c"], ape=True)
    model = make(["c", "x", "a", "y"], seed=1, window_size=7, img_size=56, in_chans=1, patch_size=8, ape=True)
    report = load_weights(model, content(source))
    names = [*report.loaded, *report.resized, *report.initialised]
    assert sorted(names) == sorted(model.state_dict())
    assert len(names) == len(set(names))
    text = str(report)
    for line in (
        "resized 4 x relative_position_bias_table: window 4 to 7, bicubic",
        "resized 1 x absolute_pos_embed: grid 8 x 8 to 7 x 7, bicubic",
        "resized 1 x patch_embed.proj.weight: 3 to 1 channels, patches of 4 to 8 pixels, bicubic",
        "head: 2 of 4 rows mapped by class name from the file's 3; 2 initialised anew",
    ):
        assert f"  {line}\n" in text + "\n"
    assert "8 resized" in text.splitlines()[0]


def test_heads_go_by_class_name_in_any_order():
    source, model = make(["cat", "dog", "owl"]), make(["Owl", "fox", "cat"], seed=1)
    before = model.head.weight.detach().clone()
    load_weights(model, content(source))
    assert torch.equal(model.head.weight[0], source.head.weight[2])
    assert torch.equal(model.head.weight[1], before[1])
    assert torch.equal(model.head.weight[2], source.head.weight[0])
    assert model.classes == ["Owl", "fox", "cat"]


def test_a_head_whose_classes_are_all_others_is_initialised_anew():
    source, model = make(["a", "b", "c"]), make(["x", "y", "z"], seed=1)
    before = model.head.weight.detach().clone()
    report = load_weights(model, content(source))
    assert torch.equal(model.head.weight, before)
    assert report.initialised == report.dropped == ["head.weight", "head.bias"]
    assert "none of the 3 classes is in the file" in str(report)


def test_heads_without_names_are_taken_when_they_have_as_many_rows():
    source, named, larger = make(), make(["x", "y", "z"], seed=1), make(seed=1, num_classes=4)
    assert "head.weight" in load_weights(named, content(source)).loaded
    assert "head.weight" in load_weights(larger, content(source)).initialised


@pytest.fixture(scope="module")
def large_head() -> dict[str, torch.Tensor]:
    return make(num_classes=21841).state_dict()


def test_a_22k_head_becomes_a_1k_head(large_head):
    model = make(seed=1, num_classes=1000)
    report = load_weights(model, large_head)
    assert torch.equal(model.head.weight[:2], large_head["head.weight"][[359, 368]])
    assert torch.equal(model.head.bias[850], large_head["head.bias"][5564])
    assert report.initialised == report.dropped == []
    assert "head: 1000 of 1000 rows mapped by class name from the file's 21841; 0 initialised anew" in report.notes


def test_own_folders_take_rows_of_imagenet(large_head):
    model = make(["daisy", "n01440764", "Nonesuch"], seed=1)
    load_weights(model, large_head)
    assert torch.equal(model.head.weight[1], large_head["head.weight"][359])
    one = make(num_classes=1000)
    load_weights(model, one.state_dict())
    assert torch.equal(model.head.weight[:2], one.head.weight[[985, 0]])


def test_headless_files_and_headless_models():
    source, headless = make(), make(num_classes=0)
    assert load_weights(make(seed=1), headless.state_dict()).initialised == ["head.weight", "head.bias"]
    report = load_weights(make(seed=1, num_classes=0), source.state_dict())
    assert report.dropped == ["head.weight", "head.bias"]


def test_tables_of_another_window_keep_the_model_close():
    """A smooth table at another window means the same attention, to the error of the interpolation."""
    source = make(window_size=4, img_size=64)
    side = torch.linspace(-1, 1, 7)
    with torch.no_grad():
        for name, value in source.named_parameters():
            if "bias_table" in name:
                value.copy_((-3 * (side[:, None] ** 2 + side**2)).reshape(49, 1).expand_as(value))
    model = make(seed=1, window_size=8, img_size=128)
    load_weights(model, source.state_dict())
    image = torch.nn.functional.interpolate(torch.randn(4, 3, 8, 8), 64, mode="bicubic")
    larger = torch.nn.functional.interpolate(image, 128, mode="bicubic")
    with torch.no_grad():
        ours, theirs = model.eval()(larger), source.eval()(image)
        fresh = make(seed=1, window_size=8, img_size=128).eval()(larger)
    assert (ours - theirs).norm() < 0.35 * (fresh - theirs).norm()


@pytest.mark.parametrize("changes", [{"qkv_bias": False}, {"patch_norm": False}, {"ape": True}, {"mlp_ratio": 2.0}])
def test_any_config_loads_its_own_weights(changes):
    source = make(**changes)
    report = load_weights(make(seed=1, **changes), source.state_dict(), strict=True)
    assert set(report.loaded) == set(source.state_dict())


def test_missing_embedding_and_norms_of_maps_are_initialised():
    report = load_weights(make(ape=True, out_norms=True), make().state_dict())
    assert report.initialised[0] == "absolute_pos_embed"
    assert len(report.initialised) == 5


@pytest.mark.parametrize("changes", [{"window_size": 7}, {"in_chans": 1}, {"num_classes": 4}, {"ape": True}])
def test_strict_takes_exactly_this_model(changes):
    with pytest.raises(CheckpointError, match="does not fit the model of this config"):
        load_weights(make(**changes), make().state_dict(), strict=True)


def test_strict_accepts_another_order_of_classes_but_not_other_classes():
    source, model = make(["a", "b", "c"]), make(["c", "a", "b"], seed=1)
    load_weights(model, content(source), strict=True)
    assert torch.equal(model.head.weight, source.head.weight[[2, 0, 1]])
    with pytest.raises(CheckpointError, match=r"1 of the 3 classes of the data .* 'd'"):
        load_weights(make(["c", "a", "d"]), content(source), strict=True)


def test_the_threshold_can_be_lowered():
    source = make(depths=(2, 1))
    with pytest.raises(CheckpointError, match="at least 95%"):
        load_weights(make(), source.state_dict())
    report = load_weights(make(), source.state_dict(), min_matched=0.5)
    assert all(name.startswith("layers.1.blocks.1.") for name in report.initialised)


def test_half_precision_files_become_the_models_type():
    model = make(seed=1)
    load_weights(model, {name: value.half() for name, value in make().state_dict().items()})
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_create_model_takes_any_format(tmp_path):
    from swin.weights.formats import from_native

    source = make()
    torch.save(from_native(source.state_dict(), "torchvision"), tmp_path / "w.pth")
    model = create_model("swin_tiny", pretrained=tmp_path / "w.pth", **SMALL)
    assert torch.equal(model.layers[1].blocks[1].mlp.fc2.weight, source.layers[1].blocks[1].mlp.fc2.weight)


@pytest.mark.parametrize(
    "changes", [{}, {"qkv_bias": False, "patch_norm": False}, {"in_chans": 1, "patch_size": 2, "ape": True}]
)
def test_a_models_arguments_are_read_off_its_weights(changes):
    source = make(**changes)
    family, arguments = model_arguments(read_weights(source.state_dict()).tensors)
    assert family == "swin"
    rebuilt = SwinTransformer(**arguments)
    load_weights(rebuilt, source.state_dict(), strict=True)
    if not changes:
        assert {key: arguments[key] for key in SMALL} == SMALL


def test_arguments_of_no_swin_transformer():
    with pytest.raises(CheckpointError, match="not those of a whole model of the Swin family"):
        model_arguments({"head.weight": torch.zeros(1)})


def test_a_file_of_a_known_architecture_says_how_to_train_it():
    source = create_model("swin_small", num_classes=2).state_dict()
    with pytest.raises(
        CheckpointError, match=r"The file is a swin_small: --opts MODEL\.VARIANT swin_small trains this"
    ):
        load_weights(make(), source)
    with pytest.raises(CheckpointError) as caught:
        load_weights(make(embed_dim=16), make().state_dict())
    assert "another architecture" in str(caught.value)
    assert "The file is" not in str(caught.value)
