"""build_data: from config keys to loaders, and the contradictions it refuses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import build_data
from data.mixing import Mixer
from swin.batches import Data
from swin.config import load_config
from swin.errors import ConfigError

SMALL = {
    "DATA.IMG_SIZE": 32,
    "DATA.BATCH_SIZE": 4,
    "DATA.NUM_WORKERS": 0,
    "MODEL.SWIN.WINDOW_SIZE": 4,
    "MODEL.SWIN.PATCH_SIZE": 2,
}


def build(overrides: dict[str, object], **arguments: object) -> Data:
    return build_data(load_config(overrides=SMALL | overrides), **arguments)


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    random = np.random.RandomState(0)
    for half, count in (("train", 5), ("val", 2)):
        for name in ("daisy", "tulip"):
            (tmp_path / half / name).mkdir(parents=True)
            for index in range(count):
                image = Image.fromarray(random.randint(0, 256, (40, 50, 3), dtype=np.uint8))
                image.save(tmp_path / half / name / f"{index}.png")
    return tmp_path


def test_a_folder_becomes_loaders_and_a_mixer(flowers: Path) -> None:
    data = build({"DATA.DATA_PATH": str(flowers), "TRAIN.ACCUMULATION_STEPS": 2})
    assert data.classes == ["daisy", "tulip"]
    assert data.prepare.mix == Mixer(2, mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, mode="batch")
    assert (data.train.num_samples, data.val.num_samples) == (10, 4)
    assert sum(batch.last_of_update for batch in data.train.epoch(0)) == 2
    batches = list(data.train.epoch(0))
    assert [batch.update_size for batch in batches] == [8, 8, 2]
    assert batches[0].images.shape == (4, 3, 32, 32)
    images, targets = data.prepare(batches[0], torch.device("cpu"), 0)
    assert (images.shape, images.dtype, images.is_contiguous()) == ((4, 3, 32, 32), torch.float32, True)
    assert targets.shape == (4, 2)


def test_what_is_not_used_or_cannot_be_learnt_is_said(flowers: Path) -> None:
    (flowers / "val").rename(flowers / "vla")
    with_share = {"DATA.DATA_PATH": str(flowers), "DATA.VAL_SPLIT": 0.4}
    assert build(with_share).notes == (f"{flowers}: not used are vla. DATA.SPLITS can say what a part is for.",)
    (flowers / "train").rename(flowers / "photos")
    assert "one class only" not in " ".join(build(with_share).notes)
    (flowers / "vla").rename(flowers / "photos" / "vla")
    assert [note for note in build(with_share).notes if f"{flowers} has one class only, photos: nothing can" in note]


def test_the_seed_is_the_configs(flowers: Path) -> None:
    def first(seed: int) -> torch.Tensor:
        return next(build({"DATA.DATA_PATH": str(flowers), "SEED": seed}).train.epoch(0)).images

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


@pytest.mark.parametrize("size", [[32, 64], 64])
def test_shapes_follow_the_config(flowers: Path, size: int | list[int]) -> None:
    data = build({"DATA.DATA_PATH": str(flowers), "DATA.IMG_SIZE": size})
    height, width = (size, size) if isinstance(size, int) else size
    assert next(data.train.epoch(0)).images.shape == (4, 3, height, width)
    assert next(iter(data.val)).images.shape == (4, 3, height, width)


def test_grey_digits_go_through_the_default_recipe() -> None:
    grey = {"MODEL.SWIN.IN_CHANS": 1, "DATA.MEAN": [0.5], "DATA.STD": [0.5]}
    data = build({"DATA.DATASET": "digits", **grey})
    assert next(data.train.epoch(0)).images.shape == (4, 1, 32, 32)
    assert next(iter(data.val)).images.shape == (4, 1, 32, 32)
    assert len(data.classes) == 10


def test_evaluation_builds_no_training(flowers: Path) -> None:
    data = build({"DATA.DATA_PATH": str(flowers)}, need_train=False, classes=["tulip", "daisy", "rose"])
    assert (data.train, data.classes) == (None, ["tulip", "daisy", "rose"])
    assert [batch.labels.tolist() for batch in data.val] == [[1, 1, 0, 0]]


def test_no_mixer_when_both_are_off(flowers: Path) -> None:
    assert build({"DATA.DATA_PATH": str(flowers), "AUG.MIXUP": 0.0, "AUG.CUTMIX": 0.0}).prepare.mix is None
    assert build({"DATA.DATA_PATH": str(flowers), "AUG.MIXUP": 0.0}).prepare.mix.mixup_alpha == 0


def test_the_split_is_there_for_the_run_to_remember(flowers: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = {"DATA.DATA_PATH": str(flowers / "train"), "DATA.VAL_SPLIT": 0.4}
    data = build(arguments, runs=[run])
    assert (data.train.num_samples, data.val.num_samples) == (6, 4)
    assert (len(data.split["train"]), len(data.split["val"])) == (6, 4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (lambda root: {"DATA.DATA_PATH": ""}, r"DATA\.DATA_PATH is empty"),
        (lambda root: {"DATA.DATA_PATH": str(root), "MODEL.NUM_CLASSES": 10}, r"NUM_CLASSES is 10, .* has 2 classes"),
        (
            lambda root: {"DATA.DATASET": "digits", "MODEL.SWIN.IN_CHANS": 2, "DATA.MEAN": [0, 0], "DATA.STD": [1, 1]},
            r"IN_CHANS = 2 .*1, 3 or 4",
        ),
    ],
)
def test_contradictions_are_config_errors(
    flowers: Path, overrides: Callable[[Path], dict[str, object]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(overrides(flowers))


def test_a_class_count_that_agrees_or_was_not_set_is_fine(flowers: Path) -> None:
    assert len(build({"DATA.DATA_PATH": str(flowers), "MODEL.NUM_CLASSES": 2}).classes) == 2
    assert len(build({"DATA.DATA_PATH": str(flowers)}).classes) == 2


def test_no_more_workers_than_cores(flowers: Path) -> None:
    data = build({"DATA.DATA_PATH": str(flowers), "DATA.NUM_WORKERS": 4096})
    assert data.train.num_workers < 4096
