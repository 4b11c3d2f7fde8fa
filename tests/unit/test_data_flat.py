"""Flat folders, whose files' names say the classes, and what is said where nobody has set how."""

from pathlib import Path

import pytest

from data.build import open_sets
from data.flat import USUAL_PATTERN, find_flat, open_flat
from data.layouts import USUAL, find_layouts
from swin.config import load_config
from swin.errors import ConfigError, DataError

PARTS = [name for names in USUAL.values() for name in names]


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_names_say_the_classes(tmp_path: Path) -> None:
    make(tmp_path, "cat_001.jpg", "dog_7.PNG", "grey-wolf-12.jpg", "big_cat2.jpg", "notes.txt", ".cat_9.jpg")
    assert find_flat(tmp_path, PARTS) == [""]
    opened = open_flat(tmp_path, [""], pattern=USUAL_PATTERN)
    assert opened.classes == ["big_cat", "cat", "dog", "grey-wolf"]
    source = opened.sources[""]
    assert list(source.names) == ["big_cat2.jpg", "cat_001.jpg", "dog_7.PNG", "grey-wolf-12.jpg"]
    assert source.labels.tolist() == [0, 1, 2, 3]
    assert source.read(1) == b""


def test_parts_are_folders(tmp_path: Path) -> None:
    make(tmp_path, "Train/3_1.jpg", "Train/7_2.jpg", "val/7_9.jpg", "other/a.txt")
    assert find_flat(tmp_path, PARTS) == ["Train", "val"]
    make(tmp_path, "bus/1.jpg")
    assert find_flat(tmp_path, PARTS) == []
    assert find_flat(tmp_path, PARTS, is_deep=True) == ["Train", "bus", "val"]
    opened = open_flat(tmp_path, ["Train", "val"], pattern=r"^(\d+)_")
    assert opened.classes == ["3", "7"]  # names, not numbers from 0
    assert opened.sources["val"].labels.tolist() == [1]
    make(tmp_path, "val/8_9.jpg")
    with pytest.raises(DataError, match=r"class '8' is unknown to .*Train; the nearest of its 2 classes"):
        open_flat(tmp_path, ["Train", "val"], pattern=r"^(\d+)_")
    assert open_flat(tmp_path, ["val"], ["8", "7"], pattern=r"^(\d+)_").sources["val"].labels.tolist() == [1, 0]


def test_a_pattern_finds_images_at_any_depth(tmp_path: Path) -> None:
    make(tmp_path, "images/a/cat_1.jpg", "images/dog_2.jpg")
    assert find_flat(tmp_path, PARTS) == []
    assert find_flat(tmp_path, PARTS, is_deep=True) == [""]
    opened = open_flat(tmp_path, [""], pattern=USUAL_PATTERN)
    assert list(opened.sources[""].names) == ["images/a/cat_1.jpg", "images/dog_2.jpg"]
    assert opened.classes == ["cat", "dog"]


def test_what_the_names_look_like_is_said(tmp_path: Path) -> None:
    make(tmp_path, *(f"{name}_{number:03d}.jpg" for name in ("cat", "dog") for number in range(5)))
    with pytest.raises(DataError) as raised:
        open_flat(tmp_path, [""], pattern="")
    message = str(raised.value)
    assert "found 10 images and no class folders" in message
    assert "2 classes (cat as in cat_000.jpg, dog as in dog_000.jpg)" in message
    assert r"--opts DATA.CLASS_PATTERN '([^/]+?)[_-]?\d+\.\w+'" in message


@pytest.mark.parametrize("names", [["IMG_1.jpg", "IMG_2.jpg", "IMG_3.jpg"], ["a.jpg", "b.jpg", "c.jpg"]])
def test_names_without_classes_are_said(tmp_path: Path, names: list[str]) -> None:
    make(tmp_path, *names)
    with pytest.raises(DataError, match=f"no classes in the names, as {', '.join(names)}.*DATA.CLASS_PATTERN to a"):
        open_flat(tmp_path, [""], pattern="")


def test_files_that_the_pattern_does_not_match_are_named(tmp_path: Path) -> None:
    make(tmp_path, "cat_1.jpg", "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    with pytest.raises(
        DataError, match=r"no class in the names of 4 of 5 images, as a\.jpg, b\.jpg, c\.jpg\. Change it"
    ):
        open_flat(tmp_path, [""], pattern=USUAL_PATTERN)
    for pattern, message in (
        ("(", "is no regular expression"),
        (r"\w+", "has 0 groups"),
        (r"(\w)(\w)", "has 2 groups"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_flat(tmp_path, [""], pattern=pattern)


def find(root: Path, *, need_train: bool = True, loss: str = "ce", **keys: object) -> list[tuple[list[str], bool]]:
    """Return the parts of each layout found, and whether it is of flat folders."""
    own = {f"DATA.{key}": value for key, value in keys.items()}
    cfg = load_config(overrides={"DATA.DATA_PATH": str(root), "TRAIN.LOSS": loss, **own})
    found = find_layouts(cfg, need_train=need_train)
    return [(list(layout.parts), layout.open.func is open_flat) for layout in found]


def test_when_folders_are_flat(tmp_path: Path) -> None:
    root = tmp_path / "flat"
    make(root, *(f"{part}/{name}_{number}.jpg" for part in ("train", "val") for name in "ab" for number in range(3)))
    for folder in (root, root / "train"):  # no classes train and val
        with pytest.raises(DataError, match=r"2 classes .*--opts DATA\.CLASS_PATTERN"):
            open_sets(load_config(overrides={"DATA.DATA_PATH": str(folder)}))
    sets = open_sets(load_config(overrides={"DATA.DATA_PATH": str(root), "DATA.CLASS_PATTERN": USUAL_PATTERN}))
    assert (sets.classes, len(sets.train.labels), len(sets.val.labels)) == (["a", "b"], 6, 6)
    make(tmp_path / "folders", "train/a/1.jpg", "val/a/1.jpg", "test/1.jpg", "cover.jpg")
    assert find(tmp_path / "folders") == [(["train", "val"], False)]  # test/ has no classes, and is none
    # A checkpoint's pattern is not about other data with folders of classes.
    assert find(tmp_path / "folders", need_train=False, CLASS_PATTERN=USUAL_PATTERN)[0] == (["train", "val"], False)
    assert find(root, need_train=False, CLASS_PATTERN=USUAL_PATTERN)[0] == (["train", "val"], True)


def test_the_proposed_option_can_be_typed() -> None:
    cfg = load_config(opts=["DATA.CLASS_PATTERN", USUAL_PATTERN])
    assert cfg.DATA.CLASS_PATTERN == USUAL_PATTERN


def test_several_labels_need_a_table(tmp_path: Path) -> None:
    make(tmp_path, "train/a/1.jpg", "val/a/1.jpg")
    for dataset in ("folder", "digits"):
        with pytest.raises(ConfigError, match=r"DATA\.MULTI_LABEL is True, but .* has no table of images"):
            find(tmp_path, MULTI_LABEL=True, DATASET=dataset, loss="bce")
