"""Prediction from Python: kinds of models, images and results."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from swin.config import config_to_dict, load_config
from swin.create import build_model, create_model
from swin.errors import CheckpointError, ConfigError, DataError
from swin.images import to_pixels
from swin.inference import inference_model, load_predictor, make_predictor
from swin.inputs import list_images
from swin.models import VARIANTS
from swin.variants import Variant

KEYS = {"pred_scores", "pred_label", "pred_score", "pred_class"}
CLASSES = ["red", "green", "blue"]
TINY = [
    *("DATA.IMG_SIZE", 16, "MODEL.SWIN.PATCH_SIZE", 2, "MODEL.SWIN.EMBED_DIM", 8, "MODEL.SWIN.WINDOW_SIZE", 4),
    *("MODEL.SWIN.DEPTHS", "[1, 1]", "MODEL.SWIN.NUM_HEADS", "[1, 2]"),
]


class Brightest(nn.Module):
    """Its logits are the channel means, so it answers with the brightest colour."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.drop = nn.Dropout(0.9)
        self.classes = classes
        self.eval_transform_args = {"img_size": 8, "mean": (0, 0, 0), "std": (1, 1, 1)}

    def forward(self, images):
        assert not self.training
        return self.drop(images.mean(dim=(2, 3)) * self.scale)


def coloured(name, size=(12, 9)):
    return Image.new("RGB", size, name)


@pytest.fixture
def checkpoint(tmp_path):
    """Write a tiny checkpoint whose own weights say class 0 and whose averaged ones say class 2."""
    cfg = load_config(opts=TINY)
    torch.manual_seed(0)
    model = build_model(cfg, 3)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    own["head.bias"] = torch.tensor([50.0, 0.0, 0.0])
    averaged = {**own, "head.bias": torch.tensor([0.0, 0.0, 50.0])}

    def write(with_ema=True, **changes):
        ema = {"model": averaged, "num_updates": torch.tensor(5)} if with_ema else None
        content = {"model": own, "ema": ema, "config": config_to_dict(cfg), "classes": CLASSES, **changes}
        torch.save(content, tmp_path / "best.pth")
        return tmp_path / "best.pth"

    return write


def test_one_image_gives_one_dict():
    result = inference_model(Brightest(), coloured("blue"))
    assert set(result) == KEYS
    assert (result["pred_label"], result["pred_class"]) == (2, "blue")
    expected = torch.softmax(torch.tensor([0.0, 0.0, 1.0]), dim=0)
    torch.testing.assert_close(torch.tensor(result["pred_scores"]), expected)
    assert result["pred_score"] == result["pred_scores"][2]


def test_a_predictor_is_opened_once(checkpoint):
    predictor = load_predictor(checkpoint())
    assert inference_model(predictor, coloured("red"))["pred_class"] == "blue"
    assert inference_model(predictor, [coloured("red")], top_k=1)[0]["top_k"][0]["class"] == "blue"


def test_weights_are_cast_once_and_images_follow(checkpoint):
    plain, cast = (inference_model(checkpoint(), coloured("red"), dtype=dtype) for dtype in (None, "bf16"))
    assert load_predictor(checkpoint(), dtype="bf16").model.head.weight.dtype == torch.bfloat16
    assert cast["pred_scores"] == pytest.approx(plain["pred_scores"], abs=0.01)
    model = Brightest().bfloat16()
    assert inference_model(model, coloured("blue"))["pred_class"] == "blue"
    assert model.scale.dtype == torch.bfloat16


class Left(Brightest):
    """Its logits are the brightness of the left half, twice that of the right one, and a fifth."""

    def forward(self, images):
        left, right = (half.mean(dim=(1, 2, 3)) for half in images.chunk(2, dim=3))
        return torch.stack([left, 2 * right, torch.full_like(left, 0.2)], dim=1)


@pytest.mark.parametrize("threshold", [None, 0.6])
def test_flips_give_the_mean_of_both_views(threshold):
    model = Left()
    model.threshold = threshold
    image = Image.new("RGB", (8, 8), "black")
    image.paste("white", (0, 0, 4, 8))
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    one, other = (torch.tensor(inference_model(model, each)["pred_scores"]) for each in (image, mirrored))
    assert not torch.allclose(one, other)
    for each in (image, mirrored):
        result = inference_model(model, each, flip=True)
        torch.testing.assert_close(torch.tensor(result["pred_scores"]), (one + other) / 2)


