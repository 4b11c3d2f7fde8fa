"""Pre-training without labels, from a folder of images to fine-tuning, in the commands of every run."""

import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from swin.weights import read_weights
from tests.families import assert_two_processes_give_the_losses_of_one, small
from tools import embed, knn

OPTIONS = ["TRAIN.LOSS", "simmim", "DATA.MASK_PATCH_SIZE", "8", "TRAIN.EPOCHS", "2", "TRAIN.EMA.ENABLE", "True"]
FAMILIES = ("swin", "swinv2", "swin_mlp")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pretraining_resumes_bit_for_bit_and_its_weights_are_fine_tuned(runner, assert_equal_state, family):
    options = ["--opts", *small(family), *OPTIONS, "MODEL.SIMMIM.NORM_TARGET.ENABLE", str(family == "swinv2")]
    assert runner("whole", *options) == 0
    said = runner.text()
    assert "78 images without labels, of which 60% of the 4 x 4 cells of 8 px are masked" in said
    assert "done: pre-trained without labels, fine-tune with --pretrained" in said
    folder = runner.run_dir("whole")
    half = folder / "checkpoints" / "ckpt_epoch_0.pth"
    assert runner("continued", "--resume", str(half), *options) == 0
    assert_equal_state(runner.checkpoint("whole"), runner.checkpoint("continued"))
    losses = [row["loss"] for row in runner.rows("whole", "train")]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert not runner.rows("whole", "eval")
    content = runner.checkpoint("whole")
    assert content["classes"] == []
    assert {"mask_token", "decoder.0.weight", "decoder.0.bias"} == content["objective"]["reconstruction"].keys()
    assert not [name for name in content["model"] if name.startswith("head.")]
    picture = np.asarray(Image.open(folder / "reconstruction.png"))
    assert picture.shape == (8 * 160, 3 * 160, 3)
    rows = picture.reshape(8, 160, 3, 160, 3)
    assert len(np.unique(rows[:, :, 0])) > 10, "the visible part"
    assert not np.array_equal(rows[:, :, 1], rows[:, :, 2]), "the predicted part"

    assert runner("tuned", "--pretrained", str(folder), "--opts", *small(family), "TRAIN.EPOCHS", "1") == 0
    said = runner.text()
    assert "2 initialised anew" in said
    assert "initialised: head.weight" in said

    assert runner("further", "--pretrained", str(folder), *options) == 0
    assert "taken from the same file: mask_token, decoder.0.weight, decoder.0.bias" in runner.text()
    begun = runner.rows("further", "train")[0]["loss"]
    assert abs(begun - losses[-1]) < abs(begun - losses[0])


def test_features_of_a_pretraining_are_measured_without_a_head(runner, capsys, tmp_path):
    assert runner("run", "--opts", *OPTIONS, "TRAIN.EPOCHS", "1") == 0
    runner.text()
    for source in (runner.run_dir("run"), runner.run_dir("run") / "checkpoints" / "last.pth"):
        assert knn.main(["--checkpoint", str(source), "--data-path", str(runner.data)]) == 0
        correct, seen = map(int, re.search(r"\((\d+)/(\d+)\) on the validation", capsys.readouterr().out).groups())
        assert correct > seen / 2  # chance is a third
    arguments = [
        "--checkpoint",
        str(source),
        "--input",
        str(runner.data / "val"),
        "--output",
        str(tmp_path / "features"),
    ]
    assert embed.main([*arguments, "--picture", "none"]) == 0
    assert np.load(tmp_path / "features" / "features.npz")["features"].shape[0] == seen


def test_the_page_of_a_run_shows_what_is_predicted(runner):
    assert runner("run", "--opts", *OPTIONS, "TRAIN.EPOCHS", "1", "REPORT", "True") == 0
    page = (runner.run_dir("run") / "report.html").read_text()
    assert "What it predicts of what it does not see" in page
    assert page.count("data:image/png;base64") > 3
    assert page.count("There are no predictions") == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_give_the_losses_of_one(runner, family):
    options = ["--opts", *small(family), *OPTIONS, "MODEL.DROP_PATH_RATE", "0"]
    assert_two_processes_give_the_losses_of_one(runner, *options)


