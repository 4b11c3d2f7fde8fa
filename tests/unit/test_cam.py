"""The command `python -m tools.cam`, and what the maps are made of."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from data.digits import open_digits
from swin.errors import ConfigError
from swin.inference import Predictor, load_predictor
from swin.kernels.windows import partition, reverse, shift_mask
from swin.models import SwinTransformer, SwinTransformerV2
from swin.models.layers import pad_to_multiple
from swin.preprocess import make_eval_transform
from tools.cam import What, attention_grids, class_grids, find_label, heat_of, main, make_cam


@pytest.fixture
def files(tmp_path):
    """A folder with two digits, one of them in a folder of its own, which are a 3 and a 0 or so."""
    val = open_digits().sources["test"]
    (tmp_path / "in" / "more").mkdir(parents=True)
    for index, name in enumerate(("a.png", "more/b.png")):
        Image.fromarray(val.read(index)).save(tmp_path / "in" / name)
    return tmp_path


def run(digits_run, files, *flags, source="in"):
    arguments = ["--checkpoint", str(digits_run / "checkpoints" / "best.pth"), "--device", "cpu"]
    return main([*arguments, "--input", str(files / source), "--output", str(files / "out"), *flags])


def small_model(channels=3, family=SwinTransformer):
    """Three stages on grids that are no multiple of the window, nor even, with weights that are not tiny."""
    torch.manual_seed(0)
    model = family(
        img_size=32, in_chans=channels, num_classes=5, embed_dim=8, depths=(2, 2, 1), num_heads=(1, 2, 4), window_size=4
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def make_predictor(channels, size):
    mean = [0.5] * channels
    transform = make_eval_transform(img_size=size, crop=True, interpolation="bilinear", mean=mean, std=mean)
    return Predictor(small_model(channels), transform, channels, None, torch.device("cpu"))


def test_a_folder_is_drawn(digits_run, files, capsys):
    assert run(digits_run, files) == 0
    assert "2 pictures *.cam.png" in capsys.readouterr().out
    predictor = load_predictor(digits_run / "checkpoints" / "best.pth", device="cpu")
    for name in ("a.png", "more/b.png"):
        facts = json.loads((files / "out" / f"{name}.cam.json").read_text())
        scores = predictor.scores([predictor.read(files / "in" / name)])[0]
        assert (facts["label"], facts["class"]) == (int(scores.argmax()), str(int(scores.argmax())))
        assert facts["score"] == pytest.approx(float(scores.max()), abs=1e-5)
        assert (facts["stage"], facts["method"], facts["image_size"]) == (2, "gradcam", [32, 32])
        assert np.array(facts["grid"]).shape == (4, 4)
        picture = np.asarray(Image.open(files / "out" / f"{name}.cam.png").convert("RGB"))
        assert picture.std() > 20  # not blank
        assert (picture.max(axis=2) - picture.min(axis=2)).max() > 100  # the map's colours on a grey digit


@pytest.mark.parametrize("method", ["gradcam++", "eigencam", "layercam"])
def test_any_stage_class_and_method(digits_run, files, method):
    assert run(digits_run, files, "--stage", "1", "--class", "7", "--method", method, source="in/a.png") == 0
    facts = json.loads((files / "out" / "a.png.cam.json").read_text())
    assert (facts["label"], facts["class"], facts["stage"], facts["method"]) == (7, "7", 1, method)
    assert np.array(facts["grid"]).shape == (8, 8)


def test_the_attention_of_a_block_is_drawn(digits_run, files):
    assert run(digits_run, files, "--attention", "1.2", source="in/a.png") == 0
    facts = json.loads((files / "out" / "a.png.attention.json").read_text())
    assert (facts["stage"], facts["block"], facts["method"]) == (1, 2, "attention")
    assert np.mean(facts["grid"]) == pytest.approx(1, abs=1e-5)  # no padding here: the weights of a query sum to 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--stage", "3"], "no stage 3: this model has stages 1 to 2"),
        (["--attention", "1.3"], "stage 1 has blocks 1 to 2"),
        (["--attention", "1"], "give stage.block"),
        (["--class", "10"], "expected a class's name, or a label from 0 to 9"),
        (["--input", "absent.png"], "absent.png does not exist"),
        (["--checkpoint", "absent.pth"], "absent.pth"),
    ],
)
def test_errors_are_one_message(digits_run, files, capsys, flags, words):
    assert run(digits_run, files, *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert not (files / "out").exists()


def test_a_class_is_found_by_any_of_its_names():
    classes = ["goldfish, Carassius auratus", "crane", "crane, bird", "3", "1"]
    expected = {"goldfish": 0, "crane": 1, "bird": 2, "3": 3, "1": 4, "2": 2, "crane, bird": 2}
    assert {text: find_label(text, classes, 5) for text in expected} == expected
    with pytest.raises(ConfigError, match="did you mean 'crane'"):
        find_label("cranes", classes, 5)


def test_a_bad_file_is_named_and_the_others_drawn(digits_run, files, capsys):
    (files / "in" / "bad.png").write_bytes(b"no image")
    assert run(digits_run, files) == 2
    assert "1 of 3 images could not be read" in (error := capsys.readouterr().err)
    assert "bad.png" in error
    assert len(list((files / "out").rglob("*.cam.png"))) == 2


def test_a_missing_package_is_named(digits_run, files, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run(digits_run, files) == 2
    assert 'pip install "swin-trainer[report]"' in capsys.readouterr().err


@pytest.mark.parametrize(("channels", "size"), [(1, (36, 36)), (3, (36, 60)), (5, (46, 33))])
def test_the_report_draws_any_grid_and_channels(channels, size):
    """Neither the grid, 9 x 15 say, nor that of the next stage, 5 x 8, is a multiple of the window."""
    predictor = make_predictor(channels, size)
    images = [torch.randint(0, 256, (channels, 50, 70), dtype=torch.uint8) for _ in range(17)]  # more than a batch
    pictures = make_cam(predictor)(images, [index % 5 for index in range(17)])
    assert [picture.size for picture in pictures] == [size[::-1]] * 17
    again = make_cam(predictor)(images[-1:], [16 % 5])[0]
    assert np.abs(np.asarray(again, int) - np.asarray(pictures[-1], int)).max() <= 2
    other = make_cam(predictor)(images[-1:], [2])[0]
    assert np.abs(np.asarray(other, int) - np.asarray(again, int)).max() > 20  # another class, another map
    assert all(parameter.grad is None for parameter in predictor.model.parameters())


def test_grad_cam_is_its_definition():
    model, images = small_model(), torch.randn(2, 3, 36, 44)
    grids = class_grids(model, images, [3, 1], What(stage=2))
    seen = []
    hook = model.layers[1].blocks[1].norm1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    logits = model(images)
    hook.remove()
    (gradient,) = torch.autograd.grad(logits[0, 3] + logits[1, 1], seen[0])
    expected = (gradient.mean(dim=(1, 2), keepdim=True) * seen[0]).sum(dim=3)
    assert grids.shape == (2, 5, 6)
    torch.testing.assert_close(grids, expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", [SwinTransformer, SwinTransformerV2])
@pytest.mark.parametrize("block", [1, 2])
def test_attention_is_what_the_weights_say(block, family):
    """Weights computed one by one, on a grid of 9 x 11 that is padded to 12 x 12 and, in the second block, shifted."""
    model, images = small_model(family=family), torch.randn(2, 3, 36, 44)
    attention = model.layers[0].blocks[block - 1].attn
    seen = []
    hook = attention.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(images)
    hook.remove()
    shift, padded = attention.shift_size, pad_to_multiple(seen[0], 4, 4)
    assert (shift, padded.shape[1:3]) == (2 * (block - 1), (12, 12))
    window = (4, 4)
    windows = partition(padded.roll((-shift, -shift), dims=(1, 2)), window)
    q, k, _ = attention._project(windows).permute(3, 0, 1, 4, 2, 5)
    if family is SwinTransformerV2:
        logits = q @ k.transpose(-2, -1) + attention.relative_position_bias(window)
    else:
        logits = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + attention.relative_position_bias()
    if shift:
        logits = logits + shift_mask(12, 12, window, (shift, shift), images.device)[:, None]
    is_real = F.pad(torch.ones(2, 9, 11, 1), (0, 0, 0, 1, 0, 3)).roll((-shift, -shift), dims=(1, 2))
    weights = logits.softmax(dim=-1) * partition(is_real, window)[:, :, None]  # of queries that are no padding
    received = reverse(weights.sum(dim=-2).mean(dim=2), window, 12, 12).roll((shift, shift), dims=(1, 2))[:, :9, :11]
    grids = attention_grids(model, images, What(stage=1, block=block))
    torch.testing.assert_close(grids, received.detach(), rtol=1e-4, atol=1e-5)
    assert grids.std() > 0.1


def test_a_map_lies_on_the_pixels_of_its_tokens():
    model = small_model()
    grid = torch.full((1, 3, 3), -1.0)  # of the third stage, 16 pixels a token: 48 x 48 pixels, of which 37 x 40 exist
    grid[0, 1, 2] = 5.0
    heat = heat_of(grid, model, 3, (37, 40))[0]
    assert heat.shape == (37, 40)
    assert np.unravel_index(heat.argmax(), heat.shape)[0] in range(16, 32)
    assert heat[24, 39] == pytest.approx(1, abs=0.1)
    assert heat[24, :24].max() == 0
    beyond = heat_of(torch.ones(1, 9, 9), model, 1, (37, 38))[0]  # a pixel or two more than nine patches
    assert beyond.shape == (37, 38)
    assert (beyond == 1).all()