def test_a_pattern_is_taken_in_sorted_order(tmp_path):
    for name in ("b/red.png", "a/blue.png", "a/lime.jpg", "a/deep/red.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        coloured(name.split("/")[-1].split(".")[0]).save(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    for pattern, expected in (("*/*", [2, 1, 0]), ("**", [2, 0, 1, 0]), ("a/[bx]*.png", [2])):
        assert [result["pred_label"] for result in inference_model(Brightest(), tmp_path / pattern)] == expected
    with pytest.raises(DataError, match=r"\*\.gif matches no images: expected files that end in \.jpg"):
        inference_model(Brightest(), tmp_path / "*.gif")


def test_images_that_cannot_be_used_are_reported_on_request(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"not an image")
    absent = tmp_path / "absent.png"
    sources = [coloured("red"), tmp_path / "bad.png", absent, None, np.zeros((4, 4)), coloured("blue")]
    results = inference_model(Brightest(), sources, on_error="report")
    assert [result.get("pred_label") for result in results] == [0, None, None, None, None, 2]
    assert all(set(result) == ({"error"} if "pred_label" not in result else KEYS) for result in results)
    for result, words in zip(
        results[1:5], ("bad.png: is not an image", "absent.png", "NoneType", "float64"), strict=True
    ):
        assert words in result["error"]
    assert set(inference_model(Brightest(), absent, on_error="report")) == {"error"}
    assert inference_model(Brightest(), [absent, absent], on_error="report")[1]["error"].count("absent.png") == 1
    with pytest.raises(DataError, match=r"bad\.png"):
        inference_model(Brightest(), sources)
    with pytest.raises(ConfigError, match="on_error is 'ignore'"):
        inference_model(Brightest(), sources, on_error="ignore")


def test_files_images_and_arrays_agree(tmp_path):
    image = coloured("lime")
    image.save(tmp_path / "lime.png")
    array = np.array(image)
    path = tmp_path / "lime.png"
    alpha = np.dstack([array, np.full(array.shape[:2], 255, np.uint8)])
    results = inference_model(Brightest(), [path, str(path), image, array, alpha, image.convert("RGBA")])
    assert [result["pred_class"] for result in results] == ["green"] * 6
    assert all(result == results[0] for result in results)


def test_grey_arrays():
    results = inference_model(Brightest(), [np.full((5, 7), 255, np.uint8), np.full((5, 7, 1), 255, np.uint8)])
    assert results[0] == results[1]
    assert results[0]["pred_scores"] == pytest.approx([1 / 3] * 3)


def test_a_folder_is_taken_in_sorted_order_without_hidden_files(tmp_path):
    for name in ("b/red.PNG", "a/blue.png", "lime.jpg", ".hidden/red.png", ".red.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        coloured(name.rsplit("/", 1)[-1].strip(".").split(".")[0]).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    assert [path.name for path in list_images(tmp_path)] == ["blue.png", "red.PNG", "lime.jpg"]
    results = inference_model(Brightest(), tmp_path)
    assert [result["pred_class"] for result in results] == ["blue", "red", "green"]


def test_more_images_than_a_batch_and_none():
    results = inference_model(Brightest(), [coloured("red"), coloured("blue")] * 20)
    assert [result["pred_label"] for result in results] == [0, 2] * 20
    assert inference_model(Brightest(), []) == []


def test_top_k_is_sorted_and_clipped():
    image = Image.new("RGB", (4, 4), (10, 200, 100))
    top = inference_model(Brightest(), image, top_k=5)["top_k"]
    assert [(best["label"], best["class"]) for best in top] == [(1, "green"), (2, "blue"), (0, "red")]
    assert len(inference_model(Brightest(), image, top_k=2)["top_k"]) == 2
    with pytest.raises(ConfigError, match="top_k is 0"):
        inference_model(Brightest(), image, top_k=0)


def test_a_model_gets_its_modes_back_even_after_an_error():
    model = Brightest()
    model.drop.eval()
    inference_model(model, coloured("red"), device="cpu")
    assert (model.training, model.drop.training) == (True, False)
    with pytest.raises(DataError):
        inference_model(model, "absent.png")
    assert (model.training, model.drop.training) == (True, False)


def test_a_model_that_keeps_tensors_can_be_trained_after_predicting():
    class Caching(Brightest):
        cache = None

        def forward(self, images):
            if self.cache is None:
                self.cache = torch.arange(3.0)
            return images.mean(dim=(2, 3)) * self.scale * self.cache

    model = Caching()
    inference_model(model, coloured("red"))
    model(torch.ones(1, 3, 8, 8)).sum().backward()
    assert model.scale.grad == 3


def test_without_names_the_label_is_the_class():
    assert inference_model(Brightest(classes=None), coloured("blue"))["pred_class"] == "2"


def test_a_checkpoint_gives_averaged_weights_and_names(checkpoint):
    result = inference_model(checkpoint(), coloured("red"))
    assert (result["pred_label"], result["pred_class"]) == (2, "blue")
    assert inference_model(str(checkpoint(with_ema=False)), coloured("red"), device="cpu")["pred_class"] == "red"


def test_a_loaded_predictor_follows_the_config(checkpoint):
    predictor = load_predictor(checkpoint())
    assert (predictor.channels, predictor.classes, predictor.model.training) == (3, CLASSES, False)
    assert predictor.transform(predictor.read(coloured("red"))).shape == (3, 16, 16)


def test_files_are_turned_where_the_training_images_were(checkpoint, tmp_path):
    image = Image.new("RGB", (8, 4), "black")
    image.paste("white", (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: what was left is then on top
    image.save(tmp_path / "turned.png", exif=exif)
    for is_turned, size in ((False, (8, 4)), (True, (4, 8))):
        cfg = load_config(opts=[*TINY, "DATA.EXIF", str(is_turned)])
        predictor = load_predictor(checkpoint(config=config_to_dict(cfg)))
        assert predictor.read(tmp_path / "turned.png").shape == (3, *size[::-1])


NANO = Variant(8, (1, 1), (1, 2), window_size=4, img_size=64)


@pytest.fixture
def nano(tmp_path, monkeypatch):
    """A variant small enough for tests, and a function that writes its weights with a head that says `label`."""
    monkeypatch.setitem(VARIANTS, "nano", NANO)

    def write(num_classes, label, **content):
        model = create_model("nano", num_classes=num_classes)
        if num_classes:
            torch.nn.init.zeros_(model.head.bias)[label] = 50
        torch.save({"model": model.state_dict(), **content}, tmp_path / "w.pth")
        return tmp_path / "w.pth"

    with torch.no_grad():
        yield write


def test_a_name_with_a_weight_file_whose_head_says_how_many_classes_there_are(nano):
    result = inference_model("nano", coloured("blue"), checkpoint=nano(3, 1))
    assert (len(result["pred_scores"]), result["pred_class"]) == (3, "1")
    assert inference_model("nano", coloured("blue"), checkpoint=nano(3, 1, classes=CLASSES))["pred_class"] == "green"


def test_weights_without_names_are_of_imagenet_if_there_are_as_many_classes(nano):
    assert inference_model("nano", coloured("blue"), checkpoint=nano(1000, 0))["pred_class"] == "tench, Tinca tinca"
    assert inference_model(nano(1000, 999), coloured("blue"))["pred_class"].startswith("toilet tissue")
    assert inference_model(nano(21841, 0), coloured("blue"))["pred_class"] == "organism, being"


def test_weights_of_other_programs_tell_the_model_by_their_shapes(nano):
    predictor = load_predictor(nano(3, 2))
    assert (predictor.model.img_size, predictor.model.num_classes) == ((32, 32), 3)
    assert predictor.describe(predictor.scores([predictor.read(coloured("red"))])[0])["pred_label"] == 2


def test_models_for_384_px_see_the_whole_image(nano):
    def transform(img_size):
        model = create_model("nano", num_classes=1, img_size=img_size)
        return make_predictor(model, torch.device("cpu")).transform

    image = Image.new("RGB", (500, 500), "black")
    image.paste("white", (0, 0, 500, 10))  # a bar at the top, which a central crop leaves out
    assert transform(384)(to_pixels(image))[0, 0].min() > 2
    assert transform(224)(to_pixels(image))[0, 0].max() < -2


def test_a_model_for_grey_images_gets_grey_images(nano):
    model = create_model("nano", num_classes=2, in_chans=1)
    assert len(inference_model(model, coloured("red"))["pred_scores"]) == 2


def test_a_backbone_names_nothing(nano):
    with pytest.raises(CheckpointError, match="without a head"):
        load_predictor(nano(0, 0))


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (("swin_tiny", coloured("red")), ConfigError, "'swin_tiny' is a model's name"),
        ((Brightest(), "absent.png"), DataError, "absent.png"),
        ((Brightest(), np.zeros((4, 4))), DataError, "float64 is not an image"),
        ((Brightest(), np.zeros((2, 4, 4), np.uint8)[None]), DataError, r"\(1, 2, 4, 4\)"),
        ((Brightest(classes=["a"]), coloured("red")), CheckpointError, "3 outputs but 1 class names"),
    ],
)
def test_unusable_arguments(arguments, kind, words):
    with pytest.raises(kind, match=words):
        inference_model(*arguments)


def test_an_open_model_takes_no_checkpoint_and_no_number_format(checkpoint):
    with pytest.raises(ConfigError, match="load_weights"):
        inference_model(Brightest(), coloured("red"), checkpoint="w.pth")
    with pytest.raises(ConfigError, match="its method `to`"):
        inference_model(Brightest(), coloured("red"), dtype="bf16")
    with pytest.raises(ConfigError, match="on a device already"):
        inference_model(load_predictor(checkpoint()), coloured("red"), device="cpu")
    with pytest.raises(ConfigError, match="dtype is 'int8'"):
        inference_model(checkpoint(), coloured("red"), dtype="int8")


def test_damaged_weights_are_noticed():
    model = Brightest()
    nn.init.constant_(model.scale, torch.nan)
    with pytest.raises(CheckpointError, match="not finite"):
        inference_model(model, coloured("red"))


def test_a_truncated_pil_image_is_a_data_error(tmp_path):
    Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    with Image.open(tmp_path / "half.png") as image, pytest.raises(DataError, match="cannot be decoded"):
        inference_model(Brightest(), image)


def test_a_head_that_is_not_of_the_config_or_of_the_names(checkpoint):
    with pytest.raises(CheckpointError, match="3 rows, but it names 2 classes"):
        load_predictor(checkpoint(classes=["one", "two"]))
    other = config_to_dict(load_config(opts=[*TINY, "MODEL.SWIN.MLP_RATIO", 2]))
    with pytest.raises(CheckpointError, match=r"mlp\.fc1"):
        load_predictor(checkpoint(config=other))


def test_an_empty_folder(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        inference_model(Brightest(), tmp_path)


def test_a_model_with_a_threshold_may_give_several_labels_or_none():
    model = Brightest()
    model.threshold = 0.6
    result = inference_model(model, coloured("magenta"), top_k=2)
    assert set(result) == {*KEYS, "pred_labels", "pred_classes", "top_k"}
    expected = torch.tensor([1.0, 0.0, 1.0]).sigmoid()
    torch.testing.assert_close(torch.tensor(result["pred_scores"]), expected)
    assert (result["pred_labels"], result["pred_classes"]) == ([0, 2], ["red", "blue"])
    assert (result["pred_label"], len(result["top_k"])) == (0, 2)
    assert inference_model(model, coloured("black"))["pred_labels"] == []


def test_a_checkpoint_says_its_threshold(checkpoint):
    result = inference_model(checkpoint(multi_label=True, threshold=0.5), coloured("red"))
    assert result["pred_labels"] == [0, 1, 2] or result["pred_labels"][0] == 2
    assert result["pred_scores"][2] == pytest.approx(1)  # a sigmoid of 50
    assert "pred_labels" not in inference_model(checkpoint(), coloured("red"))