@pytest.mark.parametrize("parts", [("",), ("train",)])
def test_a_flat_folder_of_images_will_do(runner, tmp_path, parts):
    flat = tmp_path / "flat" / parts[0]
    (flat / "deeper").mkdir(parents=True)
    for number, image in enumerate(sorted((runner.data / "train").rglob("*.png"))):
        shutil.copy(image, (flat / "deeper" if number % 2 else flat) / f"any name {number}.png")
    assert runner("flat", "--data-path", str(tmp_path / "flat"), "--opts", *OPTIONS, "TRAIN.EPOCHS", "1") == 0
    assert "78 images without labels" in runner.text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["AUG.MIXUP", "0.8"], "AUG.MIXUP = 0.8 (--opts): TRAIN.LOSS = 'simmim' (--opts) pre-trains without labels"),
        (["DATA.VAL_SPLIT", "0.1"], "DATA.VAL_SPLIT = 0.1"),
        (["DATA.MASK_PATCH_SIZE", "6"], "expected a multiple of MODEL.SWIN.PATCH_SIZE = 4"),
        (["DATA.IMG_SIZE", "36"], "give a multiple of 8"),
        (["DATA.MASK_RATIO", "0"], "DATA.MASK_RATIO = 0.0"),
        (["MODEL.SIMMIM.NORM_TARGET.PATCH_SIZE", "8"], "expected an odd number"),
    ],
)
def test_what_does_not_go_with_it_is_one_message(runner, options, words):
    assert runner("refused", "--opts", *OPTIONS, *options) == 2
    assert words in runner.text()


def test_there_is_nothing_to_evaluate_or_predict(runner, tmp_path):
    from tools.predict import main as predict

    assert runner("run", "--opts", *OPTIONS, "TRAIN.EPOCHS", "1") == 0
    assert runner("run", "--eval", "--resume", str(runner.run_dir("run")), "--opts", *OPTIONS) == 2
    assert predict(["--checkpoint", str(runner.run_dir("run")), "--input", str(runner.data)]) == 2
    assert "a backbone without a head" in runner.text()
    empty = tmp_path / "empty"
    empty.mkdir()
    assert runner("none", "--data-path", str(empty), "--opts", *OPTIONS) == 2


def test_masks_depend_on_nothing_but_seed_epoch_and_image():
    from data.datasets import ImageDataset, Key
    from data.erasing import RandomMask
    from data.transforms import TrainTransform

    class Source:
        labels, names = np.zeros(6, dtype=np.int64), [str(number) for number in range(6)]

        def name(self, index):
            return self.names[index]

        def read(self, index):
            return np.full((40, 40, 3), 40 * index, dtype=np.uint8)

    transform = TrainTransform(
        img_size=64, channels=3, mean=[0.5] * 3, auto_augment=None, color_jitter=0.0, masking=RandomMask(16, 0.6)
    )
    data = ImageDataset(Source(), transform, seed=1)
    first = [data.__getitems__([Key(2, index)])[0].rectangles for index in range(6)]
    again = [sample.rectangles for sample in data.__getitems__([Key(2, index) for index in reversed(range(6))])]
    assert first == again[::-1]
    assert data.__getitems__([Key(3, 0)])[0].rectangles != first[0]
    assert {len(mask) for mask in first} == {10}


def test_an_official_pretraining_file_is_read_as_its_encoder():
    from swin import SwinTransformerV2, load_weights

    torch.manual_seed(0)
    arguments = {"img_size": 32, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4}
    source = SwinTransformerV2(**arguments, num_classes=0)
    official = {f"encoder.{name.replace('cpb_mlp', 'rpe_mlp')}": value for name, value in source.state_dict().items()}
    official |= {"encoder.mask_token": torch.zeros(1, 1, 8), "decoder.0.weight": torch.zeros(192, 16, 1, 1)}
    weights = read_weights({"model": official})
    model = SwinTransformerV2(**arguments, num_classes=3)
    report = load_weights(model, weights)
    assert sorted(report.dropped) == ["decoder.0.weight", "mask_token"]
    assert sorted(report.initialised) == ["head.bias", "head.weight"]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in source.state_dict().items())
