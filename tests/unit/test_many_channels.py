"""Images of other than 1, 3 or 4 channels: .npy files through training, evaluation, prediction and the tools."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import build_data
from data.transforms import TrainTransform
from swin.config import load_config
from swin.errors import ConfigError, DataError
from swin.images import open_input
from swin.inference import inference_model
from swin.inputs import list_images
from swin.models import SwinTransformer
from swin.preprocess import EvalResize
from tools import check_dataset, pack_dataset

COLOURLESS = {"auto_augment": None, "color_jitter": 0.0}


def smooth(height: int, width: int, channels: int) -> np.ndarray:
    """(height, width, channels), as smooth as photographs are."""
    noise = np.random.RandomState(0).randint(0, 256, (channels, -(-height // 8), -(-width // 8)), dtype=np.uint8)
    bands = [np.asarray(Image.fromarray(band).resize((width, height), Image.Resampling.BICUBIC)) for band in noise]
    return np.stack(bands, axis=-1)


def as_file(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def picture_of(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array[..., :3])).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("img_size", [48, 32, [40, 56]])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
def test_augmentation_is_that_of_pictures(img_size: int | list[int], interpolation: str) -> None:
    """The first three of five channels come out as the picture of these three does, draw for draw."""
    array = smooth(70, 90, 5)
    options = {"img_size": img_size, "interpolation": interpolation, **COLOURLESS}
    many = TrainTransform(channels=5, mean=[0.5] * 5, **options)
    three = TrainTransform(channels=3, mean=[0.5] * 3, **options)
    for seed in range(30):
        results = []
        for transform, content in ((many, as_file(array)), (three, picture_of(array))):
            random.seed(seed)
            torch.manual_seed(seed)
            results.append(transform(content))
        (pixels, rectangles), (expected, expected_rectangles) = results
        assert rectangles == expected_rectangles
        assert pixels.shape[0] == 5
        assert pixels.dtype == torch.uint8
        difference = (pixels[:3].int() - expected.int()).abs()
        # Nearest neighbours are equally near here and there, where libraries choose differently.
        assert difference.max() <= 1 if interpolation != "nearest" else difference.float().mean() < 3


@pytest.mark.parametrize(("img_size", "crop"), [(48, True), ([40, 56], True), (48, False), (28, True)])
def test_evaluation_is_that_of_pictures(img_size: int | list[int], crop: bool) -> None:
    array = smooth(70, 90, 5)
    results = [
        EvalResize(img_size=img_size, crop=crop, interpolation="bicubic")(open_input(content, channels=channels))
        for channels, content in ((5, as_file(array)), (3, picture_of(array)))
    ]
    assert len(results[0]) == 5
    assert (results[0][:3].int() - results[1].int()).abs().max() <= 1


def test_arrays_are_read_in_either_order() -> None:
    array = smooth(6, 5, 2)
    for content in (as_file(array), as_file(np.asfortranarray(array))):
        assert np.array_equal(open_input(content, channels=2).permute(1, 2, 0), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.npy: is not an array; expected a .npy file with uint8 of shape"),
        (picture_of(smooth(5, 5, 3)), "is not an array; expected"),
        (as_file(smooth(5, 5, 4)), r"holds uint8 of shape \(5, 5, 4\); expected .*\(H, W, 5\).*IN_CHANS"),
        (as_file(np.zeros((4, 4, 5), np.float32)), "holds float32"),
        (as_file(np.zeros((0, 4, 5), np.uint8)), r"shape \(0, 4, 5\)"),
        (as_file(np.zeros((4, 4, 5), np.uint8))[:-1], "is damaged: 79 bytes where .* needs 80"),
        (as_file(np.array([{}], dtype=object)), "holds object"),
    ],
)
def test_other_files_are_refused_by_name(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_input(content, channels=5, name="a.npy")


@pytest.fixture
def fields(tmp_path: Path) -> Path:
    for half, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(("forest", "water")):
            (tmp_path / "set" / half / name).mkdir(parents=True)
            for index in range(count):
                array = smooth(40 + index, 50 + 10 * label, 5)
                np.save(tmp_path / "set" / half / name / f"{index}.npy", array)
            (tmp_path / "set" / half / name / "preview.png").write_bytes(picture_of(array))
    return tmp_path / "set"


OPTIONS = {
    "MODEL.SWIN.IN_CHANS": 5,
    "DATA.MEAN": [0.5] * 5,
    "DATA.STD": [0.25] * 5,
    "DATA.IMG_SIZE": 56,
    "DATA.BATCH_SIZE": 3,
    "DATA.NUM_WORKERS": 0,
    "AUG.AUTO_AUGMENT": "none",
    "AUG.COLOR_JITTER": 0.0,
}


def test_a_folder_of_arrays_becomes_batches_packed_or_not(fields: Path, tmp_path: Path) -> None:
    """Pictures beside the arrays are left out; shards give the same batches as the files."""
    options = [text for key, value in OPTIONS.items() for text in (key, str(value))]
    packed = tmp_path / "packed"
    assert pack_dataset.main(["--data-path", str(fields), "--output", str(packed), "--opts", *options]) == 0
    batches = []
    for folder in (fields, packed):
        data = build_data(load_config(overrides=OPTIONS | {"DATA.DATA_PATH": str(folder)}))
        batches.append([data.prepare(batch, torch.device("cpu"), 0)[0] for batch in data.train.epoch(0)])
        assert data.val.num_samples == 4
        assert {tuple(batch.images.shape) for batch in data.val} == {(3, 5, 56, 56), (1, 5, 56, 56)}
    assert sum(map(len, batches[0])) == 8
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*batches, strict=True))


def test_the_tools_know_arrays(fields: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fields / "val/water/7.npy").write_bytes(b"broken")
    options = [text for key, value in OPTIONS.items() for text in (key, str(value))]
    assert check_dataset.main(["--data-path", str(fields), "--workers", "1", "--opts", *options]) == 1
    assert "7.npy" in capsys.readouterr().out
    arguments = ["--data-path", str(fields), "--output", str(fields / "p"), "--short-side", "64", "--opts", *options]
    assert pack_dataset.main(arguments) == ConfigError.exit_code
    assert "--short-side shrinks pictures" in capsys.readouterr().err


def test_prediction_takes_arrays_and_their_files(fields: Path) -> None:
    torch.manual_seed(0)
    model = SwinTransformer(img_size=56, in_chans=5, num_classes=2, embed_dim=8, depths=[1], num_heads=[1])
    model.eval_transform_args = {"mean": [0.5] * 5, "std": [0.25] * 5, "channels": 5}
    file = fields / "val/water/1.npy"
    assert [path.suffix for path in list_images(fields / "val", 5)] == [".npy"] * 4
    of_folder = inference_model(model, fields / "val/water")
    assert inference_model(model, file) == of_folder[1]
    assert inference_model(model, np.load(file)) == of_folder[1]
    with pytest.raises(DataError, match=r"expected uint8 of shape \(H, W, 5\)"):
        inference_model(model, np.zeros((8, 8, 3), np.uint8))


def test_contradictions_are_found_with_the_config() -> None:
    with pytest.raises(ConfigError, match=r"IN_CHANS = 5 .*DATASET = 'digits'"):
        load_config(overrides=OPTIONS | {"DATA.DATASET": "digits"})
    with pytest.raises(ConfigError, match=r"INTERPOLATION = 'lanczos' .*set it to bicubic"):
        load_config(overrides=OPTIONS | {"DATA.INTERPOLATION": "lanczos"})
