"""Models as folders of timm and transformers: what is read beside their weights, and what is refused."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from swin import SwinTransformer, create_model, inference_model, load_weights
from swin.errors import CheckpointError
from swin.inference import load_predictor
from swin.preprocess import describe_eval_transform, make_eval_transform
from swin.weights import read_weights
from swin.weights.formats import from_native
from tools import evaluate

SHAPE = {"img_size": 32, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4, "num_classes": 3}
NAMES = ["a, b", "<b>c</b>", "ä"]
TRANSFORMERS = {
    "model_type": "swin",
    "image_size": 32,
    "patch_size": 4,
    "num_channels": 3,
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [1, 2],
    "window_size": 4,
    "mlp_ratio": 4,
    "qkv_bias": True,
    "hidden_act": "gelu",
    "use_absolute_embeddings": False,
    "id2label": {str(row): name for row, name in enumerate(NAMES)},
}
PROCESSOR = {"size": {"height": 40, "width": 40}, "resample": 3, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5] * 3}
TIMM = {
    "architecture": "swin_tiny_patch4_window7_224",
    "num_classes": 3,
    "model_args": {"embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4, "img_size": 32},
    "label_names": NAMES,
    "pretrained_cfg": {
        "input_size": [3, 40, 40],
        "interpolation": "bilinear",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.5, 0.5],
    },
}


def make_model() -> SwinTransformer:
    torch.manual_seed(0)
    return SwinTransformer(**SHAPE).eval()


@pytest.fixture
def publish(tmp_path):
    """Write a folder as timm or transformers does; `config` and `processor` replace entries of their JSON."""

    def write(program: str, config=(), processor=()) -> Path:
        folder = tmp_path / program
        folder.mkdir(exist_ok=True)
        save_file(from_native(make_model().state_dict(), program), folder / "model.safetensors")
        content = {"timm": TIMM, "transformers": TRANSFORMERS}[program]
        (folder / "config.json").write_text(json.dumps({**content, **dict(config)}))
        if program == "transformers":
            (folder / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **dict(processor)}))
        return folder

    return write


def make_picture(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width * 3, height * 3), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("program", "how"),
    [
        ("transformers", {"crop": False, "interpolation": "bicubic"}),
        ("timm", {"crop": True, "crop_pct": 0.9, "interpolation": "bilinear"}),
    ],
)
def test_a_folder_gives_classes_and_preprocessing_to_all_that_take_it(publish, tmp_path, program, how):
    folder, image = publish(program), make_picture(30, 50)
    weights = read_weights(folder)
    assert (weights.classes, weights.program, weights.threshold) == (NAMES, program, None)
    arguments = {"img_size": (40, 40), "mean": [0.1, 0.2, 0.3], "std": [0.5] * 3, **how}
    assert weights.preprocessing == {**arguments, "channels": 3}
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    with torch.no_grad():
        scores = make_model()(make_eval_transform(**arguments)(pixels)[None]).softmax(dim=1)[0]
    result = inference_model(folder, image)
    torch.testing.assert_close(torch.tensor(result["pred_scores"]), scores)
    assert result["pred_class"] == NAMES[int(scores.argmax())]
    model = make_model()
    report = load_weights(model, str(folder))
    assert describe_eval_transform(weights.preprocessing) in str(report)
    assert model.classes == NAMES
    cfg = evaluate.build_config(weights, evaluate.parse(["--checkpoint", str(folder), "--data-path", str(tmp_path)]))
    seen = (cfg.DATA.IMG_SIZE, cfg.TEST.CROP, cfg.TEST.CROP_PCT, cfg.DATA.INTERPOLATION, cfg.DATA.MEAN)
    assert seen == ([40, 40], how["crop"], how.get("crop_pct"), how["interpolation"], [0.1, 0.2, 0.3])


def test_a_model_by_name_takes_the_preprocessing_of_its_folder(tmp_path):
    weights = create_model("swin_tiny", num_classes=2).state_dict()
    save_file(from_native(weights, "timm"), tmp_path / "model.safetensors")
    about = {"architecture": "swin_tiny_patch4_window7_224", "pretrained_cfg": {"crop_pct": 0.9, "num_classes": 2}}
    (tmp_path / "config.json").write_text(json.dumps(about))
    model = create_model("swin_tiny", num_classes=2, img_size=256, pretrained=tmp_path)
    assert model.eval_transform_args["crop_pct"] == 0.9
    assert model.eval_transform_args["img_size"] == (256, 256)
    assert load_predictor(tmp_path, variant="swin_tiny").transform.resize.size == (224, 224)


@pytest.mark.parametrize("crop_pct", [0.8, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("size", [(300, 200), (201, 333)])
def test_crops_equal_timms_bit_for_bit(size, crop_pct):
    from timm.data import create_transform

    image, how = make_picture(*(side // 3 for side in size)), {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    theirs = create_transform((3, 224, 224), crop_pct=crop_pct, interpolation="bicubic", crop_mode="center", **how)
    ours = make_eval_transform(img_size=224, crop=True, interpolation="bicubic", crop_pct=crop_pct, **how)
    assert torch.equal(ours(torch.from_numpy(np.array(image)).permute(2, 0, 1)), theirs(image))


def test_labels_that_are_numbers_only_are_no_names_and_several_labels_have_a_threshold(publish):
    numbered = {"id2label": {str(row): f"LABEL_{row}" for row in range(3)}}
    assert read_weights(publish("transformers", numbered)).classes is None
    several = {"problem_type": "multi_label_classification"}
    assert read_weights(publish("transformers", several)).threshold == 0.5
    assert read_weights(publish("transformers", {**several, "threshold": 0.3})).threshold == 0.3
    assert read_weights(publish("timm", {"threshold": 0.25})).threshold == 0.25


def test_the_name_of_an_architecture_is_compared_with_the_weights(publish):
    assert_refused(publish("timm", {"model_args": {}}), "says embed_dim 96, but its weights have 8")
    assert read_weights(publish("timm", {"model_args": {}, "architecture": "swin_own"})).classes == NAMES


def test_what_a_processor_of_transformers_does_not_say_is_its_default(publish):
    folder = publish("transformers")
    (folder / "preprocessor_config.json").write_text('{"size": 40}')
    found = read_weights(folder).preprocessing
    assert (found["mean"], found["std"], found["interpolation"]) == ([0.5] * 3, [0.5] * 3, "bilinear")
    assert read_weights(publish("transformers", processor={"do_normalize": False})).preprocessing["std"] == [1.0] * 3


def test_an_older_folder_of_timm_has_all_in_one_mapping(publish):
    flat = {**TIMM["pretrained_cfg"], "architecture": "swin_own", "labels": NAMES, "num_classes": 3}
    folder = publish("timm")
    (folder / "config.json").write_text(json.dumps(flat))
    assert read_weights(folder).preprocessing["crop_pct"] == 0.9
    assert read_weights(folder).classes == NAMES


def test_names_of_classes_travel_in_a_single_file(tmp_path):
    metadata = {"format": "pt", "classes": json.dumps(NAMES)}
    save_file(make_model().state_dict(), tmp_path / "named.safetensors", metadata=metadata)
    assert read_weights(tmp_path / "named.safetensors").classes == NAMES
    save_file(make_model().state_dict(), tmp_path / "bad.safetensors", metadata={"classes": "[[["})
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_weights(tmp_path / "bad.safetensors")


CONFIGS = {
    "another width": ({"embed_dim": 16}, {"model_args": {"embed_dim": 16}}, "embed_dim"),
    "a width without end": ({"embed_dim": 10**300}, {"model_args": {"embed_dim": 10**300}}, "embed_dim"),
    "other depths": ({"depths": [2, 6]}, {"model_args": {"depths": [2, 6]}}, "depths"),
    "a dict as heads": ({"num_heads": {"x": [1]}}, {"model_args": {"num_heads": {"x": [1]}}}, "num_heads"),
    "NaN as ratio": ({"mlp_ratio": float("nan")}, {"model_args": {"mlp_ratio": float("nan")}}, "mlp_ratio"),
    "channels": (
        {"num_channels": 4},
        {"pretrained_cfg": {"input_size": [1, 32, 32], "mean": [0], "std": [1]}},
        "4 numbers|1 chan",
    ),
    "four classes": ({"id2label": dict(enumerate("abcd"))}, {"label_names": list("abcd")}, "names 4 classes"),
    "names that are numbers": ({"id2label": {"0": 1, "1": 2, "2": 3}}, {"label_names": [1, 2, 3]}, "no texts"),
    "rows with a gap": ({"id2label": {"0": "a", "7": "b", "2": "c"}}, {"label_names": 7}, "not known"),
    "arguments that are none": ({"id2label": [1, 2]}, {"model_args": 7}, "not known"),
    "another family": ({"model_type": "vit\x1b[2J"}, {"architecture": "vit_tiny\x1b[2J"}, "this version reads"),
    "another mode": ({"hidden_act": "relu"}, {"pretrained_cfg": {"crop_mode": "border"}}, "rel|border"),
    "a threshold": (
        {"problem_type": "multi_label_classification", "threshold": 7},
        {"threshold": "0.5"},
        "threshold",
    ),
}


@pytest.mark.parametrize("change", CONFIGS)
@pytest.mark.parametrize("program", ["transformers", "timm"])
def test_a_config_that_lies_is_refused(publish, program, change):
    of_transformers, of_timm, expected = CONFIGS[change]
    if isinstance(arguments := of_timm.get("model_args"), dict):
        of_timm = {"model_args": {**TIMM["model_args"], **arguments}}
    folder = publish(program, of_transformers if program == "transformers" else of_timm)
    assert_refused(folder, expected)


PROCESSORS = {
    "no size": {"size": {"shortest_edge": 256}},
    "a huge size": {"size": 10**9},
    "text as size": {"size": "224"},
    "a crop": {"do_center_crop": True},
    "another scale": {"rescale_factor": 1 / 127.5},
    "two means": {"image_mean": [0.1, 0.2]},
    "no deviation": {"image_std": [0.0] * 3},
    "infinite means": {"image_mean": [float("inf")] * 3},
    "another filter": {"resample": 77},
    "a list as filter": {"resample": [3]},
}


@pytest.mark.parametrize("change", PROCESSORS)
def test_a_preprocessing_that_is_not_known_is_refused(publish, change):
    assert_refused(publish("transformers", processor=PROCESSORS[change]), "weights alone")


CONTENTS = {
    "binary": b"\x80\x04\x95\xff",
    "cut": b'{"model_type": "swin"',
    "a list": b"[1, 2]",
    "deep": b'{"a": ' * 100_000,
    "a long number": b'{"model_type": ' + b"9" * 5000 + b"}",
    "huge": b'{"a": "' + b"x" * (1 << 24) + b'"}',
    "of control characters": b'{"model_type": "\\u001b[2J\\n"}',
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_json_file_that_is_none_is_refused(publish, name, content):
    folder = publish("transformers")
    (folder / name).write_bytes(CONTENTS[content])
    if (name, content) != ("preprocessor_config.json", "of control characters"):
        assert_refused(folder, "weights alone")


def test_what_is_no_regular_file_is_refused_and_a_link_is_followed(publish, tmp_path):
    folder = publish("transformers")
    (folder / "config.json").rename(tmp_path / "blob")
    (folder / "config.json").symlink_to("../blob")
    assert read_weights(folder).classes == NAMES  # as in the cache of the hub
    secret = tmp_path / "secret"
    secret.write_text("hidden:x:0:0")
    for target in (secret, Path(os.devnull)):
        (folder / "config.json").unlink()
        (folder / "config.json").symlink_to(target)
        assert "hidden" not in assert_refused(folder, "config.json")
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert_refused(folder, "FIFO")


def test_a_config_of_another_program_says_nothing(publish):
    folder = publish("timm")
    (folder / "config.json").write_text('{"something": 1}')
    weights = read_weights(folder)
    assert (weights.format, weights.classes, weights.preprocessing) == ("timm", None, None)


def assert_refused(folder: Path, expected: str) -> str:
    """Refused in one printable line, by all that reads weights; the file itself is not."""
    with pytest.raises(CheckpointError, match=expected) as caught:
        read_weights(folder)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 600
    assert read_weights(folder / "model.safetensors").classes is None
    return text
