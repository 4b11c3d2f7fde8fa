"""Which part of a data set an evaluation opens, in every layout, and which where nobody says."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import build_data
from data.build import find_split, open_sets
from data.sources import Sets
from swin.config import Config, load_config
from swin.errors import DataError
from tests.property import test_every_source as layouts
from tests.property.test_every_source import CLASSES, Images

ANT, BEE, CAT = CLASSES
PARTS = {"train": [ANT, BEE, BEE, CAT], "val": [BEE, CAT], "test": [CAT, CAT, CAT], "holidays": [ANT]}
GIVEN = [CAT, ANT, BEE, "004.dog"]  # a checkpoint's label map, in an order of its own


def draw(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, (9, 12, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


IMAGES: Images = {
    part: [(f"{name}/{part}{i}.png", CLASSES.index(name), draw(i)) for i, name in enumerate(names)]
    for part, names in PARTS.items()
}


def packed(root: Path, images: Images) -> dict[str, object]:
    """Pack each part as the validation images of a data set, since those are what the tool packs."""
    for part, rows in images.items():
        layouts.packed(root / part / "set", {"train": IMAGES["train"], "val": rows})
    for part in images:
        (root / part / "set" / "val").rename(root / part / "shards")
        shutil.copy(root / part / "set" / "classes.json", root)
        shutil.rmtree(root / part / "set")
        for file in (root / part / "shards").iterdir():
            file.rename(root / part / file.name)
        (root / part / "shards").rmdir()
    return {}


LAYOUTS: dict[str, Callable[[Path, Images], dict[str, object]]] = {
    "folders": layouts.folders,
    "zips": layouts.zips("full"),
    "csv": layouts.table(",", ".csv"),
    "tsv": layouts.table("\t", ".tsv"),
    "imagenet22k": layouts.imagenet22k,
    "packed": packed,
}


@pytest.fixture(scope="module", params=LAYOUTS)
def write(request: pytest.FixtureRequest) -> Callable[[Path, Images], dict[str, object]]:
    return LAYOUTS[request.param]


@pytest.fixture(scope="module")
def root(write: Callable[[Path, Images], dict[str, object]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write(folder, IMAGES)
    return folder


def config(root: Path, **keys: object) -> Config:
    given = {"DATA_PATH": str(root), "IMG_SIZE": 32, "NUM_WORKERS": 0, **keys}
    small = {"MODEL.SWIN.WINDOW_SIZE": 4, "MODEL.SWIN.PATCH_SIZE": 2}
    return load_config(overrides=small | {f"DATA.{key}": value for key, value in given.items()})


def classes_of(sets: Sets) -> list[str]:
    return [sets.classes[label] for label in sets.val.labels.tolist()]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_every_layout_is_opened_by_its_name(root: Path, part: str) -> None:
    """As it lies there, whatever kind of data the config of the checkpoint was for."""
    sets = open_sets(config(root), need_train=False, split=part)
    assert (sets.train, sets.classes) == (None, list(CLASSES))
    assert classes_of(sets) == PARTS[part]
    assert [sets.val.read(i) for i in range(len(PARTS[part]))] == [content for _, _, content in IMAGES[part]]
    assert [Path(sets.val.name(i)).name for i in range(len(PARTS[part]))] == [
        Path(name).name for name, _, _ in IMAGES[part]
    ]


def test_a_part_that_is_not_there_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match="nights"):
        open_sets(config(root), need_train=False, split="nights")


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_test_set_alone_may_lack_classes(
    write: Callable[[Path, Images], dict[str, object]], part: str, tmp_path: Path
) -> None:
    write(tmp_path, {part: IMAGES["test"]})
    assert find_split(config(tmp_path)) == part
    if write is LAYOUTS["zips"] or write is LAYOUTS["imagenet22k"]:
        return  # their labels are numbers of the checkpoint's own map
    sets = open_sets(config(tmp_path), need_train=False, classes=GIVEN, split=part)
    assert sets.val.labels.tolist() == [0, 0, 0]
    with pytest.raises(
        DataError, match=r"class '003.cat' is unknown to the label map .* nearest of its 2 .*'003.cats'"
    ):
        open_sets(config(tmp_path), need_train=False, classes=["001.ant", "003.cats"], split=part)


def test_the_part_that_is_found_is_val_before_test(root: Path) -> None:
    assert find_split(config(root)) == "val"


def test_a_training_part_alone_is_never_evaluated_unasked(
    write: Callable[[Path, Images], dict[str, object]], tmp_path: Path
) -> None:
    write(tmp_path, {"train": IMAGES["train"]})
    with pytest.raises(DataError, match=r"no val or test part to evaluate: found .*train"):
        find_split(config(tmp_path))


def test_a_folder_of_classes_is_evaluated_as_a_whole(tmp_path: Path) -> None:
    layouts.undivided(tmp_path, {"test": IMAGES["test"], "holidays": IMAGES["holidays"]})
    (tmp_path / "all.zip").write_bytes(b"a copy of it")
    assert find_split(config(tmp_path)) == "all"
    for held_out in (0.0, 0.5):
        sets = open_sets(config(tmp_path, VAL_SPLIT=held_out), need_train=False, classes=GIVEN, split="all")
        assert (sets.train, sets.split, classes_of(sets)) == (None, None, [ANT, CAT, CAT, CAT])
    with pytest.raises(DataError, match=r"class '001.ant' is unknown to the label map that was given"):
        open_sets(config(tmp_path), need_train=False, classes=[BEE, CAT], split="all")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("bus", "test", "train"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(draw(0))
    assert find_split(config(tmp_path)) == "all"
    sets = open_sets(config(tmp_path), need_train=False, split="all")
    assert classes_of(sets) == ["bus", "test", "train"]


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere", "does not exist"), ("empty", "found 0 folders"), ("a", "is a")]
)
def test_where_nothing_can_be_evaluated_says_what_is_there(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a").touch()
    with pytest.raises(DataError, match=message):
        find_split(config(tmp_path / name))
    with pytest.raises(DataError, match=message):
        open_sets(config(tmp_path / name), need_train=False, split="all")


def test_the_two_parts_that_a_run_has_drawn(tmp_path: Path) -> None:
    layouts.undivided(tmp_path, {"train": [(f"{i % 2}/{i}.png", i % 2, draw(i)) for i in range(10)]})
    held = config(tmp_path, VAL_SPLIT=0.4)
    both = open_sets(held)
    for part, expected in (("val", both.val), ("train", both.train)):
        found = open_sets(held, need_train=False, split=part).val
        assert [found.name(i) for i in range(len(found.labels))] == [
            expected.name(i) for i in range(len(expected.labels))
        ]
    layouts.folders(tmp_path, {"test": IMAGES["test"]})
    assert classes_of(open_sets(held, need_train=False, split="test")) == PARTS["test"]
    layouts.folders(tmp_path, {"val": IMAGES["val"]})
    for part in ("val", "test"):  # a part that is there is never hidden
        assert classes_of(open_sets(held, need_train=False, split=part)) == PARTS[part]


def test_a_config_of_zips_evaluates_folders_too(tmp_path: Path) -> None:
    layouts.folders(tmp_path, IMAGES)
    assert classes_of(open_sets(config(tmp_path, ZIP_MODE=True), need_train=False, split="test")) == PARTS["test"]
    layouts.zips("no")(tmp_path, {"test": IMAGES["holidays"]})
    for zip_mode, expected in ((False, "test"), (True, "holidays")):  # both are there: the config decides
        sets = open_sets(config(tmp_path, ZIP_MODE=zip_mode), need_train=False, split="test", classes=list(CLASSES))
        assert classes_of(sets) == PARTS[expected]


def test_the_parts_of_cub(tmp_path: Path) -> None:
    layouts.cub(tmp_path, {part: IMAGES[part] for part in ("train", "val")})
    assert find_split(config(tmp_path)) == "val"
    for part, expected in (("val", "val"), ("test", "val"), ("train", "train")):
        assert classes_of(open_sets(config(tmp_path), need_train=False, split=part)) == PARTS[expected]
    with pytest.raises(DataError, match=r"has no part 'nights'. Choose from val, test, train"):
        open_sets(config(tmp_path), need_train=False, split="nights")


def test_the_parts_of_the_digits() -> None:
    sizes = {}
    for part in ("val", "test", "train"):
        sizes[part] = len(open_sets(load_config(overrides={"DATA.DATASET": "digits"}), split=part).val.labels)
    assert sizes == {"val": 360, "test": 360, "train": 1437}
    with pytest.raises(DataError, match="digits: has no part 'all'"):
        open_sets(load_config(overrides={"DATA.DATASET": "digits"}), split="all")


def test_images_of_an_evaluation_have_names_and_can_be_read_as_they_are(tmp_path: Path) -> None:
    layouts.folders(tmp_path, {"test": IMAGES["test"]})
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (60, 40)).save(tmp_path / "test" / CAT / "turned.jpg", exif=exif)
    data = build_data(config(tmp_path, EXIF=True), need_train=False, split="test")
    assert data.train is None
    assert data.val.name(3) == f"{tmp_path}/test/{CAT}/turned.jpg"
    assert (data.val.read(0).shape, data.val.read(0).dtype) == ((3, 9, 12), torch.uint8)
    assert data.val.read(3).shape == (3, 60, 40)
    assert next(iter(data.val)).images.shape == (4, 3, 32, 32)
    (tmp_path / "test" / CAT / "turned.jpg").write_bytes(b"gone")
    with pytest.raises(DataError, match=r"turned\.jpg: is not an image"):
        data.val.read(3)
